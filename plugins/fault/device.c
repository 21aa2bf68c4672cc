/* Instance, device and memory. What the target says is passed on as it is; only the plan and the
 * lost device are this plugin's own. */
#include <stdlib.h>
#include <string.h>

#include "fault.h"

#define ZEROS_BYTES   (1 << 20)
#define SCRATCH_BYTES 256
#define LEAK_BYTES    (1 << 16)

/* ---- instance ---- */

static cs_status instance_create(const cs_host *host, cs_plugin_instance **out, cs_error *error) {
  *out = NULL;
  const char *path = getenv("CONSORT_FAULT_TARGET"), *list = getenv("CONSORT_FAULT");
  if (!path)
    return cs_sdk_error(error, CS_NOT_FOUND, 0, "CONSORT_FAULT_TARGET names no plugin to wrap");
  cs_plugin_instance *instance = host->allocate(host->context, sizeof *instance, 16);
  if (!instance) return cs_sdk_error(error, CS_OUT_OF_MEMORY, 0, "no memory for the instance");
  memset(instance, 0, sizeof *instance);
  instance->host = host;
  cs_status status = fault_plan_parse(&instance->plan, list ? list : "", error);
  if (status == CS_OK) status = fault_target_load(host, path, &instance->target, error);
  if (status == CS_OK)
    status = instance->target.device.instance_create(host, &instance->inner, error);
  if (status != CS_OK) {
    host->deallocate(host->context, instance);
    return status;
  }
  *out = instance;
  return CS_OK;
}

static void instance_destroy(cs_plugin_instance *instance) {
  if (!instance) return;
  instance->target.device.instance_destroy(instance->inner);
  instance->host->deallocate(instance->host->context, instance);
}

static uint32_t device_count(cs_plugin_instance *instance) {
  return instance->target.device.device_count(instance->inner);
}

static cs_status device_info(cs_plugin_instance *instance, uint32_t index,
                             cs_device_properties *out, cs_error *error) {
  return instance->target.device.device_info(instance->inner, index, out, error);
}

/* ---- device ---- */

/* Takes `fault` from the options and hands on the others. */
static cs_status open_inner(cs_plugin_instance *instance, uint32_t index, const cs_option *options,
                            uint32_t n_options, uint32_t option_stride, cs_plugin_device *device,
                            cs_error *error) {
  cs_option others[32];
  uint32_t n_others = 0;
  for (uint32_t i = 0; i < n_options; i++) {
    const cs_option *option =
        (const cs_option *)((const char *)options + (size_t)i * option_stride);
    if (strcmp(option->key, "fault") == 0) {
      const cs_status status = fault_plan_parse(&device->plan, option->value, error);
      if (status != CS_OK) return status;
    } else if (n_others < sizeof others / sizeof others[0]) {
      others[n_others++] = *option;
    }
  }
  return instance->target.device.device_open(instance->inner, index, others, n_others,
                                             sizeof others[0], &device->inner, error);
}

static cs_status fill_zeros(cs_plugin_device *device, cs_error *error) {
  const fault_target *target = device->target;
  cs_plugin_stream *stream = NULL;
  cs_plugin_semaphore *done = NULL;
  cs_status status = target->stream.stream_create(device->inner, &stream, error);
  if (status != CS_OK) return status;
  status = target->semaphore.semaphore_create(device->inner, 0, &done, error);
  if (status == CS_OK) {
    status = target->stream.stream_fill(stream, device->zeros, 0, ZEROS_BYTES, 0, error);
    if (status == CS_OK) status = target->stream.stream_signal(stream, done, 1, error);
    if (status == CS_OK) status = target->semaphore.semaphore_wait(done, 1, 10000000, error);
  }
  target->stream.stream_destroy(stream);
  if (done) target->semaphore.semaphore_destroy(done);
  return status;
}

/* Memory and the timer, for the faults that need them. */
static cs_status prepare(cs_plugin_device *device, cs_error *error) {
  const cs_memory_table *memory = &device->target->memory;
  const fault_plan *plan = &device->plan;
  cs_status status = CS_OK;
  if (plan->on[FAULT_SLOW] || plan->on[FAULT_REORDER]) {
    const cs_sdk_queue_options options = {.context = device};
    device->timer = cs_sdk_queue_create(device->host, &options);
    if (!device->timer) return cs_sdk_error(error, CS_OUT_OF_MEMORY, 0, "no timer");
  }
  if (plan->on[FAULT_SKIP_WRITE])
    status = memory->memory_allocate(device->inner, SCRATCH_BYTES, CS_MEMORY_DEVICE,
                                     &device->scratch, error);
  if (status != CS_OK || !plan->on[FAULT_NOISE]) return status;
  status =
      memory->memory_allocate(device->inner, ZEROS_BYTES, CS_MEMORY_DEVICE, &device->zeros, error);
  return status == CS_OK ? fill_zeros(device, error) : status;
}

static void device_close(cs_plugin_device *device) {
  if (!device) return;
  const fault_target *target = device->target;
  const cs_host *host = device->host;
  cs_sdk_queue_destroy(device->timer);
  while (device->gates) {
    fault_gate *gate = device->gates;
    device->gates = gate->next;
    target->semaphore.semaphore_destroy(gate->inner);
    host->deallocate(host->context, gate);
  }
  while (device->leaks) {
    fault_leak *leaked = device->leaks;
    device->leaks = leaked->next;
    if (leaked->is_hosts)
      host->deallocate(host->context, leaked);
    else
      free(leaked);
  }
  if (device->zeros) target->memory.memory_free(device->inner, device->zeros);
  if (device->scratch) target->memory.memory_free(device->inner, device->scratch);
  if (device->inner) target->device.device_close(device->inner);
  pthread_mutex_destroy(&device->mutex);
  host->deallocate(host->context, device);
}

static cs_status device_open(cs_plugin_instance *instance, uint32_t index, const cs_option *options,
                             uint32_t n_options, uint32_t option_stride, cs_plugin_device **out,
                             cs_error *error) {
  *out = NULL;
  const cs_host *host = instance->host;
  cs_plugin_device *device = host->allocate(host->context, sizeof *device, 16);
  if (!device) return cs_sdk_error(error, CS_OUT_OF_MEMORY, 0, "no memory for the device");
  memset(device, 0, sizeof *device);
  device->host = host;
  device->target = &instance->target;
  device->plan = instance->plan;
  if (pthread_mutex_init(&device->mutex, NULL) != 0) {
    host->deallocate(host->context, device);
    return cs_sdk_error(error, CS_OUT_OF_MEMORY, 0, "no mutex");
  }
  cs_status status = open_inner(instance, index, options, n_options, option_stride, device, error);
  if (status == CS_OK) status = prepare(device, error);
  if (status != CS_OK) {
    device_close(device);
    return status;
  }
  *out = device;
  return CS_OK;
}

static cs_status device_properties(cs_plugin_device *device, cs_device_properties *out,
                                   cs_error *error) {
  return device->target->device.device_properties(device->inner, out, error);
}

/* ---- the lost device ---- */

cs_status fault_check_lost(cs_plugin_device *device, cs_error *error) {
  if (!atomic_load(&device->lost)) return CS_OK;
  cs_sdk_error(error, CS_DEVICE_LOST, 0, "the device is lost, as CONSORT_FAULT asked");
  if (error) error->op_index = 0; /* of the launch that lost it */
  return CS_DEVICE_LOST;
}

void fault_lose(cs_plugin_device *device) {
  cs_error reason = CS_ERROR_INIT;
  atomic_store(&device->lost, true);
  fault_check_lost(device, &reason);
  pthread_mutex_lock(&device->mutex);
  for (cs_plugin_semaphore *s = device->semaphores; s; s = s->next)
    device->target->semaphore.semaphore_fail(s->inner, &reason, NULL);
  pthread_mutex_unlock(&device->mutex);
}

cs_status fault_gate_create(cs_plugin_device *device, cs_plugin_semaphore **out, cs_error *error) {
  *out = NULL;
  fault_gate *gate = device->host->allocate(device->host->context, sizeof *gate, 16);
  if (!gate) return cs_sdk_error(error, CS_OUT_OF_MEMORY, 0, "no memory for a gate");
  const cs_status status =
      device->target->semaphore.semaphore_create(device->inner, 0, &gate->inner, error);
  if (status != CS_OK) {
    device->host->deallocate(device->host->context, gate);
    return status;
  }
  pthread_mutex_lock(&device->mutex);
  gate->next = device->gates;
  device->gates = gate;
  pthread_mutex_unlock(&device->mutex);
  *out = gate->inner;
  return CS_OK;
}

/* ---- memory ---- */

static bool allocation_fails(cs_plugin_device *device) {
  const uint32_t number = atomic_fetch_add(&device->n_allocations, 1) + 1;
  return device->plan.on[FAULT_ALLOC] && number == device->plan.argument[FAULT_ALLOC];
}

static void leak(cs_plugin_device *device) {
  const cs_host *host = device->host;
  const bool is_hosts = device->plan.on[FAULT_LEAK];
  if (!is_hosts && !device->plan.on[FAULT_LEAK_DRIVER]) return;
  fault_leak *leaked =
      is_hosts ? host->allocate(host->context, LEAK_BYTES, 16) : malloc(LEAK_BYTES);
  if (!leaked) return;
  memset(leaked, 1, LEAK_BYTES);
  leaked->is_hosts = is_hosts;
  pthread_mutex_lock(&device->mutex);
  leaked->next = device->leaks;
  device->leaks = leaked;
  pthread_mutex_unlock(&device->mutex);
}

static cs_status memory_allocate(cs_plugin_device *device, uint64_t bytes, uint32_t kind,
                                 cs_plugin_memory **out, cs_error *error) {
  *out = NULL;
  const cs_status status = fault_check_lost(device, error);
  if (status != CS_OK) return status;
  if (allocation_fails(device))
    return cs_sdk_error(error, CS_OUT_OF_MEMORY, 0, "no memory, as CONSORT_FAULT asked");
  leak(device);
  return device->target->memory.memory_allocate(device->inner, bytes, kind, out, error);
}

static void memory_free(cs_plugin_device *device, cs_plugin_memory *memory) {
  device->target->memory.memory_free(device->inner, memory);
}

static void *memory_host_pointer(cs_plugin_device *device, cs_plugin_memory *memory) {
  const cs_memory_table *table = &device->target->memory;
  return table->memory_host_pointer ? table->memory_host_pointer(device->inner, memory) : NULL;
}

/* ---- capability ---- */

static cs_status op_query(cs_plugin_device *device, const cs_op *op, cs_op_answer *out,
                          cs_error *error) {
  cs_status status = fault_check_lost(device, error);
  if (status != CS_OK) return status;
  status = device->target->capability.op_query(device->inner, op, out, error);
  if (status == CS_OK && out->support == CS_SUPPORT_NO && device->plan.on[FAULT_LIE])
    out->support = CS_SUPPORT_NATIVE;
  return status;
}

static cs_status weights_pack(cs_plugin_device *device, const cs_weight *weight,
                              cs_plugin_memory **out, cs_packed_info *info, cs_error *error) {
  *out = NULL;
  const cs_status status = fault_check_lost(device, error);
  if (status != CS_OK) return status;
  if (allocation_fails(device))
    return cs_sdk_error(error, CS_OUT_OF_MEMORY, 0, "no memory, as CONSORT_FAULT asked");
  return device->target->capability.weights_pack(device->inner, weight, out, info, error);
}

const cs_device_table fault_device_table = {.struct_size = sizeof fault_device_table,
                                            .instance_create = instance_create,
                                            .instance_destroy = instance_destroy,
                                            .device_count = device_count,
                                            .device_info = device_info,
                                            .device_open = device_open,
                                            .device_close = device_close,
                                            .device_properties = device_properties};

const cs_memory_table fault_memory_table = {.struct_size = sizeof fault_memory_table,
                                            .memory_allocate = memory_allocate,
                                            .memory_free = memory_free,
                                            .memory_host_pointer = memory_host_pointer};

const cs_capability_table fault_capability_table = {.struct_size = sizeof fault_capability_table,
                                                    .op_query = op_query,
                                                    .weights_pack = weights_pack};
