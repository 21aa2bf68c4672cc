/* The scheduler of a block's fibers: round after round each runs until it has to meet others; a
 * group whose members have all come is let go. A round in which nobody moved means a meeting that
 * cannot happen. Every other block runs its threads, and every other launch its blocks, backwards:
 * what reads before it has met the writer finds nothing there in one of the two orders. */
#include "emulate.h"

#include <cstdlib>
#include <vector>

#include "fiber.h"

namespace emulate {

thread_state current;

namespace {

const size_t STACK_BYTES = 64 * 1024;
const uint32_t MAX_THREADS = 1024;

enum state { READY, AT_BLOCK, AT_WARP, ENDED };

struct pending_copy {
  void *to;
  const void *from;
  uint32_t bytes, group;
};

struct thread {
  fiber::context context;
  state where;
  thread_state index;
  std::vector<pending_copy> copies; /* oldest first */
  uint32_t group;                   /* the one not committed yet */
};

struct warp_board {
  unsigned char slots[2][32][64];
  uint32_t turn[32];
};

struct machine {
  std::vector<thread> threads;
  std::vector<warp_board> warps;
  char *stacks;
  fiber::context scheduler;
  uint32_t running;
  uint64_t n_launches;
  const kernel *what;
  const void *arguments;
};
machine m;

void give_way(state where) {
  thread &mine = m.threads[m.running];
  mine.where = where;
  fiber::swap(&mine.context, &m.scheduler);
}

void thread_entry(void *) {
  m.what->body(m.arguments);
  give_way(ENDED);
}

/* Lets go of `n` threads from `first` on when all are at `where`; false: none is let go. */
bool release(uint32_t first, uint32_t n, state where) {
  for (uint32_t i = first; i < first + n; i++)
    if (m.threads[i].where != where) return false;
  for (uint32_t i = first; i < first + n; i++)
    m.threads[i].where = READY;
  return true;
}

bool run_block(uint32_t n_threads, bool backwards, const char **reason) {
  for (;;) {
    bool moved = false, alive = false;
    for (uint32_t step = 0; step < n_threads; step++) {
      const uint32_t i = backwards ? n_threads - 1 - step : step;
      thread &t = m.threads[i];
      if (t.where != ENDED) alive = true;
      if (t.where != READY) continue;
      m.running = i;
      current = t.index;
      fiber::swap(&m.scheduler, &t.context);
      moved = true;
    }
    if (!alive) return true;
    for (uint32_t i = 0; i < n_threads; i += 32)
      if (release(i, n_threads - i < 32 ? n_threads - i : 32, AT_WARP)) moved = true;
    if (release(0, n_threads, AT_BLOCK)) moved = true;
    if (moved) continue;
    *reason = "threads of a block or warp failed to meet";
    return false;
  }
}

kernel *&registry() {
  static kernel *first = nullptr;
  return first;
}

} // namespace

kernel::kernel(const char *name_, size_t argument_bytes_, uint32_t max_threads_, kernel_body body_)
    : name(name_), argument_bytes(argument_bytes_), max_threads(max_threads_), body(body_),
      next(registry()) {
  registry() = this;
}

kernel *find(const char *name) {
  for (kernel *k = registry(); k; k = k->next)
    if (strcmp(k->name, name) == 0) return k;
  return nullptr;
}

void meet(meeting where) {
  give_way(where == MEET_BLOCK ? AT_BLOCK : AT_WARP);
}

const unsigned char (*exchange(const void *mine, size_t bytes))[64] {
  warp_board &board = m.warps[m.running / 32];
  const uint32_t lane = current.lane, turn = board.turn[lane]++ % 2;
  memcpy(board.slots[turn][lane], mine, bytes);
  meet(MEET_WARP);
  return board.slots[turn];
}

void copy_later(void *to, const void *from, uint32_t bytes) {
  thread &mine = m.threads[m.running];
  mine.copies.push_back({to, from, bytes, mine.group});
}

void commit_copies() {
  m.threads[m.running].group++;
}

void wait_for_copies(uint32_t groups_left) {
  thread &mine = m.threads[m.running];
  size_t n = 0;
  for (; n < mine.copies.size() && mine.copies[n].group + groups_left < mine.group; n++) {
    memset(mine.copies[n].to, 0, 16);
    memcpy(mine.copies[n].to, mine.copies[n].from, mine.copies[n].bytes);
  }
  mine.copies.erase(mine.copies.begin(), mine.copies.begin() + ptrdiff_t(n));
}

bool run(const kernel *what, index3 grid, uint32_t threads, const void *arguments,
         const char **reason) {
  if (threads == 0 || threads > what->max_threads || threads > MAX_THREADS) {
    *reason = "more threads than the kernel was compiled for";
    return false;
  }
  if (!m.stacks) m.stacks = static_cast<char *>(aligned_alloc(4096, MAX_THREADS * STACK_BYTES));
  if (!m.stacks) {
    *reason = "no memory for stacks";
    return false;
  }
  m.threads.resize(MAX_THREADS);
  m.warps.resize(MAX_THREADS / 32);
  m.what = what;
  m.arguments = arguments;
  const uint64_t n_blocks = (uint64_t)grid.x * grid.y * grid.z;
  const uint64_t launch = m.n_launches++;
  for (uint64_t step = 0; step < n_blocks; step++) {
    const uint64_t block = launch % 2 ? n_blocks - 1 - step : step;
    const index3 at = {uint32_t(block % grid.x), uint32_t(block / grid.x % grid.y),
                       uint32_t(block / grid.x / grid.y)};
    for (uint32_t i = 0; i < threads; i++) {
      thread &t = m.threads[i];
      t.where = READY;
      t.copies.clear();
      t.group = 0;
      t.index = {{i, 0, 0}, at, grid, i % 32};
      fiber::prepare(&t.context, m.stacks + i * STACK_BYTES, STACK_BYTES, thread_entry, nullptr);
    }
    if (!run_block(threads, (block + launch / 2) % 2, reason)) return false;
  }
  return true;
}

} // namespace emulate
