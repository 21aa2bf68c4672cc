/* A matrix of weights is read by the same threads, each its own run of panels, at every token: on
 * several nodes each run belongs into the memory beside its thread. The policy is a preference, not
 * a binding: a node that is full must not end the process. */
#include "numa.h"

#include <linux/mempolicy.h>
#include <stddef.h>
#include <sys/syscall.h>
#include <unistd.h>

#define MAX_NODES 1024
#define WORD_BITS (8 * sizeof(unsigned long))

uint32_t cpu_numa_deal(const uint16_t *nodes, uint32_t n_threads, uint64_t bytes, uint64_t granule,
                       cpu_span *spans) {
  const uint64_t n_granules = (bytes + granule - 1) / granule;
  uint32_t n = 0;
  uint64_t begin = 0;
  for (uint32_t i = 0; i < n_threads; i++) {
    const uint64_t last = n_granules * (i + 1) / n_threads * granule;
    const uint64_t end = last < bytes ? last : bytes;
    if (end == begin) continue;
    if (n > 0 && spans[n - 1].node == nodes[i])
      spans[n - 1].end = end;
    else
      spans[n++] = (cpu_span){begin, end, nodes[i]};
    begin = end;
  }
  return n;
}

void cpu_numa_bind(unsigned char *data, const cpu_span *spans, uint32_t n_spans) {
  for (uint32_t i = 0; i < n_spans; i++) {
    unsigned long mask[MAX_NODES / WORD_BITS] = {0};
    if (spans[i].node >= MAX_NODES) continue;
    mask[spans[i].node / WORD_BITS] = 1ul << spans[i].node % WORD_BITS;
    syscall(SYS_mbind, data + spans[i].begin, spans[i].end - spans[i].begin, MPOL_PREFERRED, mask,
            (unsigned long)MAX_NODES, MPOL_MF_MOVE);
  }
}
