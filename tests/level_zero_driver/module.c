/* SPIR-V is turned into LLVM bitcode by llvm-spirv and given to PoCL as a binary, so that it is the
 * module's own instructions that run and not the source they came from. Device pointers are handed
 * to kernels as SVM pointers: PoCL's CPU device takes any address of the process. */
#include "driver.h"

#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define PATH_BYTES 512

extern char **environ;

/* ---- SPIR-V to bitcode ---- */

static bool write_file(int fd, const void *data, size_t bytes) {
  const char *at = data;
  while (bytes > 0) {
    const ssize_t n = write(fd, at, bytes);
    if (n <= 0) return false;
    at += n;
    bytes -= (size_t)n;
  }
  return true;
}

static unsigned char *read_file(const char *path, size_t *bytes) {
  FILE *file = fopen(path, "rb");
  if (!file) return NULL;
  unsigned char *data = NULL;
  if (fseek(file, 0, SEEK_END) == 0) {
    const long size = ftell(file);
    data = size > 0 ? malloc((size_t)size) : NULL;
    rewind(file);
    if (data && fread(data, 1, (size_t)size, file) != (size_t)size) {
      free(data);
      data = NULL;
    }
    *bytes = size > 0 ? (size_t)size : 0;
  }
  fclose(file);
  return data;
}

/* Runs llvm-spirv -r FROM -o TO; false when it says no. */
static bool translate(const char *from, const char *to) {
  char *const arguments[] = {LLVM_SPIRV, "-r", "--spirv-target-env=CL1.2", (char *)from, "-o",
                             (char *)to, NULL};
  pid_t child;
  int status;
  if (posix_spawn(&child, LLVM_SPIRV, NULL, NULL, arguments, environ) != 0) return false;
  return waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

static unsigned char *bitcode_of(const uint8_t *spirv, size_t spirv_bytes, size_t *bytes) {
  const char *folder = getenv("TMPDIR") ? getenv("TMPDIR") : "/tmp";
  char from[PATH_BYTES], to[PATH_BYTES + 4];
  if (snprintf(from, sizeof from, "%s/ze-cpu-test-XXXXXX", folder) >= (int)sizeof from) return NULL;
  const int fd = mkstemp(from);
  if (fd < 0) return NULL;
  snprintf(to, sizeof to, "%s.bc", from);
  const bool written = write_file(fd, spirv, spirv_bytes);
  close(fd);
  unsigned char *bitcode = written && translate(from, to) ? read_file(to, bytes) : NULL;
  unlink(from);
  unlink(to);
  return bitcode;
}

/* ---- modules ---- */

static ze_result_t ZE_APICALL module_create(ze_context_handle_t context, ze_device_handle_t device,
                                            const ze_module_desc_t *desc, ze_module_handle_t *out,
                                            ze_module_build_log_handle_t *log) {
  if (!test_is_context(context)) return ZE_RESULT_ERROR_INVALID_NULL_HANDLE;
  (void)device;
  if (log) *log = NULL;
  if (!desc || !out) return ZE_RESULT_ERROR_INVALID_NULL_POINTER;
  *out = NULL;
  if (desc->format != ZE_MODULE_FORMAT_IL_SPIRV) return ZE_RESULT_ERROR_INVALID_NATIVE_BINARY;
  size_t bytes = 0;
  unsigned char *bitcode = bitcode_of(desc->pInputModule, desc->inputSize, &bytes);
  if (!bitcode) return ZE_RESULT_ERROR_MODULE_BUILD_FAILURE;
  const unsigned char *binary = bitcode;
  cl_int code;
  cl_program program = clCreateProgramWithBinary(test_gpu.context, 1, &test_gpu.device, &bytes,
                                                 &binary, NULL, &code);
  free(bitcode);
  if (!program) return ZE_RESULT_ERROR_MODULE_BUILD_FAILURE;
  code = clBuildProgram(program, 1, &test_gpu.device, "-x spir -spir-std=1.2 -cl-kernel-arg-info",
                        NULL, NULL);
  ze_module_handle_t module = code == CL_SUCCESS ? test_object_create(sizeof *module) : NULL;
  if (!module) {
    clReleaseProgram(program);
    return ZE_RESULT_ERROR_MODULE_BUILD_FAILURE;
  }
  module->program = program;
  *out = module;
  return ZE_RESULT_SUCCESS;
}

static ze_result_t ZE_APICALL module_destroy(ze_module_handle_t module) {
  clReleaseProgram(module->program);
  test_object_destroy(module);
  return ZE_RESULT_SUCCESS;
}

static ze_result_t ZE_APICALL module_properties(ze_module_handle_t module,
                                                ze_module_properties_t *out) {
  (void)module;
  out->flags = 0;
  return ZE_RESULT_SUCCESS;
}

void test_fill_module(ze_module_dditable_t *table) {
  table->pfnCreate = module_create;
  table->pfnDestroy = module_destroy;
  table->pfnGetProperties = module_properties;
}

static ze_result_t ZE_APICALL log_destroy(ze_module_build_log_handle_t log) {
  (void)log;
  return ZE_RESULT_SUCCESS;
}

static ze_result_t ZE_APICALL log_string(ze_module_build_log_handle_t log, size_t *bytes,
                                         char *text) {
  (void)log;
  if (text && *bytes > 0) text[0] = '\0';
  *bytes = 1;
  return ZE_RESULT_SUCCESS;
}

void test_fill_build_log(ze_module_build_log_dditable_t *table) {
  table->pfnDestroy = log_destroy;
  table->pfnGetString = log_string;
}

/* ---- kernels ---- */

static test_arg_kind kind_of(cl_kernel kernel, cl_uint index) {
  cl_kernel_arg_address_qualifier where = CL_KERNEL_ARG_ADDRESS_PRIVATE;
  clGetKernelArgInfo(kernel, index, CL_KERNEL_ARG_ADDRESS_QUALIFIER, sizeof where, &where, NULL);
  if (where == CL_KERNEL_ARG_ADDRESS_LOCAL) return TEST_ARG_LOCAL;
  return where == CL_KERNEL_ARG_ADDRESS_PRIVATE ? TEST_ARG_VALUE : TEST_ARG_POINTER;
}

static ze_result_t ZE_APICALL kernel_create(ze_module_handle_t module, const ze_kernel_desc_t *desc,
                                            ze_kernel_handle_t *out) {
  *out = NULL;
  cl_int code;
  cl_kernel kernel = clCreateKernel(module->program, desc->pKernelName, &code);
  if (!kernel) return ZE_RESULT_ERROR_INVALID_KERNEL_NAME;
  cl_uint n_args = 0;
  clGetKernelInfo(kernel, CL_KERNEL_NUM_ARGS, sizeof n_args, &n_args, NULL);
  ze_kernel_handle_t handle = n_args <= TEST_MAX_ARGS ? test_object_create(sizeof *handle) : NULL;
  if (!handle) {
    clReleaseKernel(kernel);
    return ZE_RESULT_ERROR_OUT_OF_HOST_MEMORY;
  }
  handle->kernel = kernel;
  handle->n_args = n_args;
  snprintf(handle->name, sizeof handle->name, "%s", desc->pKernelName);
  for (cl_uint i = 0; i < n_args; i++)
    handle->args[i].kind = kind_of(kernel, i);
  *out = handle;
  return ZE_RESULT_SUCCESS;
}

static ze_result_t ZE_APICALL kernel_destroy(ze_kernel_handle_t kernel) {
  clReleaseKernel(kernel->kernel);
  test_object_destroy(kernel);
  return ZE_RESULT_SUCCESS;
}

static ze_result_t ZE_APICALL kernel_group_size(ze_kernel_handle_t kernel, uint32_t x, uint32_t y,
                                                uint32_t z) {
  if (x == 0 || y == 0 || z == 0 || (uint64_t)x * y * z > TEST_GROUP_SIZE_MAX)
    return ZE_RESULT_ERROR_INVALID_GROUP_SIZE_DIMENSION;
  kernel->group[0] = x;
  kernel->group[1] = y;
  kernel->group[2] = z;
  return ZE_RESULT_SUCCESS;
}

static ze_result_t ZE_APICALL kernel_suggest(ze_kernel_handle_t kernel, uint32_t global_x,
                                             uint32_t global_y, uint32_t global_z, uint32_t *x,
                                             uint32_t *y, uint32_t *z) {
  (void)kernel;
  (void)global_y;
  (void)global_z;
  *x = global_x % 64 == 0 ? 64 : 1;
  *y = *z = 1;
  return ZE_RESULT_SUCCESS;
}

static ze_result_t ZE_APICALL kernel_argument(ze_kernel_handle_t kernel, uint32_t index,
                                              size_t bytes, const void *value) {
  if (index >= kernel->n_args) return ZE_RESULT_ERROR_INVALID_KERNEL_ARGUMENT_INDEX;
  test_arg *arg = &kernel->args[index];
  if (arg->kind == TEST_ARG_POINTER && bytes != sizeof(void *))
    return ZE_RESULT_ERROR_INVALID_KERNEL_ARGUMENT_SIZE;
  if (arg->kind != TEST_ARG_LOCAL && bytes > TEST_MAX_ARG_BYTES)
    return ZE_RESULT_ERROR_INVALID_KERNEL_ARGUMENT_SIZE;
  arg->bytes = bytes;
  if (arg->kind != TEST_ARG_LOCAL) {
    if (value)
      memcpy(arg->value, value, bytes);
    else
      memset(arg->value, 0, bytes);
  }
  arg->set = true;
  return ZE_RESULT_SUCCESS;
}

static ze_result_t ZE_APICALL kernel_properties(ze_kernel_handle_t kernel,
                                                ze_kernel_properties_t *out) {
  out->numKernelArgs = kernel->n_args;
  out->requiredGroupSizeX = out->requiredGroupSizeY = out->requiredGroupSizeZ = 0;
  out->requiredNumSubGroups = out->requiredSubgroupSize = 0;
  out->maxSubgroupSize = out->maxNumSubgroups = 0;
  out->localMemSize = out->privateMemSize = out->spillMemSize = 0;
  memset(&out->uuid, 0, sizeof out->uuid);
  return ZE_RESULT_SUCCESS;
}

static ze_result_t ZE_APICALL kernel_name(ze_kernel_handle_t kernel, size_t *bytes, char *name) {
  if (name) snprintf(name, *bytes, "%s", kernel->name);
  *bytes = strlen(kernel->name) + 1;
  return ZE_RESULT_SUCCESS;
}

static ze_result_t ZE_APICALL kernel_access(ze_kernel_handle_t kernel,
                                            ze_kernel_indirect_access_flags_t flags) {
  (void)kernel;
  (void)flags;
  return ZE_RESULT_SUCCESS;
}

void test_fill_kernel(ze_kernel_dditable_t *table) {
  table->pfnCreate = kernel_create;
  table->pfnDestroy = kernel_destroy;
  table->pfnSetGroupSize = kernel_group_size;
  table->pfnSuggestGroupSize = kernel_suggest;
  table->pfnSetArgumentValue = kernel_argument;
  table->pfnSetIndirectAccess = kernel_access;
  table->pfnGetProperties = kernel_properties;
  table->pfnGetName = kernel_name;
}

/* A pointer must be null or into memory of this driver: a stray one is told, not followed. */
static bool set_argument(cl_kernel kernel, cl_uint index, const test_arg *arg) {
  if (!arg->set) return false;
  if (arg->kind == TEST_ARG_LOCAL)
    return clSetKernelArg(kernel, index, arg->bytes, NULL) == CL_SUCCESS;
  if (arg->kind == TEST_ARG_VALUE)
    return clSetKernelArg(kernel, index, arg->bytes, arg->value) == CL_SUCCESS;
  void *pointer;
  memcpy(&pointer, arg->value, sizeof pointer);
  if (!pointer) return clSetKernelArg(kernel, index, sizeof(cl_mem), NULL) == CL_SUCCESS;
  return test_find(pointer, 0) && clSetKernelArgSVMPointer(kernel, index, pointer) == CL_SUCCESS;
}

bool test_launch(ze_kernel_handle_t kernel, const test_arg *args, const uint32_t group[3],
                 const uint32_t groups[3]) {
  for (cl_uint i = 0; i < kernel->n_args; i++) {
    if (set_argument(kernel->kernel, i, &args[i])) continue;
    fprintf(stderr, "ze_cpu_test: %s: argument %u is not set or points nowhere\n", kernel->name, i);
    return false;
  }
  size_t global[3], local[3];
  for (int i = 0; i < 3; i++) {
    local[i] = group[i];
    global[i] = (size_t)group[i] * groups[i];
  }
  const cl_int code =
      clEnqueueNDRangeKernel(test_gpu.queue, kernel->kernel, 3, NULL, global, local, 0, NULL, NULL);
  if (code == CL_SUCCESS && clFinish(test_gpu.queue) == CL_SUCCESS) return true;
  fprintf(stderr, "ze_cpu_test: %s: OpenCL says %d\n", kernel->name, code);
  return false;
}
