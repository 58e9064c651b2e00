// Work sharing on XLA's own thread pool.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <memory>
#include <new>
#include <thread>

#include "target.h"
#include "xla/ffi/api/ffi.h"

namespace binjax {

inline int64_t ceil_div(int64_t a, int64_t b) {
  return (a + b - 1) / b;
}

// Calls f(task, worker) for every task below `tasks`, each once, and returns when all are done. A
// worker does one task at a time and has a number below workers(pool, tasks). The caller works too
// and waits only for tasks already begun, so a pool whose threads are all busy (or all inside such
// calls) cannot deadlock it. A worker that starts late finds nothing to do and touches only the
// shared state.
inline int64_t workers(const xla::ffi::ThreadPool& pool, int64_t tasks) {
  return std::max<int64_t>(1, std::min<int64_t>(pool.num_threads(), tasks));
}

template <class F>
void parallel_workers(xla::ffi::ThreadPool& pool, int64_t tasks, const F& f) {
  const int64_t threads = workers(pool, tasks);
  if (threads <= 1) {
    for (int64_t i = 0; i < tasks; ++i) f(i, int64_t{0});
    return;
  }
  struct State {
    std::atomic<int64_t> next{0}, done{0};
    int64_t tasks;
    const F* f;
    void work(int64_t worker) {
      for (int64_t i; (i = next.fetch_add(1, std::memory_order_relaxed)) < tasks;) {
        (*f)(i, worker);
        done.fetch_add(1, std::memory_order_release);
      }
    }
  };
  auto state = std::make_shared<State>();
  state->tasks = tasks;
  state->f = &f;
  try {
    for (int64_t t = 1; t < threads; ++t) pool.Schedule([state, t] { state->work(t); });
  } catch (const std::bad_alloc&) {
    // Fewer helpers: those already scheduled use f, so this frame must stay until all is done.
  }
  state->work(0);
  for (int spins = 0; state->done.load(std::memory_order_acquire) < tasks; ++spins) {
    if (spins > 4096) std::this_thread::yield();
#if BINJAX_X86
    _mm_pause();
#endif
  }
}

// The same for f(task).
template <class F>
void parallel(xla::ffi::ThreadPool& pool, int64_t tasks, const F& f) {
  parallel_workers(pool, tasks, [&f](int64_t task, int64_t) { f(task); });
}

}  // namespace binjax
