"""Checkpoints: bit-exact round trips, and damage of any kind found out before it is believed."""

import json
import re
import shutil
import threading
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from runs import files_below, flip

from binjax import checkpoint
from binjax.checkpoint import CheckpointError, MismatchError, Writer

EDGE = [0.0, -0.0, 1.0, -1.0, np.inf, -np.inf, np.nan, 5e-324, 1e-45, 3.4e38]


class Pair(NamedTuple):
    first: object
    second: object


def make_tree():
    """Every dtype a state has, every container, and the values that text formats lose."""
    return {
        "float32": jnp.asarray(EDGE, jnp.float32),
        "bfloat16": jnp.asarray(EDGE, jnp.bfloat16).reshape(2, 5),
        "nested": {"int32": jnp.asarray([-(2**31), 0, 2**31 - 1], jnp.int32)},
        "pair": Pair(jnp.uint32(2**32 - 1), (jnp.arange(256, dtype=jnp.uint8),)),
        "list": [jnp.float32(-0.0), jnp.asarray([True, False])],
    }


def save_small(root, step, value=None):
    tree = {"w": jnp.full(7, step if value is None else value, jnp.float32)}
    return checkpoint.save(root, step, tree, {"epoch": step})


SMALL = {"w": jax.ShapeDtypeStruct((7,), jnp.float32)}


def one_line(pattern, call, kind=CheckpointError):
    with pytest.raises(kind, match=pattern) as caught:
        call()
    assert type(caught.value) is kind
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    root = tmp_path_factory.mktemp("saved")
    checkpoint.save(root, 12, make_tree(), {"epoch": 3, "best": None, "text": "±1", "x": 0.1})
    return root


@pytest.fixture
def copy(saved, tmp_path):
    """A checkpoint to damage."""
    shutil.copytree(saved, tmp_path, dirs_exist_ok=True)
    return tmp_path


def test_round_trip_is_bit_exact(saved):
    tree = make_tree()
    for like in (tree, jax.eval_shape(make_tree)):
        restored = checkpoint.restore(saved, 12, like)
        assert restored.step == 12
        assert restored.meta == {"epoch": 3, "best": None, "text": "±1", "x": 0.1}
        assert jax.tree.structure(restored.tree) == jax.tree.structure(tree)
        for old, new in zip(jax.tree.leaves(tree), jax.tree.leaves(restored.tree), strict=True):
            assert isinstance(new, np.ndarray)
            assert (new.dtype, new.shape) == (old.dtype, old.shape)
            assert new.tobytes() == np.asarray(old).tobytes()


def test_a_folder_holds_only_whole_checkpoints(saved):
    assert [p.name for p in saved.iterdir()] == ["000000012"]
    assert checkpoint.steps(saved) == [12]
    names = {p.name for p in (saved / "000000012").iterdir()}
    assert names == {"manifest.json", "state"}


def test_every_file_is_checked(saved, copy):
    """A flipped bit anywhere, at the start, in the middle, at the end."""
    like = jax.eval_shape(make_tree)
    names = [p.relative_to(saved) for p in files_below(saved)]
    assert len(names) > 3
    for name in names:
        if not (saved / name).stat().st_size:
            continue
        for at in (0, 0.5, 1):
            flip(copy / name, at)
            one_line("damaged", lambda: checkpoint.restore(copy, 12, like))
            shutil.copy(saved / name, copy / name)
    checkpoint.restore(copy, 12, like)


def test_cut_short_missing_and_extra_files(saved, copy):
    like = jax.eval_shape(make_tree)
    for path in files_below(copy):
        content = path.read_bytes()
        path.write_bytes(content[:-1] if content else b"x")
        one_line("damaged", lambda: checkpoint.restore(copy, 12, like))
        path.unlink()
        one_line("is missing", lambda: checkpoint.restore(copy, 12, like))
        path.write_bytes(content)
    extra = copy / "000000012" / "state" / "extra"
    extra.write_bytes(b"")
    one_line("state/extra does not belong", lambda: checkpoint.restore(copy, 12, like))
    extra.unlink()
    checkpoint.restore(copy, 12, like)


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", "3", "null", "{}", '{"sha256": 3}', '{"sha256": "x", "files": []}', "\xff"],
)
def test_a_manifest_of_nonsense(copy, content):
    (copy / "000000012" / "manifest.json").write_bytes(content.encode("latin-1"))
    one_line("manifest.json is missing or not", lambda: checkpoint.restore(copy, 12, make_tree()))


def test_another_format_is_named(copy):
    path = copy / "000000012" / "manifest.json"
    manifest = json.loads(path.read_text())
    del manifest["sha256"]
    manifest["format"] = 99
    manifest["sha256"] = checkpoint._canonical_digest(manifest)
    path.write_text(json.dumps(manifest))
    one_line("format 99", lambda: checkpoint.restore(copy, 12, make_tree()))


def test_no_such_step(saved, tmp_path):
    one_line("manifest.json is missing", lambda: checkpoint.restore(saved, 13, make_tree()))
    one_line("manifest.json is missing", lambda: checkpoint.restore(tmp_path / "no", 1, SMALL))


def test_another_model_is_a_mismatch(tmp_path):
    save_small(tmp_path, 1)
    cases = {
        r"w is float32\[7\], not float32\[8\]": {"w": jax.ShapeDtypeStruct((8,), jnp.float32)},
        r"w is float32\[7\], not float32\[7, 1\]": {"w": jax.ShapeDtypeStruct((7, 1), jnp.float32)},
        r"w is float32\[7\], not bfloat16\[7\]": {"w": jax.ShapeDtypeStruct((7,), jnp.bfloat16)},
        "has no v": {**SMALL, "v": SMALL["w"]},
        "has an extra w|has no v": {"v": SMALL["w"]},
        "has an extra w": {},
    }
    for pattern, like in cases.items():
        message = one_line(
            pattern, lambda like=like: checkpoint.restore(tmp_path, 1, like), MismatchError
        )
        assert "give --out another folder" in message
        one_line(
            pattern, lambda like=like: checkpoint.restore_latest(tmp_path, like), MismatchError
        )


def test_the_newest_good_one_counts(tmp_path):
    assert checkpoint.restore_latest(tmp_path / "none", SMALL) == (None, [])
    assert checkpoint.restore_latest(tmp_path, SMALL) == (None, [])
    for step in (5, 10, 15):
        save_small(tmp_path, step)
    restored, problems = checkpoint.restore_latest(tmp_path, SMALL)
    assert (restored.step, problems) == (15, [])

    flip(tmp_path / "000000015" / "manifest.json")
    flip(tmp_path / "000000010" / "state" / "_METADATA")
    restored, problems = checkpoint.restore_latest(tmp_path, SMALL)
    assert restored.step == 5
    assert np.array_equal(restored.tree["w"], np.full(7, 5, np.float32))
    assert [re.search(r"0000000\d\d", p)[0] for p in problems] == ["000000015", "000000010"]

    flip(tmp_path / "000000005" / "manifest.json")
    one_line("no checkpoint can be used", lambda: checkpoint.restore_latest(tmp_path, SMALL))


def test_other_things_in_the_folder_are_no_checkpoints(tmp_path):
    save_small(tmp_path, 5)
    (tmp_path / "notes").mkdir()
    (tmp_path / "000000009").write_text("a file")
    (tmp_path / ".000000007-1234.tmp").mkdir()
    assert checkpoint.steps(tmp_path) == [5]
    assert checkpoint.restore_latest(tmp_path, SMALL)[0].step == 5


def test_prune_keeps_the_newest_and_the_best(tmp_path):
    for step in range(1, 6):
        (tmp_path / f"{step:09d}" / "state").mkdir(parents=True)
    checkpoint.prune(tmp_path, 2, also=1)
    assert checkpoint.steps(tmp_path) == [1, 4, 5]
    checkpoint.prune(tmp_path, 2, also=5)
    assert checkpoint.steps(tmp_path) == [4, 5]
    checkpoint.prune(tmp_path, 1)
    assert checkpoint.steps(tmp_path) == [5]


def test_the_same_step_is_replaced(tmp_path):
    save_small(tmp_path, 3, value=1)
    save_small(tmp_path, 3, value=2)
    assert checkpoint.steps(tmp_path) == [3]
    assert checkpoint.restore(tmp_path, 3, SMALL).tree["w"][0] == 2


@pytest.mark.parametrize("where", ["_orbax_save", "_digest", "_sync"])
def test_an_interrupted_write_leaves_nothing(tmp_path, monkeypatch, where):
    """An exception at the start, between data and manifest, and just before the rename."""
    save_small(tmp_path, 1)

    def fail(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, where, fail)
        with pytest.raises(KeyboardInterrupt):
            save_small(tmp_path, 2)
    assert [p.name for p in tmp_path.iterdir()] == ["000000001"]


def test_a_killed_write_is_no_checkpoint_and_is_swept_up(tmp_path, monkeypatch):
    """A kill runs no `finally`: the temporary folder stays until the next prune."""
    save_small(tmp_path, 1)
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint.Path, "rename", lambda *_: (_ for _ in ()).throw(SystemError))
        patch.setattr(checkpoint.shutil, "rmtree", lambda *_, **__: None)
        with pytest.raises(SystemError):
            save_small(tmp_path, 2)
    assert len(list(tmp_path.iterdir())) == 2
    assert checkpoint.steps(tmp_path) == [1]
    assert checkpoint.restore_latest(tmp_path, SMALL)[0].step == 1

    writer = Writer(tmp_path, keep=2)
    writer.submit(3, {"w": jnp.zeros(7)}, {})
    writer.wait()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["000000001", "000000003"]


def test_a_root_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    for root in (tmp_path / "file", tmp_path / "file" / "below"):
        one_line("cannot write a checkpoint", lambda root=root: save_small(root, 1))


# The writer


def test_writer_writes_and_prunes(tmp_path):
    writer = Writer(tmp_path, keep=1)
    for step in (1, 2, 3):
        writer.submit(step, {"w": jnp.full(7, step, jnp.float32)}, {"epoch": step}, also_keep=1)
    writer.wait()
    assert checkpoint.steps(tmp_path) == [1, 3]
    restored, _ = checkpoint.restore_latest(tmp_path, SMALL)
    assert (restored.step, restored.meta, restored.tree["w"][0]) == (3, {"epoch": 3}, 3)
    writer.wait()


def test_writer_does_not_block_and_writes_one_at_a_time(tmp_path, monkeypatch):
    go_on, running, seen = threading.Event(), [], []

    def slow_save(root, step, tree, meta):
        running.append(step)
        seen.append(len(running))
        assert go_on.wait(20)
        running.remove(step)

    monkeypatch.setattr(checkpoint, "save", slow_save)
    writer = Writer(tmp_path, keep=1)
    writer.submit(1, {}, {})  # returns though the write has not ended
    second = threading.Thread(target=writer.submit, args=(2, {}, {}))
    second.start()
    second.join(0.05)
    assert second.is_alive()
    go_on.set()
    second.join(20)
    writer.wait()
    assert seen == [1, 1]


@pytest.mark.parametrize("how", ["submit", "wait"])
def test_an_error_in_the_thread_comes_with_the_next_call(tmp_path, how):
    (tmp_path / "file").write_text("")
    writer = Writer(tmp_path / "file", keep=1)
    writer.submit(1, {"w": jnp.zeros(7)}, {})
    calls = {"submit": lambda: writer.submit(2, {"w": jnp.zeros(7)}, {}), "wait": writer.wait}
    one_line("cannot write a checkpoint", calls[how])
    writer.wait()  # told once


def test_a_full_disk_is_one_line(tmp_path):
    """Stood in for by a limit on the size of files: the error comes from orbax's C++."""
    resource = pytest.importorskip("resource")
    noise = np.random.default_rng(0).integers(0, 256, 1_000_000, dtype=np.uint8)  # incompressible
    writer = Writer(tmp_path, keep=1)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        writer.submit(1, {"w": noise}, {})
        one_line("cannot write a checkpoint", writer.wait)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list(tmp_path.iterdir()) == []
