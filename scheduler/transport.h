/* How frames travel. A link takes frames; where they go is the link's own business: here into a
 * mailbox of this process, in net.h to another one. Frames of one link arrive in order. */
#ifndef SCHEDULER_TRANSPORT_H
#define SCHEDULER_TRANSPORT_H

#include <pthread.h>
#include <stddef.h>
#include <stdint.h>
#include <time.h>

#include "scheduler/message.h"

/* Microseconds of the monotonic clock. */
uint64_t cs_now_us(void);

/* A condition that waits by that clock, and until when. */
void cs_condition_init(pthread_cond_t *condition);
struct timespec cs_deadline_after(uint64_t timeout_us);

/* The sending end. Free-threaded. */
typedef struct cs_link cs_link;
struct cs_link {
  /* Takes `frame` in any case. CS_TIMEOUT when there was no room for it until then, CS_CANCELLED
   * when the other end is closed. */
  cs_status (*send)(cs_link *link, cs_frame *frame, uint64_t timeout_us, cs_error *error);
  /* The same for a message whose last bytes are not in `frame` but in `tail`, which is lent until
   * this returns: it waits until they have left. The frame has frame_bytes then. NULL: the link
   * wants whole frames. */
  cs_status (*send_lent)(cs_link *link, cs_frame *frame, cs_blob tail, uint64_t timeout_us,
                         cs_error *error);
  size_t frame_bytes;
};

cs_status cs_link_send(cs_link *link, cs_frame *frame, uint64_t timeout_us, cs_error *error);

/* Encodes and sends. The payload of a piece is not copied where the link can do without. */
cs_status cs_link_send_message(cs_link *link, const cs_message *message, uint64_t timeout_us,
                               cs_error *error);

/* The receiving end in this process: a bounded queue. Free-threaded. */
typedef struct cs_mailbox cs_mailbox;

/* Holds at most capacity_bytes of frames; one larger than that is taken when the box is empty. */
cs_status cs_mailbox_create(size_t capacity_bytes, cs_mailbox **out, cs_error *error);
/* Frames that were not received are freed. Nobody may use the box or its link any more. */
void cs_mailbox_destroy(cs_mailbox *mailbox);
/* Senders and receivers are told CS_CANCELLED from now on; frames inside can still be received. */
void cs_mailbox_close(cs_mailbox *mailbox);
cs_link *cs_mailbox_link(cs_mailbox *mailbox); /* borrowed */
/* Takes `frame` in any case and however full the box is, for senders that are held up elsewhere:
 * never waits. CS_CANCELLED when it is closed. */
cs_status cs_mailbox_post(cs_mailbox *mailbox, cs_frame *frame);
/* *out is owned by the caller. CS_TIMEOUT (0 polls) or CS_CANCELLED leave *error untouched. */
cs_status cs_mailbox_receive(cs_mailbox *mailbox, uint64_t timeout_us, cs_frame **out);

#endif
