/* consort info: metadata only, so it is quick for a file of any size. */
#include <inttypes.h>
#include <stdio.h>

#include "cli/command.h"
#include "cli/options.h"
#include "cli/report.h"
#include "cli/setup.h"

#define FIRST_CONTEXT 512

/* 512, 2048, 8192 ... and last the model's own; 0 when there are no more. */
static uint32_t next_context(uint32_t context, uint32_t n_context) {
  if (context == n_context) return 0;
  if (context == 0) return n_context < FIRST_CONTEXT ? n_context : FIRST_CONTEXT;
  return context > n_context / 4 ? n_context : context * 4;
}

static json_t *memory_json(const consort_model_info *info) {
  json_t *list = json_array();
  for (uint32_t n = next_context(0, info->n_context); n; n = next_context(n, info->n_context)) {
    const uint64_t kv_bytes = info->kv_bytes_per_token_f16 * n;
    json_array_append_new(
        list, json_pack("{si sI sI sI sI}", "n_context", (int)n, "kv_bytes", (json_int_t)kv_bytes,
                        "total_bytes", (json_int_t)(kv_bytes + info->weight_bytes), "kv_bytes_int8",
                        (json_int_t)(info->kv_bytes_per_token_int8 * n), "kv_bytes_fp8",
                        (json_int_t)(info->kv_bytes_per_token_fp8 * n)));
  }
  return list;
}

static json_t *tensors_json(const consort_model *model) {
  json_t *list = json_array();
  for (size_t i = 0; i < consort_model_n_tensors(model); i++) {
    consort_tensor_info tensor = {.struct_size = sizeof tensor};
    if (consort_model_tensor(model, i, &tensor, NULL) != CS_OK) continue;
    json_t *shape = json_array();
    for (uint32_t d = 0; d < tensor.rank; d++)
      json_array_append_new(shape, json_integer((json_int_t)tensor.dims[d]));
    json_array_append_new(list, json_pack("{so so so sI}", "name", cli_json_string(tensor.name),
                                          "dtype", cli_json_string(tensor.dtype), "shape", shape,
                                          "bytes", (json_int_t)tensor.bytes));
  }
  return list;
}

static json_t *tokenizer_json(const consort_model_info *info) {
  if (!info->tokenizer[0]) return json_null();
  return json_pack("{so si si si}", "model", cli_json_string(info->tokenizer), "n_vocab",
                   (int)info->n_vocab, "bos", (int)info->bos, "eos", (int)info->eos);
}

static int print_json(const consort_model *model, const consort_model_info *info) {
  char fingerprint[17];
  snprintf(fingerprint, sizeof fingerprint, "%016" PRIx64, info->fingerprint);
  return cli_print_json(json_pack(
      "{so so so so sI sI sI si si si si si si si si sb ss sI so so so}", "path",
      cli_json_string(info->path), "architecture", cli_json_string(info->architecture), "name",
      cli_json_string(info->name), "format", cli_json_string(info->format), "n_parameters",
      (json_int_t)info->n_parameters, "file_bytes", (json_int_t)info->file_bytes, "weight_bytes",
      (json_int_t)info->weight_bytes, "n_layers", (int)info->n_layers, "n_embd", (int)info->n_embd,
      "n_heads", (int)info->n_heads, "n_kv_heads", (int)info->n_kv_heads, "head_dim",
      (int)info->head_dim, "n_ff", (int)info->n_ff, "n_vocab", (int)info->n_vocab, "n_context",
      (int)info->n_context, "tied_embeddings", (int)info->tied_embeddings, "fingerprint",
      fingerprint, "kv_bytes_per_token", (json_int_t)info->kv_bytes_per_token_f16, "tokenizer",
      tokenizer_json(info), "memory", memory_json(info), "tensors", tensors_json(model)));
}

static void print_tensors(const consort_model *model) {
  printf("\ntensors\n");
  for (size_t i = 0; i < consort_model_n_tensors(model); i++) {
    consort_tensor_info tensor = {.struct_size = sizeof tensor};
    if (consort_model_tensor(model, i, &tensor, NULL) != CS_OK) continue;
    char bytes[CLI_BYTES_TEXT];
    printf("  %-32s %-6s %10s  (", tensor.name, tensor.dtype,
           cli_format_bytes(tensor.bytes, bytes));
    for (uint32_t d = 0; d < tensor.rank; d++)
      printf("%s%" PRIu64, d ? ", " : "", tensor.dims[d]);
    printf(")\n");
  }
}

static int print_text(const consort_model *model, const consort_model_info *info) {
  char bytes[CLI_BYTES_TEXT], more[CLI_BYTES_TEXT], int8[CLI_BYTES_TEXT], fp8[CLI_BYTES_TEXT];
  printf("%s\n", info->path);
  if (info->name[0]) printf("  name           %s\n", info->name);
  printf("  architecture   %s, %u layers, %u wide, %u heads of %u, %u KV heads, FFN %u\n",
         info->architecture, info->n_layers, info->n_embd, info->n_heads, info->head_dim,
         info->n_kv_heads, info->n_ff);
  printf("  parameters     %.4g M, mostly %s%s\n", (double)info->n_parameters / 1e6, info->format,
         info->tied_embeddings ? ", tied embeddings" : "");
  printf("  weights        %s (file %s)\n", cli_format_bytes(info->weight_bytes, bytes),
         cli_format_bytes(info->file_bytes, more));
  if (info->tokenizer[0])
    printf("  tokenizer      %s, %u tokens, BOS %d, EOS %d\n", info->tokenizer, info->n_vocab,
           info->bos, info->eos);
  else
    printf("  tokenizer      none; vocabulary of %u\n", info->n_vocab);
  printf("  context        %u tokens\n\n", info->n_context);
  printf("memory by context length\n  %10s %12s %12s %12s %12s\n", "tokens", "KV in f16",
         "with weights", "KV in int8", "KV in fp8");
  for (uint32_t n = next_context(0, info->n_context); n; n = next_context(n, info->n_context)) {
    const uint64_t kv_bytes = info->kv_bytes_per_token_f16 * n;
    printf("  %10u %12s %12s %12s %12s\n", n, cli_format_bytes(kv_bytes, bytes),
           cli_format_bytes(kv_bytes + info->weight_bytes, more),
           cli_format_bytes(info->kv_bytes_per_token_int8 * n, int8),
           cli_format_bytes(info->kv_bytes_per_token_fp8 * n, fp8));
  }
  print_tensors(model);
  return cli_finish_output();
}

static int show(consort_runtime *runtime, const char *path, bool json) {
  cs_error error = CS_ERROR_INIT;
  consort_model *model;
  if (consort_model_open(runtime, path, &model, &error) != CS_OK)
    return cli_library_error(path, &error);
  consort_model_info info = {.struct_size = sizeof info};
  int status;
  if (consort_model_get_info(model, &info, &error) != CS_OK)
    status = cli_library_error(path, &error);
  else
    status = json ? print_json(model, &info) : print_text(model, &info);
  consort_model_close(model);
  return status;
}

int cli_info(int argc, char **argv) {
  const char *path;
  bool json = false;
  const cli_option options[] = {
      {.name = "json", .kind = CLI_OPTION_FLAG, .value = &json, .help = "print one JSON object"}};
  const cli_operand operands[] = {{.name = "MODEL", .value = &path}};
  const cli_syntax syntax = {
      .command = "info",
      .usage = "MODEL [--json]",
      .summary = "Shows architecture, tensors, tokenizer, and memory by context length.",
      .options = options,
      .n_options = sizeof options / sizeof options[0],
      .operands = operands,
      .n_operands = sizeof operands / sizeof operands[0],
  };
  int status;
  if (!cli_options_parse(&syntax, argc, argv, &status)) return status;
  consort_runtime *runtime;
  if ((status = cli_runtime_create(&runtime)) != CLI_DONE) return status;
  status = show(runtime, path, json);
  consort_runtime_destroy(runtime);
  return status;
}
