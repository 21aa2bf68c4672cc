/* Names of what can be fetched: "hf:OWNER/REPO[@REVISION][:FILE]" or a URL. */
#ifndef CLI_PULL_SOURCE_H
#define CLI_PULL_SOURCE_H

#include <stdbool.h>
#include <stddef.h>

#include <jansson.h>

#include "cli/pull_fetch.h"

#define PULL_MAX_PART 256

typedef struct pull_source {
  const char *text; /* as given, borrowed */
  bool is_url;
  char owner[PULL_MAX_PART];
  char repository[PULL_MAX_PART];
  char revision[PULL_MAX_PART]; /* "main" unless given */
  char file[PULL_MAX_PART];     /* "" for the whole model */
} pull_source;

/* CLI_DONE, or an exit status after an error line that names the part which is wrong. */
int pull_source_parse(const char *text, pull_source *source);

/* One file of a repository. */
typedef struct pull_entry {
  char name[PULL_MAX_PART]; /* a relative path without ".." */
  uint64_t n_bytes;
  char sha256[PULL_SHA256_TEXT]; /* "" where the repository tells none */
} pull_entry;

typedef struct pull_listing {
  char commit[PULL_MAX_PART];
  pull_entry *entries; /* owned */
  size_t n_entries;
} pull_listing;

/* Reads a hub's answer to /api/models/OWNER/REPO/revision/REVISION?blobs=true. */
int pull_listing_read(const char *shown_url, const char *text, size_t n_bytes,
                      pull_listing *listing);
void pull_listing_free(pull_listing *listing);

/* Keeps of the listing what `source` names: a file with the other parts of a split one, the only
 * GGUF file (which may be split), or, where there is none, the safetensors folder with what belongs
 * to it. */
int pull_listing_choose(const pull_source *source, pull_listing *listing);

#endif
