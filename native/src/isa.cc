#include "isa.h"

#include <atomic>
#include <cstring>

#include "target.h"

namespace binjax {
namespace {

struct Entry {
  Isa isa;
  const char* name;
};
// Best first.
constexpr Entry kEntries[] = {
#if BINJAX_X86
    {Isa::kAvx512, "avx512"}, {Isa::kAvx2, "avx2"}, {Isa::kPopcnt, "popcnt"},
#endif
#if BINJAX_NEON
    {Isa::kNeon, "neon"},
#endif
    {Isa::kScalar, "scalar"},
};

bool usable(Isa isa) {
#if BINJAX_X86
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                    __builtin_cpu_supports("bmi2") && __builtin_cpu_supports("popcnt");
  switch (isa) {
    case Isa::kAvx512:
      return avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
             __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
             __builtin_cpu_supports("avx512vpopcntdq");
    case Isa::kAvx2: return avx2;
    case Isa::kPopcnt: return __builtin_cpu_supports("popcnt");
    default: return true;
  }
#else
  (void)isa;
  return true;
#endif
}

const Entry* best() {
  for (const Entry& entry : kEntries) {
    if (usable(entry.isa)) return &entry;
  }
  return nullptr;  // not reached: scalar is always usable
}

std::atomic<const Entry*>& selected() {
  static std::atomic<const Entry*> entry{best()};
  return entry;
}

}  // namespace

Isa active_isa() {
  return selected().load(std::memory_order_relaxed)->isa;
}

}  // namespace binjax

#define BINJAX_EXPORT extern "C" __attribute__((visibility("default")))

// Name of the instruction set in use.
BINJAX_EXPORT const char* binjax_isa() {
  return binjax::selected().load()->name;
}

// Names of those this machine can run, best first, separated by spaces.
BINJAX_EXPORT const char* binjax_isas() {
  static const struct Names {
    char text[64] = "";
    Names() {
      for (const auto& entry : binjax::kEntries) {
        if (!binjax::usable(entry.isa)) continue;
        if (text[0]) std::strcat(text, " ");
        std::strcat(text, entry.name);
      }
    }
  } names;
  return names.text;
}

// Uses the named instruction set from now on; 0, or 1 if there is none of that name to use.
BINJAX_EXPORT int binjax_select_isa(const char* name) {
  for (const auto& entry : binjax::kEntries) {
    if (std::strcmp(entry.name, name) == 0 && binjax::usable(entry.isa)) {
      binjax::selected().store(&entry);
      return 0;
    }
  }
  return 1;
}
