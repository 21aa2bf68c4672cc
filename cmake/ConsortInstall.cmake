# What lets others find an installed Consort: a CMake package and pkg-config files. Both point to
# things by their own place, never by the prefix that was configured.
include(CMakePackageConfigHelpers)

set(CONSORT_CMAKE_INSTALL_DIR ${CMAKE_INSTALL_LIBDIR}/cmake/Consort)
get_target_property(CONSORT_SOVERSION consort SOVERSION)
configure_package_config_file(
  ${CMAKE_CURRENT_LIST_DIR}/ConsortConfig.cmake.in ${CMAKE_BINARY_DIR}/ConsortConfig.cmake
  INSTALL_DESTINATION ${CONSORT_CMAKE_INSTALL_DIR}
  PATH_VARS CMAKE_INSTALL_INCLUDEDIR CMAKE_INSTALL_LIBDIR CMAKE_INSTALL_BINDIR
            CMAKE_INSTALL_LIBEXECDIR CONSORT_PLUGIN_INSTALL_DIR)
write_basic_package_version_file(${CMAKE_BINARY_DIR}/ConsortConfigVersion.cmake
                                 COMPATIBILITY SameMinorVersion)
install(FILES ${CMAKE_BINARY_DIR}/ConsortConfig.cmake
              ${CMAKE_BINARY_DIR}/ConsortConfigVersion.cmake
        DESTINATION ${CONSORT_CMAKE_INSTALL_DIR})

file(RELATIVE_PATH CONSORT_PC_TO_PREFIX /prefix/${CMAKE_INSTALL_LIBDIR}/pkgconfig /prefix)
string(REGEX REPLACE "/$" "" CONSORT_PC_TO_PREFIX "${CONSORT_PC_TO_PREFIX}")
foreach(package consort consort-sdk)
  configure_file(${CMAKE_CURRENT_LIST_DIR}/${package}.pc.in ${CMAKE_BINARY_DIR}/${package}.pc @ONLY)
  install(FILES ${CMAKE_BINARY_DIR}/${package}.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)
endforeach()
