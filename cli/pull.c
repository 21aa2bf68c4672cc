/* consort pull: a revision is resolved to a commit first, and files are fetched and kept under it,
 * so that two files of one model are never of two versions. What was resolved is kept too, and
 * answers without a network. */
#include <errno.h>
#include <limits.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cli/command.h"
#include "cli/interrupt.h"
#include "cli/options.h"
#include "cli/pull_fetch.h"
#include "cli/pull_source.h"
#include "cli/report.h"
#include "cli/text_file.h"

#define HUB               "https://huggingface.co"
#define MAX_LISTING_BYTES ((size_t)64 << 20)
#define URL_BYTES         2048

typedef struct pull_flags {
  const char *source_text;
  const char *sha256;
  bool offline;
  bool json;
  pull_source source;
  char folder[PATH_MAX]; /* where this source is kept */
} pull_flags;

/* ---- the cache ---- */

static int make_folders(const char *folder) {
  char path[PATH_MAX];
  snprintf(path, sizeof path, "%s", folder);
  for (char *at = path + 1;; at++) {
    if (*at != '/' && *at != '\0') continue;
    const char kept = *at;
    *at = '\0';
    if (mkdir(path, 0755) != 0 && errno != EEXIST) return cli_error(path, "%s", strerror(errno));
    *at = kept;
    if (kept == '\0') return CLI_DONE;
  }
}

static int find_cache(char out[PATH_MAX]) {
  const char *const own = getenv("CONSORT_CACHE");
  const char *const cache = getenv("XDG_CACHE_HOME");
  const char *const home = getenv("HOME");
  int n = -1;
  if (own && own[0])
    n = snprintf(out, PATH_MAX, "%s", own);
  else if (cache && cache[0])
    n = snprintf(out, PATH_MAX, "%s/consort/models", cache);
  else if (home && home[0])
    n = snprintf(out, PATH_MAX, "%s/.cache/consort/models", home);
  else
    return cli_error("pull", "none of CONSORT_CACHE, XDG_CACHE_HOME and HOME says where to");
  return n < PATH_MAX ? CLI_DONE : cli_error("CONSORT_CACHE", "the path is too long");
}

/* A URL is named by its hash: its query may hold anything. */
static int choose_folder(pull_flags *flags) {
  char cache[PATH_MAX];
  const int status = find_cache(cache);
  if (status != CLI_DONE) return status;
  int n;
  if (flags->source.is_url) {
    unsigned char digest[crypto_hash_sha256_BYTES];
    char name[PULL_SHA256_TEXT];
    crypto_hash_sha256(digest, (const unsigned char *)flags->source_text,
                       strlen(flags->source_text));
    sodium_bin2hex(name, sizeof name, digest, sizeof digest);
    n = snprintf(flags->folder, PATH_MAX, "%s/url/%.16s", cache, name);
  } else {
    n = snprintf(flags->folder, PATH_MAX, "%s/hf/%s/%s", cache, flags->source.owner,
                 flags->source.repository);
  }
  return n < PATH_MAX ? CLI_DONE : cli_error(flags->source_text, "the path is too long");
}

static bool is_there(const char *path) {
  struct stat found;
  return stat(path, &found) == 0 && S_ISREG(found.st_mode);
}

static int join(const char *folder, const char *name, char out[PATH_MAX]) {
  return snprintf(out, PATH_MAX, "%s/%s", folder, name) < PATH_MAX
             ? CLI_DONE
             : cli_error(name, "the path is too long");
}

/* ---- what is fetched ---- */

static const char *hub(void) {
  const char *const endpoint = getenv("HF_ENDPOINT");
  return endpoint && endpoint[0] ? endpoint : HUB;
}

static pull_request request_for(const pull_flags *flags, const char *url) {
  const char *const token = getenv("HF_TOKEN");
  return (pull_request){.url = url,
                        .token = !flags->source.is_url && token && token[0] ? token : NULL,
                        .interrupted = &cli_interrupted};
}

/* Fetches unless it is there; *path says where. */
static int fetch_one(const pull_flags *flags, const char *folder, const pull_entry *entry,
                     const char *url, char path[PATH_MAX]) {
  int status = join(folder, entry->name, path);
  if (status != CLI_DONE || is_there(path)) return status;
  if (flags->offline) return cli_error(flags->source_text, "%s is not in the cache", entry->name);
  char parent[PATH_MAX];
  memcpy(parent, path, PATH_MAX);
  *strrchr(parent, '/') = '\0';
  status = make_folders(parent);
  if (status != CLI_DONE) return status;
  pull_file file = {.path = path, .n_bytes = entry->n_bytes};
  memcpy(file.sha256, entry->sha256, sizeof file.sha256);
  const pull_request request = request_for(flags, url);
  return pull_fetch_file(&request, &file);
}

static int pull_url(const pull_flags *flags, char path[PATH_MAX]) {
  pull_entry entry = {.n_bytes = 0};
  char shown[URL_BYTES];
  pull_shown_url(flags->source_text, shown, sizeof shown);
  const char *const slash = strrchr(shown, '/');
  const char *const name = slash && slash[1] ? slash + 1 : "model";
  snprintf(entry.name, sizeof entry.name, "%s", name[0] == '.' ? "model" : name);
  if (flags->sha256) snprintf(entry.sha256, sizeof entry.sha256, "%s", flags->sha256);
  return fetch_one(flags, flags->folder, &entry, flags->source_text, path);
}

/* ---- a repository ---- */

static int write_file(const char *path, const char *text, size_t n_bytes) {
  char beside[PATH_MAX];
  if (snprintf(beside, sizeof beside, "%s.new", path) >= PATH_MAX)
    return cli_error(path, "the path is too long");
  FILE *const file = fopen(beside, "wb");
  bool good = file && fwrite(text, 1, n_bytes, file) == n_bytes;
  if (file && fclose(file) != 0) good = false;
  if (good && rename(beside, path) == 0) return CLI_DONE;
  return cli_error(path, "%s", strerror(errno));
}

/* What the hub says of the revision, or what it said last when offline. */
static int resolve(const pull_flags *flags, pull_listing *listing) {
  const pull_source *const source = &flags->source;
  char kept[PATH_MAX], url[URL_BYTES], shown[URL_BYTES], *text;
  size_t n_bytes = 0;
  if (snprintf(kept, sizeof kept, "%s/%s.json", flags->folder, source->revision) >= PATH_MAX)
    return cli_error(flags->source_text, "the path is too long");
  int status;
  if (flags->offline) {
    if (!is_there(kept)) return cli_error(flags->source_text, "is not in the cache");
    status = cli_read_text(kept, MAX_LISTING_BYTES, &text, &n_bytes);
    if (status != CLI_DONE) return status;
    status = pull_listing_read(kept, text, n_bytes, listing);
    free(text);
    return status;
  }
  if (snprintf(url, sizeof url, "%s/api/models/%s/%s/revision/%s?blobs=true", hub(), source->owner,
               source->repository, source->revision) >= URL_BYTES)
    return cli_error("HF_ENDPOINT", "is too long");
  const pull_request request = request_for(flags, url);
  status = pull_fetch_text(&request, MAX_LISTING_BYTES, &text, &n_bytes);
  if (status != CLI_DONE) return status;
  pull_shown_url(url, shown, sizeof shown);
  status = pull_listing_read(shown, text, n_bytes, listing);
  if (status == CLI_DONE) status = make_folders(flags->folder);
  if (status == CLI_DONE) status = write_file(kept, text, n_bytes);
  free(text);
  return status;
}

/* Spaces are all that plain names need escaped. */
static int file_url(const pull_source *source, const char *commit, const char *name,
                    char url[URL_BYTES]) {
  int n = snprintf(url, URL_BYTES, "%s/%s/%s/resolve/%s/", hub(), source->owner, source->repository,
                   commit);
  for (const char *c = name; *c && n > 0 && n < URL_BYTES - 4; c++)
    n += snprintf(url + n, (size_t)(URL_BYTES - n), *c == ' ' ? "%%20" : "%c", *c);
  return n < URL_BYTES - 4 ? CLI_DONE : cli_error(source->text, "the URL is too long");
}

/* *path: the file, or the folder of a model of many. */
static int pull_repository(const pull_flags *flags, char path[PATH_MAX]) {
  pull_listing listing;
  int status = resolve(flags, &listing);
  if (status != CLI_DONE) return status;
  status = pull_listing_choose(&flags->source, &listing);
  char folder[PATH_MAX], first[PATH_MAX] = "";
  if (status == CLI_DONE) status = join(flags->folder, listing.commit, folder);
  bool is_folder = false;
  for (size_t i = 0; status == CLI_DONE && i < listing.n_entries; i++) {
    const pull_entry *const entry = &listing.entries[i];
    char url[URL_BYTES], place[PATH_MAX];
    const size_t n = strlen(entry->name);
    is_folder |= n > 12 && strcmp(entry->name + n - 12, ".safetensors") == 0;
    status = file_url(&flags->source, listing.commit, entry->name, url);
    if (status == CLI_DONE) status = fetch_one(flags, folder, entry, url, place);
    if (status == CLI_DONE && (!first[0] || strcmp(place, first) < 0))
      memcpy(first, place, sizeof first);
  }
  if (status == CLI_DONE)
    memcpy(path, is_folder && !flags->source.file[0] ? folder : first, PATH_MAX);
  pull_listing_free(&listing);
  return status;
}

/* ---- the command ---- */

static int pull(pull_flags *flags) {
  char path[PATH_MAX];
  int status = choose_folder(flags);
  if (status != CLI_DONE) return status;
  struct sigaction previous;
  cli_interrupt_begin(&previous);
  status = flags->source.is_url ? pull_url(flags, path) : pull_repository(flags, path);
  cli_interrupt_end(&previous);
  if (status != CLI_DONE) return status;
  if (flags->json) return cli_print_json(json_pack("{so}", "path", cli_json_string(path)));
  printf("%s\n", path);
  return cli_finish_output();
}

static bool parse(pull_flags *flags, int argc, char **argv, int *status) {
  const cli_option options[] = {
      {"sha256", 0, CLI_OPTION_STRING, &flags->sha256, "HEX", "what the file of a URL must hash to",
       0, 0, NULL},
      {"offline", 0, CLI_OPTION_FLAG, &flags->offline, NULL,
       "take what is in the cache, ask no server", 0, 0, NULL},
      {"json", 0, CLI_OPTION_FLAG, &flags->json, NULL, "print one JSON object", 0, 0, NULL},
  };
  const cli_operand operands[] = {{.name = "SOURCE", .value = &flags->source_text}};
  const cli_syntax syntax = {
      .command = "pull",
      .usage = "SOURCE [--sha256 HEX] [--offline] [--json]",
      .summary = "Fetches a model into the cache and prints where it is. SOURCE is "
                 "hf:OWNER/REPO[@REVISION][:FILE] or a URL. An interrupted transfer goes on where "
                 "it ended. HF_TOKEN opens private repositories, HF_ENDPOINT names another hub, "
                 "CONSORT_CACHE another folder.",
      .options = options,
      .n_options = sizeof options / sizeof options[0],
      .operands = operands,
      .n_operands = 1,
  };
  if (!cli_options_parse(&syntax, argc, argv, status)) return false;
  *status = pull_source_parse(flags->source_text, &flags->source);
  if (*status != CLI_DONE) return false;
  if (flags->sha256 && (strlen(flags->sha256) != PULL_SHA256_TEXT - 1 ||
                        strspn(flags->sha256, "0123456789abcdefABCDEF") != PULL_SHA256_TEXT - 1))
    *status = cli_usage_error("--sha256", "is not 64 hexadecimal digits");
  else if (flags->sha256 && !flags->source.is_url)
    *status = cli_usage_error("--sha256", "goes with a URL: a repository tells its own");
  return *status == CLI_DONE;
}

int cli_pull(int argc, char **argv) {
  pull_flags flags = {0};
  int status;
  if (!parse(&flags, argc, argv, &status)) return status;
  if ((status = pull_begin()) != CLI_DONE) return status;
  status = pull(&flags);
  pull_end();
  return status;
}
