/* Fibers: stacks that a thread switches between by itself. */
#ifndef CUDA_DRIVER_FIBER_H
#define CUDA_DRIVER_FIBER_H

#include <cstddef>

namespace fiber {

struct context {
  void *stack_pointer;
};

/* Makes `to` start entry(argument) on the stack at its first switch; entry must not return. */
void prepare(context *to, void *stack, size_t stack_bytes, void (*entry)(void *), void *argument);
/* Leaves into *from, goes on in *to. */
void swap(context *from, context *to);

} // namespace fiber

#endif
