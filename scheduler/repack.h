/* Weights in a format that a device does not read, stored there in one that it does. */
#ifndef SCHEDULER_REPACK_H
#define SCHEDULER_REPACK_H

#include <stdint.h>

#include "core/device.h"
#include "models/model.h"

/* By dtype of the file: the dtype that matrices are stored in on a device, 0 for their own. */
typedef uint8_t cs_repacking[CS_DTYPE_LIMIT];

/* Asks `device` for a matmul in each block format of the model. What it refuses becomes Q8_0, which
 * keeps all but about 3e-5 of NMSE, where it reads that; else it is left to the fallback. */
void cs_repacking_choose(const cs_model *model, cs_device *device, cs_repacking repacking);

/* "weights in q2_k are stored as q8_0"; false when nothing is repacked. */
bool cs_repacking_describe(const cs_repacking repacking, char *text, size_t text_bytes);

/* Bytes of the weight as it is stored. */
uint64_t cs_repacked_bytes(const cs_model_weight *weight, const cs_repacking repacking);

/* The weight's bytes in `dtype`, in whole rows: *data, which *owned, if not NULL, says to free
 * after use. CS_OUT_OF_MEMORY, CS_UNSUPPORTED. */
cs_status cs_repack(const cs_model_weight *weight, uint32_t dtype, const void **data,
                    uint64_t *bytes, void **owned, cs_error *error);

#endif
