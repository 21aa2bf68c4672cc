foreach(name models_gguf_test models_model_test models_forward_test models_tokenizer_test
             models_sampler_test models_kv_pool_test models_blocks_test
             models_safetensors_test models_memory_test models_chat_test models_write_test)
  consort_add_unit_test(${name} consort_models)
endforeach()
pkg_check_modules(JANSSON REQUIRED IMPORTED_TARGET jansson)
consort_add_unit_test(models_tokenizer_golden_test consort_models PkgConfig::JANSSON)
consort_add_unit_test(models_tokenizer_gguf_test consort_models PkgConfig::JANSSON)
# For tests/reference/chat_compare.py, which needs templates that are not ours to keep.
add_executable(chat_render ${CMAKE_CURRENT_SOURCE_DIR}/reference/chat_render.c)
target_link_libraries(chat_render PRIVATE consort_options consort_models PkgConfig::JANSSON)
set_target_properties(chat_render PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/tests)
target_link_options(models_memory_test PRIVATE
                    -Wl,--wrap=malloc,--wrap=calloc,--wrap=realloc,--wrap=strdup)

# Every build replays the inputs that fuzzing has kept; libFuzzer itself comes with clang and
# instruments the library's sources, so that the targets are built from these, apart from the rest.
option(CONSORT_FUZZ "Build the fuzz targets and run each for CONSORT_FUZZ_SECONDS as a test" OFF)
set(CONSORT_FUZZ_SECONDS 20 CACHE STRING "How long a fuzz target runs as a test")
find_program(CONSORT_CLANG NAMES clang clang-14)
if(CONSORT_FUZZ AND NOT CONSORT_CLANG)
  message(WARNING "CONSORT_FUZZ: no clang, so no fuzzing; the corpora are replayed")
endif()

file(GLOB fuzz_library CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/models/*.c
     ${PROJECT_SOURCE_DIR}/models/chat/*.c)
list(APPEND fuzz_library ${PROJECT_SOURCE_DIR}/core/error.c ${PROJECT_SOURCE_DIR}/core/dtype.c
     ${PROJECT_SOURCE_DIR}/core/op_list.c)
pkg_check_modules(JANSSON REQUIRED IMPORTED_TARGET jansson)
foreach(target gguf tokenizer safetensors config tokenizer_json vocabulary chat)
  set(source ${CMAKE_CURRENT_SOURCE_DIR}/fuzz/${target}_fuzz.c)
  set(corpus ${CMAKE_CURRENT_SOURCE_DIR}/fuzz/corpus/${target})
  add_executable(${target}_replay ${source} ${CMAKE_CURRENT_SOURCE_DIR}/fuzz/replay.c)
  target_link_libraries(${target}_replay PRIVATE consort_models PkgConfig::JANSSON)
  target_include_directories(${target}_replay PRIVATE ${CMAKE_CURRENT_SOURCE_DIR}/unit)
  set_target_properties(${target}_replay PROPERTIES RUNTIME_OUTPUT_DIRECTORY
                                                    ${CMAKE_BINARY_DIR}/tests)
  add_test(NAME ${target}_replay COMMAND ${target}_replay ${corpus})
  set_tests_properties(${target}_replay PROPERTIES LABELS unit TIMEOUT 120)
  if(CONSORT_FUZZ AND CONSORT_CLANG)
    set(fuzzer ${CMAKE_BINARY_DIR}/tests/${target}_fuzz)
    add_custom_command(
      OUTPUT ${fuzzer}
      COMMAND ${CONSORT_CLANG} -std=c11 -D_GNU_SOURCE -O1 -g -fsanitize=fuzzer,address,undefined
              -fno-sanitize-recover=all -I${PROJECT_SOURCE_DIR}
              -I${PROJECT_SOURCE_DIR}/core/include -I${CMAKE_CURRENT_SOURCE_DIR}/unit ${source}
              ${fuzz_library} -lxxhash -lpcre2-8 -lutf8proc -ljansson -lm -o ${fuzzer}
      DEPENDS ${source} ${fuzz_library}
      COMMENT "Building the fuzz target ${target}")
    add_custom_target(${target}_fuzzer ALL DEPENDS ${fuzzer})
    # New inputs go to the build folder; the corpus is only read.
    set(found ${CMAKE_BINARY_DIR}/tests/${target}_found)
    file(MAKE_DIRECTORY ${found})
    add_test(NAME ${target}_fuzz COMMAND ${fuzzer} -max_total_time=${CONSORT_FUZZ_SECONDS}
                                         -rss_limit_mb=1024 -timeout=20 ${found} ${corpus}
             WORKING_DIRECTORY ${found})
    set_tests_properties(${target}_fuzz PROPERTIES LABELS fuzz TIMEOUT 600)
  endif()
endforeach()
