/* The manifest of a plugin: a small text file NAME.plugin of `key = value` lines. */
#ifndef CORE_MANIFEST_H
#define CORE_MANIFEST_H

#include <stddef.h>
#include <stdint.h>

#include "consort/status.h"
#include "core/log.h"

#define CS_PLUGIN_NAME_BYTES   32
#define CS_VARIABLE_NAME_BYTES 64

typedef struct cs_manifest {
  char name[CS_PLUGIN_NAME_BYTES]; /* lower case, digits, '-' and '_' */
  char *path;                      /* of the manifest; owned */
  char *library;                   /* absolute or relative to the working folder; owned */
  uint32_t abi_min;
  uint32_t abi_max;
  char architecture[32];
  char visible_devices[CS_VARIABLE_NAME_BYTES]; /* "": the driver obeys none */
} cs_manifest;

/* Reads n bytes of a manifest that lies at `path`. Five keys (name, library, abi_min, abi_max,
 * architecture) are required, each once. visible_devices may be given: the environment variable by
 * which the driver hides devices and numbers the rest from 0. An unknown key is logged and skipped;
 * '#' begins a comment line. CS_CORRUPT names file, line and key. On success free *out with
 * cs_manifest_finish. */
cs_status cs_manifest_parse(const char *text, size_t n, const char *path, cs_log *log,
                            cs_manifest *out, cs_error *error);

/* The same from the file. CS_IO when it cannot be read, CS_CORRUPT above 64 KiB. */
cs_status cs_manifest_read(const char *path, cs_log *log, cs_manifest *out, cs_error *error);

/* Frees what a manifest owns; zeroed ones are fine. */
void cs_manifest_finish(cs_manifest *manifest);

/* CS_UNSUPPORTED when this host's ABI version or architecture is not the manifest's. */
cs_status cs_manifest_check_host(const cs_manifest *manifest, cs_error *error);

#endif
