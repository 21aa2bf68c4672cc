/* Everything that can be known about a plugin without running its code is decided here: an ABI
 * range or an architecture that does not suit must never reach dlopen, which runs constructors. */
#include "core/manifest.h"

#include <ctype.h>
#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>

#include "consort/plugin.h"
#include "core/error.h"

#define MANIFEST_BYTES_MAX 65536
#define VALUE_BYTES_MAX    4096

enum {
  KEY_NAME,
  KEY_LIBRARY,
  KEY_ABI_MIN,
  KEY_ABI_MAX,
  KEY_ARCHITECTURE,
  N_KEYS_REQUIRED,
  KEY_VISIBLE_DEVICES = N_KEYS_REQUIRED,
  N_KEYS
};

static const char *const key_names[N_KEYS] = {"name",    "library",      "abi_min",
                                              "abi_max", "architecture", "visible_devices"};

typedef struct parser {
  const char *path;
  size_t line;
  cs_log *log;
  cs_manifest *out;
  uint32_t seen; /* bit i: key i was given */
} parser;

static cs_status bad_value(const parser *p, int key, const char *why, cs_error *error) {
  return cs_error_set(error, CS_CORRUPT, "%s:%zu: %s %s", p->path, p->line, key_names[key], why);
}

static bool is_plugin_name(const char *name) {
  for (const char *c = name; *c; c++) {
    if (!(*c >= 'a' && *c <= 'z') && !isdigit((unsigned char)*c) && *c != '-' && *c != '_') {
      return false;
    }
  }
  return name[0] != '\0';
}

static bool is_variable_name(const char *name) {
  for (const char *c = name; *c; c++)
    if (!(*c >= 'A' && *c <= 'Z') && *c != '_' && (c == name || !isdigit((unsigned char)*c)))
      return false;
  return name[0] != '\0';
}

/* `library` beside the manifest unless it is absolute; NULL when out of memory. */
static char *library_path(const char *manifest_path, const char *library) {
  const char *slash = strrchr(manifest_path, '/');
  if (library[0] == '/') return strdup(library);
  const int folder_bytes = slash ? (int)(slash - manifest_path) : 1;
  const size_t bytes = (size_t)folder_bytes + strlen(library) + 2;
  char *path = malloc(bytes);
  if (path) snprintf(path, bytes, "%.*s/%s", folder_bytes, slash ? manifest_path : ".", library);
  return path;
}

static bool parse_version(const char *value, uint32_t *out) {
  char *end = NULL;
  if (!isdigit((unsigned char)value[0])) return false;
  errno = 0;
  const unsigned long number = strtoul(value, &end, 10);
  if (errno != 0 || *end != '\0' || number > UINT32_MAX) return false;
  *out = (uint32_t)number;
  return true;
}

static cs_status take_value(parser *p, int key, const char *value, cs_error *error) {
  cs_manifest *out = p->out;
  switch (key) {
  case KEY_NAME:
    if (!is_plugin_name(value)) {
      return bad_value(p, key, "may hold only a-z, 0-9, '-' and '_'", error);
    }
    if (strlen(value) >= sizeof out->name) return bad_value(p, key, "is too long", error);
    strcpy(out->name, value);
    return CS_OK;
  case KEY_LIBRARY:
    if (value[0] == '\0') return bad_value(p, key, "is empty", error);
    out->library = library_path(p->path, value);
    return out->library ? CS_OK : cs_error_set(error, CS_OUT_OF_MEMORY, "%s: no memory", p->path);
  case KEY_ABI_MIN:
  case KEY_ABI_MAX:
    if (!parse_version(value, key == KEY_ABI_MIN ? &out->abi_min : &out->abi_max)) {
      return bad_value(p, key, "is not a version number", error);
    }
    return CS_OK;
  case KEY_VISIBLE_DEVICES:
    if (!is_variable_name(value))
      return bad_value(p, key, "may hold only A-Z, 0-9 and '_', a digit not first", error);
    if (strlen(value) >= sizeof out->visible_devices)
      return bad_value(p, key, "is too long", error);
    strcpy(out->visible_devices, value);
    return CS_OK;
  default:
    if (value[0] == '\0') return bad_value(p, key, "is empty", error);
    if (strlen(value) >= sizeof out->architecture) return bad_value(p, key, "is too long", error);
    strcpy(out->architecture, value);
    return CS_OK;
  }
}

/* Cuts white space from both ends, in place. */
static char *trim(char *text) {
  while (isspace((unsigned char)*text))
    text++;
  char *end = text + strlen(text);
  while (end > text && isspace((unsigned char)end[-1]))
    end--;
  *end = '\0';
  return text;
}

static cs_status parse_line(parser *p, char *line, cs_error *error) {
  line = trim(line);
  if (line[0] == '\0' || line[0] == '#') return CS_OK;
  char *equals = strchr(line, '=');
  if (!equals) {
    return cs_error_set(error, CS_CORRUPT, "%s:%zu: not of the form key = value", p->path, p->line);
  }
  *equals = '\0';
  const char *name = trim(line);
  const char *value = trim(equals + 1);
  for (int key = 0; key < N_KEYS; key++) {
    if (strcmp(name, key_names[key]) != 0) continue;
    if (p->seen & 1u << key) return bad_value(p, key, "is given twice", error);
    p->seen |= 1u << key;
    return take_value(p, key, value, error);
  }
  cs_log_write(p->log, CS_LOG_INFO, "%s:%zu: unknown key \"%s\" is skipped", p->path, p->line,
               name);
  return CS_OK;
}

static cs_status parse_text(parser *p, const char *text, size_t n, cs_error *error) {
  char line[VALUE_BYTES_MAX];
  for (size_t begin = 0; begin < n;) {
    const char *end = memchr(text + begin, '\n', n - begin);
    const size_t length = end ? (size_t)(end - text) - begin : n - begin;
    p->line++;
    if (length >= sizeof line || memchr(text + begin, '\0', length)) {
      return cs_error_set(error, CS_CORRUPT, "%s:%zu: the line is too long or not text", p->path,
                          p->line);
    }
    memcpy(line, text + begin, length);
    line[length] = '\0';
    const cs_status status = parse_line(p, line, error);
    if (status != CS_OK) return status;
    begin += length + 1;
  }
  for (int key = 0; key < N_KEYS_REQUIRED; key++) {
    if (p->seen & 1u << key) continue;
    return cs_error_set(error, CS_CORRUPT, "%s: %s is missing", p->path, key_names[key]);
  }
  if (p->out->abi_min > p->out->abi_max) {
    return cs_error_set(error, CS_CORRUPT, "%s: abi_min is above abi_max", p->path);
  }
  return CS_OK;
}

cs_status cs_manifest_parse(const char *text, size_t n, const char *path, cs_log *log,
                            cs_manifest *out, cs_error *error) {
  *out = (cs_manifest){.path = strdup(path)};
  if (!out->path) return cs_error_set(error, CS_OUT_OF_MEMORY, "%s: no memory", path);
  parser p = {.path = path, .log = log, .out = out};
  const cs_status status = parse_text(&p, text, n, error);
  if (status != CS_OK) cs_manifest_finish(out);
  return status;
}

cs_status cs_manifest_read(const char *path, cs_log *log, cs_manifest *out, cs_error *error) {
  *out = (cs_manifest){0};
  FILE *file = fopen(path, "re");
  if (!file) return cs_error_set(error, CS_IO, "%s: %s", path, strerror(errno));
  cs_status status = CS_OK;
  char *text = malloc(MANIFEST_BYTES_MAX + 1);
  if (!text) {
    status = cs_error_set(error, CS_OUT_OF_MEMORY, "%s: no memory", path);
    goto err_close;
  }
  const size_t n = fread(text, 1, MANIFEST_BYTES_MAX + 1, file);
  if (ferror(file)) {
    status = cs_error_set(error, CS_IO, "%s: %s", path, strerror(errno));
  } else if (n > MANIFEST_BYTES_MAX) {
    status = cs_error_set(error, CS_CORRUPT, "%s: larger than a manifest may be (64 KiB)", path);
  } else {
    status = cs_manifest_parse(text, n, path, log, out, error);
  }
  free(text);
err_close:
  fclose(file);
  return status;
}

void cs_manifest_finish(cs_manifest *manifest) {
  free(manifest->path);
  free(manifest->library);
  *manifest = (cs_manifest){0};
}

static void host_architecture(char *out, size_t bytes) {
#if defined(__x86_64__)
  snprintf(out, bytes, "x86_64");
#elif defined(__aarch64__)
  snprintf(out, bytes, "aarch64");
#else
  struct utsname names;
  snprintf(out, bytes, "%s", uname(&names) == 0 ? names.machine : "unknown");
#endif
}

cs_status cs_manifest_check_host(const cs_manifest *manifest, cs_error *error) {
  if (manifest->abi_min > CS_ABI_VERSION) {
    return cs_error_set(error, CS_UNSUPPORTED,
                        "needs plugin ABI %u to %u, this host speaks up to %u", manifest->abi_min,
                        manifest->abi_max, CS_ABI_VERSION);
  }
  char architecture[sizeof manifest->architecture];
  host_architecture(architecture, sizeof architecture);
  if (strcmp(architecture, manifest->architecture) != 0) {
    return cs_error_set(error, CS_UNSUPPORTED, "built for %s, this host is %s",
                        manifest->architecture, architecture);
  }
  return CS_OK;
}
