# The Level Zero plugin, and the driver for tests that it runs on where there is no chip.
add_subdirectory(level_zero_driver)

if(TARGET ze_cpu_test)
  consort_add_unit_test(level_zero_driver_test ${CONSORT_LEVEL_ZERO_LOADER})
  target_include_directories(level_zero_driver_test SYSTEM PRIVATE ${CONSORT_LEVEL_ZERO_INCLUDE})
  add_dependencies(level_zero_driver_test ze_cpu_test ze_cpu_test_probe)
  set_tests_properties(level_zero_driver_test PROPERTIES ENVIRONMENT
    "ZE_ENABLE_ALT_DRIVERS=$<TARGET_FILE:ze_cpu_test>;CONSORT_TEST_PROBE=${CMAKE_BINARY_DIR}/tests/level_zero_driver/probe.spv")
endif()
