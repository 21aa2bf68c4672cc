/* OpenCL's error numbers as names and as Consort's status codes. */
#include "opencl.h"

typedef struct error_entry {
  cl_int code;
  cs_status status;
  const char *name;
} error_entry;

static const error_entry entries[] = {
    {CL_DEVICE_NOT_AVAILABLE, CS_DEVICE_LOST, "CL_DEVICE_NOT_AVAILABLE"},
    {CL_COMPILER_NOT_AVAILABLE, CS_UNSUPPORTED, "CL_COMPILER_NOT_AVAILABLE"},
    {CL_MEM_OBJECT_ALLOCATION_FAILURE, CS_OUT_OF_MEMORY, "CL_MEM_OBJECT_ALLOCATION_FAILURE"},
    {CL_OUT_OF_RESOURCES, CS_FAILED, "CL_OUT_OF_RESOURCES"},
    {CL_OUT_OF_HOST_MEMORY, CS_OUT_OF_MEMORY, "CL_OUT_OF_HOST_MEMORY"},
    {CL_BUILD_PROGRAM_FAILURE, CS_FAILED, "CL_BUILD_PROGRAM_FAILURE"},
    {CL_INVALID_VALUE, CS_FAILED, "CL_INVALID_VALUE"},
    {CL_INVALID_DEVICE, CS_FAILED, "CL_INVALID_DEVICE"},
    {CL_INVALID_CONTEXT, CS_FAILED, "CL_INVALID_CONTEXT"},
    {CL_INVALID_COMMAND_QUEUE, CS_FAILED, "CL_INVALID_COMMAND_QUEUE"},
    {CL_INVALID_MEM_OBJECT, CS_FAILED, "CL_INVALID_MEM_OBJECT"},
    {CL_INVALID_BINARY, CS_FAILED, "CL_INVALID_BINARY"},
    {CL_INVALID_BUILD_OPTIONS, CS_FAILED, "CL_INVALID_BUILD_OPTIONS"},
    {CL_INVALID_PROGRAM, CS_FAILED, "CL_INVALID_PROGRAM"},
    {CL_INVALID_KERNEL_NAME, CS_FAILED, "CL_INVALID_KERNEL_NAME"},
    {CL_INVALID_KERNEL, CS_FAILED, "CL_INVALID_KERNEL"},
    {CL_INVALID_ARG_INDEX, CS_FAILED, "CL_INVALID_ARG_INDEX"},
    {CL_INVALID_ARG_VALUE, CS_FAILED, "CL_INVALID_ARG_VALUE"},
    {CL_INVALID_ARG_SIZE, CS_FAILED, "CL_INVALID_ARG_SIZE"},
    {CL_INVALID_KERNEL_ARGS, CS_FAILED, "CL_INVALID_KERNEL_ARGS"},
    {CL_INVALID_WORK_GROUP_SIZE, CS_FAILED, "CL_INVALID_WORK_GROUP_SIZE"},
    {CL_INVALID_WORK_ITEM_SIZE, CS_FAILED, "CL_INVALID_WORK_ITEM_SIZE"},
    {CL_INVALID_BUFFER_SIZE, CS_OUT_OF_MEMORY, "CL_INVALID_BUFFER_SIZE"},
    {CL_INVALID_GLOBAL_WORK_SIZE, CS_FAILED, "CL_INVALID_GLOBAL_WORK_SIZE"},
};

static const error_entry *find(cl_int code) {
  for (size_t i = 0; i < sizeof entries / sizeof entries[0]; i++)
    if (entries[i].code == code) return &entries[i];
  return NULL;
}

const char *opencl_error_name(cl_int code) {
  const error_entry *entry = find(code);
  return entry ? entry->name : "an OpenCL error";
}

cs_status opencl_error(cs_error *error, cl_int code, const char *call) {
  const error_entry *entry = find(code);
  return cs_sdk_error(error, entry ? entry->status : CS_FAILED, code, "%s failed: %s (%d)", call,
                      opencl_error_name(code), code);
}
