"""Starting from another run's weights: by path, with what differs told or refused."""

import shutil

import jax.numpy as jnp
import numpy as np
import pytest
from runs import TINY, Recorder, fit, metrics_lines, write_config

from binjax import config, train
from binjax.config import ConfigError
from binjax.train.initialize import transfer
from binjax.train.restore import restore_run
from binjax.train.sets import load_data


def test_transfer_by_path():
    new = {"a": {"kernel": jnp.zeros((2, 3)), "bias": jnp.zeros(3)}, "c": jnp.ones(1)}
    old = {"a": {"kernel": jnp.full((2, 3), 7.0, jnp.float16)}, "b": jnp.ones(4)}
    found, report = transfer(new, old)
    np.testing.assert_array_equal(found["a"]["kernel"], np.full((2, 3), 7))
    assert found["a"]["kernel"].dtype == jnp.float32
    np.testing.assert_array_equal(found["c"], 1)
    assert report == (("a/kernel",), ("a/bias", "c"), ("b",))
    with pytest.raises(ValueError, match=r"a/kernel has shape \(2, 3\), in the other .*\(3, 2\)"):
        transfer(new, {"a": {"kernel": jnp.zeros((3, 2))}})


def weights_of(root):
    folder = train.RunFolder(root)
    loaded = config.load(folder.config)
    return restore_run(loaded, folder, load_data(loaded), print, last=True)


def test_a_binary_network_from_a_real_one(tmp_path):
    path = write_config(tmp_path, TINY)
    real = ["--model.kernel_quantizer", "noop", "--epochs", "1"]
    fit(path, tmp_path / "real", *real)
    source = weights_of(tmp_path / "real")
    reporter = Recorder()
    # A learning rate of next to nothing: the weights stay what they were at the start.
    quiet = ["--optimizer.learning_rate", "1e-12", "--init-from", str(tmp_path / "real")]
    fit(path, tmp_path / "binary", *quiet, reporter=reporter)
    found = weights_of(tmp_path / "binary")
    for layer in ("dense1", "dense2", "dense3"):
        np.testing.assert_allclose(
            found.params[layer]["kernel"], source.params[layer]["kernel"], atol=1e-6
        )
    assert not reporter.warnings
    lines = metrics_lines(tmp_path / "binary")
    assert all(line["layers"]["dense1"]["c2i"] == 1 for line in lines[:-1])
    # Going on needs the other run no more.
    (tmp_path / "real").rename(tmp_path / "gone")
    fit(path, tmp_path / "binary", *quiet)
    assert len(metrics_lines(tmp_path / "binary")) == 3


def test_a_run_killed_before_its_first_checkpoint_starts_from_the_weights_again(tmp_path):
    path = write_config(tmp_path, TINY)
    fit(path, tmp_path / "source", "--epochs", "1")
    words = ["--optimizer.learning_rate", "1e-12", "--init-from", str(tmp_path / "source")]
    fit(path, tmp_path / "run", *words)
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    fit(path, tmp_path / "run", *words)
    found, source = weights_of(tmp_path / "run"), weights_of(tmp_path / "source")
    np.testing.assert_allclose(
        found.params["dense1"]["kernel"], source.params["dense1"]["kernel"], atol=1e-6
    )


@pytest.mark.slow
def test_bop_starts_from_signs(tmp_path):
    path = write_config(tmp_path, TINY)
    fit(path, tmp_path / "latent", "--epochs", "1")
    words = ["--optimizer.kind", "bop", "--optimizer.threshold", "1.0", "--epochs", "1"]
    fit(path, tmp_path / "bop", *words, "--init-from", str(tmp_path / "latent"))
    latent, flipped = weights_of(tmp_path / "latent"), weights_of(tmp_path / "bop")
    signs = np.where(np.asarray(latent.params["dense1"]["kernel"]) >= 0, 1.0, -1.0)
    np.testing.assert_array_equal(flipped.params["dense1"]["kernel"], signs)


def test_refusals(tmp_path):
    path = write_config(tmp_path, TINY)
    fit(path, tmp_path / "other", "--epochs", "1")
    with pytest.raises(ConfigError, match=r"init_from: .*nowhere is not a run folder"):
        fit(path, tmp_path / "run", "--init-from", str(tmp_path / "nowhere"))
    with pytest.raises(ConfigError, match=r"dense1/bias has shape \(8,\), in the other network"):
        words = ["--model.widths", "8", "--init-from", str(tmp_path / "other")]
        fit(path, tmp_path / "run", *words)
    assert not (tmp_path / "run").exists()
    with pytest.raises(ConfigError, match="init_from: belongs to `binjax train`"):
        train.setup(config.load(path, ["--init-from", "x"]))
