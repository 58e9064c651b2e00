// The NEON kernel as a freestanding program, for an emulated CPU: no library, no relocations.
#include "neon.h"

extern "C" void* memcpy(void* to, const void* from, size_t n) {
  auto* t = static_cast<volatile char*>(to);
  auto* f = static_cast<const char*>(from);
  while (n--) *t++ = *f++;
  return to;
}

extern "C" void* memset(void* to, int value, size_t n) {
  auto* t = static_cast<volatile char*>(to);
  while (n--) *t++ = static_cast<char>(value);
  return to;
}

// a [rows][segments * words] by b [n][segments * words]: out [rows][n] = 32 words - 2 popcount(a ^ b).
// rows <= 64, n <= 32; panel has room for 32 columns.
extern "C" void product(const uint32_t* a, const uint32_t* b, int64_t rows, int64_t words,
                        int64_t segments, int64_t n, uint32_t* panel, int32_t* out) {
  using namespace binjax;
  neon::PanelKernel::make_panel(b, words * segments, static_cast<int>(n), panel);
  int64_t segment[8];
  for (int64_t s = 0; s < segments; ++s) segment[s] = s * words;
  const int32_t base = static_cast<int32_t>(words * segments * 32);
  Left left;
  left.base_step = 0;
  left.first = 0;
  left.rows = static_cast<int>(rows);
  left.segment = segment;
  left.segments = static_cast<int>(segments);
  left.words = words;
  for (int64_t r = 0; r < rows; ++r) {
    left.row[r] = a + r * words * segments;
    left.base[r] = &base;
  }
  const Columns columns{0, static_cast<int>(n), panel, b};
  neon::PanelKernel::block(left, &columns, 1, Int32Out{out, n});
}
