/* A transfer is cut sooner or later, so that each attempt only adds to PATH.part. What the server
 * calls this content (its ETag, else its Last-Modified) is kept beside it: If-Range makes the
 * server send the whole file again when it is no longer the same, and a checksum decides at the
 * end. */
#include "cli/pull_fetch.h"

#include <ctype.h>
#include <curl/curl.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <sodium.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <time.h>
#include <unistd.h>

#include "cli/command.h"
#include "cli/progress.h"
#include "cli/report.h"

#define MAX_ATTEMPTS      5 /* without a byte of progress */
#define CONNECT_TIMEOUT_S 30L
#define SILENCE_S         60L
#define FIRST_PAUSE_MS    500
#define MAX_REDIRECTS     10L
#define SHOWN_URL         512
#define ETAG_BYTES        256
#define HASH_CHUNK        65536

typedef struct transfer {
  const pull_request *request;
  const pull_file *file; /* NULL for a short answer */
  char shown[SHOWN_URL];
  /* the file */
  int fd;
  char part[PATH_MAX];
  char note[PATH_MAX]; /* where the ETag is kept */
  char etag[ETAG_BYTES];
  uint64_t n_bytes; /* on disk */
  crypto_hash_sha256_state hash;
  int write_errno;
  /* the short answer */
  char *text;
  size_t n_text;
  size_t max_text;
  bool too_long;
  /* the answer's head */
  char new_etag[ETAG_BYTES];
  uint64_t n_total; /* 0: not told */
  uint64_t range_first;
  bool has_range;
  bool has_etag;
  bool begun; /* a byte of a good answer has come */
  int last_percent;
} transfer;

int pull_begin(void) {
  if (sodium_init() < 0) return cli_error("pull", "libsodium does not start");
  if (curl_global_init(CURL_GLOBAL_DEFAULT) != CURLE_OK)
    return cli_error("pull", "libcurl does not start");
  return CLI_DONE;
}

void pull_end(void) {
  curl_global_cleanup();
}

void pull_shown_url(const char *url, char *out, size_t out_bytes) {
  const char *const scheme_end = strstr(url, "://");
  const char *host = scheme_end ? scheme_end + 3 : url;
  const size_t n_scheme = (size_t)(host - url);
  const char *const at = strchr(host, '@'), *const slash = strchr(host, '/');
  if (at && (!slash || at < slash)) host = at + 1;
  snprintf(out, out_bytes, "%.*s%.*s", (int)n_scheme, url, (int)strcspn(host, "?#"), host);
}

/* ---- what is on disk ---- */

static int fail_errno(const char *path) {
  return cli_error(path, "%s", strerror(errno));
}

static void read_note(transfer *t) {
  t->etag[0] = '\0';
  FILE *const note = fopen(t->note, "r");
  if (!note) return;
  if (!fgets(t->etag, sizeof t->etag, note)) t->etag[0] = '\0';
  t->etag[strcspn(t->etag, "\r\n")] = '\0';
  fclose(note);
}

/* Best effort: without it the next attempt begins anew. */
static void write_note(const transfer *t) {
  FILE *const note = fopen(t->note, "w");
  if (!note) return;
  fprintf(note, "%s\n", t->etag);
  fclose(note);
}

static int truncate_part(transfer *t) {
  t->n_bytes = 0;
  crypto_hash_sha256_init(&t->hash);
  return ftruncate(t->fd, 0) != 0 || lseek(t->fd, 0, SEEK_SET) != 0;
}

/* Counts and hashes what an earlier attempt left. */
static int read_part(transfer *t) {
  crypto_hash_sha256_init(&t->hash);
  read_note(t);
  if (!t->etag[0]) return truncate_part(t) ? fail_errno(t->part) : CLI_DONE;
  unsigned char chunk[HASH_CHUNK];
  for (;;) {
    const ssize_t n = read(t->fd, chunk, sizeof chunk);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return fail_errno(t->part);
    if (n == 0) return CLI_DONE;
    crypto_hash_sha256_update(&t->hash, chunk, (unsigned long long)n);
    t->n_bytes += (uint64_t)n;
  }
}

static int open_part(transfer *t) {
  const char *const path = t->file->path;
  if (snprintf(t->part, sizeof t->part, "%s.part", path) >= (int)sizeof t->part ||
      snprintf(t->note, sizeof t->note, "%s.etag", path) >= (int)sizeof t->note)
    return cli_error(path, "the path is too long");
  t->fd = open(t->part, O_RDWR | O_CREAT | O_CLOEXEC, 0644);
  if (t->fd < 0) return fail_errno(t->part);
  if (flock(t->fd, LOCK_EX | LOCK_NB) != 0)
    return cli_error(path, "another consort pull is fetching it");
  return read_part(t);
}

static int check_space(const transfer *t, uint64_t n_total) {
  struct statvfs disk;
  if (n_total <= t->n_bytes || fstatvfs(t->fd, &disk) != 0) return CLI_DONE;
  const uint64_t n_free = (uint64_t)disk.f_bavail * disk.f_frsize;
  if (n_total - t->n_bytes <= n_free) return CLI_DONE;
  char wanted[CLI_BYTES_TEXT], there[CLI_BYTES_TEXT];
  return cli_error(t->file->path, "needs %s more, the disk has %s",
                   cli_format_bytes(n_total - t->n_bytes, wanted), cli_format_bytes(n_free, there));
}

/* ---- what libcurl calls ---- */

static bool read_field(const char *line, size_t n, const char *name, char *out, size_t out_bytes) {
  const size_t n_name = strlen(name);
  if (n <= n_name || strncasecmp(line, name, n_name) != 0 || line[n_name] != ':') return false;
  size_t from = n_name + 1, to = n;
  while (from < to && isspace((unsigned char)line[from]))
    from++;
  while (to > from && isspace((unsigned char)line[to - 1]))
    to--;
  snprintf(out, out_bytes, "%.*s", (int)(to - from), line + from);
  return true;
}

static size_t on_header(char *line, size_t size, size_t n, void *user) {
  transfer *const t = user;
  const size_t n_bytes = size * n;
  char value[ETAG_BYTES];
  unsigned long long first, total;
  if (n_bytes >= 5 && strncmp(line, "HTTP/", 5) == 0) { /* of a redirect or of the answer */
    t->new_etag[0] = '\0';
    t->has_etag = false;
    t->n_total = 0;
    t->has_range = false;
  } else if (read_field(line, n_bytes, "etag", value, sizeof value)) {
    memcpy(t->new_etag, value, sizeof value);
    t->has_etag = true;
  } else if (!t->has_etag && read_field(line, n_bytes, "last-modified", value, sizeof value)) {
    memcpy(t->new_etag, value, sizeof value);
  } else if (read_field(line, n_bytes, "content-length", value, sizeof value)) {
    if (!t->has_range && sscanf(value, "%llu", &total) == 1) t->n_total = total;
  } else if (read_field(line, n_bytes, "content-range", value, sizeof value)) {
    t->has_range = sscanf(value, "bytes %llu-%*u/%llu", &first, &total) == 2;
    if (t->has_range) {
      t->range_first = first;
      t->n_total = total;
    }
  }
  return n_bytes;
}

static bool write_all(transfer *t, const char *data, size_t n) {
  while (n > 0) {
    const ssize_t written = write(t->fd, data, n);
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) {
      t->write_errno = written < 0 ? errno : ENOSPC;
      return false;
    }
    crypto_hash_sha256_update(&t->hash, (const unsigned char *)data, (unsigned long long)written);
    t->n_bytes += (uint64_t)written;
    data += written;
    n -= (size_t)written;
  }
  return true;
}

/* The first bytes of an answer decide whether they follow what is there or begin it anew. */
static bool begin_answer(transfer *t) {
  t->begun = true;
  const bool follows = t->has_range && t->n_bytes > 0 && t->range_first == t->n_bytes;
  if (!follows && truncate_part(t)) {
    t->write_errno = errno;
    return false;
  }
  memcpy(t->etag, t->new_etag, sizeof t->etag);
  write_note(t);
  return !t->has_range || follows || t->range_first == 0;
}

static size_t on_file_data(char *data, size_t size, size_t n, void *user) {
  transfer *const t = user;
  if (!t->begun && !begin_answer(t)) return 0;
  return write_all(t, data, size * n) ? size * n : 0;
}

static size_t on_text_data(char *data, size_t size, size_t n, void *user) {
  transfer *const t = user;
  const size_t n_bytes = size * n;
  t->too_long = n_bytes > t->max_text - t->n_text;
  if (t->too_long) return 0;
  char *const grown = realloc(t->text, t->n_text + n_bytes + 1);
  if (!grown) return 0;
  memcpy(grown + t->n_text, data, n_bytes);
  t->text = grown;
  t->n_text += n_bytes;
  t->text[t->n_text] = '\0';
  return n_bytes;
}

static int on_progress(void *user, curl_off_t total, curl_off_t now, curl_off_t up_total,
                       curl_off_t up_now) {
  transfer *const t = user;
  (void)total, (void)now, (void)up_total, (void)up_now;
  if (t->file && t->begun && t->n_total > t->n_bytes && isatty(STDERR_FILENO)) {
    char what[80];
    const char *const slash = strrchr(t->file->path, '/');
    snprintf(what, sizeof what, "%s", slash ? slash + 1 : t->file->path);
    cli_progress_show(what, t->n_bytes, t->n_total, &t->last_percent);
  }
  return *t->request->interrupted != 0;
}

/* ---- one attempt ---- */

static bool is_secure_enough(const char *url) {
  static const char *const loopback[] = {"http://127.0.0.1", "http://localhost", "http://[::1]"};
  if (strncasecmp(url, "https://", 8) == 0) return true;
  for (size_t i = 0; i < sizeof loopback / sizeof loopback[0]; i++) {
    const size_t n = strlen(loopback[i]);
    if (strncasecmp(url, loopback[i], n) == 0 && (url[n] == '\0' || url[n] == '/' || url[n] == ':'))
      return true;
  }
  return false;
}

static void set_options(CURL *curl, transfer *t, char range[32], struct curl_slist **headers) {
  const bool secure = strncasecmp(t->request->url, "https://", 8) == 0;
  curl_easy_setopt(curl, CURLOPT_URL, t->request->url);
  curl_easy_setopt(curl, CURLOPT_PROTOCOLS_STR, "http,https");
  curl_easy_setopt(curl, CURLOPT_REDIR_PROTOCOLS_STR, secure ? "https" : "http,https");
  curl_easy_setopt(curl, CURLOPT_FOLLOWLOCATION, 1L);
  curl_easy_setopt(curl, CURLOPT_MAXREDIRS, MAX_REDIRECTS);
  curl_easy_setopt(curl, CURLOPT_FAILONERROR, 1L);
  curl_easy_setopt(curl, CURLOPT_NOSIGNAL, 1L);
  curl_easy_setopt(curl, CURLOPT_CONNECTTIMEOUT, CONNECT_TIMEOUT_S);
  curl_easy_setopt(curl, CURLOPT_LOW_SPEED_LIMIT, 1L);
  curl_easy_setopt(curl, CURLOPT_LOW_SPEED_TIME, SILENCE_S);
  curl_easy_setopt(curl, CURLOPT_USERAGENT, "consort");
  curl_easy_setopt(curl, CURLOPT_HEADERFUNCTION, on_header);
  curl_easy_setopt(curl, CURLOPT_HEADERDATA, t);
  curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, t->file ? on_file_data : on_text_data);
  curl_easy_setopt(curl, CURLOPT_WRITEDATA, t);
  curl_easy_setopt(curl, CURLOPT_NOPROGRESS, 0L);
  curl_easy_setopt(curl, CURLOPT_XFERINFOFUNCTION, on_progress);
  curl_easy_setopt(curl, CURLOPT_XFERINFODATA, t);
  if (t->request->token && is_secure_enough(t->request->url)) {
    curl_easy_setopt(curl, CURLOPT_HTTPAUTH, (long)CURLAUTH_BEARER);
    curl_easy_setopt(curl, CURLOPT_XOAUTH2_BEARER, t->request->token);
  }
  if (t->file && t->n_bytes > 0) {
    char condition[ETAG_BYTES + 16];
    snprintf(range, 32, "%llu-", (unsigned long long)t->n_bytes);
    snprintf(condition, sizeof condition, "If-Range: %s", t->etag);
    *headers = curl_slist_append(NULL, condition);
    curl_easy_setopt(curl, CURLOPT_RANGE, range);
    curl_easy_setopt(curl, CURLOPT_HTTPHEADER, *headers);
  }
}

static CURLcode attempt(transfer *t, long *http_status) {
  CURL *const curl = curl_easy_init();
  if (!curl) return CURLE_FAILED_INIT;
  struct curl_slist *headers = NULL;
  char range[32];
  t->begun = false;
  t->n_text = 0;
  if (t->file && t->n_bytes > 0 && !t->etag[0] && truncate_part(t)) {
    t->write_errno = errno;
    curl_easy_cleanup(curl);
    return CURLE_WRITE_ERROR;
  }
  set_options(curl, t, range, &headers);
  const CURLcode code = curl_easy_perform(curl);
  curl_easy_getinfo(curl, CURLINFO_RESPONSE_CODE, http_status);
  curl_slist_free_all(headers);
  curl_easy_cleanup(curl);
  return code;
}

static bool is_worth_another(CURLcode code, long http_status) {
  switch (code) {
  case CURLE_HTTP_RETURNED_ERROR:
    return http_status == 408 || http_status == 429 || http_status >= 500;
  case CURLE_COULDNT_CONNECT:
  case CURLE_PARTIAL_FILE:
  case CURLE_OPERATION_TIMEDOUT:
  case CURLE_GOT_NOTHING:
  case CURLE_SEND_ERROR:
  case CURLE_RECV_ERROR:
  case CURLE_HTTP2:
  case CURLE_HTTP2_STREAM:
    return true;
  default:
    return false;
  }
}

static int tell_failure(const transfer *t, CURLcode code, long http_status) {
  if (*t->request->interrupted) return CLI_INTERRUPTED;
  if (t->write_errno) return cli_error(t->part, "%s", strerror(t->write_errno));
  if (t->too_long) return cli_error(t->shown, "the answer is longer than %zu bytes", t->max_text);
  if (code == CURLE_HTTP_RETURNED_ERROR && (http_status == 401 || http_status == 403))
    return cli_error(t->shown, "HTTP %ld: %s", http_status,
                     t->request->token ? "the token of HF_TOKEN does not open it"
                                       : "it wants a token: set HF_TOKEN");
  if (code == CURLE_HTTP_RETURNED_ERROR)
    return cli_error(t->shown, "HTTP %ld%s", http_status,
                     http_status == 404 ? ": there is no such file" : "");
  return cli_error(t->shown, "%s", curl_easy_strerror(code));
}

/* A part that is whole already, or longer than the file, has no range to ask for. */
static bool begin_anew(transfer *t, CURLcode code, long http_status) {
  if (code != CURLE_HTTP_RETURNED_ERROR || http_status != 416 || t->n_bytes == 0) return false;
  t->etag[0] = '\0';
  return truncate_part(t) == 0;
}

static int transfer_all(transfer *t) {
  long pause_ms = FIRST_PAUSE_MS;
  for (int n_tries = 1;; n_tries++) {
    const uint64_t n_before = t->n_bytes;
    long http_status = 0;
    const CURLcode code = attempt(t, &http_status);
    if (code == CURLE_OK) break;
    if (begin_anew(t, code, http_status)) continue;
    if (t->n_bytes > n_before) {
      n_tries = 0;
      pause_ms = FIRST_PAUSE_MS;
    }
    const bool again = is_worth_another(code, http_status) && n_tries < MAX_ATTEMPTS;
    if (!again || t->write_errno || *t->request->interrupted) {
      cli_progress_clear(&t->last_percent);
      return tell_failure(t, code, http_status);
    }
    const struct timespec pause = {pause_ms / 1000, pause_ms % 1000 * 1000000};
    nanosleep(&pause, NULL);
    pause_ms *= 2;
  }
  cli_progress_clear(&t->last_percent);
  return CLI_DONE;
}

/* ---- the end of a file ---- */

static void hash_text(transfer *t, char out[PULL_SHA256_TEXT]) {
  unsigned char digest[crypto_hash_sha256_BYTES];
  crypto_hash_sha256_state state = t->hash;
  crypto_hash_sha256_final(&state, digest);
  sodium_bin2hex(out, PULL_SHA256_TEXT, digest, sizeof digest);
}

static int check_file(transfer *t) {
  const pull_file *const file = t->file;
  char sha256[PULL_SHA256_TEXT];
  hash_text(t, sha256);
  const bool wrong_size = file->n_bytes > 0 && t->n_bytes != file->n_bytes;
  const bool wrong_hash = file->sha256[0] && strcasecmp(sha256, file->sha256) != 0;
  if (!wrong_size && !wrong_hash) return CLI_DONE;
  unlink(t->part);
  unlink(t->note);
  if (wrong_size)
    return cli_error(t->shown, "%llu bytes came, %llu were announced",
                     (unsigned long long)t->n_bytes, (unsigned long long)file->n_bytes);
  return cli_error(t->shown, "its SHA-256 is %s, not %s", sha256, file->sha256);
}

static int keep_file(const transfer *t) {
  if (fsync(t->fd) != 0 || rename(t->part, t->file->path) != 0) return fail_errno(t->file->path);
  unlink(t->note);
  return CLI_DONE;
}

int pull_fetch_file(const pull_request *request, const pull_file *file) {
  transfer t = {.request = request, .file = file, .fd = -1, .last_percent = -1};
  pull_shown_url(request->url, t.shown, sizeof t.shown);
  int status = open_part(&t);
  if (status == CLI_DONE) status = check_space(&t, file->n_bytes);
  const bool whole = file->n_bytes > 0 && t.n_bytes == file->n_bytes;
  if (status == CLI_DONE && !whole) status = transfer_all(&t);
  if (status == CLI_DONE) status = check_file(&t);
  if (status == CLI_DONE) status = keep_file(&t);
  if (t.fd >= 0) close(t.fd);
  return status;
}

int pull_fetch_text(const pull_request *request, size_t max_bytes, char **text, size_t *n_bytes) {
  transfer t = {.request = request, .fd = -1, .max_text = max_bytes, .last_percent = -1};
  pull_shown_url(request->url, t.shown, sizeof t.shown);
  t.text = calloc(1, 1);
  int status = t.text ? transfer_all(&t) : cli_error(t.shown, "out of memory");
  *text = status == CLI_DONE ? t.text : NULL;
  *n_bytes = t.n_text;
  if (status != CLI_DONE) free(t.text);
  return status;
}
