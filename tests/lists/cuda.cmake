consort_add_unit_test(cuda_signal_test consort_sdk Threads::Threads)

include(CheckLanguage)
check_language(CXX)
if(TARGET consort_plugin_cuda AND CMAKE_CXX_COMPILER)
  enable_language(CXX)
  include(${CMAKE_CURRENT_SOURCE_DIR}/cuda_driver/tests.cmake)
endif()
