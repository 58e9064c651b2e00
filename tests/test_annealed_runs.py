"""Runs with quantizers that change from epoch to epoch."""

import numpy as np
import pytest
from flax import nnx
from runs import TINY, Recorder, fit, metrics_lines, write_config

from binjax import config, train
from binjax.layers.quantize import quantize
from binjax.train.restore import restore_run
from binjax.train.sets import load_data


@pytest.mark.parametrize(
    "words",
    [
        ("--model.input_quantizer", "ede"),
        ("--model.kernel_quantizer", "recu"),
        (
            *("--optimizer.others.kind", "sgd"),
            *("--optimizer.others.schedule.kind", "cosine"),
        ),
    ],
    ids=lambda words: words[1],
)
def test_how_long_a_run_trains_is_fixed(tmp_path, words):
    path = write_config(tmp_path, TINY)
    fit(path, tmp_path / "run", *words, "--epochs", "1")
    with pytest.raises(train.RunError, match=r"other settings \(epochs\)"):
        fit(path, tmp_path / "run", *words, "--epochs", "2")


@pytest.mark.parametrize(
    "optimizer",
    [
        {"kind": "bop", "threshold_schedule": {"kind": "linear"}},
        {
            "kind": "sgd",
            "cases": [{"kind": "sgd", "match": "*", "schedule": {"kind": "cosine"}}],
        },
    ],
    ids=["threshold", "case"],
)
def test_so_it_is_by_any_schedule(tmp_path, optimizer):
    settings = config.validate({"epochs": 1, "optimizer": optimizer}, "it")
    folder = train.RunFolder(tmp_path)
    folder.config.write_text(config.dump(settings), encoding="utf-8")
    folder.check_same(settings)
    with pytest.raises(train.RunError, match=r"other settings \(epochs\)"):
        folder.check_same(settings.model_copy(update={"epochs": 2}))


def test_progressive_kernels_end_as_signs(tmp_path):
    """Only epochs of signs count for the best; the last one is of signs whatever ``until`` is."""
    path = write_config(tmp_path, TINY)
    words = ["--model.kernel_quantizer.kind", "progressive_sign", "--epochs", "3"]
    for until, first in (("0.5", 2), ("1.0", 3)):
        root, reporter = tmp_path / until, Recorder()
        fit(path, root, *words, "--model.kernel_quantizer.until", until, reporter=reporter)
        lines = metrics_lines(root)
        assert lines[-1]["best_epoch"] >= first
        folder = train.RunFolder(root)
        loaded = config.load(folder.config)
        found = restore_run(loaded, folder, load_data(loaded), reporter.warn)
        model = nnx.merge(found.task.graphdef, found.params, found.stats)
        dense = model.dense2
        kernel = quantize(dense.kernel_quantizer, dense.kernel[...], train=False, key=None)
        assert set(np.unique(kernel)) == {-1.0, 1.0}
