/* A Level Zero driver for tests: the real loader loads it (ZE_ENABLE_ALT_DRIVERS), and SPIR-V runs
 * on the CPU through PoCL. One driver with one context; all devices are the same CPU.
 *
 * It is stricter than a chip, to find what a chip hides. Copies reach memory of this driver only,
 * a copy engine takes no kernels, and switches in the environment do more:
 *   ZE_TEST_DEVICES  =N             that many devices (1; 0 for a driver without any)
 *   ZE_TEST_PEERS    (on unless 0)  each device reaches the others' memory
 *   ZE_TEST_COPY_ENGINE (on unless 0)  there is a group of queues that only copy
 *   ZE_TEST_DEFER    (on unless 0)  nothing runs until the host waits or asks
 *   ZE_TEST_SHUFFLE  =SEED          commands between two barriers of a queue run in random order
 *   ZE_TEST_REUSE    =1             addresses of handles are used again before destroying returns
 *   ZE_TEST_GUARD    (on unless 0)  the host cannot touch device memory, and each allocation ends
 * at a guard page, with canaries where alignment leaves a gap
 *
 *   tables.c   what the loader asks for        platform.c  driver, device, context
 *   memory.c   allocations                     module.c    SPIR-V to PoCL, kernels
 *   record.c   lists, queues, fences, events   execute.c   running what was submitted
 *   sysman.c   figures of management */
#ifndef LEVEL_ZERO_DRIVER_H
#define LEVEL_ZERO_DRIVER_H

#define CL_TARGET_OPENCL_VERSION 200
#include <CL/cl.h>
#include <level_zero/ze_api.h>
#include <level_zero/ze_ddi.h>
#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define TEST_MAX_ARGS       32
#define TEST_MAX_ARG_BYTES  64
#define TEST_COMPUTE_GROUP  0 /* ordinals of the command queue groups */
#define TEST_COPY_GROUP     1
#define TEST_GROUP_SIZE_MAX 1024
#define TEST_MAX_DEVICES    4

/* Bytes of the largest pattern that a queue group fills with. */
static inline size_t test_fill_pattern_max(uint32_t ordinal) {
  return ordinal == TEST_COMPUTE_GROUP ? 16 : 1;
}

/* ---- the CPU behind every device ---- */

typedef struct test_device {
  bool ready;
  bool defer;
  bool shuffle;
  bool guard;
  bool reuse;
  bool peers;
  uint32_t n_groups; /* of command queues */
  uint64_t random;   /* state of the shuffle */
  cl_context context;
  cl_device_id device;
  cl_command_queue queue;
  char name[128];
  uint64_t memory_bytes;
  uint32_t n_units;
  uint32_t n_devices;
} test_device;

extern test_device test_gpu;

/* Guards everything below and the device; broadcast whenever an event or queue moves. */
extern pthread_mutex_t test_mutex;
extern pthread_cond_t test_moved;

/* Finds PoCL (any CPU device of OpenCL) once. */
ze_result_t test_start(void);

/* The memory of an object with a handle, zeroed. With ZE_TEST_REUSE an address that was destroyed
 * is the next one given out, whoever asks, and destroying returns late: the loader in intercept
 * mode forgets a handle only then. */
void *test_object_create(size_t bytes);
void test_object_destroy(void *object);

/* The index of a device's handle, TEST_MAX_DEVICES for a stray one. */
uint32_t test_device_index(ze_device_handle_t device);

/* A context that was created and not destroyed. */
bool test_is_context(ze_context_handle_t context);

/* ---- memory ---- */

typedef struct test_allocation {
  struct test_allocation *next;
  unsigned char *mapping;
  size_t mapping_bytes; /* guard page included */
  unsigned char *data;
  size_t bytes;
  ze_memory_type_t type;
  uint32_t device; /* where device memory lies */
} test_allocation;

/* The allocation that holds [pointer, pointer + bytes); NULL: none does. Mutex held. */
test_allocation *test_find(const void *pointer, size_t bytes);
/* Lets kernels and copies reach device memory, and takes that away again, which whoever runs
 * commands does before the mutex is given up. Both do nothing when it is so already. Mutex held. */
void test_unlock_memory(void);
void test_lock_memory(void);
/* Looks at the canaries around every allocation: false after a kernel wrote outside. */
bool test_canaries_intact(void);

/* ---- modules ---- */

struct _ze_module_handle_t {
  cl_program program;
};

typedef enum test_arg_kind { TEST_ARG_VALUE, TEST_ARG_POINTER, TEST_ARG_LOCAL } test_arg_kind;

typedef struct test_arg {
  bool set;
  test_arg_kind kind;
  size_t bytes; /* of a value or of local memory */
  unsigned char value[TEST_MAX_ARG_BYTES];
} test_arg;

struct _ze_kernel_handle_t {
  cl_kernel kernel;
  char name[128];
  uint32_t n_args;
  uint32_t group[3];
  test_arg args[TEST_MAX_ARGS];
};

/* Runs a kernel with captured arguments; false when PoCL refuses. Mutex held, memory unlocked. */
bool test_launch(ze_kernel_handle_t kernel, const test_arg *args, const uint32_t group[3],
                 const uint32_t groups[3]);

/* ---- commands ---- */

struct _ze_event_handle_t {
  bool signalled;
  uint64_t begin_ns, end_ns; /* of the command that signalled it */
};

typedef enum test_command_kind {
  TEST_COPY,
  TEST_FILL,
  TEST_LAUNCH,
  TEST_BARRIER,
  TEST_SIGNAL,
  TEST_WAIT, /* orders what follows, as a barrier does, after its events */
  TEST_RESET
} test_command_kind;

typedef struct test_command {
  test_command_kind kind;
  bool done;
  ze_event_handle_t signal; /* NULL: none */
  uint32_t n_waits;
  ze_event_handle_t *waits; /* owned by the list that recorded it, or by the queue when immediate */
  void *to;
  const void *from;
  size_t bytes;
  unsigned char pattern[16];
  size_t pattern_bytes;
  ze_kernel_handle_t kernel;
  test_arg *args; /* likewise owned */
  uint32_t group[3], groups[3];
} test_command;

typedef struct test_commands {
  test_command *items;
  size_t n, capacity;
} test_commands;

struct _ze_command_queue_handle_t {
  struct _ze_command_queue_handle_t *next;
  test_commands pending; /* submitted; completed ones leave from the front */
  uint64_t n_submitted, n_retired;
  uint32_t ordinal;
  bool failed;
};

struct _ze_command_list_handle_t {
  test_commands recorded;
  uint32_t ordinal;
  uint32_t device;
  bool closed;
  bool immediate; /* then every append is submitted to `queue` at once */
  bool synchronous;
  ze_command_queue_handle_t queue; /* owned when immediate */
};

struct _ze_fence_handle_t {
  ze_command_queue_handle_t queue;
  uint64_t at; /* signalled when the queue has retired this many commands; UINT64_MAX: unused */
};

/* Appends a shallow copy. false: out of memory. */
bool test_commands_push(test_commands *list, const test_command *command);
void test_command_finish(test_command *command); /* frees what it owns */

/* Moves a copy of the commands to the queue. Mutex held. */
ze_result_t test_submit(ze_command_queue_handle_t queue, const test_commands *commands);
/* Runs at most one command of any queue, and leaves memory unlocked. false: nothing can run now.
 * Mutex held. */
bool test_step(void);
/* Waits until done(of) holds, running what can run. Mutex held. */
ze_result_t test_wait(bool (*done)(void *of), void *of, uint64_t timeout_ns);
void test_queue_add(ze_command_queue_handle_t queue);
void test_queue_remove(ze_command_queue_handle_t queue);
bool test_queue_idle(void *queue);

/* Copies that have run on queues of a group: for tests, which find it by dlsym. */
ZE_DLLEXPORT uint64_t ze_cpu_test_copies(uint32_t ordinal);

/* ---- entries, by table ---- */

void test_fill_driver(ze_driver_dditable_t *table);
void test_fill_device(ze_device_dditable_t *table);
void test_fill_context(ze_context_dditable_t *table);
void test_fill_mem(ze_mem_dditable_t *table);
void test_fill_module(ze_module_dditable_t *table);
void test_fill_build_log(ze_module_build_log_dditable_t *table);
void test_fill_kernel(ze_kernel_dditable_t *table);
void test_fill_queue(ze_command_queue_dditable_t *table);
void test_fill_list(ze_command_list_dditable_t *table);
void test_fill_fence(ze_fence_dditable_t *table);
void test_fill_event_pool(ze_event_pool_dditable_t *table);
void test_fill_event(ze_event_dditable_t *table);

#endif
