/* Which devices there are. Loaders list platforms in the order of a folder, so they are sorted by
 * name: "opencl:0" must mean the same device tomorrow. A device without a compiler, or with other
 * byte order than the host, cannot run the kernels and is left out. */
#include "opencl.h"

#include <stdio.h>
#include <string.h>

#define MAX_PLATFORMS 16
#define MAX_DEVICES   64
#define UUID_BYTES    16

#ifndef CL_DEVICE_UUID_KHR
#define CL_DEVICE_UUID_KHR 0x106A /* cl_khr_device_uuid */
#endif

static void trim(char *text) {
  const size_t leading = strspn(text, " \t\n");
  memmove(text, text + leading, strlen(text + leading) + 1);
  for (size_t n = strlen(text); n > 0 && strchr(" \t\n", text[n - 1]); n--)
    text[n - 1] = '\0';
}

#define TEXT_BYTES 512

void opencl_device_text(cl_device_id device, cl_device_info name, char *out, size_t bytes) {
  char text[TEXT_BYTES] = "";
  if (clGetDeviceInfo(device, name, sizeof text - 1, text, NULL) != CL_SUCCESS) text[0] = '\0';
  trim(text);
  snprintf(out, bytes, "%s", text);
}

void opencl_platform_text(cl_platform_id platform, cl_platform_info name, char *out, size_t bytes) {
  char text[TEXT_BYTES] = "";
  if (clGetPlatformInfo(platform, name, sizeof text - 1, text, NULL) != CL_SUCCESS) text[0] = '\0';
  trim(text);
  snprintf(out, bytes, "%s", text);
}

static bool usable(cl_device_id device) {
  cl_bool available = CL_FALSE, compiler = CL_FALSE, little_endian = CL_FALSE;
  clGetDeviceInfo(device, CL_DEVICE_AVAILABLE, sizeof available, &available, NULL);
  clGetDeviceInfo(device, CL_DEVICE_COMPILER_AVAILABLE, sizeof compiler, &compiler, NULL);
  clGetDeviceInfo(device, CL_DEVICE_ENDIAN_LITTLE, sizeof little_endian, &little_endian, NULL);
  return available && compiler && little_endian;
}

static cl_uint sorted_platforms(cl_platform_id platforms[MAX_PLATFORMS]) {
  cl_uint n = 0;
  if (clGetPlatformIDs(MAX_PLATFORMS, platforms, &n) != CL_SUCCESS) return 0;
  if (n > MAX_PLATFORMS) n = MAX_PLATFORMS;
  char names[MAX_PLATFORMS][TEXT_BYTES];
  for (cl_uint i = 0; i < n; i++) {
    const cl_platform_id platform = platforms[i];
    char name[TEXT_BYTES];
    opencl_platform_text(platform, CL_PLATFORM_NAME, name, sizeof name);
    cl_uint at = i;
    for (; at > 0 && strcmp(names[at - 1], name) > 0; at--) {
      platforms[at] = platforms[at - 1];
      memcpy(names[at], names[at - 1], sizeof names[at]);
    }
    platforms[at] = platform;
    memcpy(names[at], name, sizeof name);
  }
  return n;
}

static uint32_t find_devices(const cl_platform_id *platforms, cl_uint n_platforms,
                             opencl_found found[MAX_DEVICES]) {
  uint32_t n_found = 0;
  for (cl_uint p = 0; p < n_platforms; p++) {
    cl_device_id devices[MAX_DEVICES];
    cl_uint n = 0;
    if (clGetDeviceIDs(platforms[p], CL_DEVICE_TYPE_ALL, MAX_DEVICES, devices, &n) != CL_SUCCESS)
      continue;
    for (cl_uint i = 0; i < n && i < MAX_DEVICES && n_found < MAX_DEVICES; i++)
      if (usable(devices[i])) found[n_found++] = (opencl_found){platforms[p], devices[i]};
  }
  return n_found;
}

static cs_status instance_create(const cs_host *host, cs_plugin_instance **out, cs_error *error) {
  *out = NULL;
  cl_platform_id platforms[MAX_PLATFORMS];
  opencl_found found[MAX_DEVICES];
  const cl_uint n_platforms = sorted_platforms(platforms);
  if (n_platforms == 0)
    return cs_sdk_error(error, CS_NOT_FOUND, 0,
                        "no OpenCL platform is installed (the ICD loader found none)");
  const uint32_t n = find_devices(platforms, n_platforms, found);
  if (n == 0)
    return cs_sdk_error(error, CS_NOT_FOUND, 0, "no OpenCL device with a compiler is available");
  cs_plugin_instance *instance =
      host->allocate(host->context, sizeof *instance + n * sizeof(opencl_found), 16);
  if (!instance) return cs_sdk_error(error, CS_OUT_OF_MEMORY, 0, "no memory for the instance");
  instance->host = host;
  instance->n_devices = n;
  instance->reserved = 0;
  memcpy(instance->devices, found, n * sizeof(opencl_found));
  *out = instance;
  return CS_OK;
}

static void instance_destroy(cs_plugin_instance *instance) {
  if (instance) instance->host->deallocate(instance->host->context, instance);
}

static uint32_t device_count(cs_plugin_instance *instance) {
  return instance->n_devices;
}

/* ---- properties ---- */

static cl_device_type device_type(cl_device_id device) {
  cl_device_type type = 0;
  clGetDeviceInfo(device, CL_DEVICE_TYPE, sizeof type, &type, NULL);
  return type;
}

clc_variant opencl_default_variant(cl_device_id device) {
  return device_type(device) & CL_DEVICE_TYPE_CPU ? CLC_VARIANT_CPU : CLC_VARIANT_GPU;
}

static bool has_extension(cl_device_id device, const char *name) {
  char text[4096] = "";
  if (clGetDeviceInfo(device, CL_DEVICE_EXTENSIONS, sizeof text - 1, text, NULL) != CL_SUCCESS)
    return false;
  const char *at = strstr(text, name);
  return at && (at[strlen(name)] == ' ' || at[strlen(name)] == '\0');
}

static void describe_uuid(cl_device_id device, char *out, size_t bytes) {
  unsigned char uuid[UUID_BYTES];
  out[0] = '\0';
  if (!has_extension(device, "cl_khr_device_uuid")) return;
  if (clGetDeviceInfo(device, CL_DEVICE_UUID_KHR, sizeof uuid, uuid, NULL) != CL_SUCCESS) return;
  for (size_t i = 0; i < UUID_BYTES && 2 * i + 3 <= bytes; i++)
    snprintf(out + 2 * i, 3, "%02x", uuid[i]);
}

/* "PoCL 3.1+debian" from "OpenCL 3.0 PoCL 3.1+debian  Linux, ...": what follows the standard's
 * version, up to two spaces or a comma. */
static void describe_driver(const opencl_found *found, clc_variant variant, char *out,
                            size_t bytes) {
  char version[TEXT_BYTES], driver[TEXT_BYTES];
  opencl_platform_text(found->platform, CL_PLATFORM_VERSION, version, sizeof version);
  opencl_device_text(found->device, CL_DRIVER_VERSION, driver, sizeof driver);
  const char *name = strncmp(version, "OpenCL ", 7) == 0 ? strchr(version + 7, ' ') : NULL;
  name = name ? name + 1 : version;
  size_t n = strcspn(name, ",");
  const char *gap = strstr(name, "  ");
  if (gap && (size_t)(gap - name) < n) n = (size_t)(gap - name);
  snprintf(out, bytes, "%.*s, driver %.24s, %s kernels", (int)(n < 20 ? n : 20), name, driver,
           clc_variant_name(variant));
}

/* A CPU device works on the host's cores and RAM; others are alone in their domain. */
static void describe_domains(const opencl_found *found, uint32_t index, cs_device_properties *out) {
  char text[TEXT_BYTES];
  if (out->type == CS_DEVICE_TYPE_CPU) {
    snprintf(out->memory_domain, sizeof out->memory_domain, "host");
  } else {
    opencl_device_text(found->device, CL_DEVICE_NAME, text, sizeof text);
    uint64_t hash = opencl_hash(OPENCL_HASH_START, text, strlen(text));
    hash = opencl_hash(hash, out->uuid, strlen(out->uuid));
    hash = opencl_hash(hash, &index, sizeof index);
    snprintf(out->memory_domain, sizeof out->memory_domain, "opencl-%016llx",
             (unsigned long long)hash);
  }
  memcpy(out->compute_domain, out->memory_domain, sizeof out->compute_domain);
}

void opencl_describe(const opencl_found *found, clc_variant variant, uint32_t index,
                     cs_device_properties *out) {
  *out = (cs_device_properties){.struct_size = sizeof *out};
  clc_describe(out);
  const cl_device_type type = device_type(found->device);
  out->type = type & CL_DEVICE_TYPE_CPU   ? CS_DEVICE_TYPE_CPU
              : type & CL_DEVICE_TYPE_GPU ? CS_DEVICE_TYPE_GPU
                                          : CS_DEVICE_TYPE_ACCELERATOR;
  cl_ulong memory_bytes = 0;
  cl_uint units = 0;
  clGetDeviceInfo(found->device, CL_DEVICE_GLOBAL_MEM_SIZE, sizeof memory_bytes, &memory_bytes,
                  NULL);
  clGetDeviceInfo(found->device, CL_DEVICE_MAX_COMPUTE_UNITS, sizeof units, &units, NULL);
  out->memory_bytes = memory_bytes;
  out->memory_free_bytes = memory_bytes;
  out->concurrency = units;
  describe_uuid(found->device, out->uuid, sizeof out->uuid);
  describe_domains(found, index, out);
  describe_driver(found, variant, out->driver, sizeof out->driver);
  char name[64];
  opencl_device_text(found->device, CL_DEVICE_NAME, name, sizeof name);
  snprintf(out->description, sizeof out->description, "%s (%u compute units)", name, units);
}

static cs_status device_info(cs_plugin_instance *instance, uint32_t index,
                             cs_device_properties *out, cs_error *error) {
  if (index >= instance->n_devices)
    return cs_sdk_error(error, CS_NOT_FOUND, 0, "there is no OpenCL device %u", index);
  const opencl_found *found = &instance->devices[index];
  cs_device_properties properties;
  opencl_describe(found, opencl_default_variant(found->device), index, &properties);
  cs_sdk_struct_write(out, &properties, sizeof properties);
  return CS_OK;
}

const cs_device_table opencl_device_table = {.struct_size = sizeof(cs_device_table),
                                             .instance_create = instance_create,
                                             .instance_destroy = instance_destroy,
                                             .device_count = device_count,
                                             .device_info = device_info,
                                             .device_open = opencl_device_open,
                                             .device_close = opencl_device_close,
                                             .device_properties = opencl_device_properties};
