// A block's threads as threads: ThreadSanitizer sees every pair of accesses that no barrier separates, whatever the
// order in which they happen. A barrier that only some threads reach hangs; the test's time limit ends it.
#include <pthread.h>

#include <deque>
#include <memory>
#include <thread>
#include <vector>

#include "simt.h"

namespace simt {
namespace {

// std::barrier spins before it sleeps, which hundreds of threads on a few cores cannot afford.
class Barrier {
 public:
  explicit Barrier(unsigned threads) { pthread_barrier_init(&barrier_, nullptr, threads); }
  Barrier(const Barrier&) = delete;
  ~Barrier() { pthread_barrier_destroy(&barrier_); }
  void wait() { pthread_barrier_wait(&barrier_); }

 private:
  pthread_barrier_t barrier_;
};

// What the threads of a block share.
struct Block {
  Barrier barrier, end;
  std::deque<Barrier> warp_barriers;
  std::vector<Lanes> slots;  // two for each warp, in turn: who is late still reads the other
  std::unique_ptr<unsigned char[]> memory;

  explicit Block(unsigned threads) : barrier(threads), end(threads), slots(2 * ((threads + warp - 1) / warp)) {
    for (unsigned first = 0; first < threads; first += warp)
      warp_barriers.emplace_back(std::min(warp, threads - first));
  }
};
thread_local Block* block;
thread_local unsigned exchanges;

}  // namespace

void launch(const char*, unsigned blocks, unsigned threads, unsigned shared_bytes, const std::function<void()>& body) {
  Block state(threads);
  std::vector<std::thread> workers;
  for (unsigned i = 0; i < threads; ++i)
    workers.emplace_back([&, i] {
      block = &state, exchanges = 0;
      threadIdx = {i}, blockDim = {threads}, gridDim = {blocks};
      for (unsigned b = 0; b < blocks; ++b) {
        blockIdx = {b};
        if (i == 0) {
          state.memory.reset(new unsigned char[shared_bytes]);
          std::memset(state.memory.get(), 0xFF, shared_bytes);
        }
        state.end.wait();
        body();
        state.end.wait();
      }
    });
  for (std::thread& worker : workers) worker.join();
}

void* shared() { return block->memory.get(); }

void block_barrier(const Where&) { block->barrier.wait(); }

const Lanes& exchange(uint64_t mine, const Where&) {
  const unsigned w = threadIdx.x / warp;
  Lanes& lanes = block->slots[2 * w + exchanges++ % 2];
  lanes.of[threadIdx.x % warp] = mine;
  block->warp_barriers[w].wait();
  return lanes;
}

}  // namespace simt
