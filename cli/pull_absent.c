/* consort pull where libcurl or libsodium was not there at build time. */
#include "cli/command.h"
#include "cli/report.h"

int cli_pull(int argc, char **argv) {
  (void)argc, (void)argv;
  return cli_error("pull", "this program was built without libcurl and libsodium");
}
