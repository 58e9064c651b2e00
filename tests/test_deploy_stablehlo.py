"""Serialized StableHLO: loaded again it gives the packed model's scores, for any batch."""

import re

import numpy as np
import pytest
from deployed import images_for, randomize
from flax import nnx
from jax import export

from binjax import deploy, models
from binjax.deploy.stablehlo import to_stablehlo, write_stablehlo

pytestmark = pytest.mark.filterwarnings("ignore::binjax.xnor.SlowerBackendWarning")
NETWORKS = {
    "mlp": ((6, 5, 1), {"widths": (40, 33)}),
    "cifar10_convnet": ((8, 8, 3), {"channels": (20, 32), "widths": (40,)}),
}


@pytest.fixture(scope="module", params=NETWORKS)
def model(request):
    shape, options = NETWORKS[request.param]
    network = models.MODELS[request.param](shape, 7, pixels=True, rngs=nnx.Rngs(0), **options)
    return deploy.pack(randomize(network), shape)


def test_load_and_compare(model, tmp_path):
    path = tmp_path / "out" / "model.stablehlo"
    write_stablehlo(model, path)
    loaded = export.deserialize(bytearray(path.read_bytes()))
    assert loaded.platforms == ("cpu", "cuda")
    for n in (1, 3, 40):
        images = images_for(model.graph, n, seed=n)
        np.testing.assert_array_equal(loaded.call(images), model(images))


def test_portable_operations_only(model):
    text = to_stablehlo(model).mlir_module()
    assert {*re.findall(r"custom_call @(\w+)", text)} == {"shape_assertion"}  # of jax.export's
    assert "stablehlo.popcnt" in text


def test_weights_inside_are_bits(model):
    bits = sum(array.nbytes for n, array in model.tensors.items() if n.endswith(".words"))
    assert len(to_stablehlo(model).serialize()) < 4 * bits + 60_000
