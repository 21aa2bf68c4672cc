/* Carries semaphore values from one device's timeline to another's. Private to core. */
#ifndef CORE_BRIDGE_H
#define CORE_BRIDGE_H

#include <stdint.h>

#include "consort/status.h"

struct cs_semaphore;

typedef struct cs_bridge cs_bridge;

/* NULL when out of memory. No thread runs before the first forward. */
cs_bridge *cs_bridge_create(void);

/* Ends the threads. Nothing is pending: forwards hold the runtime. May be called from a thread of
 * the bridge itself, by the release that ends the last forward. */
void cs_bridge_destroy(cs_bridge *bridge);

/* When `from` reaches from_value, signals `to` with to_value; when it fails or deadline_us from
 * now pass, fails `to`. Retains both until done. CS_OUT_OF_MEMORY. Free-threaded. */
cs_status cs_bridge_forward(cs_bridge *bridge, struct cs_semaphore *from, uint64_t from_value,
                            struct cs_semaphore *to, uint64_t to_value, uint64_t deadline_us,
                            cs_error *error);

#endif
