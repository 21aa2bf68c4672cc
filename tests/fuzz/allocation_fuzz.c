/* Any environment of lines NAME=VALUE (the first of a name counts) is read, or
 * refused in one line that names a variable; never are more devices offered than were given. */
#include "fuzz.h"

#include <stdlib.h>
#include <string.h>

#include "scheduler/offer.h"

#define N_DEVICES 5

static const char *get(const void *user, const char *name) {
  const size_t n = strlen(name);
  for (const char *line = user; *line; line += strlen(line) + 1)
    if (strncmp(line, name, n) == 0 && line[n] == '=') return line + n + 1;
  return NULL;
}

/* Texts that follow each other, each ended, the whole by an empty one. */
static char *make_lines(const uint8_t *data, size_t n_bytes) {
  char *const lines = malloc(n_bytes + 2);
  FUZZ_CHECK(lines);
  if (n_bytes > 0) memcpy(lines, data, n_bytes);
  for (size_t i = 0; i < n_bytes; i++)
    if (lines[i] == '\n') lines[i] = '\0';
  lines[n_bytes] = lines[n_bytes + 1] = '\0';
  return lines;
}

static void check_message(const cs_error *error) {
  FUZZ_CHECK(error->message[0] && strchr(error->message, '_'));
  for (const char *c = error->message; *c; c++)
    FUZZ_CHECK((unsigned char)*c >= ' ' && (unsigned char)*c < 127);
}

static void check_offers(const cs_allocation *allocation, const cs_offer_device *devices) {
  uint32_t n_offered = 0;
  for (size_t i = 0; i < N_DEVICES; i++) {
    FUZZ_CHECK(devices[i].reason[0] && !strchr(devices[i].reason, '\n'));
    if (devices[i].on_processors || !allocation->in_job) continue;
    n_offered += devices[i].verdict == CS_OFFER_YES;
    if (allocation->n_given == 0) FUZZ_CHECK(devices[i].verdict == CS_OFFER_NO);
  }
  /* A driver's list may leave fewer devices than its driver shows here: these are fixed. */
  if (!devices[1].visible_devices[0]) FUZZ_CHECK(n_offered <= allocation->n_given);
}

static void choose(const cs_environment *environment, const cs_allocation *allocation,
                   const char *variable) {
  cs_offer_device devices[N_DEVICES] = {{.plugin = "host", .on_processors = true},
                                        {.plugin = "a", .uuid = "A-0", .visible_devices = variable},
                                        {.plugin = "a", .index = 1, .visible_devices = variable},
                                        {.plugin = "x", .on_processors = true},
                                        {.plugin = "x", .index = 1, .uuid = "X-1"}};
  cs_error error = CS_ERROR_INIT;
  if (cs_offer_choose(allocation, environment, devices, N_DEVICES, &error) == CS_OK)
    check_offers(allocation, devices);
  else
    check_message(&error);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes) {
  char *const lines = make_lines(data, n_bytes);
  const cs_environment environment = {.get = get, .user = lines};
  cs_error error = CS_ERROR_INIT;
  cs_allocation allocation;
  if (cs_allocation_read(&environment, &allocation, &error) == CS_OK) {
    choose(&environment, &allocation, "");
    choose(&environment, &allocation, "A_VISIBLE");
  } else {
    check_message(&error);
  }
  free(lines);
  return 0;
}
