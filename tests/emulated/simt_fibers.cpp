// A block's threads as fibers of one thread: each warp runs as far ahead of the others as barriers allow, and every
// launch is done with warps and lanes forward, in reverse and shuffled, in turn. AddressSanitizer sees every access.
#include <ucontext.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <numeric>
#include <random>
#include <vector>

#include "simt.h"

#if defined(__has_feature) && !defined(__SANITIZE_ADDRESS__)
#if __has_feature(address_sanitizer)
#define __SANITIZE_ADDRESS__  // as GCC says it
#endif
#endif
#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

namespace simt {
namespace {

constexpr std::size_t stack_bytes = 128 << 10;

enum class State { ready, at_block_barrier, at_warp_barrier, done };

struct Fiber {
  ucontext_t context{};
  std::unique_ptr<char[]> stack{new char[stack_bytes]};
  State state = State::done;
  Where where;
};

const char* kernel = "";
const std::function<void()>* body;
std::vector<Fiber> fibers;
ucontext_t scheduler;
Fiber* running;
unsigned char* memory;
std::vector<Lanes> slots;         // two for each warp, in turn: who is late still reads the other
std::vector<unsigned> exchanges;  // of each thread

// Tells AddressSanitizer on which stack it goes on.
struct Switch {
#ifdef __SANITIZE_ADDRESS__
  void* fake = nullptr;
  void start(const void* bottom, std::size_t size, bool leaving = false) {
    __sanitizer_start_switch_fiber(leaving ? nullptr : &fake, bottom, size);
  }
  void finish(const void** bottom = nullptr, std::size_t* size = nullptr) {
    __sanitizer_finish_switch_fiber(fake, bottom, size);
  }
#else
  void start(const void*, std::size_t, bool = false) {}
  void finish(const void** = nullptr, std::size_t* = nullptr) {}
#endif
};
const void* scheduler_bottom;
std::size_t scheduler_size;

void enter() {
  Switch{}.finish(&scheduler_bottom, &scheduler_size);
  (*body)();
  running->state = State::done;
  Switch{}.start(scheduler_bottom, scheduler_size, true);
  setcontext(&scheduler);
}

void resume(unsigned thread) {
  running = &fibers[thread];
  threadIdx = {thread};
  Switch change;
  change.start(running->stack.get(), stack_bytes);
  swapcontext(&scheduler, &running->context);
  change.finish();
}

void yield(State state, const Where& where) {
  running->state = state, running->where = where;
  Fiber* self = running;
  Switch change;
  change.start(scheduler_bottom, scheduler_size);
  swapcontext(&self->context, &scheduler);
  change.finish(&scheduler_bottom, &scheduler_size);
}

bool same(const Where& a, const Where& b) {
  return a.line() == b.line() && a.column() == b.column() && std::strcmp(a.file_name(), b.file_name()) == 0;
}

[[noreturn]] void fail(const char* what, const Where& where) {
  std::printf("FAIL %s: %s: %s:%u\n", kernel, what, where.file_name(), static_cast<unsigned>(where.line()));
  std::fflush(stdout);
  std::_Exit(1);
}

// All of [from, to) must be at one barrier; then they go on.
void release(unsigned from, unsigned to, State barrier) {
  const auto waiting = std::find_if(&fibers[from], &fibers[0] + to, [&](const Fiber& f) { return f.state == barrier; });
  for (unsigned i = from; i < to; ++i)
    if (fibers[i].state != barrier || !same(fibers[i].where, waiting->where))
      fail("not every thread comes to this barrier", waiting->where);
  for (unsigned i = from; i < to; ++i) fibers[i].state = State::ready;
}

bool any(unsigned from, unsigned to, State state) {
  return std::any_of(&fibers[from], &fibers[0] + to, [&](const Fiber& f) { return f.state == state; });
}

// Runs a warp until all its threads are done or at a barrier of the block.
void run_warp(unsigned first, unsigned last, const std::vector<unsigned>& lanes) {
  for (;;) {
    for (const unsigned lane : lanes)
      if (first + lane < last && fibers[first + lane].state == State::ready) resume(first + lane);
    if (!any(first, last, State::at_warp_barrier)) return;
    release(first, last, State::at_warp_barrier);
  }
}

void run_block(unsigned threads, std::size_t shared_bytes, const std::vector<unsigned>& warps,
               const std::vector<unsigned>& lanes) {
  const std::unique_ptr<unsigned char[]> shared_memory(new unsigned char[shared_bytes]);
  memory = shared_memory.get();
  std::memset(memory, 0xFF, shared_bytes);
  std::fill(exchanges.begin(), exchanges.end(), 0);
  for (unsigned i = 0; i < threads; ++i) {
    Fiber& fiber = fibers[i];
#ifdef __SANITIZE_ADDRESS__
    __asan_unpoison_memory_region(fiber.stack.get(), stack_bytes);
#endif
    getcontext(&fiber.context);
    fiber.context.uc_stack = {fiber.stack.get(), 0, stack_bytes};
    fiber.context.uc_link = nullptr;
    makecontext(&fiber.context, enter, 0);
    fiber.state = State::ready;
  }
  for (;;) {
    for (const unsigned w : warps) run_warp(w * warp, std::min(threads, (w + 1) * warp), lanes);
    if (!any(0, threads, State::at_block_barrier)) return;
    release(0, threads, State::at_block_barrier);
  }
}

}  // namespace

void launch(const char* name, unsigned blocks, unsigned threads, unsigned shared_bytes,
            const std::function<void()>& work) {
  static unsigned launches = 0;
  static std::mt19937 shuffler(1);
  kernel = name, body = &work;
  if (fibers.size() < threads) fibers = std::vector<Fiber>(threads);
  const unsigned count = (threads + warp - 1) / warp, order = launches++ % 3;
  slots.resize(2 * count), exchanges.resize(threads);
  blockDim = {threads}, gridDim = {blocks};
  for (unsigned block = 0; block < blocks; ++block) {
    std::vector<unsigned> warps(count), lanes(warp);
    for (auto* ids : {&warps, &lanes}) {
      std::iota(ids->begin(), ids->end(), 0u);
      if (order == 1) std::reverse(ids->begin(), ids->end());
      if (order == 2) std::shuffle(ids->begin(), ids->end(), shuffler);
    }
    blockIdx = {order == 1 ? blocks - 1 - block : block};
    run_block(threads, shared_bytes, warps, lanes);
  }
}

void* shared() { return memory; }

void block_barrier(const Where& where) { yield(State::at_block_barrier, where); }

const Lanes& exchange(uint64_t mine, const Where& where) {
  Lanes& lanes = slots[2 * (threadIdx.x / warp) + exchanges[threadIdx.x]++ % 2];
  lanes.of[threadIdx.x % warp] = mine;
  yield(State::at_warp_barrier, where);
  return lanes;
}

}  // namespace simt
