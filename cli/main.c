/* The consort program: picks the command and leaves. A reader that goes away (a closed pipe) ends
 * the program in order, through the error path of whatever was writing, and not by a signal. */
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "cli/command.h"
#include "cli/options.h"
#include "cli/report.h"

typedef struct command {
  const char *name;
  int (*run)(int argc, char **argv);
  const char *summary;
} command;

static const command commands[] = {
    {"devices", cli_devices, "every plugin and device, or why a plugin has none"},
    {"pull", cli_pull, "fetch a model into the cache"},
    {"info", cli_info, "what a model file holds, and its memory by context length"},
    {"run", cli_run, "generate text"},
    {"tokenize", cli_tokenize, "token ids and pieces of a text"},
    {"logits", cli_logits, "write the logits of given tokens to a .npy file"},
    {"eval", cli_eval, "perplexity of a text, and how two placements or files differ"},
    {"quantize", cli_quantize, "write a model as GGUF in another format"},
    {"bench", cli_bench, "measure tokens per second, and the share of the device's limits"},
    {"plan", cli_plan, "predict and compare placements"},
    {"worker", cli_worker, "offer this process's devices to sessions in others"},
    {"cts", cli_cts, "prove a plugin with the conformance kit"},
    {"new-plugin", cli_new_plugin, "write an out-of-tree plugin project"},
};
#define N_COMMANDS (sizeof commands / sizeof commands[0])

static int print_version(void) {
  uint32_t lowest, highest;
  consort_abi_range(&lowest, &highest);
  printf("consort %s\nplugin ABI %u to %u\ncommit %s\n", consort_version(), lowest, highest,
         consort_commit());
  return cli_finish_output();
}

static int print_help(void) {
  printf("usage: consort COMMAND [...]\n\n"
         "Runs one language model with its prefill and its decode on devices of your choice.\n\n");
  for (size_t i = 0; i < N_COMMANDS; i++)
    printf("  %-10s %s\n", commands[i].name, commands[i].summary);
  printf("\nconsort COMMAND --help tells what a command takes; consort --version tells versions.\n"
         "CONSORT_LOG=error|warn|info|debug sets what is logged; CONSORT_PLUGIN_PATH adds folders "
         "of plugins.\n");
  return cli_finish_output();
}

static int unknown_command(const char *name) {
  char names[256] = "", nearest[32];
  size_t used = 0;
  for (size_t i = 0; i < N_COMMANDS; i++)
    used +=
        (size_t)snprintf(names + used, sizeof names - used, "%s%s", i ? "|" : "", commands[i].name);
  if (cli_nearest(name, names, nearest, sizeof nearest))
    return cli_usage_error(name, "unknown command: did you mean %s?", nearest);
  return cli_usage_error(name, "unknown command: see consort --help");
}

int main(int argc, char **argv) {
  signal(SIGPIPE, SIG_IGN);
  if (argc < 2) return cli_usage_error("consort", "a command is missing: see consort --help");
  const char *name = argv[1];
  if (strcmp(name, "--version") == 0) return print_version();
  if (strcmp(name, "--help") == 0 || strcmp(name, "-h") == 0 || strcmp(name, "help") == 0)
    return print_help();
  for (size_t i = 0; i < N_COMMANDS; i++)
    if (strcmp(name, commands[i].name) == 0) return commands[i].run(argc - 1, argv + 1);
  return unknown_command(name);
}
