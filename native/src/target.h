// Instruction-set attributes. No file is compiled with -march: every variant is in the library and
// one is chosen at run time, so a wheel runs on any machine of its platform.
#pragma once

#if defined(__x86_64__)
#define BINJAX_X86 1
#include <immintrin.h>
#define BINJAX_AVX512 \
  __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512vpopcntdq,bmi2,fma,popcnt")))
#define BINJAX_AVX2 __attribute__((target("avx2,fma,popcnt,bmi2")))
#define BINJAX_POPCNT __attribute__((target("popcnt")))
#else
#define BINJAX_X86 0
#endif

#if defined(__aarch64__)
#define BINJAX_NEON 1
#include <arm_neon.h>
#else
#define BINJAX_NEON 0
#endif

#define BINJAX_INLINE __attribute__((always_inline)) inline

#if defined(__clang__)
#define BINJAX_UNROLL _Pragma("unroll")
#else
#define BINJAX_UNROLL _Pragma("GCC unroll 16")
#endif
