/* Prefill and decode in other processes: the same tokens, harm on the wire refused, and what a
 * session sees when a process is killed or stopped in each stage. The processes are this program
 * again ("serve PORT STAGE"), their stage drawn out so that a signal surely meets it. */
#include "scheduler_harness.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "scheduler/fabric.h"
#include "scheduler/service.h"

#define PROMPT     500
#define N_TOKENS   12
#define SLOW_MS    250
#define SIGNAL_MS  400 /* after the request began: it is in the slow stage then */
#define SILENCE_MS "1000"
#define WITHIN_MS  2000 /* silence, grace and what a busy machine adds; 3 s with the usual 2 s */
#define SETTLE_US  UINT64_C(6000000)
#define SECRET     "a secret of the test"

static const char *self; /* this program */

static void pause_ms(int ms) {
  const struct timespec time = {.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000L};
  nanosleep(&time, NULL);
}

/* ---- the other processes ---- */

/* Lets messages of one kind wait, or changes a byte in the third. */
typedef struct slow_link {
  cs_link link;
  struct slow_link *next;
  cs_link *inner;
  int kind;
  bool flips;
  int seen;
} slow_link;

static cs_status slow_send(cs_link *link, cs_frame *frame, uint64_t timeout_us, cs_error *error) {
  slow_link *const slow = (slow_link *)link;
  if ((frame->data[6] | frame->data[7] << 8) == slow->kind) {
    if (!slow->flips) pause_ms(SLOW_MS);
    if (slow->flips && ++slow->seen == 3) frame->data[frame->bytes - 5] ^= 0x10;
  }
  return cs_link_send(slow->inner, frame, timeout_us, error);
}

/* Of this process, which frees them at its end. */
static _Atomic(slow_link *) slow_links;

static void free_slow_links(void) {
  for (slow_link *at = slow_links, *next; at; at = next) {
    next = at->next;
    free(at);
  }
}

static cs_link *make_slow(void *user, cs_link *inner) {
  const char *const stage = user;
  slow_link *const slow = calloc(1, sizeof *slow);
  *slow = (slow_link){.link = {.send = slow_send},
                      .inner = inner,
                      .kind = strcmp(stage, "prefill") == 0  ? CS_MESSAGE_PROGRESS
                              : strcmp(stage, "decode") == 0 ? CS_MESSAGE_TOKEN
                              : strcmp(stage, "none") == 0   ? -1
                                                             : CS_MESSAGE_KV_PIECE,
                      .flips = strcmp(stage, "flip") == 0,
                      .next = slow_links};
  while (!atomic_compare_exchange_weak(&slow_links, &slow->next, slow)) {
  }
  return &slow->link;
}

static int serve(const char *address, char *stage) {
  cs_error error = CS_ERROR_INIT;
  sigset_t ends;
  int number;
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  sigemptyset(&ends);
  sigaddset(&ends, SIGTERM);
  sigprocmask(SIG_BLOCK, &ends, NULL);
  consort_runtime *const runtime = harness_runtime();
  cs_service_options options = {.runtime = runtime->core,
                                .listen = address,
                                .wrap_kv = make_slow,
                                .wrap_answers = make_slow,
                                .wrap_user = stage};
  cs_service *service;
  if (cs_secret_read(NULL, &options.secret, &error) ||
      cs_service_create(&options, &service, &error)) {
    printf("%s\n", error.message);
    return 1;
  }
  printf("%s\n", cs_service_address(service));
  fflush(stdout);
  sigwait(&ends, &number);
  cs_service_destroy(service);
  free_slow_links();
  consort_runtime_destroy(runtime);
  return 0;
}

typedef struct server {
  pid_t pid;
  char address[80];
  char device[120];
} server;

static void start_server(server *out, const char *address, const char *stage) {
  int ends[2];
  assert_int_equal(pipe(ends), 0);
  out->pid = fork();
  if (out->pid == 0) {
    dup2(ends[1], 1);
    close(ends[0]);
    close(ends[1]);
    execl(self, self, "serve", address, stage, NULL);
    _exit(1);
  }
  close(ends[1]);
  FILE *const said = fdopen(ends[0], "r");
  assert_non_null(fgets(out->address, sizeof out->address, said));
  fclose(said);
  out->address[strcspn(out->address, "\n")] = '\0';
  assert_non_null(strchr(out->address, ':'));
  snprintf(out->device, sizeof out->device, "%s/cpu:0", out->address);
}

static void end_server(const server *ended, int number) {
  int status = 0;
  kill(ended->pid, number);
  waitpid(ended->pid, &status, 0);
  if (number == SIGTERM && (!WIFEXITED(status) || WEXITSTATUS(status) != 0))
    fail_msg("a worker ended with status %d", status);
}

/* ---- this process ---- */

static consort_runtime *runtime;
static consort_model *model;
static int32_t prompt[PROMPT];
static int32_t expected[N_TOKENS];

static cs_status generate(consort_session *session, uint32_t n_tokens, int32_t *tokens,
                          cs_error *error) {
  const consort_generate_options greedy = harness_greedy(n_tokens);
  consort_generate_result result = {.struct_size = sizeof result};
  const cs_status status =
      consort_generate_from_tokens(session, prompt, PROMPT, &greedy, &result, error);
  if (!status) memcpy(tokens, result.tokens, n_tokens * sizeof *tokens);
  if (!status && session->two_stages) assert_int_equal(result.kv_verified, 1);
  consort_free(result.tokens);
  consort_free(result.text);
  return status;
}

static consort_session *open_session(const char *prefill, const char *decode) {
  const consort_session_options options = harness_options(prefill, decode);
  return harness_session(runtime, model, &options, NULL);
}

static void expect_right(consort_session *session) {
  cs_error error = CS_ERROR_INIT;
  int32_t tokens[N_TOKENS];
  harness_expect_ok(generate(session, N_TOKENS, tokens, &error), &error);
  assert_memory_equal(tokens, expected, sizeof expected);
}

static int open_all(void **state) {
  (void)state;
  cs_error error = CS_ERROR_INIT;
  setenv("CONSORT_NET_TIMEOUT_MS", SILENCE_MS, 1);
  runtime = harness_runtime();
  model = harness_tiny(runtime);
  harness_tokens(prompt, PROMPT, 9);
  consort_session *const session = open_session("cpu:0", "cpu:0");
  const cs_status status = generate(session, N_TOKENS, expected, &error);
  consort_session_destroy(session);
  return status;
}

static int close_all(void **state) {
  (void)state;
  consort_model_close(model);
  consort_runtime_destroy(runtime);
  return 0;
}

/* The survivor's blocks come back, at the latest when the chunk under way is over. */
static void expect_free(consort_session *session, bool prefill) {
  cs_stats_message stats = {0};
  const uint64_t end_us = cs_now_us() + SETTLE_US;
  do {
    cs_error error = CS_ERROR_INIT;
    harness_expect_ok(cs_router_stats(session->router, prefill, SETTLE_US, &stats, &error), &error);
    if (stats.n_requests == 0 && stats.n_blocks_free == stats.n_blocks) return;
    pause_ms(50);
  } while (cs_now_us() < end_us);
  fail_msg("%u of %u blocks are free, %u requests are open", stats.n_blocks_free, stats.n_blocks,
           stats.n_requests);
}

/* ---- placements ---- */

static void every_placement_gives_the_same_tokens(void **state) {
  (void)state;
  server a, b;
  start_server(&a, "127.0.0.1:0", "none");
  start_server(&b, "127.0.0.1:0", "none");
  const char *const placements[][2] = {
      {a.device, a.device}, {a.device, "cpu:1"}, {"cpu:1", a.device}, {a.device, b.device}};
  for (size_t i = 0; i < 4; i++) {
    consort_session *const session = open_session(placements[i][0], placements[i][1]);
    for (int round = 0; round < 3; round++)
      expect_right(session);
    expect_free(session, false);
    if (session->two_stages) expect_free(session, true);
    consort_session_destroy(session);
  }
  end_server(&a, SIGTERM);
  end_server(&b, SIGTERM);
}

static void a_flipped_byte_on_the_wire_is_refused(void **state) {
  (void)state;
  server a, b;
  cs_error error = CS_ERROR_INIT;
  int32_t tokens[N_TOKENS];
  start_server(&a, "127.0.0.1:0", "flip");
  start_server(&b, "127.0.0.1:0", "none");
  consort_session *const session = open_session(a.device, b.device);
  assert_int_equal(generate(session, N_TOKENS, tokens, &error), CS_CORRUPT);
  assert_non_null(strstr(error.message, "checksum"));
  expect_free(session, true);
  expect_free(session, false);
  expect_right(session);
  consort_session_destroy(session);
  end_server(&a, SIGTERM);
  end_server(&b, SIGTERM);
}

/* ---- failures ---- */

typedef struct strike {
  pid_t pid;
  int number;
} strike;

static void *do_strike(void *argument) {
  const strike *const planned = argument;
  pause_ms(SIGNAL_MS);
  kill(planned->pid, planned->number);
  return NULL;
}

/* A worker is struck while the other is slow in `stage`; then it is replaced. */
static void strike_in(const char *stage, bool strike_prefill, int number) {
  server servers[2]; /* prefill, decode */
  server *const victim = &servers[strike_prefill ? 0 : 1];
  start_server(&servers[0], "127.0.0.1:0", strcmp(stage, "decode") == 0 ? "none" : stage);
  start_server(&servers[1], "127.0.0.1:0", strcmp(stage, "decode") == 0 ? stage : "none");
  consort_session *const session = open_session(servers[0].device, servers[1].device);
  strike planned = {victim->pid, number};
  pthread_t striker;
  cs_error error = CS_ERROR_INIT;
  int32_t tokens[N_TOKENS];
  assert_int_equal(pthread_create(&striker, NULL, do_strike, &planned), 0);
  const uint64_t begin_us = cs_now_us();
  const cs_status status = generate(session, N_TOKENS, tokens, &error);
  const int64_t took_ms = (int64_t)(cs_now_us() - begin_us) / 1000 - SIGNAL_MS;
  pthread_join(striker, NULL);
  print_message("%s, %s, %s: told after %lld ms: %s\n", stage,
                strike_prefill ? "prefill worker" : "decode worker",
                number == SIGSTOP ? "stopped" : "killed", (long long)took_ms, error.message);
  if (!status) fail_msg("nothing failed");
  assert_true(took_ms <= WITHIN_MS);
  assert_null(strchr(error.message, '\n'));
  expect_free(session, !strike_prefill);
  end_server(victim, SIGKILL);
  start_server(victim, victim->address, "none");
  expect_right(session);
  expect_free(session, true);
  expect_free(session, false);
  consort_session_destroy(session);
  end_server(&servers[0], SIGTERM);
  end_server(&servers[1], SIGTERM);
}

static void a_killed_process_is_one_error_in_time(void **state) {
  (void)state;
  strike_in("prefill", true, SIGKILL);
  strike_in("prefill", false, SIGKILL);
  strike_in("transfer", true, SIGKILL);
  strike_in("transfer", false, SIGKILL);
  strike_in("decode", false, SIGKILL);
}

static void a_stopped_process_is_one_error_in_time(void **state) {
  (void)state;
  strike_in("prefill", true, SIGSTOP);
  strike_in("prefill", false, SIGSTOP);
  strike_in("transfer", true, SIGSTOP);
  strike_in("transfer", false, SIGSTOP);
  strike_in("decode", false, SIGSTOP);
}

static int be_client(const char *device) {
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (open_all(NULL)) return 1;
  cs_error error = CS_ERROR_INIT;
  int32_t tokens[N_TOKENS];
  consort_session *const session = open_session(device, device);
  printf("begins\n");
  fflush(stdout);
  return generate(session, N_TOKENS, tokens, &error);
}

static void a_worker_serves_on_when_its_client_dies(void **state) {
  (void)state;
  server worker;
  char line[32];
  int ends[2];
  start_server(&worker, "127.0.0.1:0", "decode");
  assert_int_equal(pipe(ends), 0);
  const pid_t client = fork();
  if (client == 0) {
    dup2(ends[1], 1);
    close(ends[0]);
    close(ends[1]);
    execl(self, self, "client", worker.device, NULL);
    _exit(1);
  }
  close(ends[1]);
  FILE *const said = fdopen(ends[0], "r");
  assert_non_null(fgets(line, sizeof line, said));
  fclose(said);
  pause_ms(SLOW_MS);
  kill(client, SIGKILL);
  waitpid(client, NULL, 0);
  consort_session *const session = open_session(worker.device, worker.device);
  expect_right(session);
  expect_free(session, false);
  consort_session_destroy(session);
  end_server(&worker, SIGTERM);
}

/* ---- refusals ---- */

static void expect_refused(const char *prefill, const char *decode, const char *word) {
  const consort_session_options options = harness_options(prefill, decode);
  cs_error error = CS_ERROR_INIT;
  consort_session *session;
  if (!consort_session_create(runtime, model, &options, &session, &error))
    fail_msg("%s was not refused", word);
  assert_null(session);
  assert_null(strchr(error.message, '\n'));
  if (!strstr(error.message, word)) fail_msg("'%s' is not in '%s'", word, error.message);
}

static void what_does_not_fit_is_refused_in_one_line(void **state) {
  (void)state;
  server worker;
  cs_error error = CS_ERROR_INIT;
  start_server(&worker, "127.0.0.1:0", "none");
  char absent[160];
  snprintf(absent, sizeof absent, "%s/nosuch:0", worker.address);
  expect_refused(absent, "cpu:0", "nosuch");
  expect_refused("127.0.0.1:1/cpu:0", "cpu:0", "no worker answers at 127.0.0.1:1");
  expect_refused("127.0.0.1/cpu:0", "cpu:0", "no HOST:PORT");
  expect_refused(worker.device, NULL, "both --prefill and --decode");
  consort_model *const right = model;
  harness_expect_ok(consort_model_open_shape(runtime, "llama-tiny", "f32", 6, &model, &error),
                    &error);
  memcpy(model->source, right->source, sizeof model->source);
  expect_refused(worker.device, "cpu:0", "fingerprint");
  consort_model_close(model);
  model = right;
  end_server(&worker, SIGTERM);
}

static void only_who_knows_the_secret_is_served(void **state) {
  (void)state;
  server worker;
  setenv("CONSORT_SECRET", SECRET, 1);
  start_server(&worker, "127.0.0.1:0", "none");
  consort_session *const session = open_session(worker.device, worker.device);
  expect_right(session);
  consort_session_destroy(session);
  setenv("CONSORT_SECRET", SECRET "x", 1);
  expect_refused(worker.device, worker.device, "the secret is wrong");
  unsetenv("CONSORT_SECRET");
  expect_refused(worker.device, worker.device, "the secret is missing");
  end_server(&worker, SIGTERM);
}

static void no_service_to_others_without_a_secret(void **state) {
  (void)state;
  cs_error error = CS_ERROR_INIT;
  cs_service *service;
  const cs_service_options options = {.runtime = runtime->core, .listen = "0.0.0.0:0"};
  assert_int_equal(cs_service_create(&options, &service, &error), CS_INVALID_ARGUMENT);
  assert_non_null(strstr(error.message, "a secret is needed"));
}

int main(int argc, char **argv) {
  self = argv[0];
  if (argc == 4 && strcmp(argv[1], "serve") == 0) return serve(argv[2], argv[3]);
  if (argc == 3 && strcmp(argv[1], "client") == 0) return be_client(argv[2]);
  const cs_fabric_table *table;
  cs_error error = CS_ERROR_INIT;
  if (cs_fabric_find(&table, &error)) {
    printf("skipped: %s\n", error.message);
    return 77;
  }
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(every_placement_gives_the_same_tokens),
      cmocka_unit_test(a_flipped_byte_on_the_wire_is_refused),
      cmocka_unit_test(a_killed_process_is_one_error_in_time),
      cmocka_unit_test(a_stopped_process_is_one_error_in_time),
      cmocka_unit_test(a_worker_serves_on_when_its_client_dies),
      cmocka_unit_test(what_does_not_fit_is_refused_in_one_line),
      cmocka_unit_test(only_who_knows_the_secret_is_served),
      cmocka_unit_test(no_service_to_others_without_a_secret),
  };
  return cmocka_run_group_tests_name("remote", tests, open_all, close_all);
}
