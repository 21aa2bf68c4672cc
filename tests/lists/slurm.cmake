# What a job was given, from its environment.
consort_add_unit_test(scheduler_allocation_test consort_scheduler)
scheduler_add_fuzz(allocation scheduler/allocation.c
                   scheduler/offer.c core/device_spec.c core/error.c)

# What a connection is told, by its door and by the fabric, without either.
scheduler_add_fuzz(door scheduler/door.c core/error.c)
scheduler_add_fuzz(net scheduler/net_connection.c scheduler/net_receive.c scheduler/transport.c
                   scheduler/message.c core/error.c)

# Stages under a batch system and on several hosts. They need root, and say so where they are skipped.
if(TARGET consort_cli)
  consort_add_python_test(slurm_test integration/slurm_test.py integration noasan)
  set_tests_properties(slurm_test PROPERTIES TIMEOUT 120)
endif()
if(TARGET consort_cli AND TARGET consort_ucx)
  add_library(flip_send SHARED integration/flip_send.c)
  target_link_libraries(flip_send PRIVATE consort_options ${CMAKE_DL_LIBS})
  set_target_properties(flip_send PROPERTIES LIBRARY_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/tests)
  consort_add_python_test(hosts_test integration/hosts_test.py integration noasan)
  add_test(NAME hosts_every_failure_test
           COMMAND ${CONSORT_PYTHON} ${CMAKE_CURRENT_SOURCE_DIR}/integration/hosts_test.py --all)
  get_test_property(hosts_test ENVIRONMENT environment)
  set_tests_properties(hosts_every_failure_test PROPERTIES LABELS "integration;slow" TIMEOUT 300
                       SKIP_RETURN_CODE 77 ENVIRONMENT "${environment}")
  # It watches memory, of which a sanitizer keeps what was freed.
  consort_add_python_test(garbage_test integration/garbage_test.py integration noasan)
  set_tests_properties(hosts_test hosts_every_failure_test PROPERTIES RESOURCE_LOCK hosts)
endif()
