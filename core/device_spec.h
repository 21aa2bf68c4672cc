/* The text that names a device: "NAME", "NAME:INDEX" or "NAME:UUID", then "?key=value&...". */
#ifndef CORE_DEVICE_SPEC_H
#define CORE_DEVICE_SPEC_H

#include <stdbool.h>
#include <stdint.h>

#include "consort/plugin.h"
#include "core/manifest.h"

#define CS_SPEC_BYTES       1024
#define CS_SPEC_OPTIONS_MAX 32

typedef struct cs_device_spec {
  char name[CS_PLUGIN_NAME_BYTES];
  uint32_t index;           /* 0 when the text gives none */
  const char *uuid;         /* NULL unless the device is named by it */
  const char *options_text; /* what follows '?', unchanged; "" for none */
  uint32_t n_options;
  cs_option options[CS_SPEC_OPTIONS_MAX]; /* pointers, like those above, into the texts below */
  char selector[CS_SPEC_BYTES];
  char raw_options[CS_SPEC_BYTES];
  char split_options[CS_SPEC_BYTES];
} cs_device_spec;

/* CS_INVALID_ARGUMENT quotes the part that cannot be read. *out is not to be copied. */
cs_status cs_device_spec_parse(const char *text, cs_device_spec *out, cs_error *error);

#endif
