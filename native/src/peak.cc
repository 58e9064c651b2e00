// What one core of this machine can do at most, measured in registers: the operations of the kernel
// in use, and fused multiply-adds of floats. Benchmarks state a kernel's speed as a share of it.
#include <algorithm>
#include <chrono>
#include <cstdint>

#include "isa.h"
#include "target.h"

namespace binjax {
namespace {

[[maybe_unused]] constexpr int kSteps = 1 << 14;

// Best of many short runs: multiply-accumulates per second.
template <class F>
double best_rate(const F& run, double work) {
  using Clock = std::chrono::steady_clock;
  double best = 1e30;
  for (int i = 0; i < 400; ++i) {
    const auto begin = Clock::now();
    run();
    best = std::min(best, std::chrono::duration<double>(Clock::now() - begin).count());
  }
  return work / best;
}

#if BINJAX_X86
// Hides a register's value from the optimizer.
#define BINJAX_OPAQUE(x) asm volatile("" : "+v"(x))

BINJAX_AVX512 void popcount512() {
  __m512i sum[12], a = _mm512_set1_epi32(0x5a5a1234);
  BINJAX_UNROLL
  for (auto& s : sum) s = _mm512_setzero_si512();
  for (int i = 0; i < kSteps; ++i) {
    BINJAX_UNROLL
    for (int j = 0; j < 12; ++j) {
      __m512i b = a;
      BINJAX_OPAQUE(b);
      sum[j] = _mm512_add_epi32(sum[j], _mm512_popcnt_epi32(_mm512_xor_si512(a, b)));
      BINJAX_OPAQUE(sum[j]);
    }
  }
}

BINJAX_AVX2 void popcount256() {
  __m256i sum[8], table = _mm256_set1_epi8(3), index = _mm256_set1_epi8(5);
  BINJAX_UNROLL
  for (auto& s : sum) s = _mm256_setzero_si256();
  for (int i = 0; i < kSteps; ++i) {
    BINJAX_UNROLL
    for (int j = 0; j < 8; ++j) {
      BINJAX_OPAQUE(index);
      sum[j] = _mm256_add_epi8(sum[j], _mm256_shuffle_epi8(table, index));
      BINJAX_OPAQUE(sum[j]);
    }
  }
}

BINJAX_AVX512 void fma512() {
  __m512 sum[12], a = _mm512_set1_ps(1e-3f);
  BINJAX_UNROLL
  for (auto& s : sum) s = _mm512_setzero_ps();
  for (int i = 0; i < kSteps; ++i) {
    BINJAX_UNROLL
    for (int j = 0; j < 12; ++j) {
      sum[j] = _mm512_fmadd_ps(a, a, sum[j]);
      BINJAX_OPAQUE(sum[j]);
    }
  }
}

BINJAX_AVX2 void fma256() {
  __m256 sum[12], a = _mm256_set1_ps(1e-3f);
  BINJAX_UNROLL
  for (auto& s : sum) s = _mm256_setzero_ps();
  for (int i = 0; i < kSteps; ++i) {
    BINJAX_UNROLL
    for (int j = 0; j < 12; ++j) {
      sum[j] = _mm256_fmadd_ps(a, a, sum[j]);
      BINJAX_OPAQUE(sum[j]);
    }
  }
}

BINJAX_POPCNT void popcount64() {
  uint64_t sum[8] = {}, a = 0x5a5a1234;
  for (int i = 0; i < kSteps; ++i) {
    BINJAX_UNROLL
    for (int j = 0; j < 8; ++j) {
      uint64_t b = a;
      asm volatile("" : "+r"(b));
      sum[j] += static_cast<uint64_t>(__builtin_popcountll(a ^ b));
      asm volatile("" : "+r"(sum[j]));
    }
  }
}
#endif

}  // namespace
}  // namespace binjax

#define BINJAX_EXPORT extern "C" __attribute__((visibility("default")))

// Binary multiply-accumulates per second of one core with the instruction set in use, 0 if there is
// no measurement for it.
BINJAX_EXPORT double binjax_peak_popcount() {
  using namespace binjax;
#if BINJAX_X86
  switch (active_isa()) {
    case Isa::kAvx512: return best_rate(popcount512, 512.0 * 12 * kSteps);
    // One shuffle and one addition count 4 bits of 32 columns.
    case Isa::kAvx2: return best_rate(popcount256, 128.0 * 8 * kSteps);
    case Isa::kPopcnt: return best_rate(popcount64, 64.0 * 8 * kSteps);
    default: break;
  }
#endif
  return 0;
}

// Multiply-accumulates of float32 per second of one core, whatever instruction set is in use.
BINJAX_EXPORT double binjax_peak_fma() {
#if BINJAX_X86
  using namespace binjax;
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq")) {
    return best_rate(fma512, 16.0 * 12 * kSteps);
  }
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
    return best_rate(fma256, 8.0 * 12 * kSteps);
  }
#endif
  return 0;
}
