# consort_add_plugin(NAME [DEVELOPMENT] sources...): a plugin library with its manifest, built into
# the plugin folder of the build tree and installed beside the others. Plugins see the installed
# headers of core and the SDK, nothing else of the tree. DEVELOPMENT plugins (simulations and test
# tools) go into a folder beside it that is searched only when CONSORT_PLUGIN_PATH names it.
# VISIBLE_DEVICES names the environment variable by which the driver hides and renumbers devices.
function(consort_add_plugin name)
  cmake_parse_arguments(PARSE_ARGV 1 PLUGIN "DEVELOPMENT" "VISIBLE_DEVICES" "")
  set(folder plugins)
  if(PLUGIN_DEVELOPMENT)
    set(folder plugins-development)
  endif()
  set(build_folder ${CMAKE_BINARY_DIR}/lib/consort/${folder})
  set(install_folder ${CMAKE_INSTALL_LIBDIR}/consort/${folder})
  set(target consort_plugin_${name})
  add_library(${target} MODULE ${PLUGIN_UNPARSED_ARGUMENTS})
  target_link_libraries(${target} PRIVATE consort_options consort_sdk Threads::Threads)
  set_target_properties(${target} PROPERTIES
    OUTPUT_NAME consort-${name}
    PREFIX ""
    LIBRARY_OUTPUT_DIRECTORY ${build_folder})
  # A sanitizer's runtime comes with the program, so that its symbols are open in a plugin.
  target_link_options(${target} PRIVATE -Wl,--exclude-libs,ALL)
  if(NOT CONSORT_SANITIZE) # with clang the sanitizers' symbols come from the program
    target_link_options(${target} PRIVATE -Wl,--no-undefined)
  endif()
  set(CONSORT_MANIFEST_NAME ${name})
  set(CONSORT_MANIFEST_LIBRARY consort-${name}${CMAKE_SHARED_MODULE_SUFFIX})
  set(CONSORT_MANIFEST_MORE "")
  if(PLUGIN_VISIBLE_DEVICES)
    set(CONSORT_MANIFEST_MORE "visible_devices = ${PLUGIN_VISIBLE_DEVICES}\n")
  endif()
  configure_file(${PROJECT_SOURCE_DIR}/cmake/manifest.plugin.in ${build_folder}/${name}.plugin
                 @ONLY)
  install(TARGETS ${target} LIBRARY DESTINATION ${install_folder})
  install(FILES ${build_folder}/${name}.plugin DESTINATION ${install_folder})
endfunction()
