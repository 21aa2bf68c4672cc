# Messages, links, KV transfer, workers and sessions.
foreach(name message transport wire journal router answer_text evaluate door net fabric)
  consort_add_unit_test(scheduler_${name}_test consort_scheduler)
endforeach()
foreach(name engine port session transfer story direct remote pack)
  consort_add_unit_test(scheduler_${name}_test consort_scheduler)
  target_include_directories(scheduler_${name}_test PRIVATE ${CMAKE_CURRENT_SOURCE_DIR}/unit)
  add_dependencies(scheduler_${name}_test consort_plugin_cpu)
endforeach()

# The network's module is opened when it is needed, so nothing links it.
if(TARGET consort_ucx)
  add_dependencies(scheduler_remote_test consort_ucx)
  add_dependencies(scheduler_door_test consort_ucx)
  add_dependencies(scheduler_fabric_test consort_ucx)
  # UCX watches munmap, which ASan's signal stacks do not survive.
  set_property(TEST scheduler_remote_test scheduler_fabric_test APPEND PROPERTY
    ENVIRONMENT "ASAN_OPTIONS=use_sigaltstack=0")
endif()

# The CPU plugin with copies between devices that go wrong.
set(lame_folder ${CMAKE_BINARY_DIR}/tests/plugins/lame)
add_library(scheduler_lame_peer MODULE unit/plugins/lame_peer.c)
target_link_libraries(scheduler_lame_peer PRIVATE consort_options consort_sdk ${CMAKE_DL_LIBS})
set_target_properties(scheduler_lame_peer PROPERTIES OUTPUT_NAME consort-lame-peer PREFIX ""
  LIBRARY_OUTPUT_DIRECTORY ${lame_folder})
set(CONSORT_MANIFEST_NAME lame-peer)
set(CONSORT_MANIFEST_LIBRARY consort-lame-peer${CMAKE_SHARED_MODULE_SUFFIX})
configure_file(${PROJECT_SOURCE_DIR}/cmake/manifest.plugin.in ${lame_folder}/lame-peer.plugin @ONLY)
add_dependencies(scheduler_direct_test scheduler_lame_peer consort_plugin_npu-sim)
target_compile_definitions(scheduler_direct_test PRIVATE
  LAME_PEER_PLUGINS="${lame_folder}:${CMAKE_BINARY_DIR}/lib/consort/plugins-development"
  CPU_PLUGIN="$<TARGET_FILE:consort_plugin_cpu>")
add_dependencies(scheduler_pack_test consort_plugin_npu-sim)
target_compile_definitions(scheduler_pack_test PRIVATE
  NPU_PLUGINS="${CMAKE_BINARY_DIR}/lib/consort/plugins-development")

# scheduler_add_fuzz(NAME sources...): tests/fuzz/NAME_fuzz.c, replayed over its corpus in every run and
# fuzzed with the option (it and what it needs are in models.cmake). Messages come from other
# processes, environments from other programs.
function(scheduler_add_fuzz name)
  set(corpus ${CMAKE_CURRENT_SOURCE_DIR}/fuzz/corpus/${name})
  add_executable(${name}_replay fuzz/${name}_fuzz.c fuzz/replay.c)
  target_link_libraries(${name}_replay PRIVATE consort_scheduler)
  set_target_properties(${name}_replay PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/tests)
  add_test(NAME ${name}_replay COMMAND ${name}_replay ${corpus})
  set_tests_properties(${name}_replay PROPERTIES LABELS unit TIMEOUT 60)
  if(NOT CONSORT_FUZZ OR NOT CONSORT_CLANG)
    return()
  endif()
  set(fuzzer ${CMAKE_BINARY_DIR}/tests/${name}_fuzz)
  list(TRANSFORM ARGN PREPEND ${PROJECT_SOURCE_DIR}/)
  set(sources ${CMAKE_CURRENT_SOURCE_DIR}/fuzz/${name}_fuzz.c ${ARGN})
  add_custom_command(
    OUTPUT ${fuzzer}
    COMMAND ${CONSORT_CLANG} -std=c11 -D_GNU_SOURCE -O1 -g -fsanitize=fuzzer,address,undefined
            -fno-sanitize-recover=all -I${PROJECT_SOURCE_DIR} -I${PROJECT_SOURCE_DIR}/core/include
            ${sources} -o ${fuzzer}
    DEPENDS ${sources}
    COMMENT "Building the fuzz target ${name}")
  add_custom_target(${name}_fuzzer ALL DEPENDS ${fuzzer})
  set(found ${CMAKE_BINARY_DIR}/tests/${name}_found)
  file(MAKE_DIRECTORY ${found})
  set(words ${CMAKE_CURRENT_SOURCE_DIR}/fuzz/${name}.dict)
  if(EXISTS ${words})
    set(words -dict=${words})
  else()
    set(words)
  endif()
  add_test(NAME ${name}_fuzz COMMAND ${fuzzer} -max_total_time=${CONSORT_FUZZ_SECONDS} ${words}
                                     -rss_limit_mb=1024 ${found} ${corpus}
           WORKING_DIRECTORY ${found})
  set_tests_properties(${name}_fuzz PROPERTIES LABELS fuzz TIMEOUT 600)
endfunction()
scheduler_add_fuzz(message scheduler/message.c core/error.c)

# Figures are taken by tests/bench/transfer_bench.py; as a test it sends more than a window holds.
if(TARGET consort_ucx)
  add_executable(transfer_bench bench/transfer_bench.c)
  target_link_libraries(transfer_bench PRIVATE consort_options consort_scheduler)
  set_target_properties(transfer_bench PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/tests)
  add_dependencies(transfer_bench consort_ucx)
  add_test(NAME transfer_bench COMMAND transfer_bench 4 12 1048576 1)
  set_tests_properties(transfer_bench PROPERTIES LABELS unit TIMEOUT 120)
  if(CONSORT_SANITIZE STREQUAL "thread")
    set_property(TEST scheduler_door_test scheduler_fabric_test scheduler_remote_test transfer_bench APPEND PROPERTY
      ENVIRONMENT "TSAN_OPTIONS=suppressions=${CMAKE_CURRENT_SOURCE_DIR}/tsan.supp")
  endif()
endif()
