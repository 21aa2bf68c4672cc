# The Level Zero plugin, and the driver for tests that it runs on where there is no chip.
add_subdirectory(level_zero_driver)

if(TARGET ze_cpu_test)
  consort_add_unit_test(level_zero_driver_test ${CONSORT_LEVEL_ZERO_LOADER})
  target_include_directories(level_zero_driver_test SYSTEM PRIVATE ${CONSORT_LEVEL_ZERO_INCLUDE})
  add_dependencies(level_zero_driver_test ze_cpu_test ze_cpu_test_probe)
  set_tests_properties(level_zero_driver_test PROPERTIES ENVIRONMENT
    "ZE_ENABLE_ALT_DRIVERS=$<TARGET_FILE:ze_cpu_test>;CONSORT_TEST_PROBE=${CMAKE_BINARY_DIR}/tests/level_zero_driver/probe.spv")
endif()

# level_zero_conformance(NAME label environment...): the kit on level_zero:0 behind the real loader.
function(level_zero_conformance name label)
  add_test(NAME ${name}
           COMMAND consort-cts $<TARGET_FILE:consort_plugin_level_zero> --quick --no-speed
                   --require Core,LLM-dense,LLM-quant,MoE,Disaggregated)
  set_tests_properties(${name} PROPERTIES LABELS "conformance;${label}" TIMEOUT 300
    ENVIRONMENT "ZE_ENABLE_ALT_DRIVERS=$<TARGET_FILE:ze_cpu_test>;${ARGN}")
endfunction()

if(TARGET consort_plugin_level_zero AND TARGET ze_cpu_test AND TARGET consort-cts)
  level_zero_conformance(conformance_level_zero conformance)
  level_zero_conformance(conformance_level_zero_shuffled_1 slow ZE_TEST_SHUFFLE=1)
  level_zero_conformance(conformance_level_zero_shuffled_2 slow ZE_TEST_SHUFFLE=2)
  level_zero_conformance(conformance_level_zero_shuffled_3 slow ZE_TEST_SHUFFLE=3)
  level_zero_conformance(conformance_level_zero_at_once slow ZE_TEST_DEFER=0 ZE_TEST_GUARD=0)
  level_zero_conformance(conformance_level_zero_validated slow
                         ZE_ENABLE_VALIDATION_LAYER=1 ZE_ENABLE_PARAMETER_VALIDATION=1)
  level_zero_conformance(conformance_level_zero_intercepted slow ZE_ENABLE_LOADER_INTERCEPT=1)
endif()

if(TARGET consort_plugin_level_zero AND TARGET ze_cpu_test)
  consort_add_unit_test(level_zero_device_test consort_abi ${CMAKE_DL_LIBS})
  add_dependencies(level_zero_device_test consort_plugin_level_zero ze_cpu_test)
  set_property(TEST level_zero_device_test APPEND PROPERTY ENVIRONMENT
               "ZE_ENABLE_ALT_DRIVERS=$<TARGET_FILE:ze_cpu_test>")
endif()

if(TARGET consort_plugin_level_zero)
  set(checked_in ${PROJECT_SOURCE_DIR}/backends/clc/spirv)
  add_test(NAME level_zero_modules_test
           COMMAND ${CMAKE_CURRENT_SOURCE_DIR}/integration/level_zero_modules_test.sh
                   ${CMAKE_BINARY_DIR}/backends/clc/spirv ${checked_in})
  add_test(NAME level_zero_ocloc_test
           COMMAND ${CMAKE_CURRENT_SOURCE_DIR}/integration/level_zero_ocloc_test.sh ${checked_in}
                   ${PROJECT_SOURCE_DIR})
  set_tests_properties(level_zero_modules_test PROPERTIES LABELS integration TIMEOUT 60
                       SKIP_RETURN_CODE 77)
  set_tests_properties(level_zero_ocloc_test PROPERTIES LABELS "integration;slow" TIMEOUT 600
                       SKIP_RETURN_CODE 77)
  if(TARGET ze_cpu_test AND TARGET consort-cts)
    add_test(NAME level_zero_checked_in_test
             COMMAND ${CMAKE_CURRENT_SOURCE_DIR}/integration/level_zero_checked_in_test.sh
                     ${PROJECT_SOURCE_DIR} $<TARGET_FILE:consort-cts>)
    set_tests_properties(level_zero_checked_in_test PROPERTIES LABELS "integration;slow" TIMEOUT 300
      ENVIRONMENT "ZE_ENABLE_ALT_DRIVERS=$<TARGET_FILE:ze_cpu_test>")
  endif()
endif()

if(TARGET consort_plugin_level_zero AND TARGET consort_cli)
  consort_add_python_test(level_zero_test integration/level_zero_test.py integration)
  if(TARGET ze_cpu_test)
    set_property(TEST level_zero_test APPEND PROPERTY ENVIRONMENT
                 "CONSORT_TEST_LEVEL_ZERO_DRIVER=$<TARGET_FILE:ze_cpu_test>")
  endif()
  consort_add_python_test(level_zero_dry_run_test integration/level_zero_dry_run_test.py integration slow)
endif()
