/* What the queue needs of a timeline beyond the public calls. */
#ifndef SDK_TIMELINE_H
#define SDK_TIMELINE_H

#include <stdatomic.h>

#include "consort/sdk.h"

/* Waits without a deadline; CS_CANCELLED once *stop is set and the timeline was woken. */
cs_status cs_sdk_timeline_wait_unless(cs_sdk_timeline *timeline, uint64_t value,
                                      const atomic_int *stop, cs_error *error);
/* Makes every waiter look again. */
void cs_sdk_timeline_wake(cs_sdk_timeline *timeline);

#endif
