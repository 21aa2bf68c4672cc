/* libconsort: run one language model with its prefill and its decode on devices of your choice.
 *
 *   consort_runtime *runtime;                      plugins and devices
 *   consort_model *model;                          what a file says; weights are loaded later
 *   consort_session *session;                      a model placed on devices, ready to generate
 *
 * Every function that can fail returns cs_status and fills `error` (may be NULL) with one line.
 * Option structs start with struct_size; zero-initialise, set struct_size and what you need, or
 * pass NULL for the defaults. Strings are UTF-8. Objects are used by one thread at a time unless
 * said otherwise; a runtime is free-threaded. Destroying NULL is fine. Destroy sessions before
 * their model and models before their runtime. */
#ifndef CONSORT_CONSORT_H
#define CONSORT_CONSORT_H

#include <stddef.h>
#include <stdint.h>

#include "consort/status.h"

#ifdef __cplusplus
extern "C" {
#endif

#define CONSORT_API __attribute__((visibility("default")))

typedef struct consort_runtime consort_runtime;
typedef struct consort_model consort_model;
typedef struct consort_plan consort_plan;
typedef struct consort_session consort_session;

/* "0.1.0", and the commit it was built from ("unknown" outside a checkout). Static. */
CONSORT_API const char *consort_version(void);
CONSORT_API const char *consort_commit(void);
CONSORT_API void consort_abi_range(uint32_t *lowest, uint32_t *highest);
/* "out of memory" for CS_OUT_OF_MEMORY. Static. */
CONSORT_API const char *consort_status_name(cs_status status);
/* Frees what this library allocated for the caller. */
CONSORT_API void consort_free(void *pointer);

/* ---- runtime and devices ---- */

typedef struct consort_runtime_options {
  uint32_t struct_size;
  uint32_t log_level; /* 0 error, 1 warn, 2 info, 3 debug */
  /* One line a call; NULL: standard error. From any thread, one at a time. */
  void (*log)(void *user, uint32_t level, const char *line);
  void *log_user;
  /* 1: start plugins without trying each in a child process first. The trial costs what its start
   * costs, and turns a driver that crashes into one line. */
  uint32_t skip_probe;
  uint32_t reserved;
} consort_runtime_options;

/* NULL options: warnings go to standard error. */
CONSORT_API cs_status consort_runtime_create(const consort_runtime_options *options,
                                             consort_runtime **out, cs_error *error);
CONSORT_API void consort_runtime_destroy(consort_runtime *runtime);

/* Outside a batch job every device is offered, in a Slurm job those that the job was given. */
#define CONSORT_OFFER_NO    0
#define CONSORT_OFFER_YES   1
#define CONSORT_OFFER_NAMED 2 /* it may be one of the job's: only when asked for by name */

typedef struct consort_device_info {
  uint32_t struct_size;
  uint32_t index;   /* within its plugin */
  const char *name; /* "cpu:0" */
  const char *type; /* "cpu", "gpu", "accelerator" */
  const char *description;
  const char *driver;
  const char *uuid; /* empty where there is none */
  const char *memory_domain;
  const char *compute_domain;
  const char *dtypes;    /* "f32 f16 bf16 q8_0 q4_0": what weights may be */
  const char *kv_dtypes; /* likewise for the KV cache */
  uint64_t memory_bytes;
  uint64_t memory_free_bytes; /* 0: unknown */
  uint32_t concurrency;
  uint32_t host_resident; /* 0 or 1 */
  uint32_t software;      /* 1: a simulation, not a chip's own driver */
  uint32_t offer;         /* CONSORT_OFFER_*: whether a worker in this process offers it */
  const char *offer_reason;
  uint64_t kv_blocks_used; /* of a worker in another process: by the requests of its sessions, */
  uint32_t n_sessions;     /* and how many sessions have the device */
  uint32_t reserved;
} consort_device_info;

typedef struct consort_plugin_info {
  uint32_t struct_size;
  uint32_t n_devices;
  const char *name;
  const char *version;
  const char *vendor;
  const char *manifest_path;
  const char *library_path;
  const char *failure; /* NULL when it started; else why it has no device, in one line */
  const consort_device_info *devices;
} consort_plugin_info;

/* Every plugin found, started or not. *plugins is one allocation that owns everything in it: free
 * with consort_free. */
CONSORT_API cs_status consort_runtime_plugins(consort_runtime *runtime,
                                              consort_plugin_info **plugins, size_t *n_plugins,
                                              cs_error *error);

/* ---- model ---- */

/* Opens a model file: metadata only. */
CONSORT_API cs_status consort_model_open(consort_runtime *runtime, const char *path,
                                         consort_model **out, cs_error *error);
/* Opens the tokenizer alone: any architecture, vocabulary-only files included. */
CONSORT_API cs_status consort_model_open_vocabulary(consort_runtime *runtime, const char *path,
                                                    consort_model **out, cs_error *error);
/* Seeded random weights in memory, for benchmarks: "llama-tiny", "llama-160m", "llama-1b",
 * "llama-8b"; matrices in `format` ("q8_0", "q4_0", "f32", "f16", "bf16"; "q4_k_m": Q4_K with some Q6_K). */
CONSORT_API cs_status consort_model_open_shape(consort_runtime *runtime, const char *shape,
                                               const char *format, uint64_t seed,
                                               consort_model **out, cs_error *error);
/* Writes a model of consort_model_open_shape as the GGUF file `path`, which appears complete or not
 * at all: the same weights for another program to be measured on, with a tokenizer that encodes any
 * text. progress is told after each weight; may be NULL. */
CONSORT_API cs_status consort_model_write(const consort_model *model, const char *path,
                                          void (*progress)(void *user, uint64_t bytes_done,
                                                           uint64_t bytes_total),
                                          void *progress_user, cs_error *error);
CONSORT_API void consort_model_close(consort_model *model);

typedef struct consort_model_info {
  uint32_t struct_size;
  uint32_t n_layers;
  const char *path; /* strings are borrowed from the model */
  const char *architecture;
  const char *name;
  const char *format;    /* of most matrix bytes */
  const char *tokenizer; /* "llama"; empty where there is none */
  uint32_t n_embd;
  uint32_t n_heads;
  uint32_t n_kv_heads;
  uint32_t head_dim;
  uint32_t n_ff;
  uint32_t n_vocab;
  uint32_t n_context;
  uint32_t tied_embeddings; /* 0 or 1 */
  uint64_t n_parameters;
  uint64_t file_bytes;
  uint64_t weight_bytes;
  uint64_t kv_bytes_per_token_f16;
  uint64_t fingerprint;
  int32_t bos; /* -1: none */
  int32_t eos;
  uint64_t kv_bytes_per_token_fp8;
  uint64_t kv_bytes_per_token_int8; /* scales included */
} consort_model_info;
CONSORT_API cs_status consort_model_get_info(const consort_model *model, consort_model_info *out,
                                             cs_error *error);

typedef struct consort_tensor_info {
  uint32_t struct_size;
  uint32_t rank;
  const char *name; /* borrowed from the model */
  const char *dtype;
  uint64_t dims[4]; /* outermost first */
  uint64_t bytes;
} consort_tensor_info;
CONSORT_API size_t consort_model_n_tensors(const consort_model *model);
CONSORT_API cs_status consort_model_tensor(const consort_model *model, size_t index,
                                           consort_tensor_info *out, cs_error *error);

/* special: 1 adds BOS and EOS as the file asks and reads special tokens in the text as such, 2 reads
 * them and adds none (for what consort_chat_render gives), 0 does neither.
 * *tokens is freed with consort_free. */
CONSORT_API cs_status consort_tokenize(const consort_model *model, const char *text,
                                       size_t text_bytes, uint32_t special, int32_t **tokens,
                                       size_t *n_tokens, cs_error *error);
/* The token's spelling in the vocabulary: borrowed; NULL outside it. */
CONSORT_API const char *consort_token_piece(const consort_model *model, int32_t token);
/* Text of tokens: NUL-terminated, freed with consort_free. */
CONSORT_API cs_status consort_detokenize(const consort_model *model, const int32_t *tokens,
                                         size_t n_tokens, char **text, size_t *text_bytes,
                                         cs_error *error);

/* ---- chat ---- */

typedef struct consort_chat_options {
  uint32_t struct_size;
  uint32_t no_generation_prompt; /* 1: do not end with the beginning of the assistant's turn */
  const char *messages;          /* JSON: [{"role": "user", "content": "..."}, ...] */
  const char *tools;             /* JSON: a list of function schemas; NULL: none */
  const char *variables;         /* JSON: an object of further template variables; NULL: none */
  const char *chat_template;     /* Jinja; NULL: the model's own */
} consort_chat_options;

/* The conversation as the text that the model is to go on from, by its chat template: *text is
 * NUL-terminated and freed with consort_free. CS_NOT_FOUND: the model has no template. */
CONSORT_API cs_status consort_chat_render(const consort_model *model,
                                          const consort_chat_options *options, char **text,
                                          size_t *text_bytes, cs_error *error);

/* ---- plan ---- */

typedef struct consort_plan_options {
  uint32_t struct_size;
  uint32_t n_prompt_tokens; /* what a request is expected to be; 0: 512 */
  uint32_t n_output_tokens; /* 0: 128 */
  uint32_t n_context;       /* 0: prompt + output */
  const char *devices;      /* NULL: all; else a list "cpu:0,opencl:0" to choose from */
  const char *prefill;      /* NULL: choose */
  const char *decode;       /* NULL: choose */
  const char *kv_dtype;     /* as in consort_session_options; NULL: "f16" */
  double slo_ttft_ms;       /* 0: none */
  double slo_tpot_ms;
  uint32_t measure_again; /* 1: do not use cached measurements */
  uint32_t reserved;
  double rate; /* requests a second that are to be served; 0: one at a time */
} consort_plan_options;

typedef struct consort_candidate {
  uint32_t struct_size;
  uint32_t chosen; /* 0 or 1 */
  const char *prefill;
  const char *decode;
  double ttft_ms; /* predicted */
  double tpot_ms;
  double total_ms;       /* one request from prompt to last token */
  double transfer_ms;    /* of ttft_ms, KV transfer that prefill does not hide */
  uint64_t memory_bytes; /* weights and KV on both sides */
  const char *note;      /* "does not fit", or empty */
  double goodput;        /* requests a second within the SLOs, without batching */
} consort_candidate;

/* Measures each device briefly (cached by device and driver version) and chooses. */
CONSORT_API cs_status consort_plan_create(consort_runtime *runtime, const consort_model *model,
                                          const consort_plan_options *options, consort_plan **out,
                                          cs_error *error);
CONSORT_API void consort_plan_destroy(consort_plan *plan);
CONSORT_API const char *consort_plan_prefill(const consort_plan *plan); /* borrowed */
CONSORT_API const char *consort_plan_decode(const consort_plan *plan);
/* Why, in one line. */
CONSORT_API const char *consort_plan_reason(const consort_plan *plan);
CONSORT_API size_t consort_plan_n_candidates(const consort_plan *plan);
CONSORT_API cs_status consort_plan_candidate(const consort_plan *plan, size_t index,
                                             consort_candidate *out, cs_error *error);

/* ---- session ---- */

#define CONSORT_FALLBACK_WARN   0
#define CONSORT_FALLBACK_ALLOW  1
#define CONSORT_FALLBACK_STRICT 2

typedef struct consort_session_options {
  uint32_t struct_size;
  uint32_t n_context;     /* 0: the model's own, at most 4096 */
  const char *prefill;    /* "opencl:0"; NULL: as the planner chooses; "HOST:PORT/opencl:0" is */
  const char *decode;     /* in another process: then both are named */
  const char *kv_dtype;   /* "f32", "f16", "bf16", "fp8", "int8"; NULL: "f16" */
  uint32_t fallback;      /* CONSORT_FALLBACK_* */
  uint32_t n_threads;     /* for host cores; 0: all allowed */
  uint32_t n_batch;       /* tokens a prefill step; 0: 512 */
  uint32_t deterministic; /* 1: results do not depend on how tokens were batched */
  /* Told while weights load; may be NULL. */
  void (*progress)(void *user, const char *device, uint64_t bytes_done, uint64_t bytes_total);
  void *progress_user;
  uint32_t n_sequences;     /* that may be decoded at once, each of n_context tokens; 0: 1 */
  uint32_t n_prompt_tokens; /* what a request is expected to be, for the planner; 0: 512 */
  uint32_t n_output_tokens; /* likewise; 0: 128 */
  uint32_t profile;         /* 1: time each op, where devices can (consort_session_op_times) */
  /* Holds the secret of workers in other processes; NULL: the environment variable
   * CONSORT_SECRET, or none. */
  const char *secret_file;
  /* Folder where devices of this process that can (CPU) keep packed weights, to be mapped at the
   * next start; made where it is missing. Read until the session is created. NULL: none. */
  const char *pack_cache;
  /* The prefill side's own KV format, converted on the way; NULL: kv_dtype. One device that does
   * both stages has kv_dtype. */
  const char *prefill_kv_dtype;
} consort_session_options;

CONSORT_API cs_status consort_session_create(consort_runtime *runtime, consort_model *model,
                                             const consort_session_options *options,
                                             consort_session **out, cs_error *error);
CONSORT_API void consort_session_destroy(consort_session *session);
/* "opencl:0", and why it was chosen: borrowed; the reason is empty when both were given. */
CONSORT_API const char *consort_session_prefill(const consort_session *session);
CONSORT_API const char *consort_session_decode(const consort_session *session);
CONSORT_API const char *consort_session_reason(const consort_session *session);

/* One kind of op that the asked-for device does not do, and the device that does it instead. */
typedef struct consort_fallback {
  uint32_t struct_size;
  uint32_t count; /* ops a step */
  const char *op; /* borrowed from the session */
  const char *asked_device;
  const char *device;
  const char *reason;
  uint64_t bytes_per_token; /* activations that cross between them, both ways */
} consort_fallback;
CONSORT_API size_t consort_session_n_fallbacks(const consort_session *session);
CONSORT_API cs_status consort_session_fallback(const consort_session *session, size_t index,
                                               consort_fallback *out, cs_error *error);

/* What the ops of one kind have taken on one device so far, by the device's own clock. */
typedef struct consort_op_time {
  uint32_t struct_size;
  uint32_t prefill; /* 1: of the worker that prefills */
  uint32_t decode;  /* 1: of the one that decodes, which may be the same */
  uint32_t reserved;
  const char *op; /* borrowed from the session, like the device's name */
  const char *device;
  uint64_t count;
  double ms;
  double share; /* of the time of all ops of that worker on that device */
} consort_op_time;
/* By worker and device, the longest first; none where no device times its ops. *out (n): free with
 * consort_free. */
CONSORT_API cs_status consort_session_op_times(const consort_session *session,
                                               consort_op_time **out, size_t *n, cs_error *error);

/* Text comes in whole UTF-8 characters, NUL-terminated. What may be the beginning of a stop string
 * is kept back until it is known not to be one; token is -1 where only such text comes, after the
 * last token. A non-zero return ends the generation. */
typedef int (*consort_token_callback)(void *user, int32_t token, const char *text,
                                      size_t text_bytes);

/* Added to a token's logit; -INFINITY bans it. */
typedef struct consort_logit_bias {
  int32_t token;
  float bias;
} consort_logit_bias;

typedef struct consort_token_logprob {
  int32_t token; /* -1: the vocabulary has no more */
  float logprob; /* natural logarithm, of the model's own logits */
} consort_token_logprob;

#define CONSORT_MAX_LOGPROBS 64

typedef struct consort_generate_options {
  uint32_t struct_size;
  uint32_t n_tokens; /* at most; 0: 128 */
  float temperature; /* 0: greedy */
  uint32_t top_k;    /* 0: off */
  float top_p;       /* 0 or 1: off */
  float min_p;       /* 0: off */
  uint64_t seed;
  consort_token_callback on_token; /* may be NULL */
  void *user;
  uint32_t ignore_end; /* 1: go on after an end-of-text token */
  uint32_t timeout_ms; /* 0: none beyond the deadline of each step */
  /* Logits of tokens in the prompt or the output are divided by it when positive, multiplied when
   * negative; 0 or 1: off. */
  float repetition_penalty;
  /* A token that is n > 0 times in the output loses presence_penalty + n * frequency_penalty. */
  float frequency_penalty;
  float presence_penalty;
  /* Log-probabilities told of each token: its own and those of the n_logprobs - 1 likeliest; at
   * most CONSORT_MAX_LOGPROBS. */
  uint32_t n_logprobs;
  const consort_logit_bias *logit_biases; /* (n_logit_biases), copied */
  const char *const *stops; /* (n_stops) UTF-8: the text ends before the first of them */
  uint32_t n_logit_biases;
  uint32_t n_stops;
} consort_generate_options;

#define CONSORT_FINISH_LENGTH    0 /* as many tokens as asked for */
#define CONSORT_FINISH_END       1 /* an end-of-text token */
#define CONSORT_FINISH_CANCELLED 2 /* by the callback */
#define CONSORT_FINISH_CONTEXT   3 /* the context is full */
#define CONSORT_FINISH_STOP      4 /* a stop string */

#define CONSORT_KV_STAGED 0 /* all through host memory, or nothing was moved */
#define CONSORT_KV_PEER   1 /* copied from device to device */
#define CONSORT_KV_SHARED 2 /* written to memory that both devices map */

typedef struct consort_generate_result {
  uint32_t struct_size;
  uint32_t n_prompt_tokens;
  uint32_t n_tokens;    /* generated */
  uint32_t kv_verified; /* 1: every piece's checksum was right; 0: nothing was transferred */
  int32_t *tokens;      /* generated ids: free with consort_free */
  char *text;           /* NUL-terminated: free with consort_free */
  size_t text_bytes;
  double ttft_ms; /* from the call to the first token */
  double tpot_ms; /* mean over the tokens after the first */
  double prefill_tokens_per_s;
  double decode_tokens_per_s;
  uint64_t kv_bytes;    /* moved between the devices */
  double kv_ms;         /* first piece gathered to last piece committed */
  double kv_exposed_ms; /* last prefill op to commit: what prefill did not hide */
  uint64_t kv_pieces;
  consort_token_logprob *logprobs; /* (n_tokens, n_logprobs), each token's own first: free with
                                      consort_free; NULL when none were asked for */
  uint32_t n_logprobs;
  uint32_t finish;    /* CONSORT_FINISH_* */
  uint32_t kv_path;   /* CONSORT_KV_*: how the direct ones of the pieces went */
  uint32_t reserved;  /* 0 */
  uint64_t kv_direct; /* pieces that did not go through host memory */
} consort_generate_result;

/* Generates from text (encoded with special tokens) or, with text NULL, from token ids. */
CONSORT_API cs_status consort_generate(consort_session *session, const char *text,
                                       const consort_generate_options *options,
                                       consort_generate_result *out, cs_error *error);
CONSORT_API cs_status consort_generate_from_tokens(consort_session *session, const int32_t *tokens,
                                                   size_t n_tokens,
                                                   const consort_generate_options *options,
                                                   consort_generate_result *out, cs_error *error);

/* Logits of every position: out (n_tokens, n_vocab), the caller's. Rows 0 to split - 1 come from
 * the prefill device, the rest from the decode device on transferred KV. split 0: all from the
 * decode device; split n_tokens: all from the prefill device. */
CONSORT_API cs_status consort_logits(consort_session *session, const int32_t *tokens,
                                     size_t n_tokens, size_t split, float *out, cs_error *error);

/* ---- evaluation ---- */

typedef struct consort_evaluate_options {
  uint32_t struct_size;
  uint32_t n_window; /* tokens a window; 0: 512, or all tokens when they are fewer */
  /* Rows at the beginning of each window that are not scored. With a prefill device of its own
   * these are its rows; the scored ones come from the decode device on transferred KV.
   * UINT32_MAX: half the window. */
  uint32_t n_skip;
  uint32_t n_windows; /* at most; 0: all */
  /* Likeliest tokens may differ where the reference's two best logits are nearer than
   * 6 sqrt(nmse_limit) RMS(logits); 0: 3e-4. */
  double nmse_limit;
  /* Told after each window; may be NULL. A non-zero return ends it with CS_CANCELLED. */
  int (*progress)(void *user, uint32_t n_done, uint32_t n_windows, double perplexity);
  void *progress_user;
} consort_evaluate_options;

typedef struct consort_evaluate_result {
  uint32_t struct_size;
  uint32_t n_windows;
  uint64_t n_tokens;     /* scored */
  uint64_t n_text_bytes; /* of these */
  double perplexity;
  double perplexity_error; /* standard error */
  double bits_per_byte;    /* NaN without a tokenizer */
  /* Against another session, the first being the reference; zero without one. */
  uint64_t n_same_top; /* rows with the same likeliest token */
  uint64_t n_near_ties;
  uint64_t n_clear_differences; /* rows whose likeliest tokens differ without a near tie */
  double against_perplexity;
  double kl_mean; /* KL(reference || against) of a row, nats */
  double kl_median;
  double kl_p99;
  double kl_max;
  double nmse; /* of the logits */
} consort_evaluate_result;

/* Perplexity of a text in windows that follow each other; a rest that fills no window is left out.
 * When the first token is the model's BOS, it takes the place of each window's first token (the
 * rule of llama.cpp's perplexity tool). `against`, or NULL, is compared row by row: same
 * vocabulary, any placement, any file. Both sessions hold n_window tokens. */
CONSORT_API cs_status consort_evaluate(consort_session *session, consort_session *against,
                                       const int32_t *tokens, size_t n_tokens,
                                       const consort_evaluate_options *options,
                                       consort_evaluate_result *out, cs_error *error);
/* ---- workers in other processes ---- */

typedef struct consort_worker consort_worker;

typedef struct consort_worker_options {
  uint32_t struct_size;
  uint32_t reserved;
  const char *listen;      /* "127.0.0.1:4242"; port 0: any */
  const char *devices;     /* "cpu:0,opencl:0"; NULL: all */
  const char *model;       /* serve this file alone; NULL: whichever file a session names */
  const char *secret_file; /* as in consort_session_options */
} consort_worker_options;

/* Offers devices of this process to sessions in others, from threads of its own until it is
 * destroyed. Addresses that others reach need a secret. */
CONSORT_API cs_status consort_worker_create(consort_runtime *runtime,
                                            const consort_worker_options *options,
                                            consort_worker **out, cs_error *error);
/* Where it listens, with the real port: borrowed. */
CONSORT_API const char *consort_worker_address(const consort_worker *worker);
CONSORT_API void consort_worker_destroy(consort_worker *worker);

/* As consort_runtime_plugins: what the worker at "HOST:PORT" offers. */
CONSORT_API cs_status consort_worker_plugins(consort_runtime *runtime, const char *address,
                                             const char *secret_file,
                                             consort_plugin_info **plugins, size_t *n_plugins,
                                             cs_error *error);

/* ---- other formats ---- */

typedef struct consort_quantized_tensor {
  uint32_t struct_size;
  uint32_t reserved;
  const char *name; /* strings are borrowed for the call */
  const char *from; /* "bf16" */
  const char *to;   /* "q4_k" */
  uint64_t n_elements;
  uint64_t bytes; /* in the new file */
  double nmse;    /* of what will be read back: sum((y - x)^2) / sum(x^2) */
  double rmse;
  uint64_t done_bytes; /* of the source, with this tensor */
  uint64_t total_bytes;
} consort_quantized_tensor;

typedef struct consort_quantize_options {
  uint32_t struct_size;
  uint32_t n_threads; /* 0: one for each core */
  const char *type;   /* "Q8_0", "Q4_0", "Q4_K_M" or "Q6_K" */
  /* Told after each tensor; may be NULL. A non-zero return ends it with CS_CANCELLED. */
  int (*progress)(void *user, const consort_quantized_tensor *tensor);
  void *progress_user; /* of both calls */
  /* Told in one line what the file lacks, such as a tokenizer that GGUF cannot say; may be NULL. */
  void (*notice)(void *user, const char *line);
} consort_quantize_options;

/* Writes the model at `from` (GGUF or a folder) as the GGUF file `to`, which appears complete or
 * not at all. Each tensor gets the format that llama.cpp gives it in files of that type; a folder's
 * tokenizer and chat template come along. */
CONSORT_API cs_status consort_quantize(const char *from, const char *to,
                                       const consort_quantize_options *options, cs_error *error);

/* ---- benchmark ---- */

typedef struct consort_bench_options {
  uint32_t struct_size;
  uint32_t n_prompt_tokens; /* 0: 512 */
  uint32_t n_output_tokens; /* 0: 128 */
  uint32_t n_batch;         /* sequences decoded at once; 0: 1 */
  uint32_t n_repetitions;   /* 0: 3 */
  uint32_t skip_limits;     /* 1: rates alone; shares and limits become NaN */
} consort_bench_options;

typedef struct consort_bench_result {
  uint32_t struct_size;
  uint32_t reserved;
  char test[24]; /* "pp512", "tg128" */
  char device[48];
  double tokens_per_s; /* mean over repetitions */
  double stddev;
  /* Of the bandwidth measured in the same run; NaN: not measured. On the host's cores the median
   * over pairs of one read of the weights and one token. */
  double bandwidth_fraction;
  double compute_fraction;      /* of the arithmetic peak measured in the same run; likewise */
  double bandwidth_bytes_per_s; /* the measured limits */
  double compute_flop_per_s;
  double bandwidth_fraction_low; /* quartiles of the pairs; NaN without pairs */
  double bandwidth_fraction_high;
} consort_bench_result;

/* Fills at most `capacity` results and tells how many there are. */
CONSORT_API cs_status consort_bench(consort_session *session, const consort_bench_options *options,
                                    consort_bench_result *out, size_t capacity, size_t *n_results,
                                    cs_error *error);

#ifdef __cplusplus
}
#endif

#endif
