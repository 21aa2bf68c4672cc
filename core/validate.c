/* The books are plain arrays under one lock: the layer is switched on to find a fault, not to be
 * fast. What the host knows to be done is learned backwards: a semaphore seen at a value ends the
 * streams that signalled it up to there, which ends what those streams had waited for, and so on;
 * each step consumes its note, so the walk ends. */
#include "core/validate.h"

#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "consort/kv.h"
#include "core/dtype.h"
#include "core/error.h"

struct cs_record {
  cs_validator *validator;
  cs_record_kind kind;
  void *handle;
  char device[48];
  bool dead;
  const cs_plugin_memory *memory; /* buffers */
  uint64_t bytes;
  bool packed;
  cs_record *user;   /* buffers and programs: the stream that used them last */
  uint64_t user_seq; /* its call number then */
  uint64_t seq;      /* streams: calls so far */
  uint64_t done_seq; /* streams: calls known to be over */
  bool busy;         /* streams: a thread is inside a call */
  pthread_t thread;  /* which */
  cs_record **uses;  /* programs: the buffers they name */
  size_t n_uses;
};

typedef enum note_kind { NOTE_SIGNAL, NOTE_WAIT, NOTE_FORWARD } note_kind;

/* signal: when `semaphore` is at value, stream's calls up to seq are over. wait: when stream's
 * calls up to seq are over, semaphore was at value. forward: when semaphore is at value, `from`
 * was at from_value. */
typedef struct note {
  note_kind kind;
  cs_record *stream;
  cs_record *semaphore;
  cs_record *from;
  uint64_t seq;
  uint64_t value;
  uint64_t from_value;
} note;

struct cs_validator {
  pthread_mutex_t mutex;
  cs_log *log;
  cs_record **records;
  size_t n_records, records_capacity;
  note *notes;
  size_t n_notes, notes_capacity;
};

static const char *const kind_names[] = {"device", "buffer", "stream", "semaphore", "program"};

/* ---- life ---- */

cs_validator *cs_validator_create(cs_log *log) {
  cs_validator *validator = calloc(1, sizeof *validator);
  if (!validator) return NULL;
  if (pthread_mutex_init(&validator->mutex, NULL) != 0) {
    free(validator);
    return NULL;
  }
  validator->log = log;
  return validator;
}

void cs_validator_destroy(cs_validator *validator) {
  if (!validator) return;
  for (size_t i = 0; i < validator->n_records; i++) {
    if (validator->records[i]->dead) free(validator->records[i]->handle);
    free(validator->records[i]->uses);
    free(validator->records[i]);
  }
  free(validator->records);
  free(validator->notes);
  pthread_mutex_destroy(&validator->mutex);
  free(validator);
}

void cs_validator_report(cs_validator *validator) {
  if (!validator) return;
  pthread_mutex_lock(&validator->mutex);
  for (size_t i = 0; i < validator->n_records; i++) {
    const cs_record *record = validator->records[i];
    if (record->dead) continue;
    cs_log_write(validator->log, CS_LOG_ERROR,
                 "validate: a %s of %s (%llu bytes) is alive when the runtime's last owner leaves",
                 kind_names[record->kind], record->device, (unsigned long long)record->bytes);
  }
  pthread_mutex_unlock(&validator->mutex);
}

static bool grow(void **array, size_t *capacity, size_t n, size_t bytes) {
  if (n < *capacity) return true;
  const size_t wanted = *capacity ? *capacity * 2 : 64;
  void *bigger = realloc(*array, wanted * bytes);
  if (!bigger) return false;
  *array = bigger;
  *capacity = wanted;
  return true;
}

cs_record *cs_record_create(cs_validator *validator, cs_record_kind kind, void *handle,
                            const char *device) {
  cs_record *record = validator ? calloc(1, sizeof *record) : NULL;
  if (!record) return NULL;
  record->validator = validator;
  record->kind = kind;
  record->handle = handle;
  snprintf(record->device, sizeof record->device, "%s", device);
  pthread_mutex_lock(&validator->mutex);
  const bool room = grow((void **)&validator->records, &validator->records_capacity,
                         validator->n_records, sizeof(cs_record *));
  if (room) validator->records[validator->n_records++] = record;
  pthread_mutex_unlock(&validator->mutex);
  if (room) return record;
  free(record);
  return NULL;
}

void cs_record_set_memory(cs_record *record, const cs_plugin_memory *memory, uint64_t bytes,
                          bool packed) {
  if (!record) return;
  record->memory = memory;
  record->bytes = bytes;
  record->packed = packed;
}

/* ---- findings ---- */

static cs_status find_fault(cs_record *record, cs_error *error, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

static cs_status find_fault(cs_record *record, cs_error *error, const char *format, ...) {
  char what[CS_ERROR_MESSAGE_BYTES];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(what, sizeof what, format, arguments);
  va_end(arguments);
  cs_log_write(record->validator->log, CS_LOG_ERROR, "validate: %s: %s", record->device, what);
  return cs_error_set(error, CS_INVALID_ARGUMENT, "%s: %s", record->device, what);
}

cs_status cs_record_check(cs_record *record, cs_error *error) {
  pthread_mutex_lock(&record->validator->mutex);
  const bool dead = record->dead;
  pthread_mutex_unlock(&record->validator->mutex);
  if (!dead) return CS_OK;
  return find_fault(record, error, "a %s is used after it was destroyed", kind_names[record->kind]);
}

bool cs_record_may_destroy(cs_record *record) {
  pthread_mutex_lock(&record->validator->mutex);
  const bool dead = record->dead;
  const cs_record *user = record->user;
  const bool in_use = user && !user->dead && record->user_seq > user->done_seq;
  pthread_mutex_unlock(&record->validator->mutex);
  const char *name = kind_names[record->kind];
  if (dead) find_fault(record, NULL, "a %s is destroyed twice", name);
  if (!dead && in_use) {
    find_fault(record, NULL, "a %s is destroyed before the work that uses it was waited for", name);
  }
  return !dead;
}

/* Drops the notes that name a record. */
static void forget(cs_validator *validator, const cs_record *record) {
  size_t n_kept = 0;
  for (size_t i = 0; i < validator->n_notes; i++) {
    const note *n = &validator->notes[i];
    if (n->stream == record || n->semaphore == record || n->from == record) continue;
    validator->notes[n_kept++] = *n;
  }
  validator->n_notes = n_kept;
}

void cs_record_bury(cs_record *record) {
  pthread_mutex_lock(&record->validator->mutex);
  record->dead = true;
  forget(record->validator, record);
  pthread_mutex_unlock(&record->validator->mutex);
}

/* ---- streams ---- */

cs_status cs_record_enter(cs_record *stream, cs_error *error) {
  const cs_status status = cs_record_check(stream, error);
  if (status != CS_OK) return status;
  pthread_mutex_lock(&stream->validator->mutex);
  const bool taken = stream->busy && !pthread_equal(stream->thread, pthread_self());
  if (!taken) {
    stream->busy = true;
    stream->thread = pthread_self();
    stream->seq++;
  }
  pthread_mutex_unlock(&stream->validator->mutex);
  return taken ? find_fault(stream, error, "a stream is used by two threads at once") : CS_OK;
}

void cs_record_leave(cs_record *stream) {
  pthread_mutex_lock(&stream->validator->mutex);
  stream->busy = false;
  pthread_mutex_unlock(&stream->validator->mutex);
}

static void use(cs_record *stream, cs_record *record) {
  record->user = stream;
  record->user_seq = stream->seq;
}

void cs_record_uses_buffer(cs_record *stream, cs_record *buffer) {
  if (!stream || !buffer) return;
  pthread_mutex_lock(&stream->validator->mutex);
  use(stream, buffer);
  pthread_mutex_unlock(&stream->validator->mutex);
}

void cs_record_uses_program(cs_record *stream, cs_record *program) {
  if (!stream || !program) return;
  pthread_mutex_lock(&stream->validator->mutex);
  use(stream, program);
  for (size_t i = 0; i < program->n_uses; i++)
    use(stream, program->uses[i]);
  pthread_mutex_unlock(&stream->validator->mutex);
}

/* ---- tensors ---- */

static cs_record *find_memory(const cs_validator *validator, const char *device,
                              const cs_plugin_memory *memory) {
  for (size_t i = validator->n_records; i-- > 0;) {
    cs_record *record = validator->records[i];
    if (record->kind == CS_RECORD_BUFFER && !record->dead && record->memory == memory &&
        strcmp(record->device, device) == 0) {
      return record;
    }
  }
  return NULL;
}

/* One past the last byte that a tensor reaches; UINT64_MAX on overflow. */
static uint64_t tensor_end(const cs_tensor *t) {
  uint64_t columns = 1, row_bytes = 0, span = 0, end = 0;
  for (uint32_t i = t->rank > 1 ? 1 : 0; i < t->rank; i++)
    columns *= t->dims[i];
  if (cs_dtype_bytes(t->dtype, columns, &row_bytes) != CS_OK) return UINT64_MAX;
  const uint64_t scales = cs_kv_block_scale_bytes(t->dtype, t->layout, t->rank, t->dims);
  if (__builtin_add_overflow(row_bytes, scales, &row_bytes)) return UINT64_MAX;
  const uint64_t rows = t->rank > 1 ? t->dims[0] : 1;
  const uint64_t stride = t->row_stride_bytes ? t->row_stride_bytes : row_bytes;
  if (__builtin_mul_overflow(rows - 1, stride, &span) ||
      __builtin_add_overflow(span, row_bytes, &span) ||
      __builtin_add_overflow(span, t->offset_bytes, &end)) {
    return UINT64_MAX;
  }
  return end;
}

typedef struct tensor_fault {
  uint32_t op;
  uint32_t operand;
  const char *what;
} tensor_fault;

/* Calls `take` for the buffer of every operand; fills *fault for the first that does not fit. */
static bool walk_ops(cs_record *owner, const cs_op *ops, uint32_t n_ops,
                     bool (*take)(cs_record *owner, cs_record *buffer), tensor_fault *fault) {
  for (uint32_t i = 0; i < n_ops; i++) {
    const unsigned char *at = (const unsigned char *)ops[i].operands;
    for (uint32_t j = 0; j < ops[i].n_operands; j++, at += ops[i].operand_stride) {
      const cs_tensor *tensor = (const cs_tensor *)at;
      if (tensor->dtype == CS_DTYPE_NONE) continue;
      cs_record *buffer = find_memory(owner->validator, owner->device, tensor->memory);
      *fault = (tensor_fault){i, j, NULL};
      if (!buffer)
        fault->what = "names memory of no live buffer of the device";
      else if (!buffer->packed && tensor_end(tensor) > buffer->bytes)
        fault->what = "reaches outside its buffer";
      else if (!take(owner, buffer))
        fault->what = "finds no room in the books";
      if (fault->what) return false;
    }
  }
  return true;
}

static bool take_use(cs_record *stream, cs_record *buffer) {
  use(stream, buffer);
  return true;
}

static bool take_member(cs_record *program, cs_record *buffer) {
  for (size_t i = 0; i < program->n_uses; i++) {
    if (program->uses[i] == buffer) return true;
  }
  cs_record **bigger = realloc(program->uses, (program->n_uses + 1) * sizeof *bigger);
  if (!bigger) return false;
  program->uses = bigger;
  program->uses[program->n_uses++] = buffer;
  return true;
}

static cs_status watch_ops(cs_record *owner, const cs_op *ops, uint32_t n_ops,
                           bool (*take)(cs_record *, cs_record *), cs_error *error) {
  tensor_fault fault;
  pthread_mutex_lock(&owner->validator->mutex);
  const bool fine = walk_ops(owner, ops, n_ops, take, &fault);
  pthread_mutex_unlock(&owner->validator->mutex);
  if (fine) return CS_OK;
  find_fault(owner, error, "op %u: operand %u %s", fault.op, fault.operand, fault.what);
  if (error) error->op_index = (int32_t)fault.op;
  return CS_INVALID_ARGUMENT;
}

cs_status cs_record_uses_ops(cs_record *stream, const cs_op *ops, uint32_t n_ops, cs_error *error) {
  return watch_ops(stream, ops, n_ops, take_use, error);
}

cs_status cs_record_set_ops(cs_record *program, const cs_op *ops, uint32_t n_ops, cs_error *error) {
  return watch_ops(program, ops, n_ops, take_member, error);
}

/* ---- what is known to be done ---- */

static void add_note(cs_validator *validator, note added) {
  pthread_mutex_lock(&validator->mutex);
  if (grow((void **)&validator->notes, &validator->notes_capacity, validator->n_notes,
           sizeof *validator->notes)) {
    validator->notes[validator->n_notes++] = added;
  }
  pthread_mutex_unlock(&validator->mutex);
}

void cs_record_waits(cs_record *stream, cs_record *semaphore, uint64_t value) {
  if (!stream || !semaphore) return;
  add_note(stream->validator, (note){.kind = NOTE_WAIT,
                                     .stream = stream,
                                     .semaphore = semaphore,
                                     .seq = stream->seq,
                                     .value = value});
}

void cs_record_signals(cs_record *stream, cs_record *semaphore, uint64_t value) {
  if (!stream || !semaphore) return;
  add_note(stream->validator, (note){.kind = NOTE_SIGNAL,
                                     .stream = stream,
                                     .semaphore = semaphore,
                                     .seq = stream->seq,
                                     .value = value});
}

void cs_record_forwards(cs_record *from, uint64_t from_value, cs_record *to, uint64_t to_value) {
  if (!from || !to) return;
  add_note(from->validator, (note){.kind = NOTE_FORWARD,
                                   .semaphore = to,
                                   .value = to_value,
                                   .from = from,
                                   .from_value = from_value});
}

static void learn(cs_validator *validator, const cs_record *semaphore, uint64_t value);

/* The stream's calls up to seq are over. */
static void end_calls(cs_validator *validator, cs_record *stream, uint64_t seq) {
  if (seq > stream->done_seq) stream->done_seq = seq;
  for (size_t i = 0; i < validator->n_notes;) {
    const note n = validator->notes[i];
    if (n.kind == NOTE_FORWARD || n.stream != stream || n.seq > seq) {
      i++;
      continue;
    }
    validator->notes[i] = validator->notes[--validator->n_notes];
    if (n.kind == NOTE_SIGNAL) continue; /* tells what is known now */
    learn(validator, n.semaphore, n.value);
    i = 0;
  }
}

/* The semaphore is at `value`. */
static void learn(cs_validator *validator, const cs_record *semaphore, uint64_t value) {
  for (size_t i = 0; i < validator->n_notes;) {
    const note n = validator->notes[i];
    if (n.kind == NOTE_WAIT || n.semaphore != semaphore || n.value > value) {
      i++;
      continue;
    }
    validator->notes[i] = validator->notes[--validator->n_notes];
    if (n.kind == NOTE_SIGNAL) end_calls(validator, n.stream, n.seq);
    if (n.kind == NOTE_FORWARD) learn(validator, n.from, n.from_value);
    i = 0;
  }
}

void cs_record_reached(cs_record *semaphore, uint64_t value) {
  if (!semaphore) return;
  pthread_mutex_lock(&semaphore->validator->mutex);
  learn(semaphore->validator, semaphore, value);
  pthread_mutex_unlock(&semaphore->validator->mutex);
}

void cs_record_idle(cs_record *stream) {
  if (!stream) return;
  pthread_mutex_lock(&stream->validator->mutex);
  end_calls(stream->validator, stream, stream->seq);
  pthread_mutex_unlock(&stream->validator->mutex);
}
