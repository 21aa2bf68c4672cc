if(TARGET consort_plugin_opencl)
  set(opencl_tests opencl_ops_test opencl_kv_test opencl_device_test opencl_absent_test)
  foreach(test ${opencl_tests})
    consort_add_unit_test(${test} consort_abi ${CMAKE_DL_LIBS} m)
    add_dependencies(${test} consort_plugin_opencl)
  endforeach()

  # The plugin with a queue that has no thread, for oclgrind.
  find_package(OpenCL QUIET)
  get_target_property(opencl_sources consort_plugin_opencl SOURCES)
  add_library(opencl_inline MODULE ${opencl_sources} unit/opencl_inline_queue.c)
  add_dependencies(opencl_inline consort_plugin_opencl)
  target_include_directories(opencl_inline PRIVATE ${PROJECT_SOURCE_DIR}/backends/opencl
                                                       ${PROJECT_SOURCE_DIR}/plugins/sdk)
  target_compile_definitions(opencl_inline PRIVATE CL_TARGET_OPENCL_VERSION=120)
  target_link_libraries(opencl_inline PRIVATE consort_options consort_clc OpenCL::OpenCL
                                              Threads::Threads m)
  set_target_properties(opencl_inline PROPERTIES
    OUTPUT_NAME consort-opencl
    PREFIX ""
    LIBRARY_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/tests/opencl_inline)
  foreach(part kv ops)
    add_test(NAME opencl_oclgrind_${part}
      COMMAND ${CMAKE_CURRENT_SOURCE_DIR}/unit/opencl_oclgrind.sh
              ${CMAKE_BINARY_DIR}/tests/opencl_inline $<TARGET_FILE:opencl_${part}_test>)
    set_tests_properties(opencl_oclgrind_${part} PROPERTIES
      LABELS "integration;slow" TIMEOUT 240 SKIP_RETURN_CODE 77)
  endforeach()
endif()
