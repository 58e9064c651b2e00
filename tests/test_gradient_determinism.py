"""The same bits in every run: gradients on one thread and two, and whole training steps."""

import functools
import hashlib
import os
import subprocess
import sys

import jax
import numpy as np
import pytest
from binary_reference import each_backend
from gradient_reference import latent

from binjax import xnor

pytestmark = pytest.mark.filterwarnings("ignore::binjax.xnor.SlowerBackendWarning")

# Sizes at which work is divided among threads in several ways: channels, columns, images, rows.
GRADIENTS = """
import hashlib, os, sys
os.sched_setaffinity(0, set(map(int, sys.argv[1].split(","))))
import jax, numpy as np
from binjax import xnor
assert xnor.backends()[0] == "native", xnor.backends()
rng = np.random.default_rng(0)
def normal(*shape):
    return rng.normal(size=shape).astype(np.float32)
for function, x, w in (
    (xnor.xnor_matmul, normal(300, 700), normal(700, 500)),
    (xnor.xnor_matmul, normal(70, 33), normal(33, 130)),
    (xnor.binary_matmul, np.sign(normal(1000, 40)), np.sign(normal(40, 10))),
    (xnor.xnor_conv, normal(70, 9, 11, 40), normal(3, 3, 40, 50)),
    (xnor.xnor_conv, normal(2, 30, 40, 96), normal(3, 3, 96, 64)),
):
    y, pull = jax.vjp(function, x, w)
    g = normal(*y.shape)
    for array in (y, *jax.jit(pull)(g)):
        print(hashlib.sha256(np.asarray(array).tobytes()).hexdigest())
"""

STEPS = """
import hashlib, os, sys
os.sched_setaffinity(0, set(map(int, sys.argv[1].split(","))))
import jax, numpy as np
from binjax import config, train
words = ["--memory", sys.argv[3], *sys.argv[4:]]
loaded = config.load(sys.argv[2], words)
shape = (12, 12, 3)
task = train.make_task(loaded, shape, 10, 400)
state, rng = task.init(), np.random.default_rng(0)
for _ in range(3):
    images = rng.integers(0, 256, (loaded.batch_size, *shape), dtype=np.uint8)
    labels = rng.integers(0, 10, loaded.batch_size).astype(np.int32)
    state, metrics = task.step(state, images, labels)
for leaf in jax.tree.leaves((state, metrics)):
    print(hashlib.sha256(np.asarray(leaf).tobytes()).hexdigest())
"""
NETS = {
    "mlp": """
        batch_size = 100
        [model]
        kind = "mlp"
        widths = [300, 200]
        input_dropout = 0.0
        hidden_dropout = 0.0
        input_quantizer = "stochastic_sign"
    """,
    "cifar10_convnet": """
        batch_size = 70
        [data]
        random_crop = 2
        random_flip = true
        [model]
        kind = "cifar10_convnet"
        channels = [40]
        widths = [70]
    """,
}


@functools.cache
def cores():
    found = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    if len(found) < 2 or "native" not in xnor.backends():
        pytest.skip("needs two cores to choose from and the native library")
    return {"one": str(found[0]), "two": f"{found[0]},{found[1]}"}


def hashes(code, *arguments):
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    done = subprocess.run(
        [sys.executable, "-P", "-c", code, *arguments],
        capture_output=True,
        text=True,
        timeout=300,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_gradients_on_one_thread_and_two():
    found = [hashes(GRADIENTS, cores()[threads]) for threads in ("one", "two", "two")]
    assert len(found[0]) == 15
    assert found[0] == found[1] == found[2]


# Means over the pixels of images are XLA's own sums, in floats and packed networks alike, and are
# split by the number of threads: a convolutional network has the bits of that number.
@pytest.mark.parametrize(
    ("net", "memory", "threads"),
    [
        ("mlp", "full", ("one", "two")),
        pytest.param("cifar10_convnet", "lean", ("two", "two"), marks=pytest.mark.slow),
    ],
)
def test_training_steps(net, memory, threads, tmp_path):
    path = tmp_path / "net.toml"
    path.write_text(NETS[net], encoding="utf-8")
    first, second = (hashes(STEPS, cores()[count], str(path), memory) for count in threads)
    assert len(first) > 20
    assert first == second


@each_backend()
def test_gradients_in_one_process(backend):
    rng = np.random.default_rng(0)
    x, w = latent(rng, (70, 5, 6, 33)), latent(rng, (3, 3, 33, 40))
    g = rng.normal(size=(70, 5, 6, 40)).astype(np.float32)

    @jax.jit
    def pull(x, w, g):
        return jax.vjp(functools.partial(xnor.xnor_conv, backend=backend), x, w)[1](g)

    def digest():
        return [hashlib.sha256(np.asarray(a).tobytes()).hexdigest() for a in pull(x, w, g)]

    first = digest()
    assert all(digest() == first for _ in range(5))


def test_gradients_of_a_batch_do_not_depend_on_the_rest_of_it():
    """Of the images: a row's gradient is summed in the same order in any batch."""
    cores()
    rng = np.random.default_rng(1)
    for function, x, w in (
        (xnor.xnor_matmul, latent(rng, (130, 70)), latent(rng, (70, 45))),
        (xnor.xnor_conv, latent(rng, (9, 7, 8, 40)), latent(rng, (3, 3, 40, 33))),
    ):
        product = functools.partial(function, backend="native")
        y, pull = jax.vjp(product, x, w)
        g = rng.normal(size=y.shape).astype(np.float32)
        whole = pull(g)[0]
        for part in (slice(0, 8), slice(-8, None)):
            own = jax.vjp(product, x[part], w)[1](g[part])[0]
            np.testing.assert_array_equal(own, whole[part])
