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
consort_add_conformance_test(opencl ${CONSORT_KIT_BADGES},MoE)
consort_add_conformance_test(npu-sim Core)

# KV goes from each plugin to each other and back, bit for bit.
foreach(pair cpu:opencl cpu:npu-sim opencl:npu-sim)
  string(REPLACE ":" ";" pair_plugins ${pair})
  list(GET pair_plugins 0 first)
  list(GET pair_plugins 1 second)
  if(TARGET consort-cts AND TARGET consort_plugin_${first} AND TARGET consort_plugin_${second})
    add_test(NAME kv_pair_${first}_${second}
             COMMAND consort-cts $<TARGET_FILE:consort_plugin_${first}> --only pair/* --no-speed
                     --pair $<TARGET_FILE:consort_plugin_${second}>)
    set_tests_properties(kv_pair_${first}_${second} PROPERTIES LABELS conformance TIMEOUT 300)
  endif()
endforeach()

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
      "CONSORT_TEST_KIT=$<TARGET_FILE:consort-cts>;CONSORT_TEST_CPU_PLUGIN=$<TARGET_FILE:consort_plugin_cpu>;CONSORT_TEST_NULL_PLUGIN=$<TARGET_FILE:consort_plugin_null>;CONSORT_TEST_FAULT_PLUGIN=$<TARGET_FILE:consort_plugin_fault>;CONSORT_TEST_TABLES_PLUGIN=$<TARGET_FILE:kit_tables>;CONSORT_TEST_SOURCE=${PROJECT_SOURCE_DIR}")
  endforeach()
endif()
