/* The weights of a model on the devices of one worker. */
#ifndef SCHEDULER_WEIGHTS_H
#define SCHEDULER_WEIGHTS_H

#include <stdint.h>

#include "core/executor.h"
#include "models/model.h"
#include "scheduler/repack.h"

typedef struct cs_weights cs_weights;

typedef struct cs_weight_range {
  const void *data;
  uint64_t bytes;
} cs_weight_range;

/* bytes_done of bytes_total are on `device`. One call at a time, from any thread. */
typedef void (*cs_weights_progress)(void *user, const char *device, uint64_t bytes_done,
                                    uint64_t bytes_total);

/* Bytes of the weights that `placement` puts on device 0 (primary) or 1 (fallback), in the formats
 * that they are stored in. */
uint64_t cs_weights_bytes(const cs_model *model, const cs_placement *placement,
                          const cs_repacking repacking, uint32_t device);

/* Packs matrices, in the dtype that `list` gives them, and uploads vectors on every device whose
 * ops read them, several at a time.
 * `list` is the one that the placement was made for; fallback may be NULL. With a `pack_folder`
 * (NULL: none) packed weights come from a file there, or are left in one (pack_cache.h). Errors
 * name the weight and the device. */
cs_status cs_weights_load(const cs_model *model, const cs_op_list *list,
                          const cs_placement *placement, cs_device *primary, cs_device *fallback,
                          const char *pack_folder, cs_weights_progress progress,
                          void *progress_user, cs_weights **out, cs_error *error);
void cs_weights_destroy(cs_weights *weights);

/* Memory of the weights on a device, where the host can reach it: at most `capacity` ranges;
 * returns how many there are. Borrowed until the weights are destroyed. */
size_t cs_weights_ranges(const cs_weights *weights, const cs_model *model, const cs_device *device,
                         uint32_t usage, cs_weight_range *out, size_t capacity);

/* Fills memory, offset_bytes and row_stride_bytes of *tensor. CS_NOT_FOUND when the weight was not
 * loaded there. */
cs_status cs_weights_find(const cs_weights *weights, const cs_device *device, uint32_t key,
                          cs_tensor *tensor, cs_error *error);

#endif
