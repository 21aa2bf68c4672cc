/* The commands of the program, one file each. argv[0] is the command's own name; the return value
 * is the exit status of the process. */
#ifndef CLI_COMMAND_H
#define CLI_COMMAND_H

#define CLI_DONE        0
#define CLI_FAILED      1
#define CLI_USAGE       2
#define CLI_INTERRUPTED 130 /* as a shell reports SIGINT */
#define CLI_BROKEN_PIPE 141 /* as a shell reports SIGPIPE */

int cli_devices(int argc, char **argv);
int cli_info(int argc, char **argv);
int cli_run(int argc, char **argv);
int cli_pull(int argc, char **argv);
int cli_tokenize(int argc, char **argv);
int cli_logits(int argc, char **argv);
int cli_eval(int argc, char **argv);
int cli_quantize(int argc, char **argv);
int cli_bench(int argc, char **argv);
int cli_plan(int argc, char **argv);
int cli_cts(int argc, char **argv);
int cli_worker(int argc, char **argv);
int cli_new_plugin(int argc, char **argv);

#endif
