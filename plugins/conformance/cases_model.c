/* A tiny whole model: two layers of a llama, every op of the minimal column in one list a step,
 * over prefill, a ragged batch with padding, and decode steps that read what earlier steps wrote
 * into paged caches. The oracle goes the same way in float64. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "format.h"
#include "kvtest.h"
#include "oracle.h"
#include "registry.h"

#define N_LAYERS   2
#define N_EMBD     64
#define N_HEADS    4
#define N_KV_HEADS 2
#define HEAD_DIM   16
#define N_KV       (N_KV_HEADS * HEAD_DIM)
#define N_FF       96
#define N_VOCAB    96
#define N_SEQS     3 /* the last one is padding */
#define MAX_TOKENS 200
#define MAX_ROWS   64
#define MAX_OPS    (N_LAYERS * 16 + 4)

/* Keeps activations near 1, as trained weights do: 1 / sqrt(N_EMBD). Random blocks are larger. */
#define WEIGHT_SCALE 0.125
#define BLOCK_WEIGHT 0.6

/* NMSE of the logits after two layers: each of the dozen matmuls in a row adds its own. */
#define MODEL_NMSE_F32  1e-9
#define MODEL_NMSE_INT8 5e-3

enum { W_Q, W_K, W_V, W_O, W_GATE, W_UP, W_DOWN, W_N };
enum { A_X, A_NORM, A_Q, A_K, A_V, A_ATT, A_GATE, A_UP, A_ACT, A_LOGITS, A_IDS, A_N };
enum { I_TOKENS, I_POSITIONS, I_SLOTS, I_TABLE, I_OFFSETS, I_LENGTHS, I_N };

static const uint64_t weight_dims[W_N][2] = {{N_EMBD, N_EMBD}, {N_KV, N_EMBD}, {N_KV, N_EMBD},
                                             {N_EMBD, N_EMBD}, {N_FF, N_EMBD}, {N_FF, N_EMBD},
                                             {N_EMBD, N_FF}};
static const uint64_t activation_width[A_N] = {N_EMBD, N_EMBD, N_EMBD, N_KV,    N_KV, N_EMBD,
                                               N_FF,   N_FF,   N_FF,   N_VOCAB, 1};

typedef struct weight {
  cs_tensor tensor;
  double *values;
} weight;

typedef struct model {
  kit *k;
  uint32_t dtype, kv_dtype, layout;
  uint64_t block, table_width, n_blocks;
  weight embedding, output, layers[N_LAYERS][W_N], norms[2 * N_LAYERS + 1];
  double *inv_freq;
  cs_plugin_memory *arena;
  uint64_t arena_bytes;
  cs_tensor activations[A_N], inputs[I_N], planes[N_LAYERS][2], frequencies;
  double *cache[N_LAYERS][2]; /* the oracle's */
  double *activation[A_N];
  cs_op ops[MAX_OPS];
  cs_tensor operands[MAX_OPS][CS_MAX_OPERANDS];
  uint32_t n_ops;
  cs_plugin_memory *workspace;
  cs_gather_rows_params gather;
  cs_rms_norm_params norm;
  cs_matmul_params matmul;
  cs_rope_params rope;
  cs_attention_params attention;
} model;

/* The rows of one step: what the host writes before it. */
typedef struct step {
  uint64_t n_rows;
  double inputs[I_N][MAX_ROWS * 4];
} step;

/* ---- building ---- */

static void place(model *m, cs_tensor *tensor, uint32_t dtype, uint32_t layout, uint32_t rank,
                  const uint64_t *dims) {
  *tensor =
      (cs_tensor){.struct_size = sizeof *tensor, .dtype = dtype, .layout = layout, .rank = rank};
  uint64_t count = 1;
  for (uint32_t i = 0; i < rank; i++)
    count *= tensor->dims[i] = dims[i];
  const uint64_t align = m->k->properties.tensor_align;
  tensor->offset_bytes = (m->arena_bytes + align - 1) / align * align;
  m->arena_bytes = tensor->offset_bytes + format_bytes(dtype, count);
}

static void make_weight(model *m, weight *w, uint32_t usage, uint64_t rows, uint64_t columns) {
  kit *k = m->k;
  const uint64_t count = rows * columns;
  unsigned char *bytes = kit_host_memory(k, format_bytes(m->dtype, count));
  w->values = kit_host_memory(k, count * sizeof(double));
  const bool is_blocks = format_block_elements(m->dtype) > 1;
  if (is_blocks) {
    format_random_blocks(m->dtype, &k->rng, bytes, count);
    format_scale_blocks(m->dtype, bytes, count, WEIGHT_SCALE / BLOCK_WEIGHT);
  }
  for (uint64_t i = 0; i < count && !is_blocks; i++)
    format_encode(m->dtype, bytes + i * format_bytes(m->dtype, 1),
                  rng_bell(&k->rng) * WEIGHT_SCALE);
  format_dequantize(m->dtype, bytes, w->values, count);
  const cs_weight_part part = {.struct_size = sizeof part,
                               .dtype = m->dtype,
                               .data = bytes,
                               .bytes = format_bytes(m->dtype, count)};
  const cs_weight source = {.struct_size = sizeof source,
                            .dtype = m->dtype,
                            .usage = usage,
                            .rank = 2,
                            .n_parts = 1,
                            .part_stride = sizeof part,
                            .dims = {rows, columns},
                            .parts = &part};
  w->tensor = (cs_tensor){.struct_size = sizeof w->tensor,
                          .dtype = m->dtype,
                          .layout = CS_LAYOUT_PACKED,
                          .rank = 2,
                          .dims = {rows, columns}};
  cs_packed_info info = {.struct_size = sizeof info};
  cs_error error = CS_ERROR_INIT;
  kit_check_ok(
      k, k->plugin.capability.weights_pack(k->device, &source, &w->tensor.memory, &info, &error),
      &error, "weights_pack");
  kit_track(k, KIT_MEMORY, w->tensor.memory);
}

static void make_vector(model *m, cs_tensor *tensor, double **values, uint64_t n) {
  place(m, tensor, CS_DTYPE_F32, CS_LAYOUT_PLAIN, 1, &n);
  *values = kit_host_memory(m->k, n * sizeof(double));
}

static void upload_vector(model *m, const cs_tensor *tensor, double *values) {
  float *bytes = kit_host_memory(m->k, tensor->dims[0] * sizeof *bytes);
  for (uint64_t i = 0; i < tensor->dims[0]; i++)
    values[i] = bytes[i] = (float)values[i];
  kit_upload(m->k, m->arena, tensor->offset_bytes, bytes, tensor->dims[0] * sizeof *bytes);
}

static void describe_memory(model *m) {
  for (int i = 0; i < A_N; i++) {
    place(m, &m->activations[i], i == A_IDS ? CS_DTYPE_I32 : CS_DTYPE_F32, CS_LAYOUT_PLAIN, 2,
          (uint64_t[]){MAX_ROWS, activation_width[i]});
    m->activation[i] = kit_host_memory(m->k, MAX_ROWS * activation_width[i] * sizeof(double));
  }
  for (int i = 0; i < I_N; i++)
    place(m, &m->inputs[i], CS_DTYPE_I32, CS_LAYOUT_PLAIN, 1, (uint64_t[]){MAX_ROWS * 4});
  m->inputs[I_TABLE].rank = 2;
  m->inputs[I_TABLE].dims[0] = N_SEQS;
  m->inputs[I_TABLE].dims[1] = m->table_width;
  m->inputs[I_OFFSETS].dims[0] = N_SEQS + 1;
  m->inputs[I_LENGTHS].dims[0] = N_SEQS;
  const uint64_t dims[] = {m->n_blocks, m->block, N_KV_HEADS, HEAD_DIM};
  for (int layer = 0; layer < N_LAYERS; layer++)
    for (int plane = 0; plane < 2; plane++) {
      place(m, &m->planes[layer][plane], m->kv_dtype, m->layout, 4, dims);
      m->cache[layer][plane] =
          kit_host_memory(m->k, m->n_blocks * m->block * N_KV * sizeof(double));
    }
  for (int i = 0; i < 2 * N_LAYERS + 1; i++)
    make_vector(m, &m->norms[i].tensor, &m->norms[i].values, N_EMBD);
  make_vector(m, &m->frequencies, &m->inv_freq, HEAD_DIM / 2);
}

static void take_arena(model *m) {
  m->arena = kit_memory(m->k, m->arena_bytes);
  for (int i = 0; i < A_N; i++)
    m->activations[i].memory = m->arena;
  for (int i = 0; i < I_N; i++)
    m->inputs[i].memory = m->arena;
  for (int i = 0; i < N_LAYERS; i++)
    m->planes[i][0].memory = m->planes[i][1].memory = m->arena;
  m->frequencies.memory = m->arena;
  for (int i = 0; i < 2 * N_LAYERS + 1; i++) {
    m->norms[i].tensor.memory = m->arena;
    for (int j = 0; j < N_EMBD; j++)
      m->norms[i].values[j] = 1 + 0.2 * rng_bell(&m->k->rng);
    upload_vector(m, &m->norms[i].tensor, m->norms[i].values);
  }
  for (int i = 0; i < HEAD_DIM / 2; i++)
    m->inv_freq[i] = pow(10000, -2.0 * i / HEAD_DIM);
  upload_vector(m, &m->frequencies, m->inv_freq);
  kit_finish(m->k);
}

/* ---- the op list ---- */

static void emit(model *m, uint32_t id, const void *params, uint32_t n_operands,
                 const cs_tensor *const *operands) {
  cs_tensor *copy = m->operands[m->n_ops];
  memset(copy, 0, sizeof m->operands[0]);
  for (uint32_t i = 0; i < n_operands; i++) {
    copy[i].struct_size = sizeof copy[i];
    if (operands[i]) copy[i] = *operands[i];
  }
  m->ops[m->n_ops++] = (cs_op){.struct_size = sizeof(cs_op),
                               .id = id,
                               .n_operands = n_operands,
                               .operand_stride = sizeof copy[0],
                               .operands = copy,
                               .params = params};
}

static cs_tensor heads_of(const cs_tensor *rows, uint64_t n_heads) {
  cs_tensor tensor = *rows;
  tensor.rank = 3;
  tensor.dims[1] = n_heads;
  tensor.dims[2] = HEAD_DIM;
  return tensor;
}

#define OPERANDS(...) ((const cs_tensor *const[]){__VA_ARGS__})

static void emit_matmul(model *m, int out, int x, const weight *w, const cs_tensor *residual) {
  emit(m, CS_OP_MATMUL, &m->matmul, 5,
       OPERANDS(&m->activations[out], &m->activations[x], &w->tensor, NULL, residual));
}

static void emit_norm(model *m, int index) {
  emit(
      m, CS_OP_RMS_NORM, &m->norm, 5,
      OPERANDS(&m->activations[A_NORM], &m->activations[A_X], &m->norms[index].tensor, NULL, NULL));
}

static void emit_add(model *m, int from) {
  emit(m, CS_OP_ADD, NULL, 3,
       OPERANDS(&m->activations[A_X], &m->activations[A_X], &m->activations[from]));
}

static void emit_layer(model *m, int layer) {
  const weight *w = m->layers[layer];
  cs_tensor *a = m->activations;
  const cs_tensor q = heads_of(&a[A_Q], N_HEADS), key = heads_of(&a[A_K], N_KV_HEADS);
  const cs_tensor value = heads_of(&a[A_V], N_KV_HEADS), att = heads_of(&a[A_ATT], N_HEADS);
  const cs_tensor *in = m->inputs;
  emit_norm(m, 2 * layer);
  emit_matmul(m, A_Q, A_NORM, &w[W_Q], NULL);
  emit_matmul(m, A_K, A_NORM, &w[W_K], NULL);
  emit_matmul(m, A_V, A_NORM, &w[W_V], NULL);
  emit(m, CS_OP_ROPE, &m->rope, 4, OPERANDS(&q, &q, &in[I_POSITIONS], &m->frequencies));
  emit(m, CS_OP_ROPE, &m->rope, 4, OPERANDS(&key, &key, &in[I_POSITIONS], &m->frequencies));
  emit(m, CS_OP_KV_WRITE, NULL, 5,
       OPERANDS(&key, &value, &m->planes[layer][0], &m->planes[layer][1], &in[I_SLOTS]));
  emit(m, CS_OP_ATTENTION_PAGED, &m->attention, 8,
       OPERANDS(&att, &q, &m->planes[layer][0], &m->planes[layer][1], &in[I_TABLE], &in[I_OFFSETS],
                &in[I_LENGTHS], NULL));
  emit_matmul(m, A_Q, A_ATT, &w[W_O], NULL);
  emit_add(m, A_Q);
  emit_norm(m, 2 * layer + 1);
  emit_matmul(m, A_GATE, A_NORM, &w[W_GATE], NULL);
  emit_matmul(m, A_UP, A_NORM, &w[W_UP], NULL);
  emit(m, CS_OP_SILU_MUL, NULL, 3, OPERANDS(&a[A_ACT], &a[A_GATE], &a[A_UP]));
  emit_matmul(m, A_Q, A_ACT, &w[W_DOWN], NULL);
  emit_add(m, A_Q);
}

static void emit_all(model *m, uint64_t n_rows) {
  m->n_ops = 0;
  for (int i = 0; i < A_N; i++)
    m->activations[i].dims[0] = n_rows;
  m->inputs[I_TOKENS].dims[0] = m->inputs[I_POSITIONS].dims[0] = m->inputs[I_SLOTS].dims[0] =
      n_rows;
  emit(m, CS_OP_GATHER_ROWS, &m->gather, 3,
       OPERANDS(&m->activations[A_X], &m->embedding.tensor, &m->inputs[I_TOKENS]));
  for (int layer = 0; layer < N_LAYERS; layer++)
    emit_layer(m, layer);
  emit_norm(m, 2 * N_LAYERS);
  emit_matmul(m, A_LOGITS, A_NORM, &m->output, NULL);
  cs_tensor ids = m->activations[A_IDS];
  ids.rank = 1;
  emit(m, CS_OP_ARGMAX, NULL, 2, OPERANDS(&ids, &m->activations[A_LOGITS]));
}

/* True when every op is served; takes the workspace. */
static bool query_all(model *m) {
  kit *k = m->k;
  uint64_t workspace_bytes = 0;
  emit_all(m, MAX_ROWS);
  for (uint32_t i = 0; i < m->n_ops; i++) {
    cs_op op = m->ops[i];
    cs_tensor operands[CS_MAX_OPERANDS];
    for (uint32_t j = 0; j < op.n_operands; j++) {
      operands[j] = op.operands[j];
      operands[j].memory = NULL;
    }
    op.operands = operands;
    cs_op_answer answer = {.struct_size = sizeof answer};
    cs_error error = CS_ERROR_INIT;
    kit_check_ok(k, k->plugin.capability.op_query(k->device, &op, &answer, &error), &error,
                 "op_query");
    if (answer.support == CS_SUPPORT_NO) {
      kit_unsupported(k, "op %u of the list (id %u): %s", i, op.id, answer.reason);
      return false;
    }
    if (answer.workspace_bytes > workspace_bytes) workspace_bytes = answer.workspace_bytes;
  }
  if (workspace_bytes) m->workspace = kit_memory(k, workspace_bytes);
  return true;
}

/* ---- the oracle's way ---- */

static void oracle_norm(model *m, uint64_t n, int index) {
  oracle_rms_norm(m->activation[A_NORM], m->activation[A_X], m->norms[index].values, NULL, NULL, n,
                  N_EMBD, &m->norm);
}

static void oracle_project(model *m, uint64_t n, int out, int x, const weight *w) {
  oracle_matmul(m->activation[out], m->activation[x], w->values, NULL, NULL, n, w->tensor.dims[0],
                w->tensor.dims[1], 0);
}

static void oracle_add(model *m, uint64_t n, int from) {
  for (uint64_t i = 0; i < n * N_EMBD; i++)
    m->activation[A_X][i] += m->activation[from][i];
}

static void oracle_layer(model *m, const step *s, int layer) {
  const weight *w = m->layers[layer];
  const uint64_t n = s->n_rows;
  double **a = m->activation, **cache = m->cache[layer];
  const double *positions = s->inputs[I_POSITIONS], *slots = s->inputs[I_SLOTS];
  const oracle_attention_shape shape = {.n_heads = N_HEADS,
                                        .n_kv_heads = N_KV_HEADS,
                                        .k_width = HEAD_DIM,
                                        .v_width = HEAD_DIM,
                                        .block_tokens = m->block,
                                        .n_seqs = N_SEQS,
                                        .table_width = m->table_width};
  oracle_norm(m, n, 2 * layer);
  oracle_project(m, n, A_Q, A_NORM, &w[W_Q]);
  oracle_project(m, n, A_K, A_NORM, &w[W_K]);
  oracle_project(m, n, A_V, A_NORM, &w[W_V]);
  oracle_rope(a[A_Q], a[A_Q], positions, m->inv_freq, n, N_HEADS, HEAD_DIM, &m->rope);
  oracle_rope(a[A_K], a[A_K], positions, m->inv_freq, n, N_KV_HEADS, HEAD_DIM, &m->rope);
  oracle_kv_write(cache[0], a[A_K], slots, n, N_KV);
  oracle_kv_write(cache[1], a[A_V], slots, n, N_KV);
  oracle_attention(a[A_ATT], a[A_Q], cache[0], cache[1], s->inputs[I_TABLE], s->inputs[I_OFFSETS],
                   s->inputs[I_LENGTHS], NULL, &shape, &m->attention);
  oracle_project(m, n, A_Q, A_ATT, &w[W_O]);
  oracle_add(m, n, A_Q);
  oracle_norm(m, n, 2 * layer + 1);
  oracle_project(m, n, A_GATE, A_NORM, &w[W_GATE]);
  oracle_project(m, n, A_UP, A_NORM, &w[W_UP]);
  oracle_silu_mul(a[A_ACT], a[A_GATE], a[A_UP], n * N_FF);
  oracle_project(m, n, A_Q, A_ACT, &w[W_DOWN]);
  oracle_add(m, n, A_Q);
}

static void oracle_step(model *m, const step *s) {
  oracle_gather_rows(m->activation[A_X], m->embedding.values, s->inputs[I_TOKENS], s->n_rows,
                     N_EMBD, 1);
  for (int layer = 0; layer < N_LAYERS; layer++)
    oracle_layer(m, s, layer);
  oracle_norm(m, s->n_rows, 2 * N_LAYERS);
  oracle_project(m, s->n_rows, A_LOGITS, A_NORM, &m->output);
  oracle_argmax(m->activation[A_IDS], m->activation[A_LOGITS], s->n_rows, N_VOCAB);
}

/* ---- steps ---- */

/* Rows for two sequences that have `past` tokens each and get `fresh` more; then two of padding. */
static void make_step(model *m, step *s, const uint64_t past[2], const uint64_t fresh[2],
                      const double *table) {
  memset(s, 0, sizeof *s);
  uint64_t row = 0;
  for (uint64_t seq = 0; seq < 2; seq++) {
    s->inputs[I_OFFSETS][seq] = (double)row;
    s->inputs[I_LENGTHS][seq] = fresh[seq] ? (double)(past[seq] + fresh[seq]) : 0;
    for (uint64_t i = 0; i < fresh[seq]; i++, row++) {
      const uint64_t p = past[seq] + i;
      s->inputs[I_TOKENS][row] = (double)rng_below(&m->k->rng, N_VOCAB);
      s->inputs[I_POSITIONS][row] = (double)p;
      s->inputs[I_SLOTS][row] =
          table[seq * m->table_width + p / m->block] * (double)m->block + (double)(p % m->block);
    }
  }
  s->inputs[I_OFFSETS][2] = s->inputs[I_OFFSETS][3] = (double)row;
  memcpy(s->inputs[I_TABLE], table, N_SEQS * m->table_width * sizeof *table);
  s->n_rows = row + 2;
  for (; row < s->n_rows; row++) {
    s->inputs[I_TOKENS][row] = -1;
    s->inputs[I_SLOTS][row] = -1;
  }
}

static void upload_inputs(model *m, const step *s) {
  for (int i = 0; i < I_N; i++) {
    int32_t *bytes = kit_host_memory(m->k, sizeof *bytes * MAX_ROWS * 4);
    for (int j = 0; j < MAX_ROWS * 4; j++)
      bytes[j] = (int32_t)s->inputs[i][j];
    kit_upload(m->k, m->arena, m->inputs[i].offset_bytes, bytes, sizeof *bytes * MAX_ROWS * 4);
  }
}

static void compare_logits(model *m, const step *s, uint64_t n_owned, const char *what) {
  kit *k = m->k;
  float *logits = kit_host_memory(k, s->n_rows * N_VOCAB * sizeof *logits);
  kit_download(k, logits, m->arena, m->activations[A_LOGITS].offset_bytes,
               s->n_rows * N_VOCAB * sizeof *logits);
  double error = 0, square = 0;
  for (uint64_t i = 0; i < n_owned * N_VOCAB; i++) {
    const double right = m->activation[A_LOGITS][i], got = logits[i];
    kit_check(k, isfinite(got), "%s: logit %llu is %g", what, (unsigned long long)i, got);
    error += (got - right) * (got - right);
    square += right * right;
    if (fabs(got - right) > k->result->max_error) k->result->max_error = fabs(got - right);
  }
  const double nmse = error / square;
  const double limit = m->dtype == CS_DTYPE_F32 ? MODEL_NMSE_F32 : MODEL_NMSE_INT8;
  if (nmse > k->result->nmse) k->result->nmse = nmse;
  kit_check(k, nmse <= limit, "%s: logits have NMSE %.3g, allowed is %.3g", what, nmse, limit);
}

static void compare_ids(model *m, const step *s, uint64_t n_owned, const char *what) {
  kit *k = m->k;
  int32_t *ids = kit_host_memory(k, s->n_rows * sizeof *ids);
  kit_download(k, ids, m->arena, m->activations[A_IDS].offset_bytes, s->n_rows * sizeof *ids);
  for (uint64_t i = 0; i < n_owned && m->dtype == CS_DTYPE_F32; i++)
    kit_check(k, ids[i] == (int32_t)m->activation[A_IDS][i], "%s: row %llu chooses %d, not %d",
              what, (unsigned long long)i, ids[i], (int)m->activation[A_IDS][i]);
}

static void run_step(model *m, const step *s, bool program, const char *what) {
  kit *k = m->k;
  cs_error error = CS_ERROR_INIT;
  upload_inputs(m, s);
  emit_all(m, s->n_rows);
  kit_check_ok(k, kit_enqueue(k, m->ops, m->n_ops, m->workspace, program, &error), &error, what);
  kit_finish(k);
  oracle_step(m, s);
  compare_logits(m, s, s->n_rows - 2, what);
  compare_ids(m, s, s->n_rows - 2, what);
  k->n_checked++;
}

static void init_params(model *m) {
  m->gather = (cs_gather_rows_params){.struct_size = sizeof m->gather, .scale = 1};
  m->norm = (cs_rms_norm_params){.struct_size = sizeof m->norm, .epsilon = 1e-5f};
  m->matmul = (cs_matmul_params){.struct_size = sizeof m->matmul};
  m->rope = (cs_rope_params){.struct_size = sizeof m->rope, .n_rot = HEAD_DIM, .magnitude = 1};
  m->attention = (cs_attention_params){.struct_size = sizeof m->attention, .scale = 0.25f};
}

static void model_case(kit *k, const kit_case *c) {
  model *m = kit_host_memory(k, sizeof *m);
  m->k = k;
  m->dtype = c->dtype;
  m->kv_dtype = CS_DTYPE_F32;
  m->layout = kv_layout(k, 0);
  if (m->layout == CS_LAYOUT_PLAIN || !kv_has_dtype(k, m->kv_dtype)) return;
  if (c->argument && !k->plugin.program.program_launch) {
    kit_unsupported(k, "the plugin has no program table");
    return;
  }
  m->block = kv_next_block(k, 0);
  m->table_width = MAX_TOKENS / m->block + 1;
  m->n_blocks = 2 * m->table_width + 1;
  init_params(m);
  describe_memory(m);
  m->embedding.tensor = (cs_tensor){.struct_size = sizeof(cs_tensor),
                                    .dtype = c->dtype,
                                    .layout = CS_LAYOUT_PACKED,
                                    .rank = 2,
                                    .dims = {N_VOCAB, N_EMBD}};
  m->output.tensor = m->embedding.tensor;
  for (int layer = 0; layer < N_LAYERS; layer++)
    for (int i = 0; i < W_N; i++) {
      m->layers[layer][i].tensor = m->embedding.tensor;
      memcpy(m->layers[layer][i].tensor.dims, weight_dims[i], sizeof weight_dims[i]);
    }
  if (!query_all(m)) return;
  make_weight(m, &m->embedding, CS_USAGE_GATHER, N_VOCAB, N_EMBD);
  make_weight(m, &m->output, CS_USAGE_MATMUL, N_VOCAB, N_EMBD);
  for (int layer = 0; layer < N_LAYERS; layer++)
    for (int i = 0; i < W_N; i++)
      make_weight(m, &m->layers[layer][i], CS_USAGE_MATMUL, weight_dims[i][0], weight_dims[i][1]);
  take_arena(m);
  double *table = kit_host_memory(k, (N_SEQS + 1) * m->table_width * sizeof *table);
  kv_random_blocks(k, table, 2 * m->table_width, m->n_blocks);
  static const uint64_t fresh[][2] = {{21, 0}, {1, 30}, {1, 1}, {1, 1}, {0, 1}, {40, 1}, {1, 1}};
  uint64_t past[2] = {0, 0};
  step *s = kit_host_memory(k, sizeof *s);
  for (size_t i = 0; i < sizeof fresh / sizeof fresh[0]; i++) {
    char what[80];
    snprintf(what, sizeof what, "step %zu, %llu + %llu tokens", i, (unsigned long long)fresh[i][0],
             (unsigned long long)fresh[i][1]);
    make_step(m, s, past, fresh[i], table);
    run_step(m, s, c->argument, what);
    past[0] += fresh[i][0];
    past[1] += fresh[i][1];
  }
}

void kit_add_model_cases(kit_registry *r) {
  static const uint32_t dtypes[] = {CS_DTYPE_F32, CS_DTYPE_Q8_0};
  static const uint32_t badges[] = {KIT_BADGE_LLM_DENSE, KIT_BADGE_LLM_QUANT};
  for (size_t i = 0; i < 2; i++)
    for (uint32_t program = 0; program < 2; program++)
      kit_add(r,
              &(kit_case){.badges = program ? 0 : badges[i],
                          .dtype = dtypes[i],
                          .argument = program,
                          .run = model_case},
              "model/%s%s", format_name(dtypes[i]), program ? "/replayed" : "");
}
