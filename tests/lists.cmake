# Refuses a test or a source file that no list names: it would never be compiled or run, and would
# not be missed. Options leave parts of the lists out, so the names are read from the lists' text.

# strata_words(RESULT FILE...): the words of these lists; comments and ${FOLDER}/ do not count.
function(strata_words result)
  set(all "")
  foreach(file ${ARGN})
    file(READ ${file} text)
    string(REGEX REPLACE "#[^\n]*" "" text "${text}")
    string(REGEX REPLACE "[$][{][A-Z_a-z]+[}]/" "" text "${text}")
    string(REGEX MATCHALL "[A-Za-z0-9_./-]+" words "${text}")
    list(APPEND all ${words})
  endforeach()
  set(${result} ${all} PARENT_SCOPE)
endfunction()

set(root ${PROJECT_SOURCE_DIR})
set(unnamed "")

# Tests. A C++ test must have reached strata_add_tests with its folder. If an option leaves tests of
# the folder out, its name in a list is enough.
set(folders_left_out "")
if(NOT STRATA_SERVER)
  list(APPEND folders_left_out server load)
endif()
if(NOT STRATA_CUDA OR STRATA_SANITIZE)
  list(APPEND folders_left_out kernels/cuda)
endif()
get_property(named GLOBAL PROPERTY STRATA_NAMED_TESTS)
file(GLOB lists ${root}/tests/*.cmake)
file(GLOB_RECURSE more ${root}/tests/CMakeLists.txt)
strata_words(words ${lists} ${more})
file(GLOB_RECURSE tests RELATIVE ${root}/tests CONFIGURE_DEPENDS ${root}/tests/*_test.*)
list(FILTER tests INCLUDE REGEX "[.](c|cc|cpp|cu|py|sh)$")  # other files are data, or an editor's
foreach(file ${tests})
  get_filename_component(folder ${file} DIRECTORY)
  get_filename_component(name ${file} NAME_WE)
  if(file IN_LIST words OR "${folder}/${name}" IN_LIST words OR "${folder}/${name}" IN_LIST named)
    continue()
  endif()
  if(NOT file MATCHES "[.](cpp|cu)$" OR NOT folder IN_LIST folders_left_out OR NOT name IN_LIST words)
    list(APPEND unnamed tests/${file})
  endif()
endforeach()

# Sources: by the list of their folder, or of the folder above that has one.
file(GLOB_RECURSE sources RELATIVE ${root} CONFIGURE_DEPENDS
  ${root}/kernels/*.cpp ${root}/kernels/*.cu ${root}/kvcache/*.cpp ${root}/engine/*.cpp
  ${root}/server/*.cpp ${root}/tests/*.cpp ${root}/tests/*.cu)
list(FILTER sources EXCLUDE REGEX "_(test|fuzz)[.]")
set(list_folder "")
foreach(file ${sources})
  get_filename_component(folder ${file} DIRECTORY)
  while(NOT EXISTS ${root}/${folder}/CMakeLists.txt)
    get_filename_component(folder ${folder} DIRECTORY)
  endwhile()
  if(NOT folder STREQUAL list_folder)
    set(list_folder ${folder})
    file(GLOB lists ${root}/${folder}/CMakeLists.txt ${root}/${folder}/*.cmake)
    strata_words(words ${lists})
  endif()
  file(RELATIVE_PATH name ${root}/${folder} ${root}/${file})
  if(NOT name IN_LIST words)
    list(APPEND unnamed ${file})
  endif()
endforeach()

# A fuzz target is a source, a folder of seeds and strata_fuzz(NAME LIBRARY), all three.
file(READ ${root}/tests/CMakeLists.txt text)
string(REGEX MATCHALL "strata_fuzz[(][a-z_]+ strata" targets "${text}")
list(TRANSFORM targets REPLACE "strata_fuzz[(]([a-z_]+) strata" "\\1")
file(GLOB fuzzed RELATIVE ${root}/tests/fuzz CONFIGURE_DEPENDS ${root}/tests/fuzz/*_fuzz.cpp)
list(TRANSFORM fuzzed REPLACE "_fuzz[.]cpp$" "")
file(GLOB seeded RELATIVE ${root}/tests/fuzz/seeds CONFIGURE_DEPENDS ${root}/tests/fuzz/seeds/*)
foreach(name ${targets} ${fuzzed} ${seeded})
  if(NOT name IN_LIST targets OR NOT name IN_LIST fuzzed OR NOT name IN_LIST seeded)
    list(APPEND unnamed "tests/fuzz/${name}_fuzz.cpp or tests/fuzz/seeds/${name}")
  endif()
endforeach()

if(unnamed)
  list(REMOVE_DUPLICATES unnamed)
  list(JOIN unnamed "\n  " unnamed)
  message(FATAL_ERROR
    "These files are compiled and run by nobody, because no CMake list names them:\n  ${unnamed}")
endif()
