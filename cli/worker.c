/* consort worker: the one line on standard output tells whoever started it that it can be reached,
 * and where. Signals are waited for and not handled, so nothing runs inside a handler; they are
 * blocked before the first thread starts, since threads inherit that. */
#include <signal.h>
#include <stdio.h>

#include "cli/command.h"
#include "cli/options.h"
#include "cli/report.h"
#include "cli/setup.h"

static int serve(const consort_worker_options *worker_options, const sigset_t *ends) {
  consort_runtime *runtime;
  int status = cli_runtime_create(&runtime);
  if (status != CLI_DONE) return status;
  cs_error error = CS_ERROR_INIT;
  consort_worker *worker;
  if (consort_worker_create(runtime, worker_options, &worker, &error) != CS_OK) {
    status = cli_library_error("worker", &error);
  } else {
    int number;
    printf("listening on %s\n", consort_worker_address(worker));
    status = cli_finish_output();
    if (status == CLI_DONE) sigwait(ends, &number);
    consort_worker_destroy(worker);
  }
  consort_runtime_destroy(runtime);
  return status;
}

int cli_worker(int argc, char **argv) {
  consort_worker_options worker_options = {.struct_size = sizeof worker_options};
  const cli_option options[] = {
      {"listen", 0, CLI_OPTION_STRING, &worker_options.listen, "ADDR:PORT",
       "where sessions come; port 0: any free one", 0, 0, NULL},
      {"device", 0, CLI_OPTION_STRING, &worker_options.devices, "DEV,...", "devices to offer (all)",
       0, 0, NULL},
      {"model", 0, CLI_OPTION_STRING, &worker_options.model, "FILE",
       "serve this file alone (the one that a session names)", 0, 0, NULL},
      {"secret-file", 0, CLI_OPTION_STRING, &worker_options.secret_file, "FILE",
       "holds the shared secret (the variable CONSORT_SECRET)", 0, 0, NULL},
  };
  const cli_syntax syntax = {
      .command = "worker",
      .usage = "--listen ADDR:PORT [--device DEV,...] [--model FILE] [--secret-file FILE]",
      .summary = "Offers this process's devices to sessions in others, as HOST:PORT/DEV. Prints "
                 "\"listening on ADDR:PORT\"\nand serves until SIGTERM or SIGINT. Addresses that "
                 "other hosts reach need a secret.",
      .options = options,
      .n_options = sizeof options / sizeof options[0],
  };
  int status;
  if (!cli_options_parse(&syntax, argc, argv, &status)) return status;
  if (!worker_options.listen) return cli_usage_error("worker", "--listen ADDR:PORT is missing");
  sigset_t ends;
  sigemptyset(&ends);
  sigaddset(&ends, SIGTERM);
  sigaddset(&ends, SIGINT);
  sigprocmask(SIG_BLOCK, &ends, NULL);
  return serve(&worker_options, &ends);
}
