# Builds for 64-bit Arm with Debian's cross compiler, and runs what it builds under qemu-user:
#
#   scripts/deps --full
#   cmake -S . -B build/aarch64/tree --toolchain cmake/aarch64.cmake
#
# Foreign libraries come from CONSORT_AARCH64_SYSROOT, where `scripts/deps --full` unpacks Debian's
# arm64 packages; nothing foreign is installed. CONSORT_AARCH64_CPU is the processor that qemu shows.
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR aarch64)
set(CONSORT_AARCH64_SYSROOT ${CMAKE_CURRENT_LIST_DIR}/../build/aarch64/sysroot CACHE PATH
    "Debian's arm64 packages, unpacked")
set(CONSORT_AARCH64_CPU max CACHE STRING "What qemu-aarch64 -cpu takes")
set(CMAKE_TRY_COMPILE_PLATFORM_VARIABLES CONSORT_AARCH64_SYSROOT CONSORT_AARCH64_CPU)
get_filename_component(sysroot ${CONSORT_AARCH64_SYSROOT} ABSOLUTE)
set(libraries ${sysroot}/usr/lib/aarch64-linux-gnu)

set(CMAKE_C_COMPILER aarch64-linux-gnu-gcc)
set(CMAKE_CXX_COMPILER aarch64-linux-gnu-g++) # or else the host's would be taken
set(CONSORT_BACKEND_CUDA OFF CACHE BOOL "nvcc makes code for the host")
set(CMAKE_C_FLAGS_INIT
    "-isystem ${sysroot}/usr/include -isystem ${sysroot}/usr/include/aarch64-linux-gnu")
foreach(kind EXE SHARED MODULE)
  set(CMAKE_${kind}_LINKER_FLAGS_INIT "-L${libraries} -Wl,-rpath-link,${libraries}")
endforeach()

set(CMAKE_FIND_ROOT_PATH ${sysroot} /usr/aarch64-linux-gnu)
set(CMAKE_FIND_ROOT_PATH_MODE_PROGRAM NEVER)
foreach(kind LIBRARY INCLUDE PACKAGE)
  set(CMAKE_FIND_ROOT_PATH_MODE_${kind} ONLY)
endforeach()
set(ENV{PKG_CONFIG_SYSROOT_DIR} ${sysroot})
set(ENV{PKG_CONFIG_LIBDIR} ${libraries}/pkgconfig:${sysroot}/usr/share/pkgconfig)

set(CMAKE_CROSSCOMPILING_EMULATOR qemu-aarch64 -cpu ${CONSORT_AARCH64_CPU} -L /usr/aarch64-linux-gnu
    -E LD_LIBRARY_PATH=${libraries})
