/* What the SDK's files need of timelines and queues beyond the public calls. */
#ifndef SDK_TIMELINE_H
#define SDK_TIMELINE_H

#include <stdatomic.h>

#include "consort/sdk.h"

/* Waits without a deadline; CS_CANCELLED once *stop is set and the timeline was woken. */
cs_status cs_sdk_timeline_wait_unless(cs_sdk_timeline *timeline, uint64_t value,
                                      const atomic_int *stop, cs_error *error);
/* Makes every waiter look again. */
void cs_sdk_timeline_wake(cs_sdk_timeline *timeline);

/* Pushes a command whose payload is the one pointer `owned`, on a poisoned queue too: there it is
 * only released. CS_OUT_OF_MEMORY. */
cs_status cs_sdk_queue_retire(cs_sdk_queue *queue, cs_sdk_command command, void *owned,
                              cs_error *error);

#endif
