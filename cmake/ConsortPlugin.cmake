# consort_add_plugin(NAME sources...): a plugin library with its manifest, built into the plugin
# folder of the build tree and installed beside the others. Plugins see the installed headers of
# core and the SDK, nothing else of the tree.
function(consort_add_plugin name)
  set(target consort_plugin_${name})
  add_library(${target} MODULE ${ARGN})
  target_link_libraries(${target} PRIVATE consort_options consort_sdk Threads::Threads)
  set_target_properties(${target} PROPERTIES
    OUTPUT_NAME consort-${name}
    PREFIX ""
    LIBRARY_OUTPUT_DIRECTORY ${CONSORT_PLUGIN_OUTPUT_DIR})
  target_link_options(${target} PRIVATE -Wl,--no-undefined -Wl,--exclude-libs,ALL)
  set(CONSORT_MANIFEST_NAME ${name})
  set(CONSORT_MANIFEST_LIBRARY consort-${name}${CMAKE_SHARED_MODULE_SUFFIX})
  configure_file(${PROJECT_SOURCE_DIR}/cmake/manifest.plugin.in
                 ${CONSORT_PLUGIN_OUTPUT_DIR}/${name}.plugin @ONLY)
  install(TARGETS ${target} LIBRARY DESTINATION ${CONSORT_PLUGIN_INSTALL_DIR})
  install(FILES ${CONSORT_PLUGIN_OUTPUT_DIR}/${name}.plugin
          DESTINATION ${CONSORT_PLUGIN_INSTALL_DIR})
endfunction()
