# Each backend passes the conformance kit; and the kit fails what is broken on purpose.
set(CONSORT_KIT_BADGES Core,LLM-dense,LLM-quant,Disaggregated)

function(consort_add_conformance_test plugin badges)
  if(NOT TARGET consort_plugin_${plugin} OR NOT TARGET consort-cts)
    return()
  endif()
  add_test(NAME conformance_${plugin}
           COMMAND consort-cts $<TARGET_FILE:consort_plugin_${plugin}> --quick --no-speed
                   --require ${badges})
  set_tests_properties(conformance_${plugin} PROPERTIES LABELS conformance TIMEOUT 600)
endfunction()

consort_add_conformance_test(cpu ${CONSORT_KIT_BADGES})
consort_add_conformance_test(opencl ${CONSORT_KIT_BADGES})
consort_add_conformance_test(npu-sim Core)

if(TARGET consort-cts AND TARGET consort_plugin_fault AND TARGET consort_plugin_cpu)
  find_package(Python3 COMPONENTS Interpreter)
endif()
if(Python3_FOUND AND TARGET consort_plugin_fault)
  foreach(name kit_power_test fault_test kit_reports_test)
    add_test(NAME ${name}
             COMMAND ${Python3_EXECUTABLE} ${CMAKE_CURRENT_SOURCE_DIR}/conformance/${name}.py)
    set_tests_properties(${name} PROPERTIES LABELS conformance TIMEOUT 600 ENVIRONMENT
      "CONSORT_TEST_KIT=$<TARGET_FILE:consort-cts>;CONSORT_TEST_CPU_PLUGIN=$<TARGET_FILE:consort_plugin_cpu>;CONSORT_TEST_NULL_PLUGIN=$<TARGET_FILE:consort_plugin_null>;CONSORT_TEST_FAULT_PLUGIN=$<TARGET_FILE:consort_plugin_fault>;CONSORT_TEST_SOURCE=${PROJECT_SOURCE_DIR}")
  endforeach()
endif()
