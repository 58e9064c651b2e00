// The loops around the kernels: panels of weights, blocks of rows, tasks for the thread pool.
#pragma once

#include <algorithm>
#include <cstdlib>
#include <memory>
#include <new>
#include <vector>

#include "avx2.h"
#include "avx512.h"
#include "isa.h"
#include "neon.h"
#include "parallel.h"
#include "product.h"
#include "scalar.h"

namespace binjax {

// Right operand: `groups` blocks of n / groups columns, each multiplied with its own left operand.
struct Weights {
  const uint32_t* rows;  // [n][words]
  int64_t n;
  int64_t words;
  int64_t groups;
};

struct Free {
  void operator()(void* memory) const { std::free(memory); }
};
using Memory = std::unique_ptr<void, Free>;

inline Memory allocate(int64_t bytes) {
  void* memory = nullptr;
  if (posix_memalign(&memory, 64, static_cast<size_t>(std::max<int64_t>(bytes, 64)))) {
    throw std::bad_alloc();
  }
  return Memory(memory);
}

// A panel block of this size stays in the second-level cache.
constexpr int64_t kPanelCache = 256 * 1024;
// Multiply-accumulates worth another task: some microseconds.
constexpr double kTaskWork = 1.6e7;

struct Tasks {
  int64_t row_blocks;  // per task
  int64_t columns;     // entries of the column list per task
};

inline Tasks divide(int64_t threads, int64_t rows, const Weights& w, int64_t columns, int planes) {
  const int64_t blocks = ceil_div(rows, kRowBlock);
  if (threads <= 1) return {blocks, columns};
  const double work = static_cast<double>(rows) * w.n * w.words * 32 * planes / w.groups;
  const int64_t most =
      static_cast<int64_t>(std::clamp(work / kTaskWork, 1.0, 8.0 * static_cast<double>(threads)));
  const int64_t along_rows = std::min(most, blocks);
  // With several groups a row stays with one thread: its groups may share words of output bits.
  const int64_t along_columns = w.groups > 1 ? 1 : std::min(columns, ceil_div(most, along_rows));
  return {ceil_div(blocks, along_rows), ceil_div(columns, along_columns)};
}

// Kernel: one of the instruction sets. Source: fills Left for rows [first, first + rows) of a
// group; one of bit planes (kPlanes) makes them in the memory it is handed.
template <bool kPlanes, class Kernel, class Source, class Out>
void run(xla::ffi::ThreadPool& pool, int64_t rows, const Weights& weights, const Source& source,
         const Out& out) {
  const int64_t width = weights.n / weights.groups;
  const int64_t per_group = ceil_div(width, kPanel);
  const int64_t panel_bytes = weights.words * Kernel::kPanelBytes;
  std::vector<Columns> columns;
  columns.reserve(static_cast<size_t>(weights.groups * per_group));
  for (int64_t g = 0; g < weights.groups; ++g) {
    for (int64_t c = 0; c < width; c += kPanel) {
      const int64_t first = g * width + c;
      columns.push_back({first, static_cast<int>(std::min<int64_t>(kPanel, width - c)), nullptr,
                         weights.rows + first * weights.words});
    }
  }
  const int64_t count = static_cast<int64_t>(columns.size());
  const Tasks tasks = divide(pool.num_threads(), rows, weights, count, kPlanes ? 8 : 1);
  const int64_t blocks = ceil_div(rows, kRowBlock);
  const int64_t row_tasks = ceil_div(blocks, tasks.row_blocks);
  const int64_t column_tasks = ceil_div(count, tasks.columns);

  int64_t in_cache = count;
  if constexpr (Kernel::kPanelBytes != 0) {
    in_cache = std::max<int64_t>(2, kPanelCache / panel_bytes) & ~int64_t(1);
  }
  Memory panels = allocate(count * panel_bytes);
  const auto make = [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      void* panel = static_cast<char*>(panels.get()) + i * panel_bytes;
      Kernel::make_panel(columns[i].rows, weights.words, columns[i].count, panel);
      columns[i].panel = panel;
    }
  };
  // Where every panel belongs to one task, that task makes it; else all are made first.
  const bool own = row_tasks == 1;
  if (!own && Kernel::kPanelBytes) {
    parallel(pool, ceil_div(count, in_cache),
             [&](int64_t i) { make(i * in_cache, std::min(count, (i + 1) * in_cache)); });
  }
  int64_t scratch_bytes = 0;
  if constexpr (kPlanes) scratch_bytes = source.scratch_bytes();
  Memory scratch = allocate(workers(pool, row_tasks * column_tasks) * scratch_bytes);
  parallel_workers(pool, row_tasks * column_tasks, [&](int64_t task, int64_t worker) {
    const int64_t block_begin = task / column_tasks * tasks.row_blocks;
    const int64_t block_end = std::min(blocks, block_begin + tasks.row_blocks);
    const int64_t column_begin = task % column_tasks * tasks.columns;
    const int64_t column_end = std::min(count, column_begin + tasks.columns);
    if (own && Kernel::kPanelBytes) make(column_begin, column_end);
    for (int64_t c = column_begin; c < column_end;) {
      const int64_t group = c / per_group;
      const int64_t end = std::min({c + in_cache, column_end, (group + 1) * per_group});
      for (int64_t b = block_begin; b < block_end; ++b) {
        Left left;
        const int64_t first = b * kRowBlock;
        left.rows = static_cast<int>(std::min<int64_t>(kRowBlock, rows - first));
        left.first = first;
        const int n = static_cast<int>(end - c);
        if constexpr (kPlanes) {
          source.fill(left, static_cast<char*>(scratch.get()) + worker * scratch_bytes);
          Kernel::template block<true>(left, &columns[c], n, out);
        } else {
          source.fill(group, left);
          Kernel::block(left, &columns[c], n, out);
        }
      }
      c = end;
    }
  });
}

// Few rows do not pay for making panels; but eight planes of each do.
constexpr int64_t kAvx512DotRows = 12;
constexpr int64_t kAvx2DotRows = 24;

template <bool kPlanes = false, class Source, class Out>
void multiply(xla::ffi::ThreadPool& pool, int64_t rows, const Weights& weights,
              const Source& source, const Out& out) {
  if (rows == 0 || weights.n == 0) return;
  switch (active_isa()) {
#if BINJAX_X86
    case Isa::kAvx512:
      if constexpr (!kPlanes) {
        if (rows <= kAvx512DotRows && source.segments() == 1) {
          return run<false, avx512::DotKernel>(pool, rows, weights, source, out);
        }
      }
      return run<kPlanes, avx512::PanelKernel>(pool, rows, weights, source, out);
    case Isa::kAvx2:
      if (!kPlanes && rows <= kAvx2DotRows) {
        return run<kPlanes, scalar::PopcntKernel>(pool, rows, weights, source, out);
      }
      return run<kPlanes, avx2::PanelKernel>(pool, rows, weights, source, out);
    case Isa::kPopcnt: return run<kPlanes, scalar::PopcntKernel>(pool, rows, weights, source, out);
#endif
#if BINJAX_NEON
    case Isa::kNeon: return run<kPlanes, neon::PanelKernel>(pool, rows, weights, source, out);
#endif
    default: return run<kPlanes, scalar::Kernel>(pool, rows, weights, source, out);
  }
}

// Rows of a packed matrix [rows][words].
class MatrixSource {
 public:
  MatrixSource(const uint32_t* a, int64_t words, int64_t k)
      : a_(a), words_(words), k_(static_cast<int32_t>(k)) {}
  int segments() const { return 1; }
  void fill(int64_t, Left& left) const {
    for (int r = 0; r < left.rows; ++r) {
      left.row[r] = a_ + (left.first + r) * words_;
      left.base[r] = &k_;
    }
    left.base_step = 0;
    left.segment = &zero_;
    left.segments = 1;
    left.words = words_;
  }

 private:
  const uint32_t* a_;
  int64_t words_;
  int32_t k_;
  int64_t zero_ = 0;
};

}  // namespace binjax
