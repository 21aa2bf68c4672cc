/* Sizes follow from the choice of formats alone, so the head of the new file is written first and
 * tensors stream behind it, a batch of rows at a time: memory does not grow with the model. */
#include "models/quantize.h"

#include <inttypes.h>
#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "core/dtype.h"
#include "core/error.h"
#include "models/architecture.h"
#include "models/blocks.h"
#include "models/chat/chat.h"
#include "models/gguf_internal.h"
#include "models/gguf_writer.h"
#include "models/huggingface.h"
#include "models/new_file.h"
#include "models/quantize_mix.h"
#include "models/tokenizer_gguf.h"

#define BATCH_ELEMENTS ((uint64_t)1 << 20) /* of one thread, or one row where that is longer */
#define MAX_THREADS    64

typedef struct output {
  cs_gguf_tensor from;
  uint32_t dtype;
  uint64_t n_rows;
  uint64_t row;        /* elements */
  uint64_t row_bytes;  /* in the new file */
  uint64_t bytes;      /* likewise */
  uint64_t head_width; /* rows are interleaved within each so many; 0: kept in order */
} output;

typedef struct job {
  const cs_quantize_options *options;
  const char *from;
  const cs_quantize_type *type;
  cs_gguf *source;
  float *rope_factors; /* a table that the folder's configuration implies */
  output *outputs;
  size_t n_outputs;
  cs_new_file file;
  cs_error *error;
} job;

/* ---- plan -------------------------------------------------------------------------------- */

/* The architecture's key as a number; 0 where there is none. */
static uint32_t get_count(const cs_gguf *gguf, const char *suffix) {
  cs_gguf_string name;
  char key[CS_CONFIG_KEY_BYTES];
  uint64_t value = 0;
  if (!cs_gguf_get_string(gguf, "general.architecture", &name)) return 0;
  snprintf(key, sizeof key, "%.*s.%s", name.bytes > 32 ? 32 : (int)name.bytes, name.data, suffix);
  return cs_gguf_get_u64(gguf, key, &value) && value <= UINT32_MAX ? (uint32_t)value : 0;
}

static cs_quantize_model describe(const cs_gguf *gguf) {
  const uint32_t n_heads = get_count(gguf, "attention.head_count");
  const uint32_t n_kv_heads = get_count(gguf, "attention.head_count_kv");
  const uint32_t n_layers = get_count(gguf, "block_count");
  return (cs_quantize_model){
      .n_layers = n_layers,
      .n_experts = get_count(gguf, "expert_count"),
      .tied = !cs_gguf_find_tensor(gguf, "output.weight"),
      .is_70b = n_layers == 80 && n_kv_heads > 0 && n_heads != n_kv_heads,
  };
}

/* "blk.0.attn_q.weight" and its like, whose rows converters interleave for this architecture. */
static bool is_query_or_key(cs_gguf_string name, const char *which) {
  char pattern[16];
  const int n = snprintf(pattern, sizeof pattern, ".%s.", which);
  for (size_t i = 0; i + (size_t)n <= name.bytes; i++)
    if (memcmp(name.data + i, pattern, (size_t)n) == 0) return true;
  return false;
}

static uint64_t head_width(const job *j, const cs_gguf_tensor *tensor) {
  cs_gguf_string name;
  if (!j->source->split_heads || !cs_gguf_get_string(j->source, "general.architecture", &name))
    return 0;
  const cs_architecture *architecture = cs_architecture_find(name);
  if (!architecture || architecture->rope_mode != CS_ROPE_INTERLEAVED) return 0;
  const uint32_t n_heads = get_count(j->source, "attention.head_count");
  const uint32_t n_kv = get_count(j->source, "attention.head_count_kv");
  uint32_t n = 0;
  if (is_query_or_key(tensor->name, "attn_q")) n = n_heads;
  if (is_query_or_key(tensor->name, "attn_k")) n = n_kv ? n_kv : n_heads;
  return n && tensor->dims[0] % (2 * (uint64_t)n) == 0 ? tensor->dims[0] / n : 0;
}

static cs_status plan_tensor(job *j, const cs_quantize_model *model, const cs_gguf_tensor *from) {
  output *out = &j->outputs[j->n_outputs];
  float probe;
  if (from->dtype == CS_DTYPE_NONE || cs_blocks_decode(from->dtype, NULL, 0, &probe) != CS_OK)
    return cs_gguf_fail(j->source, j->error, CS_UNSUPPORTED,
                        "tensor \"%.*s\" has GGUF type %s (%u), which cannot be read",
                        from->name.bytes > 64 ? 64 : (int)from->name.bytes, from->name.data,
                        cs_gguf_type_name(from->file_type), from->file_type);
  out->from = *from;
  out->dtype = cs_quantize_choose(j->type, model, from);
  out->head_width = head_width(j, from);
  const bool as_column = out->head_width && from->rank == 1;
  out->row = as_column ? 1 : from->dims[from->rank - 1];
  out->n_rows = as_column ? from->dims[0] : 1;
  for (uint32_t i = 0; i + 1 < from->rank; i++)
    out->n_rows *= from->dims[i]; /* fits: the source's own size was checked */
  cs_status status = cs_dtype_bytes(out->dtype, out->row, &out->row_bytes);
  if (status != CS_OK || __builtin_mul_overflow(out->row_bytes, out->n_rows, &out->bytes))
    return cs_gguf_fail(j->source, j->error, CS_CORRUPT, "a tensor's size overflows");
  j->n_outputs++;
  return CS_OK;
}

/* What llama.cpp reads in place of the type "llama3": a divisor for each pair. */
static cs_status plan_rope_factors(job *j) {
  cs_gguf_string name;
  cs_model_config config;
  cs_rope_scaling scaling;
  if (!j->source->split_heads || !cs_gguf_get_string(j->source, "general.architecture", &name))
    return CS_OK;
  const cs_architecture *architecture = cs_architecture_find(name);
  if (!architecture) return CS_OK;
  cs_status status =
      cs_architecture_read_config(architecture, j->source, &config, &scaling, j->error);
  if (status != CS_OK || scaling.kind != CS_ROPE_SCALING_LLAMA3) return status;
  const uint32_t n = config.n_rot / 2;
  float *plain = malloc(n * sizeof *plain);
  j->rope_factors = malloc(n * sizeof *j->rope_factors);
  if (!plain || !j->rope_factors) {
    free(plain);
    return cs_error_set(j->error, CS_OUT_OF_MEMORY, "out of memory");
  }
  const cs_rope_scaling unscaled = {.kind = CS_ROPE_SCALING_NONE};
  cs_rope_inv_freq(&unscaled, (double)config.rope_base, config.n_rot, NULL, plain);
  cs_rope_inv_freq(&scaling, (double)config.rope_base, config.n_rot, NULL, j->rope_factors);
  for (uint32_t i = 0; i < n; i++)
    j->rope_factors[i] = plain[i] / j->rope_factors[i];
  free(plain);
  const cs_gguf_tensor tensor = {.name = {"rope_freqs.weight", 17},
                                 .dtype = CS_DTYPE_F32,
                                 .rank = 1,
                                 .dims = {n},
                                 .data = j->rope_factors,
                                 .bytes = n * sizeof(float)};
  const cs_quantize_model model = {0};
  return plan_tensor(j, &model, &tensor);
}

static cs_status plan(job *j) {
  const cs_quantize_model model = describe(j->source);
  const size_t n = cs_gguf_n_tensors(j->source);
  j->outputs = calloc(n + 1, sizeof *j->outputs);
  if (!j->outputs) return cs_error_set(j->error, CS_OUT_OF_MEMORY, "out of memory");
  cs_status status = plan_rope_factors(j);
  for (size_t i = 0; status == CS_OK && i < n; i++)
    status = plan_tensor(j, &model, cs_gguf_tensor_at(j->source, i));
  return status;
}

/* ---- head -------------------------------------------------------------------------------- */

static bool ends_in(cs_gguf_string key, const char *suffix) {
  const size_t n = strlen(suffix);
  return key.bytes >= n && memcmp(key.data + key.bytes - n, suffix, n) == 0;
}

static bool begins_with(cs_gguf_string key, const char *prefix) {
  const size_t n = strlen(prefix);
  return key.bytes >= n && memcmp(key.data, prefix, n) == 0;
}

/* Keys that speak of the source's files, or that rope_freqs.weight stands for. */
static bool skip_key(void *user, cs_gguf_string key) {
  const job *j = user;
  if (j->rope_factors && (ends_in(key, ".rope.scaling.type") ||
                          ends_in(key, ".rope.scaling.factor") || ends_in(key, "_freq_factor")))
    return true;
  return begins_with(key, "split.") || ends_in(key, "general.file_type") ||
         ends_in(key, "general.quantization_version") || ends_in(key, "general.alignment");
}

static cs_status write_bytes(job *j, const void *data, size_t bytes) {
  return cs_new_file_write(&j->file, data, bytes, j->error);
}

static void tell_lack(const job *j, const char *what, const cs_error *why) {
  char line[sizeof why->message + 64];
  snprintf(line, sizeof line, "the file has no %s: %s", what, why->message);
  if (j->options->notice) j->options->notice(j->options->user, line);
}

/* "tokenizer.chat_template" and its like for tools, where that is another. */
static void write_chat_template(job *j, cs_gguf_writer *writer) {
  static const char *const keys[] = {"tokenizer.chat_template", "tokenizer.chat_template.tool_use"};
  char *texts[2] = {NULL, NULL};
  size_t bytes;
  cs_error why = CS_ERROR_INIT;
  cs_status status = CS_OK;
  for (int tools = 0; tools < 2 && status == CS_OK; tools++)
    status = cs_chat_template_find(NULL, j->from, tools, &texts[tools], &bytes, &why);
  if (status != CS_OK && status != CS_NOT_FOUND) tell_lack(j, "chat template", &why);
  for (int tools = 0; tools < 2; tools++)
    if (texts[tools] && !(tools && texts[0] && strcmp(texts[0], texts[1]) == 0))
      cs_gguf_write_string(writer, keys[tools], texts[tools]);
  free(texts[0]);
  free(texts[1]);
}

/* What a folder keeps beside its weights. */
static cs_status write_tokenizer(job *j, cs_gguf_writer *writer) {
  cs_error why = CS_ERROR_INIT;
  const cs_gguf_tensor *rows = cs_gguf_find_tensor(j->source, "token_embd.weight");
  cs_status status = cs_tokenizer_write_gguf(j->from, rows ? rows->dims[0] : 0, writer, &why);
  if (status == CS_OUT_OF_MEMORY) return cs_error_set(j->error, status, "%s", why.message);
  if (status != CS_OK) {
    tell_lack(j, "tokenizer", &why);
    cs_gguf_write_string(writer, "tokenizer.ggml.model", "none");
  }
  write_chat_template(j, writer);
  return CS_OK;
}

static cs_status write_head(job *j) {
  cs_gguf_writer *writer = cs_gguf_writer_create();
  void *head;
  size_t bytes;
  if (!writer) return cs_error_set(j->error, CS_OUT_OF_MEMORY, "out of memory");
  cs_gguf_write_metadata_of(writer, j->source, skip_key, j);
  cs_gguf_write_u32(writer, "general.quantization_version", 2);
  cs_gguf_write_u32(writer, "general.file_type", j->type->file_type);
  cs_status status = CS_OK;
  if (cs_file_is_folder(j->from))
    status = write_tokenizer(j, writer);
  else if (!cs_gguf_has(j->source, "tokenizer.ggml.model"))
    cs_gguf_write_string(writer, "tokenizer.ggml.model", "none");
  for (size_t i = 0; i < j->n_outputs; i++) {
    const output *out = &j->outputs[i];
    cs_gguf_write_tensor(writer, out->from.name, cs_gguf_type_of(out->dtype), out->from.rank,
                         out->from.dims, out->bytes);
  }
  if (status == CS_OK) status = cs_gguf_writer_finish(writer, &head, &bytes, j->error);
  cs_gguf_writer_destroy(writer);
  if (status != CS_OK) return status;
  status = write_bytes(j, head, bytes);
  free(head);
  return status;
}

/* ---- tensors ----------------------------------------------------------------------------- */

typedef struct batch {
  const output *out;
  uint64_t first; /* row */
  uint64_t n_rows;
  float *values;
  float *decoded; /* one row, as it will be read back */
  uint8_t *encoded;
  double error; /* sums over the batch */
  double power;
} batch;

/* The source's row that becomes row `index`. */
static const uint8_t *source_row(const output *out, uint64_t index) {
  const cs_gguf_tensor *t = &out->from;
  if (out->head_width) {
    const uint64_t in_head = index % out->head_width;
    index = index - in_head + in_head % 2 * (out->head_width / 2) + in_head / 2;
  }
  const uint64_t row_bytes = t->bytes / out->n_rows;
  if (!t->parts) return (const uint8_t *)t->data + index * row_bytes;
  const uint64_t rows_a_part = out->n_rows / t->dims[0];
  return (const uint8_t *)t->parts[index / rows_a_part] + index % rows_a_part * row_bytes;
}

static void *run_batch(void *argument) {
  batch *b = argument;
  const output *out = b->out;
  b->error = b->power = 0;
  for (uint64_t i = 0; i < b->n_rows; i++) {
    uint8_t *to = b->encoded + i * out->row_bytes;
    cs_blocks_decode(out->from.dtype, source_row(out, b->first + i), (size_t)out->row, b->values);
    cs_blocks_encode(out->dtype, b->values, (size_t)out->row, to);
    cs_blocks_decode(out->dtype, to, (size_t)out->row, b->decoded);
    for (uint64_t k = 0; k < out->row; k++) {
      const double x = b->values[k], off = (double)b->decoded[k] - x;
      b->error += off * off;
      b->power += x * x;
    }
  }
  return NULL;
}

static void run_batches(batch *batches, uint32_t n) {
  pthread_t threads[MAX_THREADS];
  bool started[MAX_THREADS] = {false};
  for (uint32_t i = 1; i < n; i++)
    started[i] = pthread_create(&threads[i], NULL, run_batch, &batches[i]) == 0;
  run_batch(&batches[0]);
  for (uint32_t i = 1; i < n; i++) {
    if (started[i])
      pthread_join(threads[i], NULL);
    else
      run_batch(&batches[i]);
  }
}

static cs_status write_rows(job *j, const output *out, batch *batches, uint32_t n_threads,
                            uint64_t rows_a_batch, double sums[2]) {
  for (uint64_t row = 0; row < out->n_rows;) {
    uint32_t n = 0;
    for (; n < n_threads && row < out->n_rows; n++) {
      const uint64_t left = out->n_rows - row;
      batches[n].out = out;
      batches[n].first = row;
      batches[n].n_rows = left < rows_a_batch ? left : rows_a_batch;
      row += batches[n].n_rows;
    }
    run_batches(batches, n);
    for (uint32_t i = 0; i < n; i++) {
      sums[0] += batches[i].error;
      sums[1] += batches[i].power;
      const cs_status status =
          write_bytes(j, batches[i].encoded, (size_t)(batches[i].n_rows * out->row_bytes));
      if (status != CS_OK) return status;
    }
  }
  static const uint8_t zeros[CS_GGUF_ALIGNMENT];
  return write_bytes(j, zeros, (size_t)(-out->bytes % CS_GGUF_ALIGNMENT));
}

static cs_status write_tensor(job *j, const output *out, double sums[2]) {
  batch batches[MAX_THREADS] = {0};
  const uint32_t wanted = j->options->n_threads ? j->options->n_threads : 1;
  const uint32_t n_threads = wanted < MAX_THREADS ? wanted : MAX_THREADS;
  const uint64_t rows_a_batch = out->row < BATCH_ELEMENTS ? BATCH_ELEMENTS / out->row : 1;
  const uint64_t capacity = rows_a_batch < out->n_rows ? rows_a_batch : out->n_rows;
  cs_status status = CS_OK;
  for (uint32_t i = 0; i < n_threads; i++) {
    batches[i].values = malloc((size_t)out->row * sizeof(float));
    batches[i].decoded = malloc((size_t)out->row * sizeof(float));
    batches[i].encoded = malloc((size_t)(capacity * out->row_bytes));
    if (!batches[i].values || !batches[i].decoded || !batches[i].encoded)
      status = cs_error_set(j->error, CS_OUT_OF_MEMORY, "out of memory");
  }
  if (status == CS_OK) status = write_rows(j, out, batches, n_threads, rows_a_batch, sums);
  for (uint32_t i = 0; i < n_threads; i++) {
    free(batches[i].values);
    free(batches[i].decoded);
    free(batches[i].encoded);
  }
  return status;
}

static cs_status write_tensors(job *j) {
  uint64_t total = 0, done = 0;
  for (size_t i = 0; i < j->n_outputs; i++)
    total += j->outputs[i].from.bytes;
  for (size_t i = 0; i < j->n_outputs; i++) {
    const output *out = &j->outputs[i];
    char name[128];
    double sums[2] = {0, 0};
    const cs_status status = write_tensor(j, out, sums);
    if (status != CS_OK) return status;
    cs_gguf_copy_string(name, sizeof name, out->from.name);
    if (!isfinite(sums[0]) || !isfinite(sums[1]))
      return cs_gguf_fail(j->source, j->error, CS_CORRUPT, "tensor \"%s\" holds NaN or infinity",
                          name);
    done += out->from.bytes;
    const cs_quantized_tensor report = {.name = name,
                                        .from = cs_dtype_find(out->from.dtype)->name,
                                        .to = cs_dtype_find(out->dtype)->name,
                                        .n_elements = out->n_rows * out->row,
                                        .bytes = out->bytes,
                                        .nmse = sums[1] > 0 ? sums[0] / sums[1] : 0,
                                        .rmse = sqrt(sums[0] / (double)(out->n_rows * out->row)),
                                        .done_bytes = done,
                                        .total_bytes = total};
    if (j->options->progress && j->options->progress(j->options->user, &report) != 0)
      return cs_error_set(j->error, CS_CANCELLED, "%s: ended on request", j->file.temporary);
  }
  return CS_OK;
}

/* ---- file -------------------------------------------------------------------------------- */

static cs_status write_file(job *j, const char *to) {
  cs_status status = cs_new_file_create(to, &j->file, j->error);
  if (status == CS_OK) status = write_head(j);
  if (status == CS_OK) status = write_tensors(j);
  if (status == CS_OK) return cs_new_file_finish(&j->file, j->error);
  cs_new_file_abandon(&j->file);
  return status;
}

static bool is_same_file(const char *a, const char *b) {
  struct stat x, y;
  return stat(a, &x) == 0 && stat(b, &y) == 0 && x.st_dev == y.st_dev && x.st_ino == y.st_ino;
}

cs_status cs_quantize(const char *from, const char *to, const cs_quantize_options *options,
                      cs_error *error) {
  job j = {.options = options, .from = from, .error = error};
  j.type = cs_quantize_type_find(options->type);
  if (!j.type)
    return cs_error_set(error, CS_UNSUPPORTED,
                        "type \"%.32s\" is not known (Q8_0, Q4_0, Q4_K_M and Q6_K are)",
                        options->type);
  if (is_same_file(from, to) || cs_file_is_folder(to))
    return cs_error_set(error, CS_INVALID_ARGUMENT, "%s: %s", to,
                        cs_file_is_folder(to) ? "is a folder" : "is the source itself");
  cs_status status = cs_file_is_folder(from) ? cs_huggingface_open(from, &j.source, error)
                                             : cs_gguf_open(from, &j.source, error);
  if (status == CS_OK) status = plan(&j);
  if (status == CS_OK) status = write_file(&j, to);
  free(j.outputs);
  free(j.rope_factors);
  cs_gguf_close(j.source);
  return status;
}
