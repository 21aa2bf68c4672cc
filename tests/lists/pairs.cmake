# KV goes from each plugin to each other and back, bit for bit, in every number format that both
# keep; a format that one of them lacks is a skipped test. Level Zero and CUDA run on their drivers
# for tests. This list comes after those of the backends, which say what is there.
set(pair_plugins cpu opencl npu-sim)
if(TARGET ze_cpu_test)
  list(APPEND pair_plugins level_zero)
  set(pair_environment_level_zero ZE_ENABLE_ALT_DRIVERS=$<TARGET_FILE:ze_cpu_test>
                                  ZE_TEST_SHUFFLE=5)
endif()
if(TARGET cuda_fake_driver)
  list(APPEND pair_plugins cuda)
  set(pair_environment_cuda ${cuda_fake} ASAN_OPTIONS=detect_leaks=0)
endif()

set(pair_others ${pair_plugins})
foreach(first ${pair_plugins})
  set(pair_arguments --no-speed)
  list(REMOVE_ITEM pair_others ${first})
  foreach(second ${pair_others})
    if("${first};${second}" MATCHES "level_zero|cuda") # kernels run as slowly as in a debugger
      set(pair_arguments --no-speed --quick)
    endif()
    if(TARGET consort-cts AND TARGET consort_plugin_${first} AND TARGET consort_plugin_${second})
      foreach(dtype f32 f16 bf16)
        set(name kv_pair_${first}_${second}_${dtype})
        add_test(NAME ${name}
                 COMMAND consort-cts $<TARGET_FILE:consort_plugin_${first}> ${pair_arguments}
                         --only pair/kv/${dtype} --pair $<TARGET_FILE:consort_plugin_${second}>)
        set_tests_properties(${name} PROPERTIES LABELS conformance TIMEOUT 300
          SKIP_REGULAR_EXPRESSION "0 passed, 0 failed, 1 unsupported"
          ENVIRONMENT "${pair_environment_${first}};${pair_environment_${second}}")
      endforeach()
    endif()
  endforeach()
endforeach()
