/* The profile table: one record for each op, in the order they ran, with times that a clock can
 * have shown. */
#include <stdio.h>
#include <string.h>

#include "registry.h"
#include "representative.h"

#define N_OPS       5 /* in a list */
#define N_LISTS     3
#define N_RECORDS   (N_OPS * N_LISTS)
#define STRIDE      (sizeof(cs_op_time) + 24)
#define GUARD       0xa5
#define CLOCK_SLACK 2.0 /* device clocks tick at a rate of their own */
#define SLACK_NS    1e6

/* Records as the plugin is given them: elements of STRIDE bytes, a guard behind each, one element
 * too many. */
typedef struct record_array {
  unsigned char bytes[(N_RECORDS + 2) * STRIDE];
} record_array;

static void clear(record_array *records) {
  memset(records, GUARD, sizeof *records);
  for (size_t i = 0; i < N_RECORDS + 2; i++) {
    const cs_op_time empty = {.struct_size = sizeof empty};
    memcpy(records->bytes + i * STRIDE, &empty, sizeof empty);
  }
}

static cs_op_time record_at(const record_array *records, uint32_t index) {
  cs_op_time record;
  memcpy(&record, records->bytes + index * STRIDE, sizeof record);
  return record;
}

/* Reads at most `capacity` records into an array of its own. */
static uint32_t read_records(kit *k, record_array *records, uint32_t capacity) {
  cs_error error = CS_ERROR_INIT;
  uint32_t n = UINT32_MAX;
  clear(records);
  kit_check_ok(k,
               k->plugin.profile.stream_profile_read(kit_stream(k), (cs_op_time *)records->bytes,
                                                     capacity, STRIDE, &n, &error),
               &error, "stream_profile_read");
  kit_check(k, n <= capacity, "stream_profile_read gives %u records for a capacity of %u", n,
            capacity);
  for (uint32_t i = 0; i < N_RECORDS + 2; i++) {
    const unsigned char *element = records->bytes + i * STRIDE;
    for (size_t j = sizeof(cs_op_time); j < STRIDE; j++)
      kit_check(k, element[j] == GUARD, "stream_profile_read writes behind record %u", i);
    const cs_op_time record = record_at(records, i);
    kit_check(k, record.struct_size == sizeof record,
              "stream_profile_read changes the struct_size of record %u", i);
    kit_check(k, i < n || (record.op_id == 0 && record.begin_ns == 0 && record.end_ns == 0),
              "stream_profile_read says %u records and fills record %u", n, i);
  }
  return n;
}

/* An op that the device runs. */
static optest *some_op(kit *k) {
  static const uint32_t choices[][2] = {{CS_OP_ADD, CS_DTYPE_F32},
                                        {CS_OP_MATMUL, CS_DTYPE_F32},
                                        {CS_OP_MATMUL, CS_DTYPE_Q8_0},
                                        {CS_OP_RMS_NORM, CS_DTYPE_F32},
                                        {CS_OP_COPY, CS_DTYPE_F32}};
  representative r;
  for (size_t i = 0; i < sizeof choices / sizeof choices[0]; i++)
    if (representative_build(k, choices[i][0], choices[i][1], REPRESENTATIVE_SMALL, &r) &&
        optest_query(r.test, r.shape)) {
      k->n_unsupported = 0;
      k->result->message[0] = '\0';
      optest_place(r.test);
      kit_upload(k, r.test->memory, 0, r.test->before, r.test->arena_bytes);
      kit_finish(k);
      return r.test;
    }
  return NULL;
}

static void enable(kit *k, uint32_t on) {
  cs_error error = CS_ERROR_INIT;
  kit_check_ok(k, k->plugin.profile.stream_profile_enable(kit_stream(k), on, &error), &error,
               "stream_profile_enable");
}

static void run_lists(kit *k, optest *t, uint32_t n_lists) {
  cs_tensor operands[CS_MAX_OPERANDS];
  cs_op ops[N_OPS];
  cs_error error = CS_ERROR_INIT;
  for (uint32_t i = 0; i < N_OPS; i++)
    ops[i] = optest_op(t, operands);
  for (uint32_t i = 0; i < n_lists; i++)
    kit_check_ok(k, kit_enqueue(k, ops, N_OPS, t->workspace, false, &error), &error, "enqueueing");
  kit_finish(k);
}

static bool has_profile(kit *k) {
  if (k->plugin.profile.stream_profile_enable && k->plugin.profile.stream_profile_read) return true;
  kit_unsupported(k, "the plugin has no profile table");
  return false;
}

static void check_order(kit *k, const cs_op_time *records, uint32_t op_id, double wall_ns) {
  double busy_ns = 0;
  for (uint32_t i = 0; i < N_RECORDS; i++) {
    const cs_op_time *r = &records[i];
    kit_check(k, r->op_id == op_id, "record %u is of op %u, and op %u ran", i, r->op_id, op_id);
    kit_check(k, r->begin_ns <= r->end_ns, "record %u ends %llu ns before it begins", i,
              (unsigned long long)(r->begin_ns - r->end_ns));
    kit_check(k, i == 0 || records[i - 1].end_ns <= r->begin_ns,
              "record %u begins before the one before it ends: streams are in order", i);
    busy_ns += (double)(r->end_ns - r->begin_ns);
  }
  kit_check(k, records[N_RECORDS - 1].end_ns > records[0].begin_ns, "%u ops took no time at all",
            N_RECORDS);
  kit_check(k, busy_ns <= CLOCK_SLACK * wall_ns + SLACK_NS,
            "the ops took %.0f us by their records and %.0f us by the host's clock", busy_ns * 1e-3,
            wall_ns * 1e-3);
}

static void records_case(kit *k, const kit_case *c) {
  (void)c;
  if (!has_profile(k)) return;
  optest *t = some_op(k);
  if (!t) return;
  record_array *array = kit_host_memory(k, sizeof *array);
  cs_op_time records[N_RECORDS];
  enable(k, 1);
  const double begin = kit_now_seconds();
  run_lists(k, t, N_LISTS);
  const double wall_ns = (kit_now_seconds() - begin) * 1e9;
  uint32_t n = 0;
  while (n < N_RECORDS) { /* in pieces of four */
    const uint32_t got = read_records(k, array, 4);
    kit_check(k, got > 0, "%u of %u records were given, then no more", n, N_RECORDS);
    kit_check(k, n + got <= N_RECORDS, "more than %u records for %u ops", N_RECORDS, N_RECORDS);
    for (uint32_t i = 0; i < got; i++)
      records[n++] = record_at(array, i);
  }
  kit_check(k, read_records(k, array, N_RECORDS) == 0, "records are left after all %u were read",
            N_RECORDS);
  check_order(k, records, t->id, wall_ns);
}

static void switching(kit *k, const kit_case *c) {
  (void)c;
  if (!has_profile(k)) return;
  optest *t = some_op(k);
  if (!t) return;
  record_array *array = kit_host_memory(k, sizeof *array);
  run_lists(k, t, 1);
  kit_check(k, read_records(k, array, N_RECORDS) == 0, "ops are recorded before it is switched on");
  enable(k, 1);
  run_lists(k, t, 1);
  enable(k, 0);
  run_lists(k, t, 1);
  const uint32_t n = read_records(k, array, N_RECORDS);
  kit_check(k, n == N_OPS, "%u records for the %u ops that ran while it was switched on", n, N_OPS);
}

void kit_add_profile_cases(kit_registry *r) {
  kit_add(r, &(kit_case){.run = records_case}, "profile/records");
  kit_add(r, &(kit_case){.run = switching}, "profile/switching");
}
