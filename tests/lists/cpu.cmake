foreach(name sdk_structs_test sdk_timeline_test sdk_queue_test)
  consort_add_unit_test(${name} consort_sdk)
endforeach()

# The CPU plugin is loaded as a host would load it.
foreach(name cpu_device_test cpu_matmul_test cpu_ops_test cpu_attention_test)
  consort_add_unit_test(${name} consort_sdk ${CMAKE_DL_LIBS} m)
  target_sources(${name} PRIVATE ${CMAKE_CURRENT_LIST_DIR}/../unit/cpu_harness.c)
  add_dependencies(${name} consort_plugin_cpu)
endforeach()

# The kit's shapes are small, so that int8 has to be asked for.
if(TARGET consort_plugin_cpu AND TARGET consort-cts)
  add_test(NAME conformance_cpu_int8
           COMMAND consort-cts $<TARGET_FILE:consort_plugin_cpu> --quick --no-speed
                   --option int8=always --require Core,LLM-dense,LLM-quant,MoE,Disaggregated)
  set_tests_properties(conformance_cpu_int8 PROPERTIES LABELS conformance TIMEOUT 600)
endif()
