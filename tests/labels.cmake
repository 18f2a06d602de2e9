# Labels and time limits of all tests. A test has the label "fast" or "slow"; ./tests/run.sh --fast
# runs the fast ones, which together take less than a minute, for every save.

# Tests that take more than three seconds on two shared cores of a server.
set(slow_tests
  kernels/attention_test kernels/cuda/some kernels/cuda/cuda_ahead_test kernels/cuda/cuda_attention_test
  kernels/cuda/cuda_faults_test kernels/cuda/cuda_graphs_test kernels/cuda/cuda_memory_share_test
  kernels/cuda/cuda_product_test kernels/cuda/cuda_sampling_test
  engine/cache_bytes_test engine/determinism_test engine/plans_vs_naive_test engine/score_reuse_test
  engine_on_cuda/batch_invariant engine_on_cuda/default
  fuzz/config fuzz/generate_request fuzz/http_head fuzz/openai_request fuzz/plan fuzz/safetensors
  fuzz/tokenizer
  server/api_keys_test server/cli_test server/client_faults_test server/hostile_test server/lm_eval_test
  server/openai_package_test server/replay_test server/soak_test server/tls_test server/trace_test
  load/live_test load/loadtest_test load/page_test reference/reference_test thread_safety_test
  deploy/bundle_test deploy/dashboard_test deploy/replicas_test
  gpu/kernels)

# Seconds, on a busy machine: some twenty times the duration on an idle one.
set(fast_limit 60)
set(slow_limit 600)
if(STRATA_SANITIZE)
  set(fast_limit 300)
  set(slow_limit 1500)
endif()

get_property(all_tests DIRECTORY PROPERTY TESTS)
foreach(test ${all_tests})
  if(test IN_LIST slow_tests)
    set_property(TEST ${test} APPEND PROPERTY LABELS slow)
    set_tests_properties(${test} PROPERTIES TIMEOUT ${slow_limit})
  else()
    set_property(TEST ${test} APPEND PROPERTY LABELS fast)
    set_tests_properties(${test} PROPERTIES TIMEOUT ${fast_limit})
  endif()
endforeach()
