# What holds the tests themselves to account, and what core costs.
target_link_options(core_allocation_test PRIVATE
  -Wl,--wrap=malloc,--wrap=calloc,--wrap=realloc,--wrap=strdup,--wrap=posix_memalign)

# Every mutant turns a test red; and, in a second, every mutant still fits the source.
add_test(NAME mutants_check
         COMMAND ${CONSORT_PYTHON} ${CMAKE_CURRENT_SOURCE_DIR}/mutants/run.py --check)
set_tests_properties(mutants_check PROPERTIES LABELS unit TIMEOUT 60
  ENVIRONMENT "CONSORT_TEST_BUILD=${CMAKE_BINARY_DIR};PYTHONDONTWRITEBYTECODE=1")
add_test(NAME mutants COMMAND ${CONSORT_PYTHON} ${CMAKE_CURRENT_SOURCE_DIR}/mutants/run.py)
set_tests_properties(mutants PROPERTIES LABELS mutants TIMEOUT 3600)

# Time on a machine that others use says little, so the gate counts instructions.
add_executable(front_door_bench bench/front_door_bench.c)
target_link_libraries(front_door_bench PRIVATE consort_options consort_core)
set_target_properties(front_door_bench PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/tests)
set(null_folder $<TARGET_FILE_DIR:consort_plugin_null>)
add_test(NAME front_door_bench COMMAND front_door_bench ${null_folder})
set_tests_properties(front_door_bench PROPERTIES LABELS bench TIMEOUT 60)
if(CMAKE_C_COMPILER_ID STREQUAL GNU AND NOT CONSORT_SANITIZE AND CMAKE_BUILD_TYPE MATCHES "^Rel")
  add_test(NAME callgrind_front_door_test
           COMMAND ${CONSORT_PYTHON} ${CMAKE_CURRENT_SOURCE_DIR}/integration/callgrind_front_door_test.py
                   $<TARGET_FILE:front_door_bench> ${null_folder})
  set_tests_properties(callgrind_front_door_test PROPERTIES LABELS slow TIMEOUT 120
                       SKIP_RETURN_CODE 77)
endif()
