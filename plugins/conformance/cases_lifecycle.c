/* Opening and closing, and whether a device says sensible things about itself. */
#include <string.h>

#include "registry.h"

static void reopen(kit *k, const kit_case *c) {
  (void)c;
  char why[KIT_MESSAGE_BYTES];
  for (int i = 0; i < 3; i++) {
    kit_close(k);
    kit_check(k, kit_open(k, why, sizeof why), "opening again, time %d: %.200s", i + 1, why);
    cs_plugin_memory *memory = kit_memory(k, 4096);
    kit_upload(k, memory, 0, "again", 6);
    char text[6];
    kit_download(k, text, memory, 0, sizeof text);
    kit_check(k, strcmp(text, "again") == 0, "what was written after opening again was lost");
    kit_release_all(k);
  }
}

static void instance_without_device(kit *k, const kit_case *c) {
  (void)c;
  cs_error error = CS_ERROR_INIT;
  for (int i = 0; i < 3; i++) {
    cs_plugin_instance *instance = NULL;
    kit_check_ok(k, k->plugin.device.instance_create(&k->plugin.host.host, &instance, &error),
                 &error, "a further instance_create");
    kit_check(k, k->plugin.device.device_count(instance) > k->options->device_index,
              "a further instance counts fewer devices");
    k->plugin.device.instance_destroy(instance);
  }
}

static void bad_index(kit *k, const kit_case *c) {
  (void)c;
  const cs_device_table *table = &k->plugin.device;
  const uint32_t beyond = table->device_count(k->instance) + 3;
  cs_device_properties properties = {.struct_size = sizeof properties};
  cs_plugin_device *device = (cs_plugin_device *)k;
  cs_error error = CS_ERROR_INIT;
  kit_check(k, table->device_info(k->instance, beyond, &properties, &error) != CS_OK,
            "device_info of device %u, which is not there, succeeds", beyond);
  error = (cs_error)CS_ERROR_INIT;
  const cs_status status =
      table->device_open(k->instance, beyond, NULL, 0, sizeof(cs_option), &device, &error);
  kit_check(k, status != CS_OK, "device %u, which is not there, is opened", beyond);
  kit_check(k, device == NULL, "a failed device_open leaves a handle behind");
  kit_check(k, error.code == status && error.message[0], "a failed device_open says nothing");
}

static void unknown_option(kit *k, const kit_case *c) {
  (void)c;
  const cs_option option = {"no-such-option-exists", "1"};
  cs_plugin_device *device = (cs_plugin_device *)k;
  cs_error error = CS_ERROR_INIT;
  const cs_status status = k->plugin.device.device_open(k->instance, k->options->device_index,
                                                        &option, 1, sizeof option, &device, &error);
  if (status == CS_OK) k->plugin.device.device_close(device);
  kit_check(k, status == CS_INVALID_ARGUMENT,
            "an unknown option is answered with status %d, not CS_INVALID_ARGUMENT", status);
  kit_check(k, device == NULL, "a failed device_open leaves a handle behind");
}

/* A second opening of the same device: other memory, other semaphores, another lifetime. */
static void two_openings(kit *k, const kit_case *c) {
  (void)c;
  cs_plugin_device *second = NULL;
  cs_error error = CS_ERROR_INIT;
  const cs_device_table *table = &k->plugin.device;
  cs_plugin_memory *mine = kit_memory(k, 256);
  unsigned char bytes[256];
  memset(bytes, 0x11, sizeof bytes);
  kit_upload(k, mine, 0, bytes, sizeof bytes);
  kit_finish(k);
  kit_check_ok(k,
               table->device_open(k->instance, k->options->device_index, k->options->options,
                                  k->options->n_options, sizeof(cs_option), &second, &error),
               &error, "opening the device a second time");
  cs_plugin_memory *theirs = NULL;
  const cs_status status =
      k->plugin.memory.memory_allocate(second, 256, CS_MEMORY_DEVICE, &theirs, &error);
  if (status == CS_OK) k->plugin.memory.memory_free(second, theirs);
  table->device_close(second);
  kit_check_ok(k, status, &error, "memory_allocate on the second opening");
  kit_download(k, bytes, mine, 0, sizeof bytes);
  for (size_t i = 0; i < sizeof bytes; i++)
    kit_check(k, bytes[i] == 0x11, "closing a second opening changes the first one's memory");
}

static void any_destroy_order(kit *k, const kit_case *c) {
  (void)c;
  cs_plugin_stream *streams[3];
  cs_plugin_semaphore *semaphores[3];
  cs_plugin_memory *memory[3];
  for (int i = 0; i < 3; i++) {
    memory[i] = kit_memory(k, 1000);
    semaphores[i] = kit_semaphore_create(k, 0);
    streams[i] = kit_stream_create(k);
  }
  const int order[] = {1, 0, 2};
  for (int i = 0; i < 3; i++)
    kit_release(k, KIT_MEMORY, memory[order[i]]);
  for (int i = 0; i < 3; i++)
    kit_release(k, KIT_SEMAPHORE, semaphores[order[i]]);
  for (int i = 0; i < 3; i++)
    kit_release(k, KIT_STREAM, streams[order[i]]);
}

static bool is_power_of_two(uint64_t n) {
  return n != 0 && (n & (n - 1)) == 0;
}

static void check_kv_properties(kit *k, const cs_device_properties *p) {
  const uint32_t layouts = CS_LAYOUT_BIT(CS_LAYOUT_KV_TOKEN_MAJOR) |
                           CS_LAYOUT_BIT(CS_LAYOUT_KV_HEAD_MAJOR) |
                           CS_LAYOUT_BIT(CS_LAYOUT_KV_HEAD_MINOR);
  kit_check(k, (p->kv_layouts & ~layouts) == 0, "kv_layouts 0x%x names what is no KV layout",
            p->kv_layouts);
  if (p->kv_dtypes == 0) return;
  kit_check(k, p->kv_layouts != 0, "kv_dtypes without kv_layouts");
  kit_check(k, p->kv_layout < 32 && (p->kv_layouts & CS_LAYOUT_BIT(p->kv_layout)),
            "kv_layout %u is not one of kv_layouts 0x%x", p->kv_layout, p->kv_layouts);
  kit_check(k, is_power_of_two(p->kv_block_tokens_min) && is_power_of_two(p->kv_block_tokens_max),
            "kv_block_tokens %u to %u are not powers of two", p->kv_block_tokens_min,
            p->kv_block_tokens_max);
  kit_check(k, p->kv_block_tokens_min <= p->kv_block_tokens_max,
            "kv_block_tokens_min %u is above kv_block_tokens_max %u", p->kv_block_tokens_min,
            p->kv_block_tokens_max);
}

static void properties(kit *k, const kit_case *c) {
  (void)c;
  const cs_device_properties *p = &k->properties;
  kit_check(k, p->struct_size == sizeof *p, "device_properties changes struct_size");
  kit_check(k, p->type >= CS_DEVICE_TYPE_CPU && p->type <= CS_DEVICE_TYPE_ACCELERATOR,
            "device type %u", p->type);
  kit_check(k, (p->flags & ~(CS_DEVICE_HOST_RESIDENT | CS_DEVICE_SOFTWARE)) == 0, "flags 0x%x",
            p->flags);
  kit_check(k, is_power_of_two(p->tensor_align) && p->tensor_align >= 4 && p->tensor_align <= 256,
            "tensor_align %u is not a power of two from 4 to 256", p->tensor_align);
  kit_check(k, p->memory_bytes > 0, "memory_bytes is 0");
  kit_check(k, p->memory_free_bytes <= p->memory_bytes, "more memory is free than there is");
  const struct {
    const char *name, *text;
    size_t bytes;
  } texts[] = {{"memory_domain", p->memory_domain, sizeof p->memory_domain},
               {"compute_domain", p->compute_domain, sizeof p->compute_domain},
               {"uuid", p->uuid, sizeof p->uuid},
               {"description", p->description, sizeof p->description},
               {"driver", p->driver, sizeof p->driver}};
  for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++)
    kit_check(k, memchr(texts[i].text, 0, texts[i].bytes) != NULL, "%s has no end", texts[i].name);
  kit_check(k, p->description[0] && p->driver[0], "description or driver is empty");
  kit_check(k,
            p->activation_dtype == CS_DTYPE_F32 || p->activation_dtype == CS_DTYPE_F16 ||
                p->activation_dtype == CS_DTYPE_BF16,
            "activation_dtype %u is no F32, F16 or BF16", p->activation_dtype);
  check_kv_properties(k, p);
}

static void info_agrees(kit *k, const kit_case *c) {
  (void)c;
  cs_device_properties info = {.struct_size = sizeof info};
  cs_error error = CS_ERROR_INIT;
  kit_check_ok(k,
               k->plugin.device.device_info(k->instance, k->options->device_index, &info, &error),
               &error, "device_info");
  kit_check(k, info.type == k->properties.type, "device_info has type %u, the open device %u",
            info.type, k->properties.type);
  kit_check(k, !info.uuid[0] || strcmp(info.uuid, k->properties.uuid) == 0,
            "device_info has another uuid than the open device");
  kit_check(k, strcmp(info.description, k->properties.description) == 0,
            "device_info has another description than the open device");
}

void kit_add_lifecycle_cases(kit_registry *r) {
  const uint32_t core = KIT_BADGE_CORE;
  kit_add(r, &(kit_case){.badges = core, .run = properties}, "device/properties");
  kit_add(r, &(kit_case){.badges = core, .run = info_agrees}, "device/info_agrees");
  kit_add(r, &(kit_case){.badges = core, .run = bad_index}, "device/index_out_of_range");
  kit_add(r, &(kit_case){.badges = core, .run = unknown_option}, "device/unknown_option");
  kit_add(r, &(kit_case){.badges = core, .run = instance_without_device},
          "lifecycle/further_instances");
  kit_add(r, &(kit_case){.badges = core, .run = any_destroy_order}, "lifecycle/destroy_order");
  kit_add(r, &(kit_case){.badges = core, .run = two_openings}, "lifecycle/two_openings");
  kit_add(r, &(kit_case){.badges = core, .run = reopen}, "lifecycle/reopen");
}
