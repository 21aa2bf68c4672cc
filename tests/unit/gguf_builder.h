/* Builds small GGUF files in memory, whole or wrong on purpose, and a whole tiny llama model. */
#ifndef TESTS_GGUF_BUILDER_H
#define TESTS_GGUF_BUILDER_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef struct bytes {
  uint8_t *data;
  size_t n;
  size_t capacity;
} bytes;

typedef struct gguf_builder {
  uint32_t version;
  uint64_t n_keys;
  uint64_t n_tensors;
  uint64_t alignment;
  bytes keys;
  bytes tensors;
  bytes weights;
} gguf_builder;

enum { F32_TYPE = 0, F16_TYPE = 1, Q8_0_TYPE = 8, BF16_TYPE = 30 };

static inline void put(bytes *b, const void *from, size_t n) {
  if (b->n + n > b->capacity) {
    b->capacity = 2 * (b->n + n);
    b->data = realloc(b->data, b->capacity);
    if (!b->data) abort();
  }
  if (n) memcpy(b->data + b->n, from, n);
  b->n += n;
}

static inline void put_u32(bytes *b, uint32_t value) {
  put(b, &value, sizeof value);
}

static inline void put_u64(bytes *b, uint64_t value) {
  put(b, &value, sizeof value);
}

static inline void put_text(bytes *b, const char *text) {
  put_u64(b, strlen(text));
  put(b, text, strlen(text));
}

static inline void add_key(gguf_builder *g, const char *key, uint32_t kind, const void *value,
                           size_t n) {
  g->n_keys++;
  put_text(&g->keys, key);
  put_u32(&g->keys, kind);
  put(&g->keys, value, n);
}

static inline void add_u32(gguf_builder *g, const char *key, uint32_t value) {
  add_key(g, key, 4, &value, sizeof value);
}

static inline void add_f32(gguf_builder *g, const char *key, float value) {
  add_key(g, key, 6, &value, sizeof value);
}

static inline void add_bool(gguf_builder *g, const char *key, uint8_t value) {
  add_key(g, key, 7, &value, 1);
}

static inline void add_text(gguf_builder *g, const char *key, const char *value) {
  add_key(g, key, 8, NULL, 0);
  put_text(&g->keys, value);
}

/* The elements are the caller's to put into g->keys. */
static inline void add_array(gguf_builder *g, const char *key, uint32_t kind, uint64_t n) {
  add_key(g, key, 9, NULL, 0);
  put_u32(&g->keys, kind);
  put_u64(&g->keys, n);
}

/* A tensor's description alone; dims in the file's order, innermost first. */
static inline void describe_tensor(gguf_builder *g, const char *name, uint32_t type, uint32_t rank,
                                   const uint64_t *dims, uint64_t offset) {
  g->n_tensors++;
  put_text(&g->tensors, name);
  put_u32(&g->tensors, rank);
  for (uint32_t i = 0; i < rank; i++)
    put_u64(&g->tensors, dims[i]);
  put_u32(&g->tensors, type);
  put_u64(&g->tensors, offset);
}

static inline void pad(bytes *b, uint64_t alignment) {
  const uint8_t zero = 0;
  while (b->n % alignment)
    put(b, &zero, 1);
}

static inline uint64_t builder_alignment(const gguf_builder *g) {
  return g->alignment ? g->alignment : 32;
}

static inline void add_tensor(gguf_builder *g, const char *name, uint32_t type, uint32_t rank,
                              const uint64_t *dims, const void *data, size_t n) {
  pad(&g->weights, builder_alignment(g));
  describe_tensor(g, name, type, rank, dims, g->weights.n);
  put(&g->weights, data, n);
}

/* The whole file, to be freed by the caller; the builder is emptied. */
static inline bytes finish_gguf(gguf_builder *g) {
  bytes file = {0};
  put(&file, "GGUF", 4);
  put_u32(&file, g->version ? g->version : 3);
  put_u64(&file, g->n_tensors);
  put_u64(&file, g->n_keys);
  put(&file, g->keys.data, g->keys.n);
  put(&file, g->tensors.data, g->tensors.n);
  if (g->weights.n) pad(&file, builder_alignment(g));
  put(&file, g->weights.data, g->weights.n);
  free(g->keys.data);
  free(g->tensors.data);
  free(g->weights.data);
  memset(g, 0, sizeof *g);
  return file;
}

/* ---- a vocabulary ------------------------------------------------------------------------ */

/* Ids: 0 <unk>, 1 <s>, 2 </s>, 3 to 258 the bytes, then these. */
#define VOCAB_FIRST_PIECE 259
#define VOCAB_PIECES      13
#define VOCAB_SIZE        (VOCAB_FIRST_PIECE + VOCAB_PIECES)
#define SPACE             "\xe2\x96\x81"

typedef struct vocab_piece {
  const char *text;
  float score;
  int32_t type;
} vocab_piece;

static const vocab_piece vocab_pieces[VOCAB_PIECES] = {
    {SPACE, -10, 1},      {"a", -11, 1},    {"b", -12, 1},        {"c", -13, 1},
    {"ab", -1, 1},        {"bc", -1, 1},    {SPACE "a", -2, 1},   {"abc", -3, 1},
    {SPACE "abc", -4, 1}, {"<user>", 0, 4}, {"\xc3\xa9", -14, 1}, {"<|eot_id|>", 0, 3},
    {"aa", -1, 1},
};

static inline void add_vocabulary(gguf_builder *g) {
  char spelling[8];
  add_text(g, "tokenizer.ggml.model", "llama");
  add_array(g, "tokenizer.ggml.tokens", 8, VOCAB_SIZE);
  put_text(&g->keys, "<unk>");
  put_text(&g->keys, "<s>");
  put_text(&g->keys, "</s>");
  for (unsigned i = 0; i < 256; i++) {
    snprintf(spelling, sizeof spelling, "<0x%02X>", i);
    put_text(&g->keys, spelling);
  }
  for (unsigned i = 0; i < VOCAB_PIECES; i++)
    put_text(&g->keys, vocab_pieces[i].text);
  add_array(g, "tokenizer.ggml.scores", 6, VOCAB_SIZE);
  for (unsigned i = 0; i < VOCAB_SIZE; i++) {
    const float score = i < VOCAB_FIRST_PIECE ? 0 : vocab_pieces[i - VOCAB_FIRST_PIECE].score;
    put(&g->keys, &score, sizeof score);
  }
  add_array(g, "tokenizer.ggml.token_type", 5, VOCAB_SIZE);
  for (unsigned i = 0; i < VOCAB_SIZE; i++) {
    const int32_t type = i == 0                  ? 2
                         : i < 3                 ? 3
                         : i < VOCAB_FIRST_PIECE ? 6
                                                 : vocab_pieces[i - VOCAB_FIRST_PIECE].type;
    put(&g->keys, &type, sizeof type);
  }
}

/* ---- a tiny llama ------------------------------------------------------------------------ */

enum {
  TINY_LAYERS = 2,
  TINY_EMBD = 32,
  TINY_HEADS = 4,
  TINY_KV_HEADS = 2,
  TINY_HEAD = 8,
  TINY_FF = 64
};

/* What to do differently; zero means a plain float32 model. */
typedef struct tiny_options {
  const char *skip;         /* name of a tensor to leave out */
  const char *skip_key;     /* key to leave out */
  const char *misshape;     /* name of a tensor that gets one row too many */
  const char *retype;       /* name of a tensor that gets... */
  uint32_t retype_to;       /* ...this GGUF type (its bytes stay zero) */
  uint32_t vector_type;     /* GGUF type of norms and biases */
  int tied;                 /* no output.weight */
  int biases;               /* with attention biases */
  const char *name;         /* general.name */
  const char *architecture; /* general.architecture */
  float first_weight;       /* the first element of token_embd.weight */
} tiny_options;

static inline void add_matrix(gguf_builder *g, const tiny_options *o, const char *name,
                              uint64_t n_out, uint64_t n_in) {
  if (o->skip && strcmp(o->skip, name) == 0) return;
  if (o->misshape && strcmp(o->misshape, name) == 0) n_out++;
  const uint64_t dims[] = {n_in, n_out};
  const uint32_t type = o->retype && strcmp(o->retype, name) == 0 ? o->retype_to : F32_TYPE;
  float *weights = calloc(n_in * n_out, sizeof *weights);
  if (!weights) abort();
  if (strcmp(name, "token_embd.weight") == 0) weights[n_in * n_out / 2] = o->first_weight;
  add_tensor(g, name, type, 2, dims, weights, n_in * n_out * sizeof *weights);
  free(weights);
}

/* Elements are 1.5, which float32, float16 and bfloat16 hold exactly. */
static inline void add_vector(gguf_builder *g, const tiny_options *o, const char *name,
                              uint64_t n) {
  if (o->skip && strcmp(o->skip, name) == 0) return;
  if (o->misshape && strcmp(o->misshape, name) == 0) n++;
  const int retyped = o->retype && strcmp(o->retype, name) == 0;
  const uint32_t type = retyped ? o->retype_to : o->vector_type;
  uint32_t elements[256];
  uint16_t halves[256];
  const float value = 1.5f;
  for (uint64_t i = 0; i < n; i++) {
    memcpy(&elements[i], &value, sizeof value);
    halves[i] = type == F16_TYPE ? 0x3e00 : 0x3fc0;
  }
  if (type == F16_TYPE || type == BF16_TYPE)
    add_tensor(g, name, type, 1, &n, halves, n * sizeof halves[0]);
  else
    add_tensor(g, name, type, 1, &n, elements, n * sizeof elements[0]);
}

static inline void add_tiny_layer(gguf_builder *g, const tiny_options *o, int layer) {
  const struct {
    const char *name;
    uint64_t n_out;
    uint64_t n_in; /* 0: a vector */
    int is_bias;
  } weights[] = {
      {"attn_norm.weight", TINY_EMBD, 0, 0},
      {"attn_q.weight", TINY_HEADS * TINY_HEAD, TINY_EMBD, 0},
      {"attn_q.bias", TINY_HEADS * TINY_HEAD, 0, 1},
      {"attn_k.weight", TINY_KV_HEADS * TINY_HEAD, TINY_EMBD, 0},
      {"attn_k.bias", TINY_KV_HEADS * TINY_HEAD, 0, 1},
      {"attn_v.weight", TINY_KV_HEADS * TINY_HEAD, TINY_EMBD, 0},
      {"attn_v.bias", TINY_KV_HEADS * TINY_HEAD, 0, 1},
      {"attn_output.weight", TINY_EMBD, TINY_HEADS * TINY_HEAD, 0},
      {"ffn_norm.weight", TINY_EMBD, 0, 0},
      {"ffn_gate.weight", TINY_FF, TINY_EMBD, 0},
      {"ffn_up.weight", TINY_FF, TINY_EMBD, 0},
      {"ffn_down.weight", TINY_EMBD, TINY_FF, 0},
  };
  for (size_t i = 0; i < sizeof weights / sizeof weights[0]; i++) {
    char name[64];
    if (weights[i].is_bias && !o->biases) continue;
    snprintf(name, sizeof name, "blk.%d.%s", layer, weights[i].name);
    if (weights[i].n_in)
      add_matrix(g, o, name, weights[i].n_out, weights[i].n_in);
    else
      add_vector(g, o, name, weights[i].n_out);
  }
}

static inline void add_tiny_config(gguf_builder *g, const tiny_options *o) {
  const struct {
    const char *key;
    uint32_t value;
  } sizes[] = {
      {"llama.block_count", TINY_LAYERS},         {"llama.embedding_length", TINY_EMBD},
      {"llama.feed_forward_length", TINY_FF},     {"llama.context_length", 128},
      {"llama.attention.head_count", TINY_HEADS}, {"llama.attention.head_count_kv", TINY_KV_HEADS},
  };
  add_text(g, "general.architecture", o->architecture ? o->architecture : "llama");
  add_text(g, "general.name", o->name ? o->name : "tiny");
  for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++)
    if (!o->skip_key || strcmp(o->skip_key, sizes[i].key) != 0)
      add_u32(g, sizes[i].key, sizes[i].value);
  const char *epsilon = "llama.attention.layer_norm_rms_epsilon";
  if (!o->skip_key || strcmp(o->skip_key, epsilon) != 0) add_f32(g, epsilon, 1e-5f);
}

static inline void add_tiny(gguf_builder *g, const tiny_options *o) {
  add_tiny_config(g, o);
  add_vocabulary(g);
  add_matrix(g, o, "token_embd.weight", VOCAB_SIZE, TINY_EMBD);
  add_vector(g, o, "output_norm.weight", TINY_EMBD);
  if (!o->tied) add_matrix(g, o, "output.weight", VOCAB_SIZE, TINY_EMBD);
  for (int layer = 0; layer < TINY_LAYERS; layer++)
    add_tiny_layer(g, o, layer);
}

/* Writes to a new file whose name is left in path (at least 64 bytes). */
static inline void write_file(const bytes *file, char *path) {
  const char *folder = getenv("TMPDIR");
  snprintf(path, 64, "%.40s/consort-XXXXXX", folder ? folder : "/tmp");
  const int handle = mkstemp(path);
  if (handle < 0) abort();
  for (size_t at = 0; at < file->n;) {
    const ssize_t n = write(handle, file->data + at, file->n - at);
    if (n <= 0) abort();
    at += (size_t)n;
  }
  close(handle);
}

static inline void write_gguf(gguf_builder *g, char *path) {
  const bytes file = finish_gguf(g);
  write_file(&file, path);
  free(file.data);
}

#endif
