"""The model file: what is written is read; anything else is one clear error."""

import dataclasses
import hashlib
import json
import math
import struct

import numpy as np
import pytest
from deployed import images_for, randomize
from flax import nnx

from binjax import deploy, models
from binjax.deploy import file
from binjax.deploy.graph import expected_tensors, shapes
from binjax.deploy.graph_json import graph_to_json
from binjax.deploy.operations import (
    Conv,
    Dense,
    DeployError,
)


def tiny(seed=0, **options):
    options = {"channels": (9,), "widths": (12,)} | options
    model = models.cifar10_convnet((4, 4, 1), 3, pixels=True, rngs=nnx.Rngs(0), **options)
    return deploy.pack(randomize(model, seed), (4, 4, 1), scaling='{"kind": "unit"}')


@pytest.fixture(scope="module")
def model():
    return tiny()


@pytest.fixture(scope="module")
def data(model):
    return file.to_bytes(model.graph, model.tensors)


def refused(data):
    with pytest.raises(deploy.FormatError) as error:
        file.from_bytes(data)
    message = str(error.value)
    assert message and "\n" not in message and len(message) < 300
    return message


def sealed(graph, arrays, version=1):
    """A file with a right digest, whatever is in it. ``graph`` is JSON; arrays {name: array}."""
    header, at, body = {}, 0, b""
    kinds = {"uint32": "U32", "int32": "I32", "float32": "F32", "uint8": "U8"}
    for name, array in arrays.items():
        end = at + array.nbytes
        kind = kinds[str(array.dtype)]
        header[name] = {"dtype": kind, "shape": list(array.shape), "data_offsets": [at, end]}
        at, body = end, body + array.tobytes()
    if not isinstance(graph, str):
        graph = json.dumps(graph)
    version, zeros = json.dumps(version), "0" * 64
    about = f'{{"version": {version}, "graph": {graph}, "sha256": "{zeros}"}}'
    header["__metadata__"] = {"binjax": about}
    encoded = json.dumps(header).encode()
    whole = struct.pack("<Q", len(encoded)) + encoded + body
    return whole.replace(b"0" * 64, hashlib.sha256(whole).hexdigest().encode(), 1)


def test_round_trip(model, tmp_path):
    path = tmp_path / "deep" / "model.binjax"
    model.save(path)
    again = deploy.load(path)
    assert again.graph == model.graph
    assert {*again.tensors} == {*model.tensors}
    for name, array in model.tensors.items():
        np.testing.assert_array_equal(again.tensors[name], array)
        assert again.tensors[name].dtype == array.dtype
    images = images_for(model.graph, 5)
    np.testing.assert_array_equal(again(images), model(images))
    assert [p.name for p in path.parent.iterdir()] == ["model.binjax"]
    assert file.to_bytes(again.graph, again.tensors) == path.read_bytes()


def test_it_is_a_safetensors_file(model, tmp_path):
    from safetensors import safe_open

    path = tmp_path / "model.binjax"
    model.save(path)
    with safe_open(path, "numpy") as opened:
        assert {*opened.keys()} == {*model.tensors}
        about = json.loads(opened.metadata()["binjax"])
    assert about["version"] == 1 and about["graph"]["image"]["shape"] == [4, 4, 1]
    zeroed = path.read_bytes().replace(about["sha256"].encode(), b"0" * 64)
    assert hashlib.sha256(zeroed).hexdigest() == about["sha256"]


def test_weights_are_bits(model, data):
    weights = sum(
        op.elements * op.outputs for op in model.graph.ops if isinstance(op, Dense | Conv)
    )
    arrays = sum(array.nbytes for array in model.tensors.values())
    words = sum(array.nbytes for n, array in model.tensors.items() if n.endswith(".words"))
    assert words < weights / 8 * 4  # channels of 9 in words of 32
    assert len(data) - arrays < 4096


@pytest.mark.parametrize("flip", [0xFF, 0x01, 0x20])
def test_any_byte_flipped(data, flip):
    for at in range(len(data)):
        damaged = bytearray(data)
        damaged[at] ^= flip
        refused(bytes(damaged))


def test_truncated_anywhere(data):
    (header,) = struct.unpack("<Q", data[:8])
    offsets = json.loads(data[8 : 8 + header])
    del offsets["__metadata__"]
    ends = [8 + header + end for entry in offsets.values() for end in entry["data_offsets"]]
    for at in {0, 1, 7, 8, 9, 8 + header, *ends, *range(0, len(data), 61)} - {len(data)}:
        refused(data[:at])
    refused(data + b"\0")


def test_what_is_no_model(tmp_path):
    assert "too short" in refused(b"")
    assert "no binjax model" in refused(b"\x89PNG\r\n\x1a\n" + bytes(100))
    assert "no binjax model" in refused(struct.pack("<Q", 1 << 60) + b"{}")
    assert "header" in refused(struct.pack("<Q", 2) + b"{}")
    assert "header" in refused(struct.pack("<Q", 6) + b"[[[[[[")
    deep = b"[" * 100_000
    assert "header" in refused(struct.pack("<Q", len(deep)) + deep)
    other = json.dumps({"__metadata__": {"format": "pt"}}).encode()
    assert "no binjax model" in refused(struct.pack("<Q", len(other)) + other)
    with pytest.raises(deploy.FormatError, match=r"nothing\.binjax: cannot be read: No such file"):
        deploy.load(tmp_path / "nothing.binjax")
    with pytest.raises(deploy.FormatError, match="cannot be read: Is a directory"):
        deploy.load(tmp_path)


def test_a_path_that_cannot_be_written(model, tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(DeployError, match=r"model\.binjax: cannot be written: "):
        model.save(tmp_path / "file" / "model.binjax")


def test_a_newer_version(model):
    graph = graph_to_json(model.graph)
    for version, message in (
        (2, "version 2, this binjax reads up to 1"),
        (0, "no format version 0"),
    ):
        assert message in refused(sealed(graph, model.tensors, version))


def changed(model, change):
    graph = json.loads(json.dumps(graph_to_json(model.graph)))
    change(graph)
    return graph


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda g: g["ops"][0].update(kind="attention"),
            "operation 0 is 'attention'; known: dense",
        ),
        (lambda g: g["ops"][0].update(outputs=1 << 31), "conv1 has the size 2147483648"),
        (
            lambda g: g["ops"][-1].update(outputs=1 << 30),
            "dense4 takes 1,073,741,824 elements",
        ),
        (lambda g: g["ops"][0].update(outputs=True), "conv1 has the size True"),
        (lambda g: g["ops"][0].update(outputs="9"), "conv1 has the size '9'"),
        (lambda g: g["ops"][0].update(kernel=[3]), "conv1 wants 2 numbers"),
        (lambda g: g["ops"][0].update(groups=2), "conv1 has 2 groups"),
        (lambda g: g["ops"][0]["geometry"].update(padding=[0, 0, 0, -1]), "conv1 has the size -1"),
        (lambda g: g["ops"][0]["geometry"].update(pad_value=2), "conv1 has a border of 2"),
        (lambda g: g["ops"][0].update(extra=1), "operation 0 wants"),
        (lambda g: g["ops"][0].pop("rule"), "operation 0 wants"),
        (lambda g: g["ops"][0].update(operand="bits"), "conv1 .conv. takes bits, not pixels"),
        (lambda g: g["ops"][1].update(name="conv1"), "two operations have one name"),
        (lambda g: g["ops"].pop(), "does not end in scores"),
        (
            lambda g: (
                g["ops"][1].update(groups=3),
                g["ops"][1]["geometry"].update(channels=3),
            ),
            "conv2 .conv. has 3 groups of 3 channels, no words",
        ),
        (lambda g: g["ops"][0].update(name="a\ud800"), "wants a text, not 'a.ud800'"),
        (lambda g: g["ops"][0].update(kind="x" * 100_000), "operation 0 is 'xxx"),
        (
            lambda g: g["ops"][0]["geometry"].update(padding=[1 << 20] * 4, strides=[699051] * 2),
            "conv1 takes [0-9,]+ elements",
        ),
        (lambda g: g.update(ops=[]), "no operations"),
        (lambda g: g["image"].update(shape=[4, 4, 2]), "conv1 .conv. takes .h, w, 1."),
        (
            lambda g: g["image"].update(shape=[1 << 20, 1 << 20, 1]),
            "dense3 .dense. takes .36., not",
        ),
        (lambda g: g["image"].update(dtype="int8"), "images of dtype 'int8'"),
        (lambda g: g["ops"][-1]["rule"].update(scale=-1), "has the scale -1"),
        (lambda g: g["ops"][-1]["rule"].update(kind="softmax"), "rule"),
    ],
)
def test_graphs_that_make_no_sense(model, change, message):
    import re

    assert re.search(message, refused(sealed(changed(model, change), model.tensors)))


def test_graphs_that_are_none(model):
    for graph in ("[", "null", "[1]", '{"image": 3, "ops": []}', "[" * 100_000, "1e999"):
        refused(sealed(graph, model.tensors))


def test_arrays_that_do_not_fit(model):
    graph = graph_to_json(model.graph)

    def message(name, array):
        arrays = dict(model.tensors)
        if array is None:
            del arrays[name]
        else:
            arrays[name] = array
        return refused(sealed(graph, arrays))

    words = model.tensors["conv1.words"]
    assert "conv1.words is missing" in message("conv1.words", None)
    assert "nothing uses other" in message("other", np.zeros(3, np.float32))
    assert "conv1.words is uint32[9, 2]" in message("conv1.words", np.zeros((9, 2), np.uint32))
    assert "conv1.words is int32" in message("conv1.words", words.astype(np.int32))
    threshold = model.tensors["conv2.threshold"].copy()
    threshold[0] = 10_000
    assert "threshold of conv2 is 10000, outside of [-81, 82]" in message(
        "conv2.threshold", threshold
    )
    padded = words.copy()
    padded[2] |= np.uint32(1 << 20)
    assert "conv1.words has bits behind the last of 9" in message("conv1.words", padded)
    factor = model.tensors["dense4.factor"].copy()
    factor[1] = np.nan
    assert "dense4.factor is not finite" in message("dense4.factor", factor)


def test_absurd_shapes_of_arrays_are_refused_before_allocation(model):
    header = {
        "__metadata__": {"binjax": json.dumps({"version": 1, "graph": {}, "sha256": "0" * 64})},
        "x": {"dtype": "F32", "shape": [1 << 40, 1 << 20], "data_offsets": [0, 1 << 62]},
    }
    encoded = json.dumps(header).encode()
    whole = struct.pack("<Q", len(encoded)) + encoded
    refused(whole.replace(b"0" * 64, hashlib.sha256(whole).hexdigest().encode(), 1))


def test_saving_checks_too(model, tmp_path):
    tensors = {**model.tensors, "conv1.words": model.tensors["conv1.words"][:-1]}
    broken = deploy.PackedModel(model.graph, tensors)
    with pytest.raises(DeployError, match=r"conv1\.words is uint32"):
        broken.save(tmp_path / "model.binjax")
    assert not [*tmp_path.iterdir()]


def test_padding_bits_do_not_matter_and_are_zero(model):
    for op in model.graph.ops:
        if isinstance(op, Dense):
            words = model.tensors[f"{op.name}.words"]
            used = op.elements % 32
            assert not used or not (words[:, -1] >> np.uint32(used)).any()


def test_sizes_of_the_graph(model):
    assert shapes(model.graph)[-1] == (3,)
    expected = expected_tensors(model.graph)
    assert {n: (a.dtype, a.shape) for n, a in model.tensors.items()} == expected
    assert math.prod(expected["dense3.words"][1]) == 12 * 2
    with pytest.raises(DeployError):
        shapes(dataclasses.replace(model.graph, ops=model.graph.ops[:-1]))
