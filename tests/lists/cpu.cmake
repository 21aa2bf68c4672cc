foreach(name sdk_structs_test sdk_timeline_test sdk_queue_test sdk_driver_test)
  consort_add_unit_test(${name} consort_sdk)
endforeach()

# The CPU plugin is loaded as a host would load it.
foreach(name cpu_device_test cpu_matmul_test cpu_ops_test cpu_attention_test)
  consort_add_unit_test(${name} consort_sdk ${CMAKE_DL_LIBS} m)
  target_sources(${name} PRIVATE ${CMAKE_CURRENT_LIST_DIR}/../unit/cpu_harness.c)
  add_dependencies(${name} consort_plugin_cpu)
endforeach()

# Parts of the plugin alone, on topologies that hwloc makes up, and a benchmark of its threads.
if(NOT CONSORT_CPU_HWLOC STREQUAL "OFF")
  pkg_check_modules(HWLOC IMPORTED_TARGET hwloc)
endif()
consort_add_unit_test(cpu_cores_test consort_sdk)
add_executable(pool_bench bench/pool_bench.c)
target_link_libraries(pool_bench PRIVATE consort_options consort_sdk)
set_target_properties(pool_bench PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/tests)
target_include_directories(pool_bench PRIVATE unit)
foreach(name cpu_cores_test pool_bench)
  target_include_directories(${name} PRIVATE ${PROJECT_SOURCE_DIR}/backends/cpu)
  foreach(source cores numa pool)
    target_sources(${name} PRIVATE ${PROJECT_SOURCE_DIR}/backends/cpu/${source}.c)
  endforeach()
  if(TARGET PkgConfig::HWLOC)
    target_compile_definitions(${name} PRIVATE CPU_HAVE_HWLOC)
    target_link_libraries(${name} PRIVATE PkgConfig::HWLOC)
  endif()
endforeach()
add_test(NAME pool_bench COMMAND pool_bench 2 100)
set_tests_properties(pool_bench PROPERTIES LABELS bench TIMEOUT 60)

# The kit on the tables that this machine would not choose.
foreach(kernel generic avx2 avx2vnni)
  if(TARGET consort-cts)
    add_test(NAME conformance_cpu_${kernel}
             COMMAND consort-cts $<TARGET_FILE:consort_plugin_cpu> --quick --no-speed
                     --option kernel=${kernel} --require ${CONSORT_KIT_BADGES})
    set_tests_properties(conformance_cpu_${kernel} PROPERTIES LABELS slow TIMEOUT 600
                         SKIP_REGULAR_EXPRESSION "this machine can run")
  endif()
endforeach()

# Processors that have AVX-VNNI and no AVX-512 must be able to run what is built for them.
if(TARGET cpu_avx2vnni_vex)
  add_test(NAME cpu_encoding_test
           COMMAND ${CONSORT_PYTHON} ${CMAKE_CURRENT_LIST_DIR}/../integration/cpu_encoding_test.py
                   $<TARGET_OBJECTS:cpu_avx2vnni_vex>)
  set_tests_properties(cpu_encoding_test PROPERTIES LABELS unit TIMEOUT 60 SKIP_RETURN_CODE 77)
endif()

# The plugin for 64-bit Arm, under qemu-user.
if(TARGET consort_cli AND NOT CMAKE_CROSSCOMPILING)
  consort_add_python_test(aarch64_test integration/aarch64_test.py slow)
  set_tests_properties(aarch64_test PROPERTIES TIMEOUT 1200)
endif()

# Figures are taken by hand on a quiet machine; as a test it shows that they still can be.
add_executable(attention_bench bench/attention_bench.c unit/cpu_harness.c)
target_include_directories(attention_bench PRIVATE unit)
target_link_libraries(attention_bench PRIVATE consort_options consort_scheduler consort_sdk
  PkgConfig::CMOCKA ${CMAKE_DL_LIBS} m)
set_target_properties(attention_bench PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/tests)
add_dependencies(attention_bench consort_plugin_cpu)
add_test(NAME attention_bench COMMAND attention_bench avx2 512)
set_tests_properties(attention_bench PROPERTIES LABELS bench TIMEOUT 60 SKIP_RETURN_CODE 77
  ENVIRONMENT "CONSORT_TEST_PLUGINS=${CONSORT_PLUGIN_OUTPUT_DIR}")
