// What the FFI handlers share.
#pragma once

#include <cstdint>
#include <new>

#include "xla/ffi/api/ffi.h"

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace binjax {

namespace ffi = xla::ffi;
using U32 = ffi::Buffer<ffi::U32>;
using S32 = ffi::Buffer<ffi::S32>;
using F32 = ffi::Buffer<ffi::F32>;
using Flags = ffi::Buffer<ffi::PRED>;
using Sizes = ffi::Span<const int64_t>;

inline ffi::Error mismatch(const char* what) {
  return ffi::Error::InvalidArgument(what);
}

// One value for each column.
inline bool covers(Sizes shape, int64_t columns) {
  return shape.size() == 1 && shape[0] == columns;
}

// A large result is new memory: with huge pages the kernel hands it out in steps of 2 MiB.
inline void advise(void* memory, int64_t bytes) {
#if defined(__linux__)
  constexpr uintptr_t kHuge = 2 << 20;
  const uintptr_t begin = (reinterpret_cast<uintptr_t>(memory) + kHuge - 1) & ~(kHuge - 1);
  const uintptr_t end =
      (reinterpret_cast<uintptr_t>(memory) + static_cast<uintptr_t>(bytes)) & ~(kHuge - 1);
  if (end > begin) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
#else
  (void)memory, (void)bytes;
#endif
}

// Memory that cannot be had is an error of the call, not the end of the process.
template <class F>
ffi::Error guarded(const F& f) {
  try {
    f();
  } catch (const std::bad_alloc&) {
    return ffi::Error(ffi::ErrorCode::kResourceExhausted, "binjax: out of memory");
  }
  return ffi::Error::Success();
}

}  // namespace binjax

#define BINJAX_BIND ffi::Ffi::Bind().Ctx<ffi::ThreadPool>()
#define BINJAX_CONV_ATTRS      \
  Attr<int64_t>("channels")    \
      .Attr<Sizes>("strides")  \
      .Attr<Sizes>("dilation") \
      .Attr<Sizes>("padding")  \
      .Attr<int64_t>("pad_value")
