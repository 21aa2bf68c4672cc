# Messages, links, KV transfer, workers and sessions.
foreach(name message transport wire journal router answer_text evaluate)
  consort_add_unit_test(scheduler_${name}_test consort_scheduler)
endforeach()
foreach(name engine port session transfer story)
  consort_add_unit_test(scheduler_${name}_test consort_scheduler)
  target_include_directories(scheduler_${name}_test PRIVATE ${CMAKE_CURRENT_SOURCE_DIR}/unit)
  add_dependencies(scheduler_${name}_test consort_plugin_cpu)
endforeach()

# Messages come from other processes one day: their reader is fuzzed (the option and what it needs
# are in models.cmake).
set(corpus ${CMAKE_CURRENT_SOURCE_DIR}/fuzz/corpus/message)
add_executable(message_replay fuzz/message_fuzz.c fuzz/replay.c)
target_link_libraries(message_replay PRIVATE consort_scheduler)
set_target_properties(message_replay PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/tests)
add_test(NAME message_replay COMMAND message_replay ${corpus})
set_tests_properties(message_replay PROPERTIES LABELS unit TIMEOUT 60)
if(CONSORT_FUZZ AND CONSORT_CLANG)
  set(fuzzer ${CMAKE_BINARY_DIR}/tests/message_fuzz)
  set(sources ${CMAKE_CURRENT_SOURCE_DIR}/fuzz/message_fuzz.c ${PROJECT_SOURCE_DIR}/scheduler/message.c
              ${PROJECT_SOURCE_DIR}/core/error.c)
  add_custom_command(
    OUTPUT ${fuzzer}
    COMMAND ${CONSORT_CLANG} -std=c11 -D_GNU_SOURCE -O1 -g -fsanitize=fuzzer,address,undefined
            -fno-sanitize-recover=all -I${PROJECT_SOURCE_DIR} -I${PROJECT_SOURCE_DIR}/core/include
            ${sources} -o ${fuzzer}
    DEPENDS ${sources}
    COMMENT "Building the fuzz target message")
  add_custom_target(message_fuzzer ALL DEPENDS ${fuzzer})
  set(found ${CMAKE_BINARY_DIR}/tests/message_found)
  file(MAKE_DIRECTORY ${found})
  add_test(NAME message_fuzz COMMAND ${fuzzer} -max_total_time=${CONSORT_FUZZ_SECONDS}
                                     -rss_limit_mb=1024 ${found} ${corpus}
           WORKING_DIRECTORY ${found})
  set_tests_properties(message_fuzz PROPERTIES LABELS fuzz TIMEOUT 600)
endif()
