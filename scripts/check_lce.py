"""Compare a deployed model with what Larq Compute Engine makes of its `.tflite` file.

    python scripts/check_lce.py MODEL.binjax [--python PYTHON] [--images 64] [--keep FILE.tflite]

Writes the file, runs it in LCE's own interpreter on random images, with each of its kernels, and
compares scores with the model's: for equality, or with layers that stayed float for closeness. LCE
needs an older numpy than binjax: install `larq-compute-engine` and `tensorflow-cpu<2.17` into an
environment of their own and name its Python with --python. Exits with 0 where every kernel that
takes the file agrees, 1 where not, 2 where LCE cannot be imported.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from binjax import deploy
from binjax.deploy.operations import (
    Image,
)
from binjax.deploy.tflite import write_tflite

KERNELS = {
    "bgemm": {},
    "reference": {"use_reference_bconv": True},
    "indirect": {"use_indirect_bgemm": True},
    "xnnpack": {"use_xnnpack": True},
}
# Runs where only LCE and numpy are: kernels as JSON, file, images, folder for the scores.
RUNNER = """
import json, sys
import numpy as np
from larq_compute_engine.tflite.python.interpreter import Interpreter
kernels, file, images, out = sys.argv[1:]
data, images = open(file, "rb").read(), np.load(images)
for name, options in json.loads(kernels).items():
    try:
        scores = Interpreter(data, **options).predict(images)
    except Exception as error:
        print(f"{name}: does not take this file: {error}".splitlines()[0])
        continue
    np.save(f"{out}/{name}.npy", scores)
"""


def images_of(image: Image, n: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    if image.dtype == "uint8":
        return rng.integers(0, 256, (n, *image.shape)).astype(np.uint8)
    return rng.normal(size=(n, *image.shape)).astype(np.float32)


def run(python: str, file: Path, images: np.ndarray, folder: Path) -> dict[str, np.ndarray] | str:
    """Scores by kernel, or why there are none."""
    np.save(folder / "images.npy", images)
    probe = [python, "-c", "import larq_compute_engine.tflite.python.interpreter"]
    tried = subprocess.run(probe, capture_output=True, text=True, check=False)
    if tried.returncode:
        return (tried.stderr.strip().splitlines() or ["?"])[-1]
    arguments = [json.dumps(KERNELS), str(file), str(folder / "images.npy"), str(folder)]
    done = subprocess.run(
        [python, "-c", RUNNER, *arguments], capture_output=True, text=True, check=False
    )
    print(done.stdout, end="")
    if done.returncode:
        print(done.stderr.strip()[-2000:])
    found = {name: folder / f"{name}.npy" for name in KERNELS}
    return {name: np.load(path) for name, path in found.items() if path.exists()}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--python", default=sys.executable, help="one that has LCE")
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--keep", type=Path, help="where the .tflite file stays")
    options = parser.parse_args()
    model = deploy.load(options.model)
    images = images_of(model.graph.image, options.images)
    wanted = np.asarray(model(images))
    with tempfile.TemporaryDirectory() as name:
        file = options.keep or Path(name) / "model.tflite"
        write_tflite(model, file)
        print(f"{file.stat().st_size} bytes; {options.model} has {options.model.stat().st_size}")
        found = run(options.python, file, images, Path(name))
    if isinstance(found, str):
        print(f"Larq Compute Engine cannot be imported by {options.python}: {found}")
        return 2
    good = bool(found)
    for kernel, scores in found.items():
        equal = np.array_equal(scores, wanted)
        if model.graph.float_layers:
            equal |= np.allclose(scores, wanted, rtol=1e-4, atol=1e-3)
        good &= equal
        classes = int((scores.argmax(1) == wanted.argmax(1)).sum())
        apart = float(np.abs(scores - wanted).max())
        print(
            f"{kernel}: {'as it should be' if equal else 'DIFFERENT'}; {classes} of {len(images)} "
            f"classes are the model's own, scores at most {apart:g} apart"
        )
    return 0 if good else 1


if __name__ == "__main__":
    raise SystemExit(main())
