/* Nothing is converted: tensors keep their bytes where they are mapped and get GGUF's names. Rows
 * of query and key are in another order than converters leave them, which is told to RoPE instead
 * of being undone; the experts of a layer, scattered over the files, stay in pieces that the loader
 * joins when it packs them. */
#include "models/huggingface.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/error.h"
#include "models/gguf_internal.h"
#include "models/huggingface_internal.h"
#include "models/json.h"
#include "models/safetensors.h"

#define MAX_CONFIG_BYTES ((size_t)16 << 20)
#define MAX_INDEX_BYTES  ((size_t)64 << 20)
#define MAX_FILES        4096
#define NAME_BYTES       48
#define N_EXPERT_ROLES   3

/* What the object made from a folder keeps. */
typedef struct source {
  cs_safetensors **files;
  size_t n_files;
  void *metadata;            /* the GGUF head that stands for config.json */
  char (*names)[NAME_BYTES]; /* of the tensors */
  const void **parts;        /* (n_layers, N_EXPERT_ROLES, n_experts) */
} source;

static void destroy_source(void *pointer) {
  source *s = pointer;
  for (size_t i = 0; i < s->n_files; i++)
    cs_safetensors_close(s->files[i]);
  free(s->files);
  free(s->metadata);
  free(s->names);
  free((void *)s->parts);
  free(s);
}

/* ---- files ---- */

static cs_status open_file(source *s, const char *folder, const char *name, cs_error *error) {
  if (strchr(name, '/') || name[0] == '.')
    return cs_error_set(error, CS_CORRUPT, "%s: the index names a file outside the folder", folder);
  char *path = cs_path_join(folder, name);
  if (!path) return cs_error_set(error, CS_OUT_OF_MEMORY, "out of memory");
  const cs_status status = cs_safetensors_open(path, &s->files[s->n_files], error);
  free(path);
  if (status == CS_OK) s->n_files++;
  return status;
}

/* Each file that the index names, once: members of `names` are the files. */
static cs_status open_files(source *s, const char *folder, const json_t *names, cs_error *error) {
  const size_t n = json_object_size(names);
  if (n == 0 || n > MAX_FILES)
    return cs_error_set(error, CS_CORRUPT, "%s: an index of %zu files", folder, n);
  s->files = calloc(n, sizeof(cs_safetensors *));
  if (!s->files) return cs_error_set(error, CS_OUT_OF_MEMORY, "out of memory");
  const char *name;
  json_t *unused;
  json_object_foreach((json_t *)names, name, unused) {
    const cs_status status = open_file(s, folder, name, error);
    if (status != CS_OK) return status;
  }
  return CS_OK;
}

static cs_status collect_names(const char *label, const json_t *index, json_t *names,
                               cs_error *error) {
  const json_t *map = json_object_get(index, "weight_map");
  const char *tensor;
  json_t *file;
  if (!json_is_object(map))
    return cs_error_set(error, CS_CORRUPT, "%s: \"weight_map\" is missing", label);
  json_object_foreach((json_t *)map, tensor, file) {
    if (!json_is_string(file))
      return cs_error_set(error, CS_CORRUPT, "%s: \"weight_map\" names no file for a tensor",
                          label);
    if (json_object_set_new(names, json_string_value(file), json_true()) != 0)
      return cs_error_set(error, CS_OUT_OF_MEMORY, "out of memory");
  }
  return CS_OK;
}

/* The index is optional: a small model is one file. */
static cs_status find_files(const char *folder, json_t *names, cs_error *error) {
  char *path = cs_path_join(folder, "model.safetensors.index.json");
  if (!path) return cs_error_set(error, CS_OUT_OF_MEMORY, "out of memory");
  json_t *index;
  cs_status status = cs_json_load(path, MAX_INDEX_BYTES, &index, error);
  if (status == CS_OK) {
    char label[CS_FILE_LABEL_BYTES];
    cs_file_label(path, label);
    status = collect_names(label, index, names, error);
    json_decref(index);
  } else if (status == CS_NOT_FOUND) {
    const bool added = json_object_set_new(names, "model.safetensors", json_true()) == 0;
    status = added ? CS_OK : cs_error_set(error, CS_OUT_OF_MEMORY, "out of memory");
  }
  free(path);
  return status;
}

static cs_status open_all_files(source *s, const char *folder, cs_error *error) {
  json_t *names = json_object();
  if (!names) return cs_error_set(error, CS_OUT_OF_MEMORY, "out of memory");
  cs_status status = find_files(folder, names, error);
  if (status == CS_OK) status = open_files(s, folder, names, error);
  json_decref(names);
  return status;
}

/* ---- names ---- */

typedef struct renamed {
  const char *from;
  const char *to;
} renamed;

static const renamed outer_names[] = {{"embed_tokens.weight", "token_embd.weight"},
                                      {"norm.weight", "output_norm.weight"},
                                      {"lm_head.weight", "output.weight"}};

static const renamed layer_names[] = {
    {"input_layernorm.weight", "attn_norm.weight"},
    {"self_attn.q_proj.weight", "attn_q.weight"},
    {"self_attn.q_proj.bias", "attn_q.bias"},
    {"self_attn.q_norm.weight", "attn_q_norm.weight"},
    {"self_attn.k_proj.weight", "attn_k.weight"},
    {"self_attn.k_proj.bias", "attn_k.bias"},
    {"self_attn.k_norm.weight", "attn_k_norm.weight"},
    {"self_attn.v_proj.weight", "attn_v.weight"},
    {"self_attn.v_proj.bias", "attn_v.bias"},
    {"self_attn.o_proj.weight", "attn_output.weight"},
    {"self_attn.o_proj.bias", "attn_output.bias"},
    {"post_attention_layernorm.weight", "ffn_norm.weight"},
    {"mlp.gate_proj.weight", "ffn_gate.weight"},
    {"mlp.up_proj.weight", "ffn_up.weight"},
    {"mlp.down_proj.weight", "ffn_down.weight"},
    {"mlp.gate.weight", "ffn_gate_inp.weight"},
    {"block_sparse_moe.gate.weight", "ffn_gate_inp.weight"},
    {"self_attn.rotary_emb.inv_freq", NULL}, /* old files keep what follows from config.json */
};

static const char *const expert_names[N_EXPERT_ROLES] = {
    "ffn_gate_exps.weight", "ffn_up_exps.weight", "ffn_down_exps.weight"};
static const char *const expert_places[] = {"mlp.experts.", "block_sparse_moe.experts."};
static const char *const expert_suffixes[N_EXPERT_ROLES][2] = {{"gate_proj.weight", "w1.weight"},
                                                               {"up_proj.weight", "w3.weight"},
                                                               {"down_proj.weight", "w2.weight"}};

static const renamed *find_renamed(const renamed *table, size_t n, const char *name) {
  for (size_t i = 0; i < n; i++)
    if (strcmp(table[i].from, name) == 0) return &table[i];
  return NULL;
}

/* "PREFIXnnn.": moves *name behind it. */
static bool take_number(const char **name, const char *prefix, uint64_t limit, uint64_t *number) {
  const size_t n = strlen(prefix);
  if (strncmp(*name, prefix, n) != 0) return false;
  const char *at = *name + n;
  if (*at < '0' || *at > '9') return false;
  for (*number = 0; *at >= '0' && *at <= '9'; at++) {
    *number = *number * 10 + (uint64_t)(*at - '0');
    if (*number >= limit) return false;
  }
  if (*at != '.') return false;
  *name = at + 1;
  return true;
}

/* What a tensor is. */
typedef struct place {
  const char *name; /* GGUF's, without its layer; NULL: not needed */
  uint64_t layer;   /* UINT64_MAX outside the layers */
  bool is_expert;
  uint64_t expert;
  uint32_t role; /* of expert_names */
} place;

static bool find_expert(const char *name, const cs_huggingface_shape *shape, place *found) {
  bool in_expert = false;
  for (size_t i = 0; !in_expert && i < sizeof expert_places / sizeof expert_places[0]; i++)
    in_expert = take_number(&name, expert_places[i], shape->n_experts, &found->expert);
  for (uint32_t role = 0; in_expert && role < N_EXPERT_ROLES; role++) {
    if (strcmp(name, expert_suffixes[role][0]) != 0 && strcmp(name, expert_suffixes[role][1]) != 0)
      continue;
    found->is_expert = true;
    found->role = role;
    found->name = expert_names[role];
    return true;
  }
  return false;
}

static bool find_place(const char *name, const cs_huggingface_shape *shape, place *found) {
  const renamed *entry;
  *found = (place){.layer = UINT64_MAX};
  if (strncmp(name, "model.", 6) == 0) name += 6;
  if (take_number(&name, "layers.", shape->n_layers, &found->layer)) {
    entry = find_renamed(layer_names, sizeof layer_names / sizeof layer_names[0], name);
    if (!entry) return find_expert(name, shape, found);
  } else {
    entry = find_renamed(outer_names, sizeof outer_names / sizeof outer_names[0], name);
    if (!entry) return false;
  }
  found->name = entry->to;
  if (shape->tied && found->name && strcmp(found->name, "output.weight") == 0) found->name = NULL;
  return true;
}

/* ---- tensors ---- */

static uint32_t file_type(uint32_t dtype) {
  if (dtype == CS_DTYPE_F32) return 0;
  if (dtype == CS_DTYPE_F16) return 1;
  return dtype == CS_DTYPE_BF16 ? 30 : UINT32_MAX;
}

typedef struct builder {
  const char *label;
  cs_gguf *gguf;
  source *source;
  cs_huggingface_shape shape;
  size_t *stacked; /* (n_layers, N_EXPERT_ROLES): index of the tensor plus 1, 0 for none */
  cs_error *error;
} builder;

static cs_gguf_tensor *add_tensor(builder *b, const place *at, const cs_safetensor *from,
                                  uint64_t n_stacked) {
  cs_gguf_tensor *t = &b->gguf->tensors[b->gguf->n_tensors];
  char *name = b->source->names[b->gguf->n_tensors++];
  if (at->layer == UINT64_MAX)
    snprintf(name, NAME_BYTES, "%s", at->name);
  else
    snprintf(name, NAME_BYTES, "blk.%" PRIu64 ".%s", at->layer, at->name);
  t->name = (cs_gguf_string){name, strlen(name)};
  t->dtype = from->dtype;
  t->file_type = file_type(from->dtype);
  t->rank = from->rank;
  memcpy(t->dims, from->dims, sizeof t->dims);
  t->data = from->dtype == CS_DTYPE_NONE ? NULL : from->data;
  t->bytes = from->bytes;
  if (n_stacked == 0) return t;
  memmove(t->dims + 1, from->dims, 2 * sizeof t->dims[0]);
  t->dims[0] = n_stacked;
  t->rank = 3;
  t->data = NULL;
  t->bytes = from->bytes * n_stacked;
  return t;
}

static cs_status fail_tensor(const builder *b, const char *name, const char *reason) {
  char shown[97];
  snprintf(shown, sizeof shown, "%s", name);
  cs_text_make_printable(shown);
  return cs_error_set(b->error, CS_CORRUPT, "%s: tensor \"%s\" %s", b->label, shown, reason);
}

/* Experts of one matrix must be alike, so that they can be packed as one. */
static cs_status add_expert(builder *b, const place *at, const cs_safetensor *from) {
  size_t *index = &b->stacked[at->layer * N_EXPERT_ROLES + at->role];
  const void **parts =
      b->source->parts + (at->layer * N_EXPERT_ROLES + at->role) * b->shape.n_experts;
  uint64_t bytes;
  if (from->rank != 2 || from->dtype == CS_DTYPE_NONE ||
      __builtin_mul_overflow(from->bytes, b->shape.n_experts, &bytes))
    return fail_tensor(b, from->name, "is no matrix in F32, F16 or BF16");
  if (*index == 0) {
    cs_gguf_tensor *t = add_tensor(b, at, from, b->shape.n_experts);
    t->parts = parts;
    *index = b->gguf->n_tensors;
  }
  cs_gguf_tensor *t = &b->gguf->tensors[*index - 1];
  if (t->dtype != from->dtype || t->dims[1] != from->dims[0] || t->dims[2] != from->dims[1])
    return fail_tensor(b, from->name, "differs in type or shape from the other experts");
  if (parts[at->expert]) return fail_tensor(b, from->name, "appears twice");
  parts[at->expert] = from->data;
  t->n_parts++;
  return CS_OK;
}

static cs_status add_tensors(builder *b) {
  for (size_t f = 0; f < b->source->n_files; f++) {
    const cs_safetensors *file = b->source->files[f];
    for (size_t i = 0; i < cs_safetensors_n_tensors(file); i++) {
      const cs_safetensor *from = cs_safetensors_at(file, i);
      place at;
      if (!find_place(from->name, &b->shape, &at))
        return fail_tensor(b, from->name, "is not part of this architecture");
      if (!at.name) continue;
      if (from->bytes == 0) return fail_tensor(b, from->name, "is empty");
      if (at.is_expert) {
        const cs_status status = add_expert(b, &at, from);
        if (status != CS_OK) return status;
      } else {
        add_tensor(b, &at, from, 0);
      }
    }
  }
  return CS_OK;
}

static cs_status check_experts(const builder *b) {
  for (size_t i = 0; i < b->gguf->n_tensors; i++) {
    const cs_gguf_tensor *t = &b->gguf->tensors[i];
    if (t->parts && t->n_parts != b->shape.n_experts)
      return cs_error_set(b->error, CS_CORRUPT,
                          "%s: \"%s\": %" PRIu64 " of %" PRIu64 " experts are there", b->label,
                          t->name.data, t->n_parts, b->shape.n_experts);
  }
  return CS_OK;
}

static cs_status build_tensors(builder *b) {
  size_t n = 0;
  uint64_t n_stacked, n_parts;
  for (size_t f = 0; f < b->source->n_files; f++) {
    n += cs_safetensors_n_tensors(b->source->files[f]);
    b->gguf->source_bytes += cs_safetensors_bytes(b->source->files[f]);
  }
  if (__builtin_mul_overflow(b->shape.n_layers, N_EXPERT_ROLES, &n_stacked) ||
      __builtin_mul_overflow(n_stacked, b->shape.n_experts, &n_parts) || n_stacked > 3 * n ||
      n_parts > n)
    return cs_error_set(b->error, CS_CORRUPT,
                        "%s: %zu tensors are too few for %" PRIu64 " layers of %" PRIu64 " experts",
                        b->label, n, b->shape.n_layers, b->shape.n_experts);
  free(b->gguf->tensors);
  free(b->gguf->by_name);
  b->gguf->tensors = calloc(n + 1, sizeof *b->gguf->tensors);
  b->gguf->by_name = calloc(n + 1, sizeof *b->gguf->by_name);
  b->source->names = calloc(n + 1, NAME_BYTES);
  b->source->parts = calloc((size_t)n_parts + 1, sizeof *b->source->parts);
  b->stacked = calloc((size_t)n_stacked + 1, sizeof *b->stacked);
  if (!b->gguf->tensors || !b->gguf->by_name || !b->source->names || !b->source->parts ||
      !b->stacked)
    return cs_error_set(b->error, CS_OUT_OF_MEMORY, "out of memory");
  cs_status status = add_tensors(b);
  if (status == CS_OK) status = check_experts(b);
  return status == CS_OK ? cs_gguf_sort_tensors(b->gguf, b->error) : status;
}

/* ---- opening ---- */

static const char *base_name(const char *folder, char name[96]) {
  size_t end = strlen(folder);
  while (end > 1 && folder[end - 1] == '/')
    end--;
  size_t begin = end;
  while (begin > 0 && folder[begin - 1] != '/')
    begin--;
  snprintf(name, 96, "%.*s", (int)(end - begin > 95 ? 95 : end - begin), folder + begin);
  return name;
}

/* The metadata as an open GGUF file in memory, which owns *s. */
static cs_status open_metadata(const char *folder, cs_gguf_writer *writer, source *s, cs_gguf **out,
                               cs_error *error) {
  char name[96];
  size_t bytes;
  cs_gguf_write_string(writer, "general.name", base_name(folder, name));
  cs_status status = cs_gguf_writer_finish(writer, &s->metadata, &bytes, error);
  if (status == CS_OK) status = cs_gguf_open_memory(folder, s->metadata, bytes, out, error);
  if (status != CS_OK) return status;
  (*out)->source = s;
  (*out)->source_destroy = destroy_source;
  (*out)->split_heads = true;
  return CS_OK;
}

static cs_status open_model(const char *folder, const json_t *config, const char *label,
                            cs_gguf_writer *writer, cs_gguf **out, cs_error *error) {
  builder b = {.label = label, .error = error};
  cs_status status = cs_huggingface_write_config(label, config, writer, &b.shape, error);
  if (status != CS_OK) return status;
  b.source = calloc(1, sizeof *b.source);
  if (!b.source) return cs_error_set(error, CS_OUT_OF_MEMORY, "out of memory");
  status = open_all_files(b.source, folder, error);
  if (status == CS_OK) status = open_metadata(folder, writer, b.source, &b.gguf, error);
  if (status != CS_OK) {
    destroy_source(b.source);
    return status;
  }
  b.label = b.gguf->label;
  status = build_tensors(&b);
  free(b.stacked);
  if (status != CS_OK) {
    cs_gguf_close(b.gguf);
    return status;
  }
  *out = b.gguf;
  return CS_OK;
}

static cs_status load_config(const char *folder, char label[CS_FILE_LABEL_BYTES], json_t **config,
                             cs_error *error) {
  char *path = cs_path_join(folder, "config.json");
  if (!path) return cs_error_set(error, CS_OUT_OF_MEMORY, "out of memory");
  cs_file_label(path, label);
  const cs_status status = cs_json_load(path, MAX_CONFIG_BYTES, config, error);
  free(path);
  return status;
}

cs_status cs_huggingface_open(const char *folder, cs_gguf **out, cs_error *error) {
  *out = NULL;
  char label[CS_FILE_LABEL_BYTES];
  json_t *config;
  cs_status status = load_config(folder, label, &config, error);
  if (status != CS_OK) return status;
  cs_gguf_writer *writer = cs_gguf_writer_create();
  status = writer ? open_model(folder, config, label, writer, out, error)
                  : cs_error_set(error, CS_OUT_OF_MEMORY, "out of memory");
  cs_gguf_writer_destroy(writer);
  json_decref(config);
  return status;
}

static cs_status open_vocabulary(const char *folder, const json_t *config, cs_gguf_writer *writer,
                                 cs_gguf **out, cs_error *error) {
  const char *type = json_string_value(json_object_get(config, "model_type"));
  const char *known = cs_huggingface_architecture(type);
  source *s = calloc(1, sizeof *s);
  if (!s) return cs_error_set(error, CS_OUT_OF_MEMORY, "out of memory");
  cs_gguf_write_string(writer, "general.architecture", known ? known : type ? type : "unknown");
  const cs_status status = open_metadata(folder, writer, s, out, error);
  if (status != CS_OK) destroy_source(s);
  return status;
}

cs_status cs_huggingface_open_vocabulary(const char *folder, cs_gguf **out, cs_error *error) {
  *out = NULL;
  char label[CS_FILE_LABEL_BYTES];
  json_t *config;
  cs_status status = load_config(folder, label, &config, error);
  if (status != CS_OK && status != CS_NOT_FOUND) return status;
  cs_gguf_writer *writer = cs_gguf_writer_create();
  status = writer ? open_vocabulary(folder, config, writer, out, error)
                  : cs_error_set(error, CS_OUT_OF_MEMORY, "out of memory");
  cs_gguf_writer_destroy(writer);
  json_decref(config);
  return status;
}
