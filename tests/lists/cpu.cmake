foreach(name sdk_structs_test sdk_timeline_test sdk_queue_test)
  consort_add_unit_test(${name} consort_sdk)
endforeach()
