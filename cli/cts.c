/* consort cts: the kit is a program of its own that needs nothing but the plugin ABI, so this
 * command becomes it, arguments and all. */
#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "cli/command.h"
#include "cli/paths.h"
#include "cli/report.h"

#define PATH_BYTES 4096

int cli_cts(int argc, char **argv) {
  (void)argc;
  static const char *const places[] = {"consort-cts", "../libexec/consort/consort-cts"};
  char path[PATH_BYTES];
  for (size_t i = 0; i < sizeof places / sizeof places[0]; i++) {
    if (!cli_beside_program(places[i], path, sizeof path))
      return cli_error("cts", "cannot find this program's folder: %s", strerror(errno));
    if (access(path, X_OK) != 0) continue;
    argv[0] = path;
    execv(path, argv);
    return cli_error(path, "%s", strerror(errno));
  }
  return cli_error("cts", "there is no %s: install the kit", path);
}
