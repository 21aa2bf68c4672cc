# What a job was given, from its environment.
consort_add_unit_test(scheduler_allocation_test consort_scheduler)
scheduler_add_fuzz(allocation scheduler/allocation.c
                   scheduler/offer.c core/device_spec.c core/error.c)

# Stages under a batch system and on several hosts. They need root, and say so where they are skipped.
if(TARGET consort_cli)
  consort_add_python_test(slurm_test integration/slurm_test.py integration noasan)
  set_tests_properties(slurm_test PROPERTIES TIMEOUT 120)
endif()
