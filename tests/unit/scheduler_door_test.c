/* The door: who passes, who does not, and that nothing a stranger says does more than close it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "scheduler/door.h"

static const cs_fabric_table *table;
static const uint8_t worker_address[100] = "worker's address", client_address[70] = "client's";
static const uint8_t worker_key[CS_DOOR_KEY_BYTES] = "worker's key!!!";
static const uint8_t client_key[CS_DOOR_KEY_BYTES] = "client's key!!!";

static cs_secret secret_of(const char *text) {
  cs_secret secret = {.n_bytes = strlen(text)};
  memcpy(secret.bytes, text, secret.n_bytes);
  return secret;
}

typedef struct pair {
  cs_secret secrets[2];
  cs_door worker;
  cs_door client;
} pair;

static pair *make_pair(const char *workers, const char *clients) {
  pair *const both = malloc(sizeof *both);
  both->secrets[0] = secret_of(workers);
  both->secrets[1] = secret_of(clients);
  cs_door_init(&both->worker, table, &both->secrets[0], worker_address, sizeof worker_address,
               worker_key, true);
  cs_door_init(&both->client, table, &both->secrets[1], client_address, sizeof client_address,
               client_key, false);
  return both;
}

/* Hands what `from` has to say to `to`, `step` bytes at a time. */
static cs_status hand_over(cs_door *from, cs_door *to, size_t step, cs_error *error) {
  uint8_t bytes[sizeof from->out];
  const size_t n_bytes = from->out_bytes;
  memcpy(bytes, from->out, n_bytes);
  from->out_bytes = 0;
  cs_status status = CS_OK;
  for (size_t at = 0; at < n_bytes && !status; at += step)
    status = cs_door_take(to, bytes + at, n_bytes - at < step ? n_bytes - at : step, error);
  return status;
}

static cs_status greet(pair *both, size_t step, cs_error *error) {
  cs_status status = CS_OK;
  while (!status && (both->client.out_bytes || both->worker.out_bytes)) {
    status = hand_over(&both->client, &both->worker, step, error);
    const cs_status answered = hand_over(&both->worker, &both->client, step, error);
    if (answered) status = answered; /* what the client is told */
  }
  return status;
}

static void who_knows_the_secret_passes(void **state) {
  (void)state;
  static const size_t steps[] = {1, 7, 1000};
  static const char *const secrets[] = {"", "open sesame"};
  for (size_t i = 0; i < 6; i++) {
    cs_error error = CS_ERROR_INIT;
    pair *const both = make_pair(secrets[i / 3], secrets[i / 3]);
    assert_int_equal(greet(both, steps[i % 3], &error), CS_OK);
    assert_int_equal(both->worker.state, CS_DOOR_OPEN);
    assert_int_equal(both->client.state, CS_DOOR_OPEN);
    assert_memory_equal(both->worker.other_key, client_key, CS_DOOR_KEY_BYTES);
    assert_memory_equal(both->client.other_key, worker_key, CS_DOOR_KEY_BYTES);
    assert_int_equal(both->client.other_address_bytes, sizeof worker_address);
    assert_memory_equal(both->client.other_address, worker_address, sizeof worker_address);
    assert_int_equal(both->worker.other_address_bytes, sizeof client_address);
    assert_memory_equal(both->worker.other_address, client_address, sizeof client_address);
    const uint8_t more = 0;
    assert_int_equal(cs_door_take(&both->worker, &more, 1, NULL), CS_CORRUPT);
    free(both);
  }
}

static void who_does_not_know_it_stays_outside(void **state) {
  (void)state;
  static const char *const secrets[][3] = {{"open sesame", "", "missing"},
                                           {"open sesame", "open sesam", "wrong"},
                                           {"", "open sesame", "wrong"}};
  for (size_t i = 0; i < 3; i++) {
    cs_error error = CS_ERROR_INIT;
    pair *const both = make_pair(secrets[i][0], secrets[i][1]);
    assert_int_equal(greet(both, 1000, &error), CS_INVALID_ARGUMENT);
    assert_non_null(strstr(error.message, secrets[i][2]));
    assert_int_equal(both->worker.state, CS_DOOR_SHUT);
    assert_int_equal(both->client.state, CS_DOOR_SHUT);
    free(both);
  }
}

/* What a client of another time said does not pass a second time. */
static void a_replayed_greeting_does_not_pass(void **state) {
  (void)state;
  uint8_t said[400];
  size_t n_said = 0;
  pair *const first = make_pair("open sesame", "open sesame");
  while (first->client.out_bytes || first->worker.out_bytes) {
    memcpy(said + n_said, first->client.out, first->client.out_bytes);
    n_said += first->client.out_bytes;
    assert_int_equal(hand_over(&first->client, &first->worker, 1000, NULL), CS_OK);
    assert_int_equal(hand_over(&first->worker, &first->client, 1000, NULL), CS_OK);
  }
  assert_int_equal(first->worker.state, CS_DOOR_OPEN);
  pair *const second = make_pair("open sesame", "open sesame");
  assert_int_equal(cs_door_take(&second->worker, said, n_said, NULL), CS_INVALID_ARGUMENT);
  assert_int_equal(second->worker.state, CS_DOOR_SHUT);
  free(first);
  free(second);
}

/* Nor does a worker's own proof, sent back to it. */
static void a_reflected_proof_does_not_pass(void **state) {
  (void)state;
  pair *const both = make_pair("open sesame", "");
  hand_over(&both->client, &both->worker, 1000, NULL);
  uint8_t proof[CS_FABRIC_PROOF_BYTES];
  both->worker.table->random(proof, sizeof proof);
  assert_int_equal(cs_door_take(&both->worker, proof, sizeof proof, NULL), CS_INVALID_ARGUMENT);
  for (size_t i = 4; i < both->worker.out_bytes; i++)
    if (i >= 48 + 4) assert_int_equal(both->worker.out[i], 0); /* a refusal proves nothing */
  free(both);
}

static void another_version_is_told(void **state) {
  (void)state;
  cs_error error = CS_ERROR_INIT;
  pair *const both = make_pair("", "");
  both->client.out[8]++;
  assert_int_equal(hand_over(&both->client, &both->worker, 1000, &error), CS_UNSUPPORTED);
  assert_non_null(strstr(error.message, "version"));
  both->worker.out[8]--; /* as the other one would speak */
  assert_int_equal(hand_over(&both->worker, &both->client, 1000, &error), CS_UNSUPPORTED);
  free(both);
}

/* Bytes at random, at every point of the greeting, with the secret and without. */
static void garbage_shuts_the_door(void **state) {
  (void)state;
  unsigned seed = 11;
  for (int i = 0; i < 3000; i++) {
    pair *const both = make_pair("", i % 2 ? "" : "x");
    uint8_t bytes[300];
    for (size_t k = 0; k < sizeof bytes; k++)
      bytes[k] = (uint8_t)rand_r(&seed);
    for (int rounds = rand_r(&seed) % 3; rounds > 0; rounds--) {
      hand_over(&both->client, &both->worker, 1000, NULL);
      hand_over(&both->worker, &both->client, 1000, NULL);
    }
    cs_status status = CS_OK;
    for (int k = 0; k < 40 && !status; k++)
      status = cs_door_take(i % 3 ? &both->worker : &both->client, bytes, sizeof bytes, NULL);
    assert_int_not_equal(status, CS_OK);
    free(both);
  }
}

static void secrets_come_from_file_or_environment(void **state) {
  (void)state;
  cs_secret secret;
  cs_error error = CS_ERROR_INIT;
  unsetenv("CONSORT_SECRET");
  assert_int_equal(cs_secret_read(NULL, &secret, &error), CS_OK);
  assert_int_equal(secret.n_bytes, 0);
  setenv("CONSORT_SECRET", "abc", 1);
  assert_int_equal(cs_secret_read(NULL, &secret, &error), CS_OK);
  assert_int_equal(secret.n_bytes, 3);
  char path[] = "/tmp/consort-secret-XXXXXX";
  const int file = mkstemp(path);
  FILE *const stream = fdopen(file, "w");
  fputs("from a file\n", stream);
  fclose(stream);
  assert_int_equal(cs_secret_read(path, &secret, &error), CS_OK);
  assert_int_equal(secret.n_bytes, 11);
  assert_memory_equal(secret.bytes, "from a file", 11);
  fclose(fopen(path, "w"));
  assert_int_equal(cs_secret_read(path, &secret, &error), CS_INVALID_ARGUMENT);
  assert_non_null(strstr(error.message, "empty"));
  remove(path);
  assert_int_equal(cs_secret_read(path, &secret, &error), CS_IO);
  unsetenv("CONSORT_SECRET");
}

int main(void) {
  cs_error error = CS_ERROR_INIT;
  if (cs_fabric_find(&table, &error)) {
    printf("skipped: %s\n", error.message);
    return 77;
  }
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(who_knows_the_secret_passes),
      cmocka_unit_test(who_does_not_know_it_stays_outside),
      cmocka_unit_test(a_replayed_greeting_does_not_pass),
      cmocka_unit_test(a_reflected_proof_does_not_pass),
      cmocka_unit_test(another_version_is_told),
      cmocka_unit_test(garbage_shuts_the_door),
      cmocka_unit_test(secrets_come_from_file_or_environment),
  };
  return cmocka_run_group_tests_name("door", tests, NULL, NULL);
}
