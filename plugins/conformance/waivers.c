/* A waiver is a debt with a reason: it turns a failure into "waived", gives no badge, and has to go
 * when its failure goes. */
#include "waivers.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

static char *trim(char *text) {
  text += strspn(text, " \t");
  size_t length = strlen(text);
  while (length && strchr(" \t\r\n", text[length - 1]))
    text[--length] = '\0';
  return text;
}

static bool waive(const char *pattern, const char *reason, const kit_registry *registry,
                  kit_board *board) {
  bool used = false;
  for (size_t i = 0; i < registry->n_cases; i++) {
    kit_result *result = &board->results[i];
    if (result->status != KIT_FAILED || !kit_pattern_matches(pattern, registry->cases[i].name))
      continue;
    char failure[KIT_MESSAGE_BYTES];
    memcpy(failure, result->message, sizeof failure);
    snprintf(result->message, sizeof result->message, "%.120s (%.240s)", reason, failure);
    result->status = KIT_WAIVED;
    used = true;
  }
  return used;
}

bool kit_apply_waivers(const char *path, const kit_registry *registry, kit_board *board,
                       uint32_t *n_unneeded) {
  char line[1024];
  unsigned number = 0;
  bool is_fine = true;
  *n_unneeded = 0;
  FILE *file = fopen(path, "r");
  if (!file) {
    fprintf(stderr, "consort-cts: error: %s: %s\n", path, strerror(errno));
    return false;
  }
  while (fgets(line, sizeof line, file)) {
    number++;
    char *pattern = trim(line);
    if (!*pattern || *pattern == '#') continue;
    char *colon = strchr(pattern, ':');
    char *reason = colon ? trim(colon + 1) : NULL;
    if (!reason || !*reason) {
      fprintf(stderr, "consort-cts: error: %s:%u: a waiver needs a reason: PATTERN: REASON\n", path,
              number);
      is_fine = false;
      break;
    }
    *colon = '\0';
    pattern = trim(pattern);
    if (waive(pattern, reason, registry, board)) continue;
    fprintf(stderr, "consort-cts: error: %s:%u: nothing that %s names has failed: remove it\n",
            path, number, pattern);
    ++*n_unneeded;
  }
  fclose(file);
  return is_fine;
}
