// Which instruction sets this library has kernels for, which the CPU can run, and which is in use.
#pragma once

namespace binjax {

enum class Isa { kAvx512, kAvx2, kPopcnt, kNeon, kScalar };

// The one in use: the best usable, unless binjax_select_isa() chose another.
Isa active_isa();

}  // namespace binjax
