/* A digit string is an index, anything else after the colon a UUID: indices are never longer than
 * a few digits and UUIDs never consist of digits alone in any driver's spelling. */
#include "core/device_spec.h"

#include <ctype.h>
#include <stdio.h>
#include <string.h>

#include "core/error.h"

static cs_status parse_selector(const char *text, cs_device_spec *out, cs_error *error) {
  if (out->selector[0] == '\0') {
    return cs_error_set(error, CS_INVALID_ARGUMENT, "device \"%s\" has no index after ':'", text);
  }
  const size_t n_digits = strspn(out->selector, "0123456789");
  if (out->selector[n_digits] != '\0') {
    out->uuid = out->selector;
    return CS_OK;
  }
  if (n_digits > 6) {
    return cs_error_set(error, CS_INVALID_ARGUMENT, "device \"%s\" has an index out of range",
                        text);
  }
  for (size_t i = 0; i < n_digits; i++)
    out->index = out->index * 10 + (uint32_t)(out->selector[i] - '0');
  return CS_OK;
}

static cs_status add_option(char *pair, const char *text, cs_device_spec *out, cs_error *error) {
  char *equals = strchr(pair, '=');
  if (!equals || equals == pair) {
    return cs_error_set(error, CS_INVALID_ARGUMENT,
                        "device \"%s\": option \"%s\" is not of the form key=value", text, pair);
  }
  *equals = '\0';
  for (uint32_t i = 0; i < out->n_options; i++) {
    if (strcmp(out->options[i].key, pair) != 0) continue;
    return cs_error_set(error, CS_INVALID_ARGUMENT, "device \"%s\": option \"%s\" is given twice",
                        text, pair);
  }
  if (out->n_options == CS_SPEC_OPTIONS_MAX) {
    return cs_error_set(error, CS_INVALID_ARGUMENT, "device \"%s\" has more than %d options", text,
                        CS_SPEC_OPTIONS_MAX);
  }
  out->options[out->n_options++] = (cs_option){.key = pair, .value = equals + 1};
  return CS_OK;
}

static cs_status parse_options(const char *text, cs_device_spec *out, cs_error *error) {
  char *pair = out->split_options;
  while (pair && *pair) {
    char *next = strchr(pair, '&');
    if (next) *next++ = '\0';
    const cs_status status = add_option(pair, text, out, error);
    if (status != CS_OK) return status;
    pair = next;
  }
  return CS_OK;
}

cs_status cs_device_spec_parse(const char *text, cs_device_spec *out, cs_error *error) {
  memset(out, 0, sizeof *out);
  out->options_text = out->raw_options;
  if (!text || strlen(text) >= CS_SPEC_BYTES) {
    return cs_error_set(error, CS_INVALID_ARGUMENT, "a device is named by at most %d characters",
                        CS_SPEC_BYTES - 1);
  }
  const size_t name_length = strcspn(text, ":?");
  const size_t head_length = strcspn(text, "?");
  if (name_length == 0 || name_length >= sizeof out->name) {
    return cs_error_set(error, CS_INVALID_ARGUMENT, "device \"%.64s\" does not begin with a name",
                        text);
  }
  memcpy(out->name, text, name_length);
  if (text[head_length] == '?') {
    strcpy(out->raw_options, text + head_length + 1);
    strcpy(out->split_options, text + head_length + 1);
  }
  cs_status status = CS_OK;
  if (head_length > name_length) {
    memcpy(out->selector, text + name_length + 1, head_length - name_length - 1);
    status = parse_selector(text, out, error);
  }
  if (status == CS_OK) status = parse_options(text, out, error);
  return status;
}
