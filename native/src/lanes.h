// Vectors of floats whose width is a template argument: one source for every instruction set. They
// are always inlined, so that the function around them decides which instructions they become.
#pragma once

#include <cstdint>
#include <cstring>

#include "target.h"

namespace binjax {

template <int kLanes>
struct Lanes {
  typedef float Vector __attribute__((vector_size(4 * kLanes)));

  static BINJAX_INLINE Vector load(const float* from) {
    Vector v;
    std::memcpy(&v, from, sizeof v);
    return v;
  }
  static BINJAX_INLINE Vector load(const float* from, int64_t count) {
    if (count >= kLanes) return load(from);
    Vector v = {};
    std::memcpy(&v, from, static_cast<size_t>(count) * sizeof(float));
    return v;
  }
  static BINJAX_INLINE void store(float* to, Vector v) { std::memcpy(to, &v, sizeof v); }
  static BINJAX_INLINE void store(float* to, Vector v, int64_t count) {
    if (count >= kLanes) return store(to, v);
    std::memcpy(to, &v, static_cast<size_t>(count) * sizeof(float));
  }
};

// Table of the 16 signed sums of four vectors: entry e has +f[j] where bit j of e is set, else
// -f[j].
template <int kLanes>
BINJAX_INLINE void signed_sums(const typename Lanes<kLanes>::Vector* f, float* table) {
  using L = Lanes<kLanes>;
  const typename L::Vector sum01 = f[0] + f[1], difference01 = f[0] - f[1];
  const typename L::Vector sum23 = f[2] + f[3], difference23 = f[2] - f[3];
  const typename L::Vector low[4] = {-sum01, difference01, -difference01, sum01};
  const typename L::Vector high[4] = {-sum23, difference23, -difference23, sum23};
  BINJAX_UNROLL
  for (int e = 0; e < 16; ++e) L::store(table + e * kLanes, low[e & 3] + high[e >> 2]);
}

// Table of the 32 signed sums of five vectors.
template <int kLanes>
BINJAX_INLINE void five_signed_sums(const typename Lanes<kLanes>::Vector* f, float* table) {
  using L = Lanes<kLanes>;
  const typename L::Vector sum01 = f[0] + f[1], difference01 = f[0] - f[1];
  const typename L::Vector sum23 = f[2] + f[3], difference23 = f[2] - f[3];
  const typename L::Vector low[4] = {-sum01, difference01, -difference01, sum01};
  const typename L::Vector high[4] = {-sum23, difference23, -difference23, sum23};
  for (int e = 0; e < 8; ++e) {
    const typename L::Vector upper = e < 4 ? high[e] - f[4] : high[e - 4] + f[4];
    BINJAX_UNROLL
    for (int i = 0; i < 4; ++i) L::store(table + (4 * e + i) * kLanes, low[i] + upper);
  }
}

// The entry of table q that the q-th kBits bits of b choose.
template <int kLanes, int kBits>
BINJAX_INLINE const float* entry(const float* tables, uint64_t b, int q) {
  constexpr int kShift = kLanes == 16 ? 6 : kLanes == 8 ? 5 : 4;  // log2 of an entry's bytes
  constexpr uint64_t kEntries = uint64_t(1) << kBits;
  const int down = kBits * q - kShift;
  const uint64_t offset = (down >= 0 ? b >> down : b << -down) & ((kEntries - 1) << kShift);
  return reinterpret_cast<const float*>(reinterpret_cast<const char*>(tables) + offset) +
         q * static_cast<int64_t>(kEntries) * kLanes;
}

}  // namespace binjax
