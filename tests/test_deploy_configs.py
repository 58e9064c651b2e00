"""Every config of the project, trained briefly with either norm, exports and proves."""

import tomllib
from pathlib import Path

import numpy as np
import pytest
from runs import Recorder, cli

from binjax import config, data, train

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.filterwarnings("ignore::binjax.xnor.SlowerBackendWarning")

SMALLER = {
    "quickstart": {},
    "mnist_mlp": {"widths": [64, 48]},
    "mnist_mlp_theano": {"widths": [64, 48]},
    "mnist_mlp_torch": {"widths": [64, 48]},
    "cifar10_convnet": {"channels": [20, 32], "widths": [40]},
    "svhn_convnet": {"channels": [16, 24], "widths": [40]},
    "cifar10_larq": {},
}


def made_up(config, warn):
    """A data set of the config's shape, some images of noise on a light or dark ground."""
    info = data.INFO[config.data.name]
    rng = np.random.default_rng(0)

    def split(n):
        labels = rng.integers(0, info.n_classes, n).astype(np.int32)
        noise = rng.integers(0, 100, (n, *info.image_shape))
        return data.Split((noise + 15 * labels[:, None, None, None]).astype(np.uint8), labels)

    return data.Dataset(
        config.data.name, split(64), split(0), split(24), info.n_classes, info.image_shape
    )


@pytest.mark.parametrize(
    ("name", "norm"),
    [
        pytest.param(name, norm, marks=pytest.mark.slow)
        if name == "svhn_convnet" or (name, norm) == ("cifar10_convnet", "batch")
        else (name, norm)
        for name in SMALLER
        for norm in ("batch", "shift")
    ],
)
def test_every_config_exports_and_proves(name, norm, tmp_path, monkeypatch, capsys):
    table = tomllib.loads((ROOT / "configs" / f"{name}.toml").read_text(encoding="utf-8"))
    table |= {"epochs": 1, "batch_size": 16}
    table["model"] |= SMALLER[name]
    if name != "cifar10_larq":
        table["model"]["norm"] = {"kind": norm}
    elif norm == "shift":
        pytest.skip("the network of Larq's tutorial has ordinary norms")
    table["data"]["validation"] = 0
    for module in ("binjax.cli.network", "binjax.train.loop"):
        monkeypatch.setattr(f"{module}.load_data", made_up)
    folder = train.RunFolder(tmp_path / "run")
    train.fit(config.validate(table, name), folder, Recorder(), resume=False)
    out = tmp_path / "m.binjax"
    capsys.readouterr()
    assert cli("export", folder.root, "--out", out, "--random", 40) == 0
    text, err = capsys.readouterr()
    assert err == ""
    assert "24 test, 40 random images (64 of them" in text and "0 mismatches" in text
    if name in ("cifar10_larq", "quickstart") and norm == "batch":  # at their real size
        size = out.stat().st_size
        assert f"{size:,} bytes" in (ROOT / "README.md").read_text(encoding="utf-8")
        assert size <= 1.30 * 2**20
