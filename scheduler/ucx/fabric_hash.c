/* BLAKE2b with a key, from libsodium: a keyed hash by construction, and a library whose calls are
 * hard to use wrongly. A key longer than the hash takes is hashed first. */
#include "fabric_hash.h"

#include <sodium.h>

#include "core/error.h"
#include "scheduler/fabric.h"

cs_status cs_fabric_hash_init(cs_error *error) {
  if (sodium_init() >= 0) return CS_OK;
  return cs_error_set(error, CS_FAILED, "the library for keyed hashes does not start");
}

void cs_fabric_random(void *out, size_t bytes) {
  randombytes_buf(out, bytes);
}

void cs_fabric_prove(const void *key, size_t key_bytes, const void *message, size_t message_bytes,
                     uint8_t *out) {
  uint8_t short_key[crypto_generichash_KEYBYTES_MAX];
  crypto_generichash(short_key, sizeof short_key, key, key_bytes, NULL, 0);
  crypto_generichash(out, CS_FABRIC_PROOF_BYTES, message, message_bytes, short_key,
                     sizeof short_key);
  sodium_memzero(short_key, sizeof short_key);
}

bool cs_fabric_equal(const void *a, const void *b, size_t bytes) {
  return sodium_memcmp(a, b, bytes) == 0;
}

void cs_fabric_wipe(void *data, size_t bytes) {
  sodium_memzero(data, bytes);
}
