/* What a server says of names and sizes is not trusted: a name becomes a path, so that each of its
 * parts is looked at before it does. */
#include "cli/pull_source.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "cli/command.h"
#include "cli/report.h"

/* ---- names ---- */

static bool is_plain(const char *text, size_t n) {
  if (n == 0 || n >= PULL_MAX_PART || text[0] == '.') return false;
  for (size_t i = 0; i < n; i++)
    if (!isalnum((unsigned char)text[i]) && !strchr("._-+ ()=,", text[i])) return false;
  return true;
}

/* A relative path of plain parts. */
static bool is_plain_path(const char *text) {
  if (strlen(text) >= PULL_MAX_PART) return false;
  for (const char *part = text;; part++) {
    const size_t n = strcspn(part, "/");
    if (!is_plain(part, n)) return false;
    part += n;
    if (*part == '\0') return true;
  }
}

static bool take_part(const char **at, const char *stops, char out[PULL_MAX_PART]) {
  const size_t n = strcspn(*at, stops);
  if (!is_plain(*at, n)) return false;
  memcpy(out, *at, n);
  out[n] = '\0';
  *at += n;
  return true;
}

static int bad_source(const char *text) {
  return cli_usage_error(text, "is neither hf:OWNER/REPO[@REVISION][:FILE] nor a URL");
}

int pull_source_parse(const char *text, pull_source *source) {
  *source = (pull_source){.text = text, .revision = "main"};
  if (strncmp(text, "https://", 8) == 0 || strncmp(text, "http://", 7) == 0) {
    source->is_url = true;
    return CLI_DONE;
  }
  if (strncmp(text, "hf:", 3) != 0) return bad_source(text);
  const char *at = text + 3;
  if (!take_part(&at, "/", source->owner) || *at != '/') return bad_source(text);
  at++;
  if (!take_part(&at, "@:", source->repository)) return bad_source(text);
  if (*at == '@') {
    at++;
    if (!take_part(&at, ":", source->revision)) return bad_source(text);
  }
  if (*at == '\0') return CLI_DONE;
  at++;
  if (!is_plain_path(at)) return bad_source(text);
  snprintf(source->file, sizeof source->file, "%s", at);
  return CLI_DONE;
}

/* ---- listings ---- */

static bool is_digest(const char *text, size_t n_digits) {
  return strlen(text) == n_digits && strspn(text, "0123456789abcdefABCDEF") == n_digits;
}

/* What is wrong with it, or NULL. */
static const char *read_entry(const json_t *sibling, pull_entry *entry) {
  const char *const name = json_string_value(json_object_get(sibling, "rfilename"));
  if (!name) return "rfilename is missing";
  if (!is_plain_path(name)) return "rfilename is not a plain path";
  snprintf(entry->name, sizeof entry->name, "%s", name);
  const json_t *const lfs = json_object_get(sibling, "lfs");
  const json_t *size = json_object_get(lfs, "size");
  if (!size) size = json_object_get(sibling, "size");
  if (size && (!json_is_integer(size) || json_integer_value(size) < 0)) return "size is no size";
  entry->n_bytes = (uint64_t)json_integer_value(size);
  const char *const sha256 = json_string_value(json_object_get(lfs, "sha256"));
  if (sha256 && !is_digest(sha256, PULL_SHA256_TEXT - 1)) return "lfs.sha256 is no SHA-256";
  snprintf(entry->sha256, sizeof entry->sha256, "%s", sha256 ? sha256 : "");
  return NULL;
}

static int read_entries(const char *shown_url, const json_t *root, pull_listing *listing) {
  const char *const commit = json_string_value(json_object_get(root, "sha"));
  const json_t *const siblings = json_object_get(root, "siblings");
  if (!commit || !is_digest(commit, 40)) return cli_error(shown_url, "sha is no commit");
  if (!json_is_array(siblings)) return cli_error(shown_url, "siblings is no list");
  snprintf(listing->commit, sizeof listing->commit, "%s", commit);
  listing->entries = calloc(json_array_size(siblings) + 1, sizeof *listing->entries);
  if (!listing->entries) return cli_error(shown_url, "out of memory");
  for (size_t i = 0; i < json_array_size(siblings); i++) {
    const json_t *const sibling = json_array_get(siblings, i);
    const char *const name = json_string_value(json_object_get(sibling, "rfilename"));
    if (name && name[0] == '.') continue; /* .gitattributes and the like */
    const char *const wrong = read_entry(sibling, &listing->entries[listing->n_entries]);
    if (wrong) return cli_error(shown_url, "siblings[%zu]: %s", i, wrong);
    listing->n_entries++;
  }
  return CLI_DONE;
}

int pull_listing_read(const char *shown_url, const char *text, size_t n_bytes,
                      pull_listing *listing) {
  *listing = (pull_listing){.n_entries = 0};
  json_error_t reason;
  json_t *const root = json_loadb(text, n_bytes, 0, &reason);
  if (!root) return cli_error(shown_url, "line %d: %s", reason.line, reason.text);
  const int status = read_entries(shown_url, root, listing);
  json_decref(root);
  if (status != CLI_DONE) pull_listing_free(listing);
  return status;
}

void pull_listing_free(pull_listing *listing) {
  free(listing->entries);
  *listing = (pull_listing){.n_entries = 0};
}

/* ---- choosing ---- */

static bool has_ending(const char *name, const char *ending) {
  const size_t n = strlen(name), n_ending = strlen(ending);
  return n >= n_ending && strcasecmp(name + n - n_ending, ending) == 0;
}

#define SPLIT_TAIL "-00001-of-00001.gguf"

/* Length of what all parts of a split file begin with; 0 when it is not split. */
static size_t split_stem(const char *name) {
  const size_t n = strlen(name), n_tail = sizeof SPLIT_TAIL - 1;
  if (n <= n_tail) return 0;
  for (size_t i = 0; i < n_tail; i++) {
    const char wanted = SPLIT_TAIL[i], c = name[n - n_tail + i];
    if (isdigit((unsigned char)wanted) ? !isdigit((unsigned char)c) : c != wanted) return 0;
  }
  return n - n_tail;
}

/* Whether both are one file, or parts of one. */
static bool is_same_file(const char *a, const char *b) {
  if (strcmp(a, b) == 0) return true;
  const size_t n_stem = split_stem(a), n = strlen(a);
  return n_stem > 0 && split_stem(b) == n_stem && strncmp(a, b, n_stem) == 0 &&
         strcmp(a + n - 13, b + n_stem + 7) == 0; /* "of-0000N.gguf" */
}

static bool belongs_to_folder(const char *name) {
  static const char *const endings[] = {
      ".safetensors",           ".safetensors.index.json", "config.json",
      "tokenizer.json",         "tokenizer.model",         "chat_template.jinja",
      "special_tokens_map.json"};
  if (strchr(name, '/')) return false;
  for (size_t i = 0; i < sizeof endings / sizeof endings[0]; i++)
    if (has_ending(name, endings[i])) return true;
  return false;
}

/* The one GGUF file; NULL with *n_files telling whether there are none or several. */
static const char *find_gguf(const pull_listing *listing, size_t *n_files) {
  const char *found = NULL;
  *n_files = 0;
  for (size_t i = 0; i < listing->n_entries; i++) {
    const char *const name = listing->entries[i].name;
    if (!has_ending(name, ".gguf") || (found && is_same_file(found, name))) continue;
    found = name;
    ++*n_files;
  }
  return *n_files == 1 ? found : NULL;
}

static int tell_choice(const pull_source *source, const pull_listing *listing) {
  char names[512] = "";
  size_t used = 0;
  for (size_t i = 0; i < listing->n_entries && used < sizeof names; i++)
    if (has_ending(listing->entries[i].name, ".gguf"))
      used += (size_t)snprintf(names + used, sizeof names - used, "%s%s", used ? ", " : "",
                               listing->entries[i].name);
  return cli_error(source->text, "has several GGUF files: add one as :FILE (%s%s)", names,
                   used >= sizeof names ? "..." : "");
}

int pull_listing_choose(const pull_source *source, pull_listing *listing) {
  size_t n_gguf = 0;
  const char *const gguf = find_gguf(listing, &n_gguf);
  if (!source->file[0] && n_gguf > 1) return tell_choice(source, listing);
  char wanted[PULL_MAX_PART] = "";
  if (source->file[0] || gguf)
    snprintf(wanted, sizeof wanted, "%s", source->file[0] ? source->file : gguf);
  size_t n_kept = 0;
  bool has_weights = false;
  for (size_t i = 0; i < listing->n_entries; i++) {
    const char *const name = listing->entries[i].name;
    const bool kept = wanted[0] ? is_same_file(wanted, name) : belongs_to_folder(name);
    if (!kept) continue;
    has_weights |= wanted[0] || has_ending(name, ".safetensors");
    listing->entries[n_kept++] = listing->entries[i];
  }
  listing->n_entries = n_kept;
  if (n_kept > 0 && has_weights) return CLI_DONE;
  return wanted[0] ? cli_error(source->text, "has no file of this name")
                   : cli_error(source->text, "has neither a GGUF nor a safetensors file");
}
