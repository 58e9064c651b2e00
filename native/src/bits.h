// Packed words turned so that bits run along another axis.
#pragma once

#include <cstdint>

#include "target.h"

namespace binjax {

// Bit j of word i becomes bit i of word j.
BINJAX_INLINE void transpose32(uint32_t* a) {
  uint32_t mask = 0xffff;
  for (int j = 16; j; j >>= 1, mask ^= mask << j) {
    for (int block = 0; block < 32; block += 2 * j) {
      for (int k = block; k < block + j; ++k) {
        const uint32_t t = ((a[k] >> j) ^ a[k + j]) & mask;
        a[k] ^= t << j;
        a[k + j] ^= t;
      }
    }
  }
}

// 32 words of one block: word of row r at from[r * stride], rows past `rows` are zero.
BINJAX_INLINE void gather_block(const uint32_t* from, int64_t stride, int64_t rows, uint32_t* a) {
  const int count = static_cast<int>(rows < 32 ? rows : 32);
  for (int r = 0; r < count; ++r) a[r] = from[r * stride];
  for (int r = count; r < 32; ++r) a[r] = 0;
}

}  // namespace binjax
