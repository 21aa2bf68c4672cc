/* Packing is the slow part of starting and each weight is independent of the others, so a few
 * threads take them from one counter. What a device needs a weight for (matmul, gather or both) is
 * read from the op list and its placement, not from the model: with a fallback the two uses of a
 * tied embedding may sit on two devices. */
#include "scheduler/weights.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "core/error.h"
#include "core/log.h"
#include "scheduler/pack_cache.h"

#define MAX_DEVICES       2
#define MAX_THREADS       4
#define UPLOAD_TIMEOUT_US UINT64_C(60000000)

struct cs_weights {
  cs_device *devices[MAX_DEVICES]; /* borrowed from the placement */
  size_t n_weights;
  cs_buffer **buffers;                /* (MAX_DEVICES, n_weights); NULL where not needed */
  cs_pack_cache *caches[MAX_DEVICES]; /* whose bytes buffers may be; NULL: none */
};

typedef struct weight_loader {
  const cs_model *model;
  const cs_placement *placement;
  cs_weights *weights;
  uint32_t *usages; /* (MAX_DEVICES, n_weights) */
  cs_repacking repacking;
  cs_weights_progress progress;
  void *progress_user;
  uint64_t total_bytes[MAX_DEVICES];
  uint64_t done_bytes[MAX_DEVICES];
  atomic_size_t next;
  atomic_int failed;
  pthread_mutex_t mutex; /* guards what follows and done_bytes */
  cs_status status;
  cs_error error;
} weight_loader;

uint64_t cs_weights_bytes(const cs_model *model, const cs_placement *placement,
                          const cs_repacking repacking, uint32_t device) {
  uint64_t bytes = 0;
  for (size_t key = 0; key < cs_model_n_weights(model); key++)
    if (cs_placement_users(placement, CS_VALUE_WEIGHT, (uint32_t)key) >> device & 1u)
      bytes += cs_repacked_bytes(cs_model_weight_at(model, key), repacking);
  return bytes;
}

static void collect_usages(weight_loader *loader, const cs_op_list *list) {
  const cs_op_node *const ops = cs_op_list_ops(list);
  const cs_value_info *const values = cs_op_list_values(list);
  const size_t n_weights = loader->weights->n_weights;
  for (size_t i = 0; i < cs_op_list_n_ops(list); i++) {
    const uint32_t usage = ops[i].id == CS_OP_GATHER_ROWS ? CS_USAGE_GATHER : CS_USAGE_MATMUL;
    const uint32_t device =
        cs_placement_device(loader->placement, i) == loader->weights->devices[0] ? 0 : 1;
    for (uint32_t k = 0; k < ops[i].n_operands; k++) {
      const cs_value value = ops[i].operands[k];
      if (value == CS_VALUE_NONE || values[value].kind != CS_VALUE_WEIGHT) continue;
      const uint32_t key = values[value].key;
      if (key >= n_weights) continue;
      loader->usages[device * n_weights + key] |= usage;
      const uint32_t dtype = cs_model_weight_at(loader->model, key)->dtype;
      if (values[value].dtype != dtype) loader->repacking[dtype] = (uint8_t)values[value].dtype;
    }
  }
}

/* The weight as it is stored; `part`, borrowed by it, has no data yet. */
static cs_weight describe(const weight_loader *loader, size_t device, size_t key,
                          cs_weight_part *part) {
  const cs_model_weight *const from = cs_model_weight_at(loader->model, key);
  const uint32_t stored_as = loader->repacking[from->dtype];
  *part = (cs_weight_part){.struct_size = sizeof *part,
                           .dtype = stored_as ? stored_as : from->dtype,
                           .bytes = cs_repacked_bytes(from, loader->repacking)};
  cs_weight weight = {.struct_size = sizeof weight,
                      .source = CS_WEIGHT_GGUF,
                      .dtype = part->dtype,
                      .usage = loader->usages[device * loader->weights->n_weights + key],
                      .rank = from->rank,
                      .n_parts = 1,
                      .part_stride = sizeof *part,
                      .parts = part};
  memcpy(weight.dims, from->dims, sizeof weight.dims);
  return weight;
}

static cs_status pack(const weight_loader *loader, size_t device, size_t key, cs_buffer **out,
                      cs_error *error) {
  cs_pack_cache *const cache = loader->weights->caches[device];
  cs_weight_part part;
  const cs_weight weight = describe(loader, device, key, &part);
  if (cache && (*out = cs_pack_cache_map(cache, key, &weight))) return CS_OK;
  void *owned;
  cs_status status = cs_repack(cs_model_weight_at(loader->model, key), part.dtype, &part.data,
                               &part.bytes, &owned, error);
  if (status) return status;
  cs_packed_info info = {.struct_size = sizeof info};
  status = cs_buffer_create_packed(loader->weights->devices[device], &weight, out, &info, error);
  free(owned);
  return status;
}

static cs_status upload(const cs_model_weight *from, cs_device *device, cs_buffer **out,
                        cs_error *error) {
  cs_stream *stream = NULL;
  cs_status status = cs_buffer_create(device, from->bytes, CS_MEMORY_DEVICE, out, error);
  if (!status) status = cs_stream_create(device, &stream, error);
  if (!status) status = cs_stream_upload(stream, *out, 0, from->data, from->bytes, error);
  if (!status) status = cs_stream_synchronize(stream, UPLOAD_TIMEOUT_US, error);
  cs_stream_destroy(stream);
  return status;
}

static cs_status load_one(weight_loader *loader, size_t device, size_t key, cs_error *error) {
  cs_weights *const weights = loader->weights;
  const uint32_t usage = loader->usages[device * weights->n_weights + key];
  if (usage == 0) return CS_OK;
  const cs_model_weight *const from = cs_model_weight_at(loader->model, key);
  cs_buffer **const buffer = &weights->buffers[device * weights->n_weights + key];
  cs_device *const on = weights->devices[device];
  const cs_status status =
      from->usage ? pack(loader, device, key, buffer, error) : upload(from, on, buffer, error);
  if (status) return cs_error_prefix(error, status, "weight %s", from->name);
  pthread_mutex_lock(&loader->mutex);
  loader->done_bytes[device] += cs_repacked_bytes(from, loader->repacking);
  if (loader->progress)
    loader->progress(loader->progress_user, cs_device_name(on), loader->done_bytes[device],
                     loader->total_bytes[device]);
  pthread_mutex_unlock(&loader->mutex);
  return CS_OK;
}

static void *loader_main(void *argument) {
  weight_loader *const loader = argument;
  const size_t n_weights = loader->weights->n_weights;
  while (!atomic_load(&loader->failed)) {
    const size_t index = atomic_fetch_add(&loader->next, 1);
    if (index >= n_weights * MAX_DEVICES) break;
    cs_error error = CS_ERROR_INIT;
    const cs_status status = load_one(loader, index / n_weights, index % n_weights, &error);
    if (!status) continue;
    pthread_mutex_lock(&loader->mutex);
    if (!loader->status) {
      loader->status = status;
      loader->error = error;
    }
    pthread_mutex_unlock(&loader->mutex);
    atomic_store(&loader->failed, 1);
  }
  return NULL;
}

static void run_loader(weight_loader *loader) {
  pthread_t threads[MAX_THREADS];
  size_t n_threads = 0;
  while (n_threads < MAX_THREADS - 1 &&
         !pthread_create(&threads[n_threads], NULL, loader_main, loader))
    n_threads++;
  loader_main(loader);
  for (size_t i = 0; i < n_threads; i++)
    pthread_join(threads[i], NULL);
}

/* ---- packed weights on disk ---- */

/* What the device packs, asked of it one by one. */
static cs_status collect_entries(const weight_loader *loader, size_t device, cs_pack_entry *entries,
                                 size_t *n, cs_error *error) {
  const size_t n_weights = loader->weights->n_weights;
  for (size_t key = 0; key < n_weights; key++) {
    cs_weight_part part;
    cs_packed_info info;
    if (!loader->usages[device * n_weights + key] || !cs_model_weight_at(loader->model, key)->usage)
      continue;
    const cs_weight weight = describe(loader, device, key, &part);
    const cs_status status =
        cs_device_packed_layout(loader->weights->devices[device], &weight, &info, error);
    if (status) return status;
    entries[key] = (cs_pack_entry){.layout_id = info.layout_id,
                                   .bytes = info.bytes,
                                   .dtype = weight.dtype,
                                   .usage = weight.usage};
    ++*n;
  }
  return CS_OK;
}

/* Where there can be none, a line says so. */
static void open_cache(weight_loader *loader, size_t device, const char *folder) {
  cs_weights *const weights = loader->weights;
  cs_device *const on = weights->devices[device];
  cs_error error = CS_ERROR_INIT;
  size_t n = 0;
  cs_pack_entry *const entries = calloc(weights->n_weights + 1, sizeof *entries);
  cs_status status =
      entries ? CS_OK : cs_error_set(&error, CS_OUT_OF_MEMORY, "no memory for a table");
  if (!status) status = collect_entries(loader, device, entries, &n, &error);
  if (status || n == 0)
    free(entries);
  else
    status =
        cs_pack_cache_open(folder, loader->model, on, entries, &weights->caches[device], &error);
  if (status)
    cs_log_write(cs_runtime_log(cs_device_runtime(on)), CS_LOG_WARN, "pack cache: not used: %s",
                 error.message);
}

static void open_caches(weight_loader *loader, const char *folder) {
  for (size_t device = 0; folder && device < MAX_DEVICES; device++)
    if (loader->weights->devices[device]) open_cache(loader, device, folder);
}

static void store_caches(const cs_weights *weights) {
  for (size_t device = 0; device < MAX_DEVICES; device++)
    if (weights->caches[device])
      cs_pack_cache_store(weights->caches[device], weights->buffers + device * weights->n_weights);
}

cs_status cs_weights_load(const cs_model *model, const cs_op_list *list,
                          const cs_placement *placement, cs_device *primary, cs_device *fallback,
                          const char *pack_folder, cs_weights_progress progress,
                          void *progress_user, cs_weights **out, cs_error *error) {
  *out = NULL;
  const size_t n_weights = cs_model_n_weights(model);
  cs_weights *const weights = calloc(1, sizeof *weights);
  cs_buffer **const buffers = calloc(n_weights * MAX_DEVICES + 1, sizeof *buffers);
  uint32_t *const usages = calloc(n_weights * MAX_DEVICES + 1, sizeof *usages);
  if (!weights || !buffers || !usages) {
    free(weights);
    free(buffers);
    free(usages);
    return cs_error_set(error, CS_OUT_OF_MEMORY, "no memory for the list of weights");
  }
  *weights =
      (cs_weights){.devices = {primary, fallback}, .n_weights = n_weights, .buffers = buffers};
  weight_loader loader = {.model = model,
                          .placement = placement,
                          .weights = weights,
                          .usages = usages,
                          .progress = progress,
                          .progress_user = progress_user};
  pthread_mutex_init(&loader.mutex, NULL);
  collect_usages(&loader, list);
  loader.total_bytes[0] = cs_weights_bytes(model, placement, loader.repacking, 0);
  loader.total_bytes[1] = cs_weights_bytes(model, placement, loader.repacking, 1);
  open_caches(&loader, pack_folder);
  run_loader(&loader);
  if (!loader.status) store_caches(weights);
  pthread_mutex_destroy(&loader.mutex);
  free(usages);
  if (loader.status) {
    cs_weights_destroy(weights);
    if (error && error->struct_size >= sizeof *error) *error = loader.error;
    return loader.status;
  }
  *out = weights;
  return CS_OK;
}

void cs_weights_destroy(cs_weights *weights) {
  if (!weights) return;
  for (size_t i = 0; i < weights->n_weights * MAX_DEVICES; i++)
    cs_buffer_destroy(weights->buffers[i]);
  for (size_t i = 0; i < MAX_DEVICES; i++)
    cs_pack_cache_close(weights->caches[i]);
  free(weights->buffers);
  free(weights);
}

size_t cs_weights_ranges(const cs_weights *weights, const cs_model *model, const cs_device *device,
                         uint32_t usage, cs_weight_range *out, size_t capacity) {
  size_t n = 0;
  for (size_t i = 0; i < weights->n_weights * MAX_DEVICES; i++) {
    cs_buffer *const buffer = weights->buffers[i];
    if (!buffer || weights->devices[i / weights->n_weights] != device) continue;
    if (!(cs_model_weight_at(model, i % weights->n_weights)->usage & usage)) continue;
    const void *const data = cs_buffer_host_pointer(buffer);
    if (!data) continue;
    if (n < capacity) out[n] = (cs_weight_range){data, cs_buffer_bytes(buffer)};
    n++;
  }
  return n;
}

cs_status cs_weights_find(const cs_weights *weights, const cs_device *device, uint32_t key,
                          cs_tensor *tensor, cs_error *error) {
  for (size_t i = 0; i < MAX_DEVICES; i++) {
    if (weights->devices[i] != device || key >= weights->n_weights) continue;
    cs_buffer *const buffer = weights->buffers[i * weights->n_weights + key];
    if (!buffer) continue;
    tensor->memory = cs_buffer_memory(buffer);
    tensor->offset_bytes = 0;
    tensor->row_stride_bytes = 0;
    return CS_OK;
  }
  return cs_error_set(error, CS_NOT_FOUND, "weight %u is not on %s", key, cs_device_name(device));
}
