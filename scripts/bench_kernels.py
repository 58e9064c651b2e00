r"""The binary kernels against float products on this machine: `binjax bench` under another name.

    python scripts/bench_kernels.py --csv docs/bench_kernels.csv --png docs/bench_kernels.png
    python scripts/bench_kernels.py --figure2 --csv docs/figure2.csv --png docs/figure2.png

As on a machine without AVX-512: BINJAX_ISA limits our native kernels only, and --xla_cpu_max_isa
only the code that XLA generates. Its float products and convolutions come from libraries, which
ask the CPU themselves. All of them together:

    BINJAX_ISA=avx2 OPENBLAS_CORETYPE=Haswell ONEDNN_MAX_CPU_ISA=AVX2 \
    XLA_FLAGS="--xla_cpu_max_isa=AVX2 --xla_cpu_experimental_ynn_fusion_type=" \
    python scripts/bench_kernels.py
"""

from __future__ import annotations

import sys

from binjax.cli import main

if __name__ == "__main__":
    sys.exit(main(["bench", *sys.argv[1:]]))
