# Each backend passes the conformance kit; and the kit fails what is broken on purpose.
set(CONSORT_KIT_BADGES Core,LLM-dense,LLM-quant,Disaggregated)

set(CONSORT_TEST_REPORTS ${CMAKE_BINARY_DIR}/tests/reports)
file(MAKE_DIRECTORY ${CONSORT_TEST_REPORTS})

# The same inputs each time, of a seed that has found a fault: sums of quants that were off (Q4_K).
set(CONSORT_KIT_SEED 40040)

function(consort_add_conformance_test plugin badges)
  if(NOT TARGET consort_plugin_${plugin} OR NOT TARGET consort-cts)
    return()
  endif()
  add_test(NAME conformance_${plugin}
           COMMAND consort-cts $<TARGET_FILE:consort_plugin_${plugin}> --quick --no-speed --seed ${CONSORT_KIT_SEED}
                   --require ${badges} --json ${CONSORT_TEST_REPORTS}/${plugin}.json)
  set_tests_properties(conformance_${plugin} PROPERTIES LABELS conformance TIMEOUT 600)
endfunction()

consort_add_conformance_test(cpu ${CONSORT_KIT_BADGES})
consort_add_conformance_test(opencl ${CONSORT_KIT_BADGES},MoE)
consort_add_conformance_test(npu-sim Core)

if(TARGET consort-cts AND TARGET consort_plugin_fault AND TARGET consort_plugin_cpu)
  find_package(Python3 COMPONENTS Interpreter)
endif()
if(Python3_FOUND AND TARGET consort_plugin_fault)
  # A plugin with every optional table, each of which it can get wrong.
  file(GLOB tables_sources CONFIGURE_DEPENDS conformance/tables/*.c)
  add_library(kit_tables MODULE ${tables_sources})
  target_link_libraries(kit_tables PRIVATE consort_options consort_sdk Threads::Threads)
  set_target_properties(kit_tables PROPERTIES OUTPUT_NAME consort-tables PREFIX ""
    LIBRARY_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/tests/plugins/kit)
  foreach(name kit_power_test fault_test kit_reports_test optional_tables_test)
    add_test(NAME ${name}
             COMMAND ${Python3_EXECUTABLE} ${CMAKE_CURRENT_SOURCE_DIR}/conformance/${name}.py)
    set_tests_properties(${name} PROPERTIES LABELS conformance TIMEOUT 600 ENVIRONMENT
      "CONSORT_TEST_KIT=$<TARGET_FILE:consort-cts>;CONSORT_TEST_CPU_PLUGIN=$<TARGET_FILE:consort_plugin_cpu>;CONSORT_TEST_NULL_PLUGIN=$<TARGET_FILE:consort_plugin_null>;CONSORT_TEST_NPU_PLUGIN=$<TARGET_FILE:consort_plugin_npu-sim>;CONSORT_TEST_FAULT_PLUGIN=$<TARGET_FILE:consort_plugin_fault>;CONSORT_TEST_TABLES_PLUGIN=$<TARGET_FILE:kit_tables>;CONSORT_TEST_SOURCE=${PROJECT_SOURCE_DIR}")
  endforeach()
endif()
if(TARGET consort_plugin_fault AND TARGET consort_plugin_npu-sim AND TARGET consort_cli)
  consort_add_python_test(fault_run_test integration/fault_run_test.py integration)
endif()
if(TARGET consort_plugin_fault)
  consort_add_unit_test(scheduler_faults_test consort_scheduler)
  target_include_directories(scheduler_faults_test PRIVATE ${CMAKE_CURRENT_SOURCE_DIR}/unit)
  add_dependencies(scheduler_faults_test consort_plugin_cpu consort_plugin_fault)
  consort_add_unit_test(scheduler_probe_test consort_scheduler)
  add_dependencies(scheduler_probe_test consort_plugin_cpu consort_plugin_fault)
endif()

# The page of what is supported agrees with what the tests above have just found.
add_test(NAME support_page_test
         COMMAND ${CONSORT_PYTHON} ${CMAKE_CURRENT_SOURCE_DIR}/conformance/support_page_test.py)
set_tests_properties(support_page_test PROPERTIES LABELS conformance TIMEOUT 60 SKIP_RETURN_CODE 77
  DEPENDS "conformance_cpu;conformance_opencl;conformance_npu-sim"
  ENVIRONMENT "CONSORT_TEST_SOURCE=${PROJECT_SOURCE_DIR};CONSORT_TEST_REPORTS=${CONSORT_TEST_REPORTS}")
