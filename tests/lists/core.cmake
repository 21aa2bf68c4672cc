# core_add_fake(FOLDER NAME definitions...): tests/unit/plugins/fake.c as plugin NAME, with its
# manifest, in build/tests/plugins/FOLDER.
set(CORE_TEST_PLUGINS ${CMAKE_BINARY_DIR}/tests/plugins)
function(core_add_fake folder name)
  set(target core_${name})
  add_library(${target} MODULE ${CMAKE_CURRENT_SOURCE_DIR}/unit/plugins/fake.c)
  target_link_libraries(${target} PRIVATE consort_options consort_sdk Threads::Threads)
  target_compile_definitions(${target} PRIVATE FAKE_NAME="${name}" ${ARGN})
  set_target_properties(${target} PROPERTIES OUTPUT_NAME consort-${name} PREFIX ""
    LIBRARY_OUTPUT_DIRECTORY ${CORE_TEST_PLUGINS}/${folder})
  set(CONSORT_MANIFEST_NAME ${name})
  set(CONSORT_MANIFEST_LIBRARY consort-${name}${CMAKE_SHARED_MODULE_SUFFIX})
  configure_file(${PROJECT_SOURCE_DIR}/cmake/manifest.plugin.in
                 ${CORE_TEST_PLUGINS}/${folder}/${name}.plugin @ONLY)
endfunction()

core_add_fake(good fake FAKE_FAULT=FAKE_NONE)
core_add_fake(good twin FAKE_FAULT=FAKE_NONE FAKE_PROGRAM=1)
core_add_fake(good recorded FAKE_FAULT=FAKE_NONE FAKE_EAGER=0 FAKE_PROGRAM=1)
core_add_fake(good zero-tail FAKE_FAULT=FAKE_ZERO_TAIL)
core_add_fake(faulty abi-huge FAKE_FAULT=FAKE_ABI_HUGE)
core_add_fake(faulty query-refuses FAKE_FAULT=FAKE_QUERY_REFUSES)
core_add_fake(faulty no-streams FAKE_FAULT=FAKE_NO_STREAMS)
core_add_fake(faulty null-entry FAKE_FAULT=FAKE_NULL_ENTRY)
core_add_fake(faulty unknown-tail FAKE_FAULT=FAKE_UNKNOWN_TAIL)
core_add_fake(faulty no-driver FAKE_FAULT=FAKE_NO_DRIVER)
core_add_fake(faulty no-devices FAKE_FAULT=FAKE_NO_DEVICES)
core_add_fake(faulty other-name FAKE_FAULT=FAKE_OTHER_NAME)
core_add_fake(faulty bad-align FAKE_FAULT=FAKE_BAD_ALIGN)
core_add_fake(faulty no-execution FAKE_FAULT=FAKE_NO_EXECUTION)
core_add_fake(faulty silent FAKE_FAULT=FAKE_SILENT)
core_add_fake(crashing crash-query FAKE_FAULT=FAKE_CRASH_QUERY)
core_add_fake(crashing crash-start FAKE_FAULT=FAKE_CRASH_START)
core_add_fake(crashing crash-end FAKE_FAULT=FAKE_CRASH_END)
core_add_fake(crashing abort-query FAKE_FAULT=FAKE_ABORT_QUERY)
core_add_fake(crashing exit-start FAKE_FAULT=FAKE_EXIT_START)
core_add_fake(hanging hang-start FAKE_FAULT=FAKE_HANG_START)

file(GLOB core_tests CONFIGURE_DEPENDS unit/core_*_test.c)
foreach(path ${core_tests})
  get_filename_component(name ${path} NAME_WE)
  consort_add_unit_test(${name} consort_core m)
  target_compile_definitions(${name} PRIVATE CORE_TEST_PLUGINS="${CORE_TEST_PLUGINS}"
                                             CORE_TEST_PROBE="$<TARGET_FILE:consort_probe>")
  add_dependencies(${name} consort_probe)
endforeach()

# The executor under the validation layer: correct use has no findings.
add_test(NAME core_executor_validated COMMAND core_executor_test)
set_tests_properties(core_executor_validated PROPERTIES LABELS unit TIMEOUT 120
  ENVIRONMENT "CONSORT_VALIDATE=1")

foreach(name includes names abi_layout law_selftest)
  consort_add_python_test(law_${name} law/${name}.py unit)
endforeach()
