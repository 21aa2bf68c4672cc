/* Instance and devices. The allowed cores are split evenly over the partitions; with more
 * partitions than cores some share one. */
#include "cpu.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_PARTITIONS 64
#define NUMA_AUTO      (-1)
#define NUMA_OFF       (-2)

typedef struct device_options {
  uint32_t n_threads; /* 0: one a core */
  const cpu_kernels *kernels;
  cpu_rounding int8;
  cpu_rounding bf16;
  int32_t node; /* the only one to use; NUMA_AUTO, NUMA_OFF */
} device_options;

/* ---- instance ---- */

/* A decimal number from 1 to most; 0 for anything else. */
static uint32_t parse_count(const char *text, uint32_t most) {
  char *end;
  errno = 0;
  const unsigned long value = strtoul(text, &end, 10);
  if (text[0] < '0' || text[0] > '9' || *end != '\0' || errno != 0) return 0;
  return value <= most ? (uint32_t)value : 0;
}

static cs_status cpu_instance_create(const cs_host *host, cs_plugin_instance **out,
                                     cs_error *error) {
  *out = NULL;
  const char *partitions = getenv("CONSORT_CPU_PARTITIONS");
  const uint32_t n_partitions = partitions ? parse_count(partitions, MAX_PARTITIONS) : 1;
  if (n_partitions == 0)
    return cs_sdk_error(error, CS_INVALID_ARGUMENT, 0,
                        "CONSORT_CPU_PARTITIONS is '%.32s', not a number from 1 to %d", partitions,
                        MAX_PARTITIONS);
  cs_plugin_instance *instance = host->allocate(host->context, sizeof *instance, 64);
  if (!instance) return cs_sdk_error(error, CS_OUT_OF_MEMORY, 0, "no memory for the instance");
  instance->host = host;
  instance->n_partitions = n_partitions;
  cpu_topology_read(&instance->topology);
  *out = instance;
  return CS_OK;
}

static void cpu_instance_destroy(cs_plugin_instance *instance) {
  if (instance) instance->host->deallocate(instance->host->context, instance);
}

static uint32_t cpu_device_count(cs_plugin_instance *instance) {
  return instance->n_partitions;
}

/* The cores of a partition: *first is an index into the topology's. */
static uint32_t partition_cores(const cs_plugin_instance *instance, uint32_t partition,
                                uint32_t *first) {
  const uint64_t n_cores = instance->topology.n_cores, n = instance->n_partitions;
  *first = (uint32_t)(partition * n_cores / n);
  const uint32_t end = (uint32_t)((partition + 1) * n_cores / n);
  return end > *first ? end - *first : 1;
}

/* ---- properties ---- */

static uint64_t block_dtypes(void) {
  uint64_t dtypes = 0;
  for (uint32_t i = 0; i < CPU_N_BLOCK_FORMATS; i++)
    dtypes |= CS_DTYPE_BIT(cpu_block_formats[i].dtype);
  return dtypes;
}

static void fill_properties(const cs_plugin_instance *instance, uint32_t partition,
                            uint32_t n_threads, const cpu_kernels *kernels,
                            cs_device_properties *out) {
  uint32_t first;
  const uint32_t n_cores = partition_cores(instance, partition, &first);
  cs_device_properties properties = {
      .struct_size = sizeof properties,
      .type = CS_DEVICE_TYPE_CPU,
      .flags = CS_DEVICE_HOST_RESIDENT,
      .tensor_align = CPU_TENSOR_ALIGN,
      .memory_bytes = cpu_memory_total(),
      .memory_free_bytes = cpu_memory_available(),
      .memory_domain = "host",
      .compute_domain = "host",
      .dtypes = CS_DTYPE_BIT(CS_DTYPE_F32) | CS_DTYPE_BIT(CS_DTYPE_F16) |
                CS_DTYPE_BIT(CS_DTYPE_BF16) | block_dtypes(),
      .kv_dtypes = CS_DTYPE_BIT(CS_DTYPE_F32) | CS_DTYPE_BIT(CS_DTYPE_F16) |
                   CS_DTYPE_BIT(CS_DTYPE_BF16) | CS_DTYPE_BIT(CS_DTYPE_F8_E4M3) |
                   CS_DTYPE_BIT(CS_DTYPE_I8),
      .kv_layouts = CS_LAYOUT_BIT(CS_LAYOUT_KV_TOKEN_MAJOR) |
                    CS_LAYOUT_BIT(CS_LAYOUT_KV_HEAD_MAJOR) | CS_LAYOUT_BIT(CS_LAYOUT_KV_HEAD_MINOR),
      .kv_layout = CS_LAYOUT_KV_HEAD_MAJOR,
      .kv_block_tokens_min = 16,
      .kv_block_tokens_max = 128,
      .activation_dtype = CS_DTYPE_F32,
      .concurrency = n_threads,
  };
  const uint32_t n_nodes = cpu_cores_n_nodes(&instance->topology.cores[first], n_cores);
  char nodes[32] = "";
  if (n_nodes > 1) snprintf(nodes, sizeof nodes, ", %u memory nodes", n_nodes);
  snprintf(properties.description, sizeof properties.description, "%s (%u core%s%s)",
           instance->topology.model, n_cores, n_cores == 1 ? "" : "s", nodes);
  snprintf(properties.driver, sizeof properties.driver, "consort-cpu %s %s%s", CPU_VERSION,
           kernels->name, "");
  cs_sdk_struct_write(out, &properties, sizeof properties);
}

static cs_status cpu_device_info(cs_plugin_instance *instance, uint32_t index,
                                 cs_device_properties *out, cs_error *error) {
  if (index >= instance->n_partitions)
    return cs_sdk_error(error, CS_NOT_FOUND, 0, "there are %u devices", instance->n_partitions);
  uint32_t first;
  const uint32_t n_cores = partition_cores(instance, index, &first);
  fill_properties(instance, index, n_cores, cpu_kernels_find(NULL), out);
  return CS_OK;
}

static cs_status cpu_device_properties(cs_plugin_device *device, cs_device_properties *out,
                                       cs_error *error) {
  (void)error;
  fill_properties(device->instance, device->partition, device->n_threads, device->kernels, out);
  return CS_OK;
}

/* ---- open and close ---- */

static cs_status read_rounding(const cs_option *option, cpu_rounding *out, cs_error *error) {
  static const char *const names[] = {
      [CPU_ROUND_AUTO] = "auto", [CPU_ROUND_ALWAYS] = "always", [CPU_ROUND_NEVER] = "never"};
  for (size_t i = 0; i < sizeof names / sizeof *names; i++)
    if (strcmp(option->value, names[i]) == 0) {
      *out = (cpu_rounding)i;
      return CS_OK;
    }
  return cs_sdk_error(error, CS_INVALID_ARGUMENT, 0, "%s=%.32s: not auto, always or never",
                      option->key, option->value);
}

static cs_status read_node(const cs_option *option, int32_t *node, cs_error *error) {
  const bool is_auto = strcmp(option->value, "auto") == 0;
  *node = is_auto ? NUMA_AUTO : NUMA_OFF;
  if (is_auto || strcmp(option->value, "off") == 0) return CS_OK;
  const bool is_zero = strcmp(option->value, "0") == 0;
  *node = is_zero ? 0 : (int32_t)parse_count(option->value, UINT16_MAX);
  if (is_zero || *node > 0) return CS_OK;
  return cs_sdk_error(error, CS_INVALID_ARGUMENT, 0, "numa=%.32s: not auto, off or a node's number",
                      option->value);
}

static cs_status read_option(const cs_option *option, device_options *to, cs_error *error) {
  if (strcmp(option->key, "threads") == 0) {
    to->n_threads = parse_count(option->value, CPU_MAX_THREADS);
    if (to->n_threads > 0) return CS_OK;
    return cs_sdk_error(error, CS_INVALID_ARGUMENT, 0, "threads=%.32s: not a number from 1 to %d",
                        option->value, CPU_MAX_THREADS);
  }
  if (strcmp(option->key, "kernel") == 0) {
    to->kernels = cpu_kernels_find(option->value);
    if (to->kernels) return CS_OK;
    char names[128];
    cpu_kernels_names(names, sizeof names);
    return cs_sdk_error(error, CS_INVALID_ARGUMENT, 0, "kernel=%.32s: this machine can run %s",
                        option->value, names);
  }
  if (strcmp(option->key, "int8") == 0) return read_rounding(option, &to->int8, error);
  if (strcmp(option->key, "bf16") == 0) return read_rounding(option, &to->bf16, error);
  if (strcmp(option->key, "numa") == 0) return read_node(option, &to->node, error);
  return cs_sdk_error(error, CS_INVALID_ARGUMENT, 0,
                      "unknown option '%.32s': there are threads, kernel, int8, bf16 and numa",
                      option->key);
}

/* Threads beyond the cores that there are run wherever the system puts them. */
static cs_status take_cores(cs_plugin_device *device, const device_options *chosen,
                            cs_error *error) {
  uint32_t first;
  cpu_core cores[CPU_MAX_CORES];
  const uint32_t n_all = partition_cores(device->instance, device->partition, &first);
  const cpu_core *const all = &device->instance->topology.cores[first];
  uint32_t n = 0;
  for (uint32_t i = 0; i < n_all; i++)
    if (chosen->node < 0 || all[i].node == chosen->node) cores[n++] = all[i];
  if (n == 0)
    return cs_sdk_error(error, CS_INVALID_ARGUMENT, 0,
                        "numa=%d: none of the device's %u cores is on that node", chosen->node,
                        n_all);
  device->n_threads = chosen->n_threads     ? chosen->n_threads
                      : n < CPU_MAX_THREADS ? n
                                            : CPU_MAX_THREADS;
  const bool pins = device->n_threads <= n;
  n = cpu_cores_choose(cores, n, device->n_threads, cores);
  for (uint32_t i = 0; i < device->n_threads; i++) {
    device->units[i] = cores[i % n].unit;
    device->nodes[i] = cores[i % n].node;
  }
  if (pins) device->cores = device->units;
  device->spreads = pins && chosen->node == NUMA_AUTO && cpu_cores_n_nodes(cores, n) > 1;
  device->on_node = chosen->node >= 0;
  return CS_OK;
}

static cs_status cpu_device_open(cs_plugin_instance *instance, uint32_t index,
                                 const cs_option *options, uint32_t n_options,
                                 uint32_t option_stride, cs_plugin_device **out, cs_error *error) {
  *out = NULL;
  if (index >= instance->n_partitions)
    return cs_sdk_error(error, CS_NOT_FOUND, 0, "there are %u devices", instance->n_partitions);
  device_options chosen = {.kernels = cpu_kernels_find(NULL), .node = NUMA_AUTO};
  for (uint32_t i = 0; i < n_options; i++) {
    const cs_option *option = (const void *)((const char *)options + (size_t)i * option_stride);
    const cs_status status = read_option(option, &chosen, error);
    if (status != CS_OK) return status;
  }
  const cs_host *host = instance->host;
  cs_plugin_device *device = host->allocate(host->context, sizeof *device, 64);
  if (!device) return cs_sdk_error(error, CS_OUT_OF_MEMORY, 0, "no memory for the device");
  memset(device, 0, sizeof *device);
  device->host = host;
  device->instance = instance;
  device->partition = index;
  device->kernels = chosen.kernels;
  device->int8 = chosen.int8;
  device->bf16 = cpu_kernels_have_bf16(chosen.kernels) ? chosen.bf16 : CPU_ROUND_NEVER;
  cs_status status = take_cores(device, &chosen, error);
  if (status != CS_OK) goto err_free_device;
  if (pthread_mutex_init(&device->turn, NULL) != 0) goto err_no_threads;
  device->pool = cpu_pool_create(host, device->n_threads, device->cores);
  if (!device->pool) goto err_destroy_turn;
  *out = device;
  return CS_OK;

err_destroy_turn:
  pthread_mutex_destroy(&device->turn);
err_no_threads:
  status = cs_sdk_error(error, CS_OUT_OF_MEMORY, 0, "no memory for %u threads", device->n_threads);
err_free_device:
  host->deallocate(host->context, device);
  return status;
}

static void cpu_device_close(cs_plugin_device *device) {
  if (!device) return;
  cpu_pool_destroy(device->pool);
  pthread_mutex_destroy(&device->turn);
  device->host->deallocate(device->host->context, device);
}

const cs_device_table cpu_device_table = {
    .struct_size = sizeof(cs_device_table),
    .instance_create = cpu_instance_create,
    .instance_destroy = cpu_instance_destroy,
    .device_count = cpu_device_count,
    .device_info = cpu_device_info,
    .device_open = cpu_device_open,
    .device_close = cpu_device_close,
    .device_properties = cpu_device_properties,
};
