# The planner, and the program as its users meet it.
consort_add_unit_test(planner_predict_test consort_scheduler)
consort_add_unit_test(planner_profile_test consort_scheduler)

if(TARGET consort_cli)
  find_package(Python3 COMPONENTS Interpreter)
  set(cli_environment "CONSORT_CLI=$<TARGET_FILE:consort_cli>;CONSORT_TEST_SOURCE=${PROJECT_SOURCE_DIR}")
  if(CONSORT_SANITIZE)
    list(APPEND cli_environment
         "LSAN_OPTIONS=suppressions=${PROJECT_SOURCE_DIR}/tests/lsan.supp:print_suppressions=0")
  endif()
  if(Python3_FOUND)
    foreach(name cli_commands_test cli_errors_test)
      add_test(NAME ${name}
               COMMAND ${Python3_EXECUTABLE} ${CMAKE_CURRENT_LIST_DIR}/../integration/${name}.py)
      set_tests_properties(${name} PROPERTIES LABELS integration TIMEOUT 600
                           ENVIRONMENT "${cli_environment};PYTHONDONTWRITEBYTECODE=1")
    endforeach()
  endif()
  if(NOT CONSORT_SANITIZE)
    add_test(NAME cli_valgrind_test
             COMMAND ${CMAKE_CURRENT_LIST_DIR}/../integration/cli_valgrind_test.sh)
    set_tests_properties(cli_valgrind_test PROPERTIES LABELS "integration;slow" TIMEOUT 600
      SKIP_RETURN_CODE 77
      ENVIRONMENT "${cli_environment};CONSORT_PYTHON=${Python3_EXECUTABLE};PYTHONDONTWRITEBYTECODE=1")
    add_test(NAME cli_examples_test
             COMMAND ${CMAKE_CURRENT_LIST_DIR}/../integration/cli_examples_test.sh ${CMAKE_BINARY_DIR})
    set_tests_properties(cli_examples_test PROPERTIES LABELS integration TIMEOUT 300
                         SKIP_RETURN_CODE 77 ENVIRONMENT "${cli_environment}")
  endif()
endif()
