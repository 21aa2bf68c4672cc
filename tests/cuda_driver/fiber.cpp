/* ucontext asks the kernel at each switch; a kernel of a few thousand threads that meet at every
 * step switches millions of times. So on x86-64 the switch is the callee-saved registers and the
 * stack pointer; elsewhere it is ucontext. */
#include "fiber.h"

#include <cstdint>

#if defined(__x86_64__)

extern "C" void cuda_driver_fiber_swap(void **from, void *to);
extern "C" void cuda_driver_fiber_start();

__asm__(R"(
    .text
    .globl cuda_driver_fiber_swap
    .hidden cuda_driver_fiber_swap
cuda_driver_fiber_swap:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
    .globl cuda_driver_fiber_start
    .hidden cuda_driver_fiber_start
cuda_driver_fiber_start:
    movq %r13, %rdi
    callq *%r12
    ud2
)");

void fiber::prepare(context *to, void *stack, size_t stack_bytes, void (*entry)(void *),
                    void *argument) {
  uintptr_t top = (reinterpret_cast<uintptr_t>(stack) + stack_bytes) & ~uintptr_t(15);
  void **words = reinterpret_cast<void **>(top) - 9; /* the call finds 16 bytes */
  words[0] = nullptr;                                /* r15 */
  words[1] = nullptr;                                /* r14 */
  words[2] = argument;                               /* r13 */
  words[3] = reinterpret_cast<void *>(entry);        /* r12 */
  words[4] = nullptr;                                /* rbx */
  words[5] = nullptr;                                /* rbp */
  words[6] = reinterpret_cast<void *>(cuda_driver_fiber_start);
  words[7] = nullptr;
  to->stack_pointer = words;
}

void fiber::swap(context *from, context *to) {
  cuda_driver_fiber_swap(&from->stack_pointer, to->stack_pointer);
}

#else

#include <ucontext.h>

namespace {
struct start {
  void (*entry)(void *);
  void *argument;
};
void enter(unsigned high, unsigned low) {
  const auto *what = reinterpret_cast<start *>(uintptr_t(high) << 16 << 16 | uintptr_t(low));
  what->entry(what->argument);
}
} // namespace

/* The ucontext and the start lie at the top of the fiber's own stack. */
void fiber::prepare(context *to, void *stack, size_t stack_bytes, void (*entry)(void *),
                    void *argument) {
  const size_t usable = (stack_bytes - sizeof(ucontext_t) - sizeof(start)) & ~size_t(63);
  auto *frame = reinterpret_cast<ucontext_t *>(static_cast<char *>(stack) + usable);
  auto *what = reinterpret_cast<start *>(frame + 1);
  *what = {entry, argument};
  getcontext(frame);
  frame->uc_stack.ss_sp = stack;
  frame->uc_stack.ss_size = usable;
  frame->uc_link = nullptr;
  const uintptr_t bits = reinterpret_cast<uintptr_t>(what);
  makecontext(frame, reinterpret_cast<void (*)()>(enter), 2, unsigned(bits >> 16 >> 16),
              unsigned(bits));
  to->stack_pointer = frame;
}

void fiber::swap(context *from, context *to) {
  static ucontext_t scheduler; /* the only context that was not prepared */
  if (!from->stack_pointer) from->stack_pointer = &scheduler;
  swapcontext(static_cast<ucontext_t *>(from->stack_pointer),
              static_cast<ucontext_t *>(to->stack_pointer));
}

#endif
