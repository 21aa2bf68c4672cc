/* consort new-plugin: writes an out-of-tree plugin project from the template that is installed with
 * the SDK. The files are few and known, so they are a table; what differs is the name in them. */
#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cli/command.h"
#include "cli/options.h"
#include "cli/paths.h"
#include "cli/report.h"
#include "cli/text_file.h"

#define PATH_BYTES     4096
#define FILE_BYTES_MAX 65536
#define NAME_BYTES_MAX 31

typedef struct template_file {
  const char *from; /* below the template's folder */
  const char *to;   /* below the new one; "@NAME@" is replaced */
} template_file;

static const char *const folders[] = {"", "/src", "/.github", "/.github/workflows"};
static const template_file files[] = {
    {"CMakeLists.txt", "CMakeLists.txt"},
    {"README.md", "README.md"},
    {"manifest.plugin.in", "@NAME@.plugin.in"},
    {"ci/ci.yml", ".github/workflows/ci.yml"},
    {"src/plugin.h", "src/plugin.h"},
    {"src/plugin.c", "src/plugin.c"},
    {"src/memory.c", "src/memory.c"},
    {"src/stream.c", "src/stream.c"},
    {"src/ops.c", "src/ops.c"},
};

/* As the manifest wants it: it begins device names. */
static bool name_is_good(const char *name) {
  const size_t length = strlen(name);
  if (length == 0 || length > NAME_BYTES_MAX || name[0] < 'a' || name[0] > 'z') return false;
  return strspn(name, "abcdefghijklmnopqrstuvwxyz0123456789-_") == length;
}

/* "my-chip" as a C and CMake identifier: "my_chip". */
static void make_identifier(const char *name, char *identifier) {
  do {
    *identifier++ = *name == '-' ? '_' : *name;
  } while (*name++);
}

/* Writes `text` with the two placeholders replaced. */
static void write_replaced(FILE *file, const char *text, const char *name, const char *identifier) {
  for (const char *at; (at = strchr(text, '@')) != NULL;) {
    fwrite(text, 1, (size_t)(at - text), file);
    if (strncmp(at, "@NAME@", 6) == 0) {
      fputs(name, file);
      text = at + 6;
    } else if (strncmp(at, "@ID@", 4) == 0) {
      fputs(identifier, file);
      text = at + 4;
    } else {
      fputc('@', file);
      text = at + 1;
    }
  }
  fputs(text, file);
}

static int write_text(const char *path, const char *text, const char *name,
                      const char *identifier) {
  FILE *file = fopen(path, "wx");
  if (!file) return errno;
  write_replaced(file, text, name, identifier);
  const int problem = ferror(file) ? EIO : 0;
  return fclose(file) != 0 ? errno : problem;
}

/* One file of the template into the new folder. */
static int write_file(const char *template, const template_file *entry, const char *folder,
                      const char *name, const char *identifier) {
  char from[PATH_BYTES], to[PATH_BYTES];
  snprintf(from, sizeof from, "%.3000s/%s", template, entry->from);
  if (access(from, R_OK) != 0) return cli_error(from, "%s: is the SDK installed?", strerror(errno));
  char *text;
  const int status = cli_read_text(from, FILE_BYTES_MAX, &text, NULL);
  if (status != CLI_DONE) return status;
  const bool is_named = strncmp(entry->to, "@NAME@", 6) == 0;
  snprintf(to, sizeof to, "%.3000s/%s%s", folder, is_named ? name : "",
           is_named ? entry->to + 6 : entry->to);
  const int problem = write_text(to, text, name, identifier);
  free(text);
  return problem ? cli_error(to, "%s", strerror(problem)) : CLI_DONE;
}

static int write_project(const char *template, const char *folder, const char *name) {
  char identifier[NAME_BYTES_MAX + 1], path[PATH_BYTES];
  make_identifier(name, identifier);
  for (size_t i = 0; i < sizeof folders / sizeof folders[0]; i++) {
    snprintf(path, sizeof path, "%.3000s%s", folder, folders[i]);
    if (mkdir(path, 0777) != 0) return cli_error(path, "%s", strerror(errno));
  }
  for (size_t i = 0; i < sizeof files / sizeof files[0]; i++) {
    const int status = write_file(template, &files[i], folder, name, identifier);
    if (status != CLI_DONE) return status;
  }
  return CLI_DONE;
}

int cli_new_plugin(int argc, char **argv) {
  const char *name = NULL;
  const cli_operand operands[] = {{"NAME", &name, false}};
  const cli_syntax syntax = {
      .command = "new-plugin",
      .usage = "NAME",
      .summary =
          "Writes the folder consort-NAME: an out-of-tree plugin project that builds against "
          "the installed SDK and enters the conformance kit unedited.",
      .operands = operands,
      .n_operands = 1,
  };
  int status;
  if (!cli_options_parse(&syntax, argc, argv, &status)) return status;
  if (!name_is_good(name))
    return cli_usage_error(name,
                           "a plugin's name is a small letter and up to %d small letters, "
                           "digits, '-' or '_'",
                           NAME_BYTES_MAX - 1);
  char template[PATH_BYTES], folder[64];
  if (!cli_beside_program("../share/consort/template", template, sizeof template))
    return cli_error("new-plugin", "cannot find this program's folder: %s", strerror(errno));
  snprintf(folder, sizeof folder, "consort-%s", name);
  status = write_project(template, folder, name);
  if (status != CLI_DONE) return status;
  printf("%s is written. Next:\n"
         "  cmake -S %s -B %s/build && cmake --build %s/build && ctest --test-dir %s/build\n",
         folder, folder, folder, folder, folder);
  return cli_finish_output();
}
