// Threads that share the items of a loop out, and sleep where OpenMP's spin: a thread that waits leaves its core to the
// one that is waited for, also when other programs want the cores.
#pragma once
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <exception>
#include <memory>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

namespace tracin {

class Team {
 public:
  using Work = void (*)(void*, int64_t);

  // As many of them as the system gives.
  explicit Team(int64_t size) : size_(size) {
    try {
      for (int64_t i = 1; i < size; ++i) helpers_.emplace_back([this] { help(); });
    } catch (const std::system_error&) {
    }
  }
  Team(const Team&) = delete;
  Team& operator=(const Team&) = delete;
  ~Team() {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      ending_ = true;
    }
    begins_.notify_all();
    for (std::thread& helper : helpers_) helper.join();
  }

  int64_t size() const { return size_; }

  // work(context, i) for i in [0, n), by the caller and its helpers; each takes the next item when it is done with one.
  // The first exception of any is thrown when all have stopped.
  void run(int64_t n, Work work, void* context) {
    if (helpers_.empty() || n < 2) {
      for (int64_t i = 0; i < n; ++i) work(context, i);
      return;
    }
    next_ = 0, n_ = n, work_ = work, context_ = context, error_ = nullptr;
    const int64_t wanted = std::min<int64_t>(n - 1, static_cast<int64_t>(helpers_.size()));
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      wanted_ = wanted, busy_ = wanted;
    }
    for (int64_t i = 0; i < wanted; ++i) begins_.notify_one();
    take();
    std::unique_lock<std::mutex> lock(mutex_);
    // Whoever has not come by now finds nothing left to do.
    busy_ -= wanted_, wanted_ = 0;
    ends_.wait(lock, [this] { return busy_ == 0; });
    if (error_) std::rethrow_exception(error_);
  }

 private:
  void help() {
    std::unique_lock<std::mutex> lock(mutex_);
    while (true) {
      begins_.wait(lock, [this] { return wanted_ > 0 || ending_; });
      if (ending_) return;
      --wanted_;
      lock.unlock();
      take();
      lock.lock();
      if (--busy_ == 0) ends_.notify_one();
    }
  }

  void take() {
    try {
      for (int64_t i; (i = next_++) < n_;) work_(context_, i);
    } catch (...) {
      next_ = n_;  // the others stop after the item that they have
      const std::lock_guard<std::mutex> lock(mutex_);
      if (!error_) error_ = std::current_exception();
    }
  }

  int64_t size_;
  std::mutex mutex_;
  std::condition_variable begins_, ends_;
  int64_t wanted_ = 0, busy_ = 0;  // helpers that are to come, and that are to come or at work
  bool ending_ = false;
  std::atomic<int64_t> next_{0};
  int64_t n_ = 0;
  Work work_ = nullptr;
  void* context_ = nullptr;
  std::exception_ptr error_;
  std::vector<std::thread> helpers_;  // last: they read all else
};

// The caller's own team, kept from call to call, of `size` threads. A child after fork has none of its parent's
// threads, and makes a team of its own.
inline Team& own_team(int64_t size) {
  struct Kept {
    std::unique_ptr<Team> team;
    pid_t process = 0;
    void forget() {
      if (process != getpid()) static_cast<void>(team.release());  // its threads are the parent's: not to be joined
      team.reset();
    }
    ~Kept() { forget(); }
  };
  thread_local Kept kept;
  if (!kept.team || kept.process != getpid() || kept.team->size() != size) {
    kept.forget();
    kept.team = std::make_unique<Team>(size);
    kept.process = getpid();
  }
  return *kept.team;
}

}  // namespace tracin
