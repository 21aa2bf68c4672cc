/* Recorded programs: a launch gives, bit for bit, what the same op gives eagerly, again and again,
 * and reads its inputs when it runs and not when it was recorded. */
#include <stdio.h>
#include <string.h>

#include "format.h"
#include "registry.h"
#include "representative.h"

static void launch(kit *k, optest *t, cs_plugin_program *program, const unsigned char *image,
                   unsigned char *result) {
  cs_error error = CS_ERROR_INIT;
  kit_upload(k, t->memory, 0, image, t->arena_bytes);
  kit_check_ok(k, k->plugin.program.program_launch(kit_stream(k), program, &error), &error,
               "program_launch");
  kit_download(k, result, t->memory, 0, t->arena_bytes);
}

static void run_eagerly(kit *k, optest *t, const unsigned char *image, unsigned char *result) {
  cs_tensor operands[CS_MAX_OPERANDS];
  const cs_op op = optest_op(t, operands);
  cs_error error = CS_ERROR_INIT;
  kit_upload(k, t->memory, 0, image, t->arena_bytes);
  kit_check_ok(k, kit_enqueue(k, &op, 1, t->workspace, false, &error), &error, "ops_enqueue");
  kit_download(k, result, t->memory, 0, t->arena_bytes);
}

static void compare(kit *k, const optest *t, const unsigned char *a, const unsigned char *b,
                    const char *what) {
  for (uint64_t i = 0; i < t->arena_bytes; i++)
    kit_check(k, a[i] == b[i], "%s: byte %llu of the operands differs", what,
              (unsigned long long)i);
}

/* Other values in the operands that are read as numbers; ids, tables and outputs stay. */
static void change_inputs(kit *k, const optest *t, unsigned char *image) {
  for (uint32_t i = 0; i < t->n_operands; i++) {
    const optest_tensor *operand = &t->operands[i];
    if (operand->tensor.dtype != CS_DTYPE_F32 || (t->written >> i & 1) || operand->blocks) continue;
    for (uint64_t j = 0; j < operand->count; j++)
      format_encode(CS_DTYPE_F32, image + operand->tensor.offset_bytes + j * 4, rng_bell(&k->rng));
  }
}

static void replay_case(kit *k, const kit_case *c) {
  representative r;
  if (!k->plugin.program.program_launch) {
    kit_unsupported(k, "the plugin has no program table");
    return;
  }
  if (!representative_build(k, c->op_id, c->dtype, REPRESENTATIVE_SMALL, &r)) {
    kit_unsupported(k, "the device lists no KV cache of this dtype");
    return;
  }
  optest *t = r.test;
  if (!optest_query(t, r.shape)) return;
  optest_place(t);
  unsigned char *image = kit_host_memory(k, t->arena_bytes);
  unsigned char *first = kit_host_memory(k, t->arena_bytes);
  unsigned char *again = kit_host_memory(k, t->arena_bytes);
  memcpy(image, t->before, t->arena_bytes);
  t->program = true;
  optest_execute(t, "as a program");
  cs_tensor operands[CS_MAX_OPERANDS];
  const cs_op op = optest_op(t, operands);
  cs_plugin_program *program = NULL;
  cs_error error = CS_ERROR_INIT;
  kit_check_ok(k,
               k->plugin.program.program_create(k->device, &op, 1, sizeof op, t->workspace,
                                                &program, &error),
               &error, "program_create");
  kit_track(k, KIT_PROGRAM, program);
  memset(operands, 0xa5, sizeof operands); /* descriptors were copied */
  for (int round = 0; round < 3; round++) {
    launch(k, t, program, image, first);
    launch(k, t, program, image, again);
    compare(k, t, first, again, "two launches of one program");
    if (k->plugin.eager.ops_enqueue) {
      run_eagerly(k, t, image, again);
      compare(k, t, first, again, "a launch and the same op run eagerly");
    }
    change_inputs(k, t, image);
  }
}

void kit_add_program_cases(kit_registry *r) {
  static const struct {
    uint32_t op_id, dtype;
  } rows[] = {{CS_OP_GATHER_ROWS, CS_DTYPE_F32},
              {CS_OP_RMS_NORM, CS_DTYPE_F32},
              {CS_OP_MATMUL, CS_DTYPE_F32},
              {CS_OP_MATMUL, CS_DTYPE_F16},
              {CS_OP_MATMUL, CS_DTYPE_Q8_0},
              {CS_OP_MATMUL, CS_DTYPE_Q4_0},
              {CS_OP_ROPE, CS_DTYPE_F32},
              {CS_OP_KV_WRITE, CS_DTYPE_F32},
              {CS_OP_KV_WRITE, CS_DTYPE_F16},
              {CS_OP_ATTENTION_PAGED, CS_DTYPE_F32},
              {CS_OP_ATTENTION_PAGED, CS_DTYPE_F16},
              {CS_OP_SILU_MUL, CS_DTYPE_F32},
              {CS_OP_ADD, CS_DTYPE_F32},
              {CS_OP_COPY, CS_DTYPE_F32},
              {CS_OP_CAST, CS_DTYPE_F32},
              {CS_OP_ARGMAX, CS_DTYPE_F32},
              {CS_OP_KV_GATHER, CS_DTYPE_F16},
              {CS_OP_KV_SCATTER, CS_DTYPE_F16},
              {CS_OP_KV_COPY_BLOCKS, CS_DTYPE_F16}};
  for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
    kit_add(r, &(kit_case){.op_id = rows[i].op_id, .dtype = rows[i].dtype, .run = replay_case},
            "replay/%s/%s", op_name(rows[i].op_id), format_name(rows[i].dtype));
}
