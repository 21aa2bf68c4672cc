/* One file in the safetensors format: a length, a JSON header of that length, tensor data. Every
 * size and offset is checked when the file is opened. */
#ifndef MODELS_SAFETENSORS_H
#define MODELS_SAFETENSORS_H

#include <stddef.h>
#include <stdint.h>

#include "consort/status.h"
#include "consort/types.h"

typedef struct cs_safetensors cs_safetensors;

typedef struct cs_safetensor {
  const char *name; /* NUL-terminated, borrowed from the file's object */
  uint32_t dtype;   /* F32, F16, BF16; CS_DTYPE_NONE for the format's other types */
  uint32_t rank;    /* 1 to CS_MAX_RANK; a scalar is (1) */
  uint64_t dims[CS_MAX_RANK];
  const void *data; /* borrowed from the mapping, aligned for dtype */
  uint64_t bytes;
} cs_safetensor;

/* Maps `path`. Errors name the file, the tensor and the reason: CS_NOT_FOUND, CS_IO, CS_CORRUPT,
 * CS_OUT_OF_MEMORY. */
cs_status cs_safetensors_open(const char *path, cs_safetensors **out, cs_error *error);

/* The same over memory that outlives the result and is aligned as malloc does it; `name` stands for
 * the path. */
cs_status cs_safetensors_open_memory(const char *name, const void *data, size_t bytes,
                                     cs_safetensors **out, cs_error *error);
void cs_safetensors_close(cs_safetensors *file);

/* The path as errors show it. */
const char *cs_safetensors_label(const cs_safetensors *file);
uint64_t cs_safetensors_bytes(const cs_safetensors *file);
size_t cs_safetensors_n_tensors(const cs_safetensors *file);
/* By offset in the file. */
const cs_safetensor *cs_safetensors_at(const cs_safetensors *file, size_t index);

#endif
