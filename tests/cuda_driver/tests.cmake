# Tests that need the fake driver: kernels on the CPU, no GPU.
add_subdirectory(cuda_driver)
set(cuda_fake "LD_LIBRARY_PATH=${CMAKE_BINARY_DIR}/tests/cuda_driver")

foreach(name cuda_device_test cuda_matmul_test)
  consort_add_unit_test(${name} consort_abi ${CMAKE_DL_LIBS} m)
  add_dependencies(${name} consort_plugin_cuda cuda_fake_driver cuda_fake_blas cuda_fake_nvml)
  set_property(TEST ${name} APPEND PROPERTY ENVIRONMENT ${cuda_fake})
  # TSan sees nothing of the driver, whose locks and fibers are not instrumented.
  set_property(TEST ${name} APPEND PROPERTY LABELS notsan)
endforeach()

# Starting: which library is found, what it answers, and the words of the one line that is told.
add_executable(cuda_start_test unit/cuda_start_test.c)
target_link_libraries(cuda_start_test PRIVATE consort_options consort_abi ${CMAKE_DL_LIBS})
set_target_properties(cuda_start_test PROPERTIES
  RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/tests)
function(consort_add_cuda_start_test name words)
  add_test(NAME cuda_start_${name}
           COMMAND cuda_start_test $<TARGET_FILE:consort_plugin_cuda> ${words})
  set_tests_properties(cuda_start_${name} PROPERTIES LABELS unit TIMEOUT 60 ENVIRONMENT "${ARGN}")
endfunction()
consort_add_cuda_start_test(fake - ${cuda_fake})
consort_add_cuda_start_test(old_driver "is for CUDA 11.8" ${cuda_fake}
                            "CONSORT_FAKE_CUDA=version=11080")
consort_add_cuda_start_test(no_device "finds no device" ${cuda_fake} "CONSORT_FAKE_CUDA=devices=0")
consort_add_cuda_start_test(old_device "compute capability 7.5" ${cuda_fake}
                            "CONSORT_FAKE_CUDA=capability=6")
consort_add_cuda_start_test(failing_driver "cuInit: 999" ${cuda_fake}
                            "CONSORT_FAKE_CUDA=init=999")
get_target_property(cuda_includes consort_plugin_cuda INCLUDE_DIRECTORIES)
foreach(folder ${cuda_includes})
  if(EXISTS ${folder}/../lib64/stubs/libcuda.so)
    file(MAKE_DIRECTORY ${CMAKE_BINARY_DIR}/tests/cuda_stub)
    file(CREATE_LINK ${folder}/../lib64/stubs/libcuda.so
         ${CMAKE_BINARY_DIR}/tests/cuda_stub/libcuda.so.1 SYMBOLIC)
    consort_add_cuda_start_test(stub "the toolkit's stub"
                                "LD_LIBRARY_PATH=${CMAKE_BINARY_DIR}/tests/cuda_stub")
  endif()
endforeach()
find_library(CONSORT_CUDA_DRIVER NAMES libcuda.so.1)
if(NOT CONSORT_CUDA_DRIVER)
  consort_add_cuda_start_test(no_driver "no NVIDIA driver is installed" "LD_LIBRARY_PATH=")
endif()

if(TARGET consort-cts)
  add_test(NAME conformance_cuda_on_fake_driver
           COMMAND consort-cts $<TARGET_FILE:consort_plugin_cuda> --quick --no-speed --soak 1
                   --require Core,LLM-dense,LLM-quant,MoE,Disaggregated)
  set_tests_properties(conformance_cuda_on_fake_driver PROPERTIES LABELS "conformance;slow" TIMEOUT 300
    ENVIRONMENT "${cuda_fake};ASAN_OPTIONS=detect_leaks=0") # the fake driver's threads may still end
endif()

if(TARGET consort_cli)
  consort_add_python_test(cuda_placements_test integration/cuda_placements_test.py integration
                          noasan)
  set_property(TEST cuda_placements_test APPEND PROPERTY ENVIRONMENT
    ${cuda_fake} "CONSORT_TEST_SOURCE=${PROJECT_SOURCE_DIR}")
  consort_add_python_test(cuda_check_test integration/cuda_check_test.py integration noasan)
  set_property(TEST cuda_check_test APPEND PROPERTY ENVIRONMENT
    "CONSORT_TEST_SOURCE=${PROJECT_SOURCE_DIR}")
  consort_add_python_test(gpu_check_test integration/gpu_check_test.py slow noasan notsan)
  set_property(TEST gpu_check_test APPEND PROPERTY ENVIRONMENT
    ${cuda_fake} "CONSORT_TEST_SOURCE=${PROJECT_SOURCE_DIR}")
endif()
string(REPLACE ";" "," cuda_all_targets "${CONSORT_CUDA_ALL_ARCHITECTURES}")
consort_add_python_test(cuda_kernels_test integration/cuda_kernels_test.py slow)
set_property(TEST cuda_kernels_test APPEND PROPERTY ENVIRONMENT
  "CONSORT_TEST_SOURCE=${PROJECT_SOURCE_DIR}" "CONSORT_TEST_NVCC=${CONSORT_NVCC}"
  "CONSORT_TEST_CUDA_TARGETS=${cuda_all_targets}")
set_tests_properties(cuda_kernels_test PROPERTIES TIMEOUT 1500)
