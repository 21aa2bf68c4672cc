/* The mailbox is bounded by bytes, not by frames: KV pieces are large and rare, tokens small and
 * many, and it is memory that must not grow without a limit. */
#include "scheduler/transport.h"

#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <time.h>

#include "core/error.h"

typedef struct mailbox_entry {
  struct mailbox_entry *next;
  cs_frame *frame;
} mailbox_entry;

struct cs_mailbox {
  cs_link link; /* first: a mailbox is its own link */
  pthread_mutex_t mutex;
  pthread_cond_t changed;
  mailbox_entry *first;
  mailbox_entry *last;
  size_t held_bytes;
  size_t capacity_bytes;
  bool closed;
};

uint64_t cs_now_us(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (uint64_t)now.tv_sec * 1000000u + (uint64_t)now.tv_nsec / 1000u;
}

struct timespec cs_deadline_after(uint64_t timeout_us) {
  const uint64_t now_us = cs_now_us();
  const uint64_t end_us =
      timeout_us > UINT64_MAX / 2 - now_us ? UINT64_MAX / 2 : now_us + timeout_us;
  return (struct timespec){.tv_sec = (time_t)(end_us / 1000000u),
                           .tv_nsec = (long)(end_us % 1000000u) * 1000};
}

void cs_condition_init(pthread_cond_t *condition) {
  pthread_condattr_t attributes;
  pthread_condattr_init(&attributes);
  pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
  pthread_cond_init(condition, &attributes);
  pthread_condattr_destroy(&attributes);
}

cs_status cs_link_send(cs_link *link, cs_frame *frame, uint64_t timeout_us, cs_error *error) {
  return link->send(link, frame, timeout_us, error);
}

cs_status cs_link_send_message(cs_link *link, const cs_message *message, uint64_t timeout_us,
                               cs_error *error) {
  cs_frame *frame;
  cs_blob tail = {NULL, 0};
  const bool lends = link->send_lent && message->kind == CS_MESSAGE_KV_PIECE;
  const cs_status status =
      lends ? cs_message_encode_piece(message, link->frame_bytes, &frame, &tail, error)
            : cs_message_encode(message, &frame, error);
  if (status) return status;
  return tail.bytes > 0 ? link->send_lent(link, frame, tail, timeout_us, error)
                        : link->send(link, frame, timeout_us, error);
}

static bool has_room(const cs_mailbox *mailbox, size_t bytes) {
  return !mailbox->first || (mailbox->held_bytes <= mailbox->capacity_bytes &&
                             bytes <= mailbox->capacity_bytes - mailbox->held_bytes);
}

/* With the mutex held. */
static void append(cs_mailbox *mailbox, mailbox_entry *added, cs_frame *frame) {
  frame->arrived_us = cs_now_us();
  *added = (mailbox_entry){.frame = frame};
  if (mailbox->last)
    mailbox->last->next = added;
  else
    mailbox->first = added;
  mailbox->last = added;
  mailbox->held_bytes += frame->bytes;
  pthread_cond_broadcast(&mailbox->changed);
}

static cs_status mailbox_send(cs_link *link, cs_frame *frame, uint64_t timeout_us,
                              cs_error *error) {
  cs_mailbox *const mailbox = (cs_mailbox *)link;
  const struct timespec deadline = cs_deadline_after(timeout_us);
  cs_status status = CS_OK;
  mailbox_entry *const added = malloc(sizeof *added);
  if (!added) {
    cs_frame_destroy(frame);
    return cs_error_set(error, CS_OUT_OF_MEMORY, "no memory for a message");
  }
  pthread_mutex_lock(&mailbox->mutex);
  while (!mailbox->closed && !has_room(mailbox, frame->bytes) && !status)
    if (pthread_cond_timedwait(&mailbox->changed, &mailbox->mutex, &deadline)) status = CS_TIMEOUT;
  if (mailbox->closed) status = CS_CANCELLED;
  if (!status || (status == CS_TIMEOUT && has_room(mailbox, frame->bytes))) {
    status = CS_OK;
    append(mailbox, added, frame);
  }
  pthread_mutex_unlock(&mailbox->mutex);
  if (!status) return CS_OK;
  free(added);
  cs_frame_destroy(frame);
  return status == CS_TIMEOUT
             ? cs_error_set(error, status, "the receiver took no message for %.1f s",
                            (double)timeout_us / 1e6)
             : cs_error_set(error, status, "the receiver is closed");
}

cs_status cs_mailbox_create(size_t capacity_bytes, cs_mailbox **out, cs_error *error) {
  *out = NULL;
  cs_mailbox *const mailbox = calloc(1, sizeof *mailbox);
  if (!mailbox) return cs_error_set(error, CS_OUT_OF_MEMORY, "no memory for a mailbox");
  cs_condition_init(&mailbox->changed);
  pthread_mutex_init(&mailbox->mutex, NULL);
  mailbox->link.send = mailbox_send;
  mailbox->capacity_bytes = capacity_bytes;
  *out = mailbox;
  return CS_OK;
}

void cs_mailbox_destroy(cs_mailbox *mailbox) {
  if (!mailbox) return;
  while (mailbox->first) {
    mailbox_entry *const next = mailbox->first->next;
    cs_frame_destroy(mailbox->first->frame);
    free(mailbox->first);
    mailbox->first = next;
  }
  pthread_cond_destroy(&mailbox->changed);
  pthread_mutex_destroy(&mailbox->mutex);
  free(mailbox);
}

void cs_mailbox_close(cs_mailbox *mailbox) {
  pthread_mutex_lock(&mailbox->mutex);
  mailbox->closed = true;
  pthread_cond_broadcast(&mailbox->changed);
  pthread_mutex_unlock(&mailbox->mutex);
}

cs_link *cs_mailbox_link(cs_mailbox *mailbox) {
  return &mailbox->link;
}

cs_status cs_mailbox_post(cs_mailbox *mailbox, cs_frame *frame) {
  mailbox_entry *const added = malloc(sizeof *added);
  pthread_mutex_lock(&mailbox->mutex);
  const bool taken = added && !mailbox->closed;
  if (taken) append(mailbox, added, frame);
  pthread_mutex_unlock(&mailbox->mutex);
  if (taken) return CS_OK;
  cs_frame_destroy(frame);
  free(added);
  return CS_CANCELLED;
}

cs_status cs_mailbox_receive(cs_mailbox *mailbox, uint64_t timeout_us, cs_frame **out) {
  *out = NULL;
  const struct timespec deadline = cs_deadline_after(timeout_us);
  bool late = timeout_us == 0;
  pthread_mutex_lock(&mailbox->mutex);
  while (!mailbox->first && !mailbox->closed && !late)
    late = pthread_cond_timedwait(&mailbox->changed, &mailbox->mutex, &deadline) != 0;
  mailbox_entry *const taken = mailbox->first;
  const bool closed = mailbox->closed;
  if (taken) {
    mailbox->first = taken->next;
    if (!taken->next) mailbox->last = NULL;
    mailbox->held_bytes -= taken->frame->bytes;
    pthread_cond_broadcast(&mailbox->changed);
  }
  pthread_mutex_unlock(&mailbox->mutex);
  if (!taken) return closed ? CS_CANCELLED : CS_TIMEOUT;
  *out = taken->frame;
  free(taken);
  return CS_OK;
}
