"""Proofs: certificates of what was compared, and counter-examples of what is not equal."""

from dataclasses import replace

import numpy as np
import pytest
from deployed import images_for, randomize, scores_of
from flax import nnx

from binjax import deploy, models
from binjax.deploy.operations import (
    MaxPool,
)
from binjax.deploy.prove import ProofError, prove, random_images
from binjax.layers import BatchNorm, BinaryConv, Sequential
from binjax.models.options import Compute

SHAPE = (8, 8, 1)


def network(seed=0, backend="auto"):
    options = {"channels": (9,), "widths": (20,), "use_bias": seed % 2 == 0}
    model = models.cifar10_convnet(
        SHAPE, 4, pixels=True, compute=Compute(backend), rngs=nnx.Rngs(seed), **options
    )
    return randomize(model, seed)


@pytest.fixture(scope="module")
def reference():
    return scores_of(network(backend="float"))


@pytest.fixture
def packed():
    return deploy.pack(network(), SHAPE)


def changed(packed, name, change):
    tensors = {**packed.tensors, name: packed.tensors[name].copy()}
    change(tensors[name])
    return deploy.PackedModel(packed.graph, tensors)


def test_certificate(packed, reference):
    images = images_for(packed.graph, 30)
    found = prove(network(), packed, reference, {"test": images}, n_random=50)
    layers = {layer.name: layer for layer in found.layers}
    assert [*layers] == ["conv1", "conv2", "dense3"]
    # 9 pixels with a border; 9 x 9 bits with a border; 4 x 4 x 9 bits without one
    assert layers["conv1"].sums == (2 * 255 * 9 + 1) * 9 and layers["conv1"].largest == 255 * 9
    assert layers["conv2"].sums == (2 * 81 + 1) * 9
    assert layers["dense3"].sums == (144 + 1) * 20
    assert found.images == {"test": 30, "random": 50} and found.in_floats == 80
    assert found.mismatches == 0 and found.seconds > 0
    other = prove(network(1), deploy.pack(network(1), SHAPE), scores_of(network(1)), {}, n_random=0)
    assert other.network != found.network and other.model != found.model
    assert found.as_json()["layers"][0]["name"] == "conv1"


def test_both_references_are_used(packed, reference):
    seen = {"floats": [], "kernels": []}

    def noted(name):
        def scores(images):
            seen[name].append(len(images))
            return reference(images)

        return scores

    images = images_for(packed.graph, 30)
    found = prove(
        network(),
        packed,
        noted("floats"),
        {"test": images},
        kernels=noted("kernels"),
        in_floats=1,
        n_random=2000,
    )
    assert seen == {"floats": [30, 1000], "kernels": [1000]}
    assert found.in_floats == 1030


def inner(packed, name):
    threshold = packed.tensors[f"{name}.threshold"]
    return int(np.argmax(np.abs(threshold) < 20))


@pytest.mark.parametrize("name", ["conv1", "conv2", "dense3"])
def test_a_threshold_off_by_one_step(packed, reference, name):
    at = inner(packed, name)
    wrong = changed(packed, f"{name}.threshold", lambda t: t.__setitem__(at, t[at] + 2))
    with pytest.raises(ProofError, match=rf"{name}\.threshold is not what the trained network"):
        prove(network(), wrong, reference, {}, n_random=0)


@pytest.mark.parametrize(
    "name", ["conv1.words", "conv2.flip", "pool2.flip", "dense4.words", "dense4.offset"]
)
def test_any_other_change(packed, reference, name):
    def change(array):
        flat = array.reshape(-1).view(np.uint32)
        flat[0] ^= 1

    with pytest.raises(ProofError, match=f"{name} is not what the trained network folds to"):
        prove(network(), changed(packed, name, change), reference, {}, n_random=0)


def test_scores_that_differ_in_their_last_bit(packed, reference):
    def off(images):
        scores = np.asarray(reference(images)).copy()
        scores[3, 2] = np.nextafter(scores[3, 2], np.float32(np.inf))
        return scores

    with pytest.raises(ProofError, match="test image 3, class 2: the network scores"):
        prove(network(), packed, off, {"test": images_for(packed.graph, 10)}, n_random=0)
    with pytest.raises(ProofError, match="random image 3, class 2"):
        prove(network(), packed, off, {}, n_random=10)


def test_another_network(packed, reference):
    other = models.cifar10_convnet(
        SHAPE, 4, channels=(9,), widths=(21,), pixels=True, rngs=nnx.Rngs(0)
    )
    with pytest.raises(deploy.DeployError, match="of another network: dense3 differs"):
        prove(other, packed, reference, {}, n_random=0)
    mlp = models.mlp(SHAPE, 4, widths=(5,), input_dropout=0, pixels=True, rngs=nnx.Rngs(0))
    with pytest.raises(deploy.DeployError, match="conv1 stands where the network has flatten"):
        prove(mlp, packed, reference, {}, n_random=0)


def test_another_structure_is_found_without_images(packed, reference):
    def refused(ops, tensors=packed.tensors):
        model = deploy.PackedModel(replace(packed.graph, ops=ops), tensors)
        with pytest.raises(deploy.DeployError, match=r"of another network|belongs to no") as error:
            prove(network(), model, reference, {}, n_random=0)
        return str(error.value)

    ops = packed.graph.ops
    at = next(i for i, op in enumerate(ops) if isinstance(op, MaxPool))
    wider = replace(ops[at], window=(1, 1))
    assert "pool2 differs" in refused((*ops[:at], wider, *ops[at + 1 :]))
    extra = MaxPool("more", (1, 1), (1, 1))
    flips = {**packed.tensors, "more.flip": packed.tensors["pool2.flip"]}
    assert "more stands where" in refused((*ops[: at + 1], extra, *ops[at + 1 :]), flips)
    renamed = replace(ops[at], name="p")
    names = {n.replace("pool2.", "p."): a for n, a in packed.tensors.items()}
    assert "p stands where the network has pool2" in refused(
        (*ops[:at], renamed, *ops[at + 1 :]), names
    )
    assert "unused belongs to no operation" in refused(
        ops, {**packed.tensors, "unused": flips["more.flip"]}
    )


def test_a_network_that_ends_in_a_convolution():
    def build(backend):
        rngs = nnx.Rngs(0)
        layers = {
            "conv1": BinaryConv(1, 8, pixels=True, rngs=rngs),
            "norm1": BatchNorm(8),
            "conv2": BinaryConv(8, 5, (8, 8), padding="VALID", backend=backend, rngs=rngs),
            "norm2": BatchNorm(5),
        }
        return randomize(Sequential(layers))

    packed = deploy.pack(build("auto"), SHAPE)
    assert prove(build("auto"), packed, scores_of(build("float")), {}, n_random=30).mismatches == 0


def test_the_same_architecture_with_other_weights(packed, reference):
    with pytest.raises(ProofError, match="is not what the trained network folds to"):
        prove(network(2), packed, reference, {}, n_random=0)


def test_random_images(packed):
    batches = [*random_images(packed.graph, 2500, seed=1)]
    assert [start for start, _ in batches] == [0, 1000, 2000]
    images = np.concatenate([images for _, images in batches])
    assert images.shape == (2500, *SHAPE) and images.dtype == np.uint8
    spread = images.reshape(2500, -1).max(1).astype(int) - images.reshape(2500, -1).min(1)
    assert images.min() == 0 and images.max() == 255 and spread.min() < 20 and spread.max() > 200
    again = np.concatenate([images for _, images in random_images(packed.graph, 2500, seed=1)])
    assert np.array_equal(images, again)
