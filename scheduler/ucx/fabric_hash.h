/* The keyed hash of scheduler/fabric.h. */
#ifndef SCHEDULER_UCX_FABRIC_HASH_H
#define SCHEDULER_UCX_FABRIC_HASH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "consort/status.h"

cs_status cs_fabric_hash_init(cs_error *error);
void cs_fabric_random(void *out, size_t bytes);
void cs_fabric_prove(const void *key, size_t key_bytes, const void *message, size_t message_bytes,
                     uint8_t *out);
bool cs_fabric_equal(const void *a, const void *b, size_t bytes);
void cs_fabric_wipe(void *data, size_t bytes);

#endif
