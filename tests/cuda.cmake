# The CUDA backend's tests, without a device and with one.

# Without a device: the sources as plain C++, over headers that stand in for CUDA's. These headers,
# one of kernels/cuda among them, come first in the search path; no other target sees them.
set(cuda_sources
  attention_general.cu attention_runner.cpp attention_tensor.cu cublas_products.cpp cuda_backend.cpp
  cuda_matrix.cpp device.cpp elementwise.cu few_rows.cu finish_sums.cu many_rows.cu
  sampling.cu step_graphs.cpp step_inputs.cpp token_sampler.cpp)
list(TRANSFORM cuda_sources PREPEND ${PROJECT_SOURCE_DIR}/kernels/cuda/)
set_source_files_properties(${cuda_sources} PROPERTIES LANGUAGE CXX)
set(alignment_checked -fsanitize=alignment -fno-sanitize-recover=alignment)
add_library(strata_cuda_on_cpu STATIC EXCLUDE_FROM_ALL
  ${cuda_sources}
  support/cuda_on_cpu/cublas_lt.cpp
  support/cuda_on_cpu/fibers.cpp
  support/cuda_on_cpu/runtime.cpp)
target_include_directories(strata_cuda_on_cpu BEFORE PUBLIC ${CMAKE_CURRENT_SOURCE_DIR}/support/cuda_on_cpu)
target_link_libraries(strata_cuda_on_cpu PUBLIC strata_kernels PRIVATE strata_options)
# These tests spend their time in kernels. A load or store whose address is no multiple of its size
# ends the test in any build, as a device would refuse it.
target_compile_options(strata_cuda_on_cpu PRIVATE
  -x c++ -Wno-unknown-pragmas $<$<CONFIG:Release>:-O2> $<$<NOT:$<CONFIG:Release>>:-O1>
  ${alignment_checked})
target_link_options(strata_cuda_on_cpu PUBLIC -fsanitize=alignment)
set_property(TARGET strata_cuda_on_cpu PROPERTY UNITY_BUILD OFF)  # kernels have names of their own file

# Fibers and ThreadSanitizer do not go together.
if(NOT STRATA_SANITIZE MATCHES thread)
  set(files cuda_faults_test cuda_memory_test cuda_on_cpu_test cuda_rows_test)
  set(long_files cuda_ahead_test cuda_attention_test cuda_graphs_test cuda_memory_share_test cuda_product_test
    cuda_sampling_test cuda_shared_planes_test)
  if(NOT STRATA_SANITIZE)
    list(APPEND files ${long_files})
  endif()
  strata_tests(cuda_tests kernels/cuda strata_cuda_on_cpu ${files})
  target_sources(cuda_tests PRIVATE kernels/cuda/on_cpu.cpp)
  set_source_files_properties(kernels/cuda/cuda_on_cpu_test.cpp PROPERTIES  # it has kernels of its own
    COMPILE_OPTIONS "${alignment_checked}" SKIP_PRECOMPILE_HEADERS ON SKIP_UNITY_BUILD_INCLUSION ON)
  target_include_directories(cuda_tests BEFORE PRIVATE support/cuda_on_cpu)
  if(STRATA_SANITIZE)  # a case of each kernel
    list(TRANSFORM long_files REPLACE "(.+)" "kernels/cuda/\\1.cpp" OUTPUT_VARIABLE sources)
    target_sources(cuda_tests PRIVATE ${sources})
    set(filter *CudaAttentionTest.*dim32_block16:*CudaAttentionTest.*int8_bf16_dim20_block5:Shapes/CudaProductTest.*_33x255*:MoreDTypes/CudaProductTest.Gates*:Long/CudaLongProductTest.*_17x4500*:CudaSamplingTest.OneRow*:CudaSamplingTest.Penalties*:CudaSamplingTest.Ties*:CudaGraphsTest.A*)
    add_test(NAME kernels/cuda/some COMMAND cuda_tests --gtest_filter=${filter})
    set_tests_properties(suites/cuda_tests PROPERTIES DISABLED ON)  # not every test runs
    add_test(NAME suites/cuda_some
      COMMAND ${CMAKE_CURRENT_SOURCE_DIR}/suites_test.sh --some $<TARGET_FILE:cuda_tests> ${filter})
  endif()
endif()

# Some of the engine's own tests over it, with and without batch invariance. Sanitizers see the
# kernels above; whole models take them too long.
if(NOT STRATA_SANITIZE)
  add_executable(cuda_engine_tests kernels/cuda/engine_on_cuda.cpp kernels/cuda/on_cpu.cpp)
  target_include_directories(cuda_engine_tests BEFORE PRIVATE support/cuda_on_cpu)
  target_link_libraries(cuda_engine_tests PRIVATE
    engine_tests_of_backends strata_cuda_on_cpu strata_test_support GTest::gmock GTest::gtest_main
    strata_options)
  target_precompile_headers(cuda_engine_tests REUSE_FROM strata_test_support)
  set(plans "PlansVsNaiveTest.PresetsIn")
  set(invariant ${plans}F32:PlansVsNaiveTest.RandomPlansInF32:PlansVsNaiveTest.LongContextsInF32:*GoldenTest.Bf16/reuse)
  set(not_invariant ${plans}Bf16:PlansVsNaiveTest.PartialReuseInBf16:*GoldenTest.Bf16/svformer_reuse)
  add_test(NAME engine_on_cuda/batch_invariant COMMAND cuda_engine_tests --gtest_filter=${invariant})
  add_test(NAME engine_on_cuda/default COMMAND ${CMAKE_COMMAND} -E env STRATA_TEST_BATCH_INVARIANT=off
    $<TARGET_FILE:cuda_engine_tests> --gtest_filter=${not_invariant})
  add_test(NAME suites/cuda_engine_tests COMMAND ${CMAKE_CURRENT_SOURCE_DIR}/suites_test.sh --some
    $<TARGET_FILE:cuda_engine_tests> ${invariant} ${not_invariant})
endif()

# The same on a device: skipped, with the reason, if there is none. tests/gpu/run.sh also runs all
# of the engine's tests.
if(TARGET strata_cuda)
  add_executable(cuda_gpu_tests
    kernels/cuda/cuda_ahead_test.cpp kernels/cuda/cuda_attention_test.cpp
    kernels/cuda/cuda_memory_test.cpp
    kernels/cuda/cuda_product_test.cpp kernels/cuda/cuda_rows_test.cpp
    kernels/cuda/cuda_sampling_test.cpp
    kernels/cuda/engine_on_cuda.cpp kernels/cuda/on_device.cpp)
  target_link_libraries(cuda_gpu_tests PRIVATE
    engine_tests_of_backends strata_test_support GTest::gmock GTest::gtest_main strata_options)
  target_precompile_headers(cuda_gpu_tests REUSE_FROM strata_test_support)
  add_dependencies(cuda_gpu_tests strata_cuda)
  add_test(NAME gpu/kernels COMMAND cuda_gpu_tests --gtest_filter=*Cuda*)
  set_tests_properties(gpu/kernels PROPERTIES
    LABELS gpu SKIP_REGULAR_EXPRESSION "\\[  SKIPPED \\]")
endif()
