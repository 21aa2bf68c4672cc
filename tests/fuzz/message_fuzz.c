/* Messages between router and workers: any bytes are safe to read, and what is accepted is written
 * again as the same bytes. */
#include "fuzz.h"

#include "scheduler/message.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes) {
  FUZZ_CHECK(cs_message_fuzz(data, n_bytes) == 0);
  return 0;
}
