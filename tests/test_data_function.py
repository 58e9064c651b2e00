"""Sets that a Python function of the user's returns."""

import sys

import numpy as np
import pytest
from refusals import refused

from binjax.data import Dataset, describe, load

MODULE = """
import dataclasses
import numpy as np
from binjax.data import Dataset, Split
calls = []
def arrays():
    x, y = np.arange(240, dtype=np.uint8).reshape(20, 4, 3), np.arange(20) % 2
    return x[:15], y[:15], x[15:], y[15:]
def floats():
    a, b, c, d = arrays()
    return a / 255, b, c / 255, d
def nan():
    a, b, c, d = floats()
    return a * np.nan, b, c, d
def whole():
    a, b, c, d = arrays()
    part = lambda x, y: Split(x[..., None], y)
    return Dataset("x", part(a, b), part(c[:2], d[:2]), part(c, d), 5, (4, 3, 1))
def wrong_shape():
    import dataclasses
    return dataclasses.replace(whole(), image_shape=(3, 4, 1))
def wrong_classes():
    return dataclasses.replace(whole(), n_classes=1)
def ragged(): return [[[1]], [[1, 2]]], [0, 1], *arrays()[2:]
def no_split(): return dataclasses.replace(whole(), train=None)
def no_shape(): return dataclasses.replace(whole(), image_shape=None)
def text_classes(): return dataclasses.replace(whole(), n_classes="2")
def real_classes(): return dataclasses.replace(whole(), n_classes=2.0)
def two_dtypes():
    split = whole().validation
    floats = Split(split.images.astype(np.float32), split.labels)
    return dataclasses.replace(whole(), validation=floats)
def no_test(): return dataclasses.replace(whole(), test=whole().test[:0])
def leaves(): raise SystemExit(0)
def none(): pass
def three(): return arrays()[:3]
def fails(): raise KeyError("no\\nluck")
number = 3
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    (tmp_path / "own_images.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    yield "own_images"
    sys.modules.pop("own_images", None)


def test_function(module):
    found = load("python", function=f"{module}:arrays", validation=5, limit_train=8)
    assert (len(found.train), len(found.validation), len(found.test)) == (8, 5, 5)
    assert found.name == "python" and found.image_shape == (4, 3, 1) and found.n_classes == 2
    assert np.array_equal(found.train.images[1, ..., 0], np.arange(12, 24).reshape(4, 3))
    assert "" not in sys.path and sys.path.count(".") == 0
    same = load("python", function="own_images.py:arrays")
    assert len(same.train) == 15
    info = describe("python", function=f"{module}:arrays")
    assert (info.image_shape, info.n_classes, info.n_train, info.n_test) == ((4, 3, 1), 2, 15, 5)


def test_function_that_returns_a_dataset(module):
    found = load("python", function=f"{module}:whole")
    assert isinstance(found, Dataset) and found.n_classes == 5 and len(found.validation) == 2
    assert found.train.labels.dtype == np.int32
    info = describe("python", function=f"{module}:whole")
    assert (info.n_train, info.default_validation) == (17, 2)
    refused("leave data.validation out", name="python", function=f"{module}:whole", validation=1)


def test_function_that_returns_floats(module):
    found = load("python", function=f"{module}:floats")
    assert found.train.images.dtype == np.float32
    refused("not finite", name="python", function=f"{module}:nan")


@pytest.mark.parametrize(
    ("function", "words"),
    [
        ("own_images", "wanted package.module:function"),
        (":arrays", "wanted package.module:function"),
        ("own_images:", "wanted package.module:function"),
        ("own_imagez:arrays", "importing it raised ModuleNotFoundError"),
        ("gone.py:arrays", "gone.py: no such file"),
        ("own_images:array", "has no function 'array'"),
        ("own_images:number", "has no callable 'number'"),
        ("own_images:none", "returned a NoneType; wanted"),
        ("own_images:three", "returned a tuple of 3; wanted"),
        ("own_images:fails", "calling it raised KeyError"),
        ("own_images:wrong_shape", "train images are 4x3x1, image_shape says 3x4x1"),
        ("own_images:wrong_classes", "train labels go to 1, n_classes = 1"),
        ("own_images:ragged", "train images are no array; their sizes differ"),
        ("own_images:no_split", "train is no binjax.data.Split"),
        ("own_images:no_shape", "image_shape is None; wanted (height, width, channels)"),
        ("own_images:text_classes", "n_classes is '2'; wanted an integer above 0"),
        ("own_images:real_classes", "n_classes is 2.0; wanted an integer above 0"),
        ("own_images:two_dtypes", "images must be alike, but are of train uint8, validation float"),
        ("own_images:no_test", "the test set is empty"),
        ("own_images:leaves", "calling it raised SystemExit: 0"),
    ],
)
def test_function_refusals(module, function, words):
    for call in (load, describe):
        refused(f"data.function {function}", words, call=call, name="python", function=function)


def test_function_with_neighbours(tmp_path, monkeypatch):
    """A file's own folder, and the current one, are searched during the import and the call."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "beside_it.py").write_text("def images(): return [[[1]], [[2]]], [0, 1]\n")
    text = """
from __future__ import annotations
import dataclasses
import beside_it
@dataclasses.dataclass
class Options:
    n: int = 2
def get():
    import beside_it as late
    return (*late.images(), *beside_it.images())
"""
    (tmp_path / "sub" / "whole_set.py").write_text(text)
    before = list(sys.path)
    found = load("python", function="sub/whole_set.py:get")
    assert len(found.train) == 2 and found.n_classes == 2
    (tmp_path / "lazy.py").write_text(
        "def get():\n    import lazy_part\n    return lazy_part.SET\n"
    )
    (tmp_path / "lazy_part.py").write_text("SET = [[[1]], [[2]]], [0, 1], [[[3]]], [1]\n")
    assert len(load("python", function="lazy:get").test) == 1
    assert sys.path == before
    for name in ("beside_it", "whole_set", "lazy", "lazy_part"):
        sys.modules.pop(name, None)


def test_function_needs_a_name_and_memory(module):
    refused("data.function", name="python")
    refused("would take", name="python", function=f"{module}:arrays", memory_gib=1e-8)
