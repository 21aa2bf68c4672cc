/* The benchmark runs whole requests through the session, so that what it reports is what a user
 * gets; only the limits are measured beside it. A share's denominator is the larger of the probe
 * and of the fastest repetition: a probe that was slow must not flatter a kernel.
 *
 * A memory's rate can change by half within a second, so that no read pass before or after a run
 * says what the run could have reached. Where the host can read the weights, reads of them and
 * single tokens alternate, and each token is compared with the pass before it. */
#include "scheduler/bench.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/dtype.h"
#include "core/error.h"
#include "scheduler/facade.h"
#include "scheduler/probe.h"
#include "scheduler/session.h"
#include "scheduler/structs.h"

#define USUAL_PROMPT      512
#define USUAL_OUTPUT      128
#define USUAL_REPETITIONS 3
#define MAX_REPETITIONS   10000
#define MAX_BATCH         4096
#define TOKEN_SEED        UINT64_C(0x2545f4914f6cdd1d)
#define COPY_BYTES        (UINT64_C(256) << 20)
#define HOST_PASSES       4
#define PEAK_ROWS         512
#define PEAK_WIDTH        4096
#define PAIRS             31

/* ---- limits ---- */

/* The fastest arithmetic that a kernel for these weights might use: F16 weights are rounded to BF16
 * where the cores multiply that. */
static cs_host_arithmetic arithmetic_for(uint32_t dtype) {
  if (dtype == CS_DTYPE_F32) return CS_HOST_F32;
  return dtype == CS_DTYPE_BF16 || dtype == CS_DTYPE_F16 ? CS_HOST_BF16 : CS_HOST_INT8;
}

static cs_status measure_device(cs_device *device, uint32_t dtype, cs_bench_limits *limits,
                                cs_error *error) {
  const cs_probe_matmul shape = {dtype, 1, PEAK_ROWS, PEAK_WIDTH, PEAK_WIDTH};
  cs_probe *probe;
  cs_status status = cs_probe_create(device, &probe, error);
  if (status != CS_OK) return status;
  status = cs_probe_run_copy(probe, COPY_BYTES, &limits->bytes_per_s, error);
  double seconds;
  if (status == CS_OK) status = cs_probe_run_matmul(probe, &shape, &seconds, error);
  if (status == CS_OK) limits->flop_per_s = 2.0 * PEAK_ROWS * PEAK_WIDTH * PEAK_WIDTH / seconds;
  cs_probe_destroy(probe);
  return status == CS_UNSUPPORTED ? CS_OK : status;
}

cs_status cs_bench_limits_init(cs_device *device, uint32_t dtype, const cs_host_range *ranges,
                               size_t n_ranges, cs_bench_limits *limits, cs_error *error) {
  *limits = (cs_bench_limits){0};
  if (strcmp(cs_device_get_properties(device)->compute_domain, "host") != 0)
    return measure_device(device, dtype, limits, error);
  limits->arithmetic = arithmetic_for(dtype);
  limits->n_threads = cs_device_get_properties(device)->concurrency;
  limits->reads_weights = n_ranges > 0;
  const cs_status status =
      cs_host_reader_create(limits->n_threads, ranges, n_ranges, &limits->reader, error);
  return status == CS_OK ? cs_bench_limits_refresh(limits, error) : status;
}

void cs_bench_limits_finish(cs_bench_limits *limits) {
  cs_host_reader_destroy(limits->reader);
  *limits = (cs_bench_limits){0};
}

cs_status cs_bench_limits_refresh(cs_bench_limits *limits, cs_error *error) {
  if (!limits->reader) return CS_OK;
  double flop_per_s;
  cs_status status = cs_host_peak(limits->n_threads, limits->arithmetic, &flop_per_s, error);
  limits->flop_per_s = fmax(limits->flop_per_s, flop_per_s);
  for (int i = 0; i < HOST_PASSES && status == CS_OK; i++) {
    double bytes_per_s;
    status = cs_host_reader_pass(limits->reader, &bytes_per_s, error);
    limits->bytes_per_s = fmax(limits->bytes_per_s, bytes_per_s);
  }
  return status;
}

/* ---- one test ---- */

typedef struct bench_test {
  consort_session *session;
  const cs_worker *worker; /* whose device is measured; NULL: it is another process's */
  const char *device;
  uint32_t n_prompt;
  uint32_t n_output;
  uint32_t n_batch;
  int32_t *tokens; /* (n_prompt) */
  double *rates;   /* (n_repetitions), tokens a second */
  uint32_t n_repetitions;
  bool measures_limits;
} bench_test;

/* Seeded ids anywhere in the vocabulary (xorshift64*, Vigna 2016). */
static int32_t *random_tokens(uint32_t n_tokens, uint32_t n_vocab) {
  int32_t *tokens = malloc(n_tokens * sizeof *tokens);
  if (!tokens) return NULL;
  uint64_t state = TOKEN_SEED;
  for (uint32_t i = 0; i < n_tokens; i++) {
    state ^= state >> 12;
    state ^= state << 25;
    state ^= state >> 27;
    tokens[i] = (int32_t)((state * TOKEN_SEED >> 33) % n_vocab);
  }
  return tokens;
}

/* When each token of a sequence came, in us. */
typedef struct token_times {
  uint64_t *at_us; /* (n_output) */
  uint32_t n;
} token_times;

static int note_time(void *user, int32_t token, const char *piece, size_t bytes) {
  (void)piece;
  (void)bytes;
  token_times *const times = user;
  if (token >= 0) times->at_us[times->n++] = cs_now_us();
  return 0;
}

/* Tokens of all sequences a second while all of them decode: from where the last one begins to
 * where the first one ends, each getting as many tokens as that one. Before and after, prompts are
 * computed between the steps, and steps have fewer sequences. NAN where they never all decode. */
static double rate_together(const token_times *times, uint32_t n_sequences) {
  const token_times *ending = times;
  uint64_t begin_us = 0;
  for (uint32_t i = 0; i < n_sequences; i++) {
    if (times[i].at_us[0] > begin_us) begin_us = times[i].at_us[0];
    if (times[i].at_us[times[i].n - 1] < ending->at_us[ending->n - 1]) ending = &times[i];
  }
  const uint64_t end_us = ending->at_us[ending->n - 1];
  uint32_t n_tokens = 0;
  for (uint32_t t = 0; t < ending->n; t++)
    n_tokens += ending->at_us[t] > begin_us;
  if (n_tokens == 0) return NAN;
  return (double)n_tokens * n_sequences * 1e6 / (double)(end_us - begin_us);
}

/* Prefill: prompt tokens until the first token. Decode: tokens after the first; of several
 * sequences those of the time in which all decode, or, where there is none, of the time from the
 * first one's first token to the last one's last. Their own rates must not be added up: sequences
 * that begin one after the other do not share all steps. */
static double rate_of(const bench_test *test, const consort_generate_result *results,
                      const token_times *times) {
  if (test->n_output == 1) return test->n_prompt * 1e3 / results[0].ttft_ms;
  const uint32_t n_after = test->n_output - 1;
  const double together = test->n_batch > 1 ? rate_together(times, test->n_batch) : NAN;
  if (isfinite(together)) return together;
  double begin_ms = results[0].ttft_ms, end_ms = 0;
  for (uint32_t i = 0; i < test->n_batch; i++) {
    begin_ms = fmin(begin_ms, results[i].ttft_ms);
    end_ms = fmax(end_ms, results[i].ttft_ms + results[i].tpot_ms * n_after);
  }
  return (double)n_after * test->n_batch * 1e3 / (end_ms - begin_ms);
}

/* What one run hands to the session and gets back, for n_batch sequences. */
typedef struct bench_run {
  consort_generate_options *options;
  cs_session_prompt *prompts;
  consort_generate_result *results;
  token_times *times;
  uint64_t *at_us; /* of all `times` */
} bench_run;

static void run_finish(const bench_test *test, bench_run *run) {
  for (uint32_t i = 0; i < test->n_batch && run->results; i++) {
    free(run->results[i].tokens);
    free(run->results[i].text);
  }
  free(run->options);
  free(run->prompts);
  free(run->results);
  free(run->times);
  free(run->at_us);
}

static cs_status run_init(const bench_test *test, bench_run *run, cs_error *error) {
  const size_t n = test->n_batch;
  *run = (bench_run){.options = calloc(n, sizeof *run->options),
                     .prompts = calloc(n, sizeof *run->prompts),
                     .results = calloc(n, sizeof *run->results),
                     .times = calloc(n, sizeof *run->times),
                     .at_us = calloc(n * test->n_output, sizeof *run->at_us)};
  if (!run->options || !run->prompts || !run->results || !run->times || !run->at_us)
    return cs_error_set(error, CS_OUT_OF_MEMORY, "out of memory");
  for (uint32_t i = 0; i < test->n_batch; i++) {
    run->times[i].at_us = run->at_us + (size_t)i * test->n_output;
    run->options[i] = (consort_generate_options){.struct_size = sizeof run->options[i],
                                                 .n_tokens = test->n_output,
                                                 .ignore_end = 1,
                                                 .on_token = note_time,
                                                 .user = &run->times[i]};
    run->prompts[i] = (cs_session_prompt){test->tokens, test->n_prompt, &run->options[i]};
  }
  return CS_OK;
}

static cs_status run_once(const bench_test *test, double *rate, cs_error *error) {
  bench_run run;
  cs_status status = run_init(test, &run, error);
  if (status == CS_OK)
    status = cs_session_generate(test->session, run.prompts, test->n_batch, run.results, error);
  if (status == CS_OK) *rate = rate_of(test, run.results, run.times);
  run_finish(test, &run);
  return status;
}

/* Mean and sample deviation. */
static void summarize(const bench_test *test, double *mean, double *deviation, double *highest) {
  *mean = *deviation = *highest = 0;
  for (uint32_t i = 0; i < test->n_repetitions; i++) {
    *mean += test->rates[i] / test->n_repetitions;
    *highest = fmax(*highest, test->rates[i]);
  }
  for (uint32_t i = 0; i < test->n_repetitions; i++)
    *deviation += (test->rates[i] - *mean) * (test->rates[i] - *mean);
  if (test->n_repetitions > 1) *deviation = sqrt(*deviation / (test->n_repetitions - 1));
}

/* Bytes of weights and KV that one token of the test reads; a step of prefill reads the weights
 * once for all its tokens. */
static double bytes_per_token(const bench_test *test) {
  const cs_model *model = test->session->model->model;
  double weights = 0;
  for (size_t i = 0; i < cs_model_n_weights(model); i++) {
    const cs_model_weight *weight = cs_model_weight_at(model, i);
    if (weight->usage & CS_USAGE_MATMUL) weights += (double)weight->bytes;
  }
  const cs_engine_options *options = cs_engine_get_options(cs_worker_engine(test->worker));
  if (test->n_output == 1) {
    const uint32_t n_steps = (test->n_prompt + options->n_batch - 1) / options->n_batch;
    return weights * n_steps / test->n_prompt;
  }
  const double n_keys = test->n_prompt + 0.5 * test->n_output;
  return weights / test->n_batch +
         n_keys * (double)cs_model_kv_bytes_per_token(model, options->kv_dtype);
}

static double share(double value, double limit) {
  return limit > 0 ? value / limit : NAN;
}

/* ---- pairs of a read and a token ---- */

/* The memory of all matrices that a token of the test meets; owned by the caller. */
static cs_host_range *weight_ranges(const bench_test *test, size_t *n_ranges) {
  const cs_engine *engine = cs_worker_engine(test->worker);
  const cs_model *model = test->session->model->model;
  const cs_device *device = cs_engine_device(engine, 0);
  const size_t capacity = cs_model_n_weights(model);
  cs_weight_range *found = calloc(capacity + 1, sizeof *found);
  cs_host_range *ranges = calloc(capacity + 1, sizeof *ranges);
  *n_ranges = 0;
  if (found && ranges)
    *n_ranges = cs_weights_ranges(cs_engine_weights(engine), model, device, CS_USAGE_MATMUL, found,
                                  capacity);
  for (size_t i = 0; i < *n_ranges; i++)
    ranges[i] = (cs_host_range){found[i].data, found[i].bytes};
  free(found);
  return ranges;
}

static int compare_numbers(const void *a, const void *b) {
  const double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

/* One sequence's tokens decoded one at a time, each after one pass of the reader. A share above one
 * says that the pass was disturbed: the token is the faster measurement of the limit then. */
static cs_status run_pairs(const bench_test *test, cs_bench_limits *limits,
                           consort_bench_result *result, cs_error *error) {
  const double bytes =
      limits->reads_weights ? (double)cs_host_reader_bytes(limits->reader) : bytes_per_token(test);
  bench_test token = *test;
  token.n_output = 2;
  double shares[PAIRS];
  for (int i = 0; i < PAIRS; i++) {
    double read_rate = 0, tokens_per_s = 0;
    cs_status status = cs_host_reader_pass(limits->reader, &read_rate, error);
    if (status == CS_OK) status = run_once(&token, &tokens_per_s, error);
    if (status != CS_OK) return status;
    shares[i] = fmin(1, tokens_per_s * bytes / read_rate);
    limits->bytes_per_s = fmax(limits->bytes_per_s, read_rate);
  }
  qsort(shares, PAIRS, sizeof shares[0], compare_numbers);
  result->bandwidth_fraction = shares[PAIRS / 2];
  result->bandwidth_fraction_low = shares[PAIRS / 4];
  result->bandwidth_fraction_high = shares[PAIRS * 3 / 4];
  return CS_OK;
}

static void fill_shares(const bench_test *test, double highest, cs_bench_limits *limits,
                        consort_bench_result *result) {
  const double flop = 2.0 * (double)cs_model_matmul_parameters(test->session->model->model);
  const double bytes = bytes_per_token(test);
  limits->flop_per_s = fmax(limits->flop_per_s, highest * flop);
  result->compute_flop_per_s = limits->flop_per_s;
  result->compute_fraction = share(result->tokens_per_s * flop, limits->flop_per_s);
  if (isnan(result->bandwidth_fraction)) {
    limits->bytes_per_s = fmax(limits->bytes_per_s, highest * bytes);
    result->bandwidth_fraction = share(result->tokens_per_s * bytes, limits->bytes_per_s);
  }
  result->bandwidth_bytes_per_s = limits->bytes_per_s;
}

static void fill_result(const bench_test *test, cs_bench_limits *limits,
                        consort_bench_result *result) {
  double highest;
  summarize(test, &result->tokens_per_s, &result->stddev, &highest);
  if (test->measures_limits) fill_shares(test, highest, limits, result);
  snprintf(result->device, sizeof result->device, "%s", test->device);
  if (test->n_output == 1)
    snprintf(result->test, sizeof result->test, "pp%u", test->n_prompt);
  else if (test->n_batch == 1)
    snprintf(result->test, sizeof result->test, "tg%u", test->n_output - 1);
  else
    snprintf(result->test, sizeof result->test, "tg%u b%u", test->n_output - 1, test->n_batch);
}

static cs_status init_limits(const bench_test *test, cs_bench_limits *limits, cs_error *error) {
  size_t n_ranges;
  cs_host_range *const ranges = weight_ranges(test, &n_ranges);
  const uint32_t dtype = cs_dtype_from_name(cs_model_format(test->session->model->model));
  const cs_status status = cs_bench_limits_init(cs_engine_device(cs_worker_engine(test->worker), 0),
                                                dtype, ranges, n_ranges, limits, error);
  free(ranges);
  return status;
}

static cs_status run_test(bench_test *test, consort_bench_result *result, cs_error *error) {
  cs_bench_limits limits = {0};
  double warm_up;
  cs_status status = run_once(test, &warm_up, error);
  if (status != CS_OK) return status;
  if (test->measures_limits) status = init_limits(test, &limits, error);
  for (uint32_t i = 0; i < test->n_repetitions && status == CS_OK; i++) {
    status = run_once(test, &test->rates[i], error);
    if (status == CS_OK) status = cs_bench_limits_refresh(&limits, error);
  }
  *result = (consort_bench_result){.struct_size = sizeof *result,
                                   .bandwidth_fraction = NAN,
                                   .compute_fraction = NAN,
                                   .bandwidth_bytes_per_s = NAN,
                                   .compute_flop_per_s = NAN,
                                   .bandwidth_fraction_low = NAN,
                                   .bandwidth_fraction_high = NAN};
  if (status == CS_OK && limits.reader && test->n_output > 1 && test->n_batch == 1)
    status = run_pairs(test, &limits, result, error);
  if (status == CS_OK) fill_result(test, &limits, result);
  cs_bench_limits_finish(&limits);
  return status;
}

/* ---- both tests ---- */

static cs_status read_options(const consort_bench_options *given, consort_bench_options *options,
                              cs_error *error) {
  const cs_status status = cs_struct_read(options, sizeof *options, given, "bench options", error);
  if (status != CS_OK) return status;
  if (options->n_prompt_tokens == 0) options->n_prompt_tokens = USUAL_PROMPT;
  if (options->n_output_tokens == 0) options->n_output_tokens = USUAL_OUTPUT;
  if (options->n_batch == 0) options->n_batch = 1;
  if (options->n_repetitions == 0) options->n_repetitions = USUAL_REPETITIONS;
  if (options->n_repetitions > MAX_REPETITIONS || options->n_batch > MAX_BATCH)
    return cs_error_set(error, CS_OUT_OF_RANGE, "bench: at most %d repetitions and a batch of %d",
                        MAX_REPETITIONS, MAX_BATCH);
  return CS_OK;
}

static cs_status run_tests(bench_test *test, const consort_bench_options *options,
                           consort_bench_result results[2], cs_error *error) {
  consort_session *session = test->session;
  test->worker = session->two_stages ? session->prefill : session->decode;
  test->measures_limits = test->worker && !options->skip_limits;
  test->device = session->prefill_name;
  test->n_prompt = options->n_prompt_tokens;
  test->n_output = 1;
  test->n_batch = 1;
  cs_status status = run_test(test, &results[0], error);
  if (status != CS_OK) return status;
  test->worker = session->decode;
  test->measures_limits = test->worker && !options->skip_limits;
  test->device = session->decode_name;
  test->n_prompt = 1;
  test->n_output = options->n_output_tokens + 1; /* the first is prefill's */
  test->n_batch = options->n_batch;
  return run_test(test, &results[1], error);
}

cs_status consort_bench(consort_session *session, const consort_bench_options *options,
                        consort_bench_result *out, size_t capacity, size_t *n_results,
                        cs_error *error) {
  *n_results = 0;
  consort_bench_options wanted;
  cs_status status = read_options(options, &wanted, error);
  if (status != CS_OK) return status;
  const uint32_t n_vocab = cs_model_get_config(session->model->model)->n_vocab;
  bench_test test = {.session = session,
                     .tokens = random_tokens(wanted.n_prompt_tokens, n_vocab),
                     .rates = calloc(wanted.n_repetitions, sizeof *test.rates),
                     .n_repetitions = wanted.n_repetitions};
  consort_bench_result results[2];
  status = test.tokens && test.rates ? run_tests(&test, &wanted, results, error)
                                     : cs_error_set(error, CS_OUT_OF_MEMORY, "out of memory");
  free(test.tokens);
  free(test.rates);
  for (size_t i = 0; i < 2 && i < capacity && status == CS_OK; i++)
    status = cs_struct_write(&out[i], &results[i], sizeof results[i], "bench result", error);
  if (status == CS_OK) *n_results = 2;
  return status;
}
