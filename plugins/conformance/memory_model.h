/* Device memory and what it should hold, kept on the host: cases that copy at random change both,
 * so that a byte too many or too few shows. */
#ifndef KIT_MEMORY_MODEL_H
#define KIT_MEMORY_MODEL_H

#include "kit.h"

#define KIT_MODEL_BYTES 20011

typedef struct kit_memory_model {
  cs_plugin_memory *memory; /* KIT_MODEL_BYTES, like the next */
  unsigned char *bytes;
} kit_memory_model;

/* Both with the same random bytes; the kit frees them. */
kit_memory_model kit_model_make(kit *k);

/* Downloads the memory and compares every byte; `what` begins the message of a failure. */
void kit_model_compare(kit *k, const kit_memory_model *model, const char *what);

/* A range of odd offset and size, the bounds of words and pages among them. */
void kit_model_range(kit *k, uint64_t *offset, uint64_t *bytes);
/* Another offset for so many bytes. */
uint64_t kit_model_offset(kit *k, uint64_t bytes);

#endif
