"""binjax export, inspect, predict, prove: from runs of every config to classes of images."""

import gzip
import json
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from runs import cli, fit, write_config

from binjax import config, data, deploy, train

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.filterwarnings("ignore::binjax.xnor.SlowerBackendWarning")

SHORT = """
epochs = 1
batch_size = 32
[data]
name = "fashion-mnist-12k"
limit_train = 160
limit_test = 50
[model]
kind = "mlp"
widths = [24, 16]
input_dropout = 0.1
hidden_dropout = 0.2
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("deployed")
    fit(write_config(folder, SHORT), folder / "run")
    return folder / "run"


@pytest.fixture(scope="module")
def exported(run):
    path = run.parent / "model.binjax"
    assert cli("export", run, "--out", path, "--random", 500) == 0
    return path


def words_of(capsys, *words):
    capsys.readouterr()
    status = cli(*words)
    out, err = capsys.readouterr()
    return status, out, err


def mistake(capsys, *words):
    status, out, err = words_of(capsys, *words)
    assert (status, out) == (2, "")
    lines = err.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("binjax: ")
    return lines[0]


def test_export_tells_and_leaves_a_proof(run, capsys, tmp_path):
    path = tmp_path / "new" / "m.binjax"
    status, out, _ = words_of(capsys, "export", run, "--out", path, "--random", 300)
    assert status == 0
    proven, size, certificate = out.splitlines()
    assert "40 thresholds" in proven and "50 test, 300 random images (350 of them" in proven
    assert "0 mismatches" in proven
    bytes_on_disk = path.stat().st_size
    assert f"{bytes_on_disk:,} bytes" in size
    full = 4 * (784 * 24 + 24 * 16 + 16 * 10 + 4 * 50)
    assert f"{full / bytes_on_disk:.1f} times smaller" in size
    found = json.loads(Path(certificate.removeprefix("certificate: ")).read_text())
    assert found["mismatches"] == 0 and found["images"] == {"test": 50, "random": 300}
    assert len(found["sha256"]) == len(found["network"]) == 64
    assert {p.name for p in path.parent.iterdir()} == {"m.binjax", "m.binjax.proof.json"}


def test_accuracy_is_that_of_binjax_eval(run, exported, capsys):
    assert cli("eval", run, "--json") == 0
    wanted = json.loads(capsys.readouterr().out)["test_accuracy"]
    test = train.load_data(config.load(run / "config.toml")).test
    scores = np.asarray(deploy.load(exported)(test.images))
    assert (scores.argmax(1) == test.labels).mean() == wanted


def test_inspect(exported, capsys):
    status, out, _ = words_of(capsys, "inspect", exported)
    assert status == 0
    assert "takes uint8 images of 28x28x1, gives 10 scores" in out
    rows = {line.split()[0]: line for line in out.splitlines() if line.startswith("dense")}
    assert "18,816" in rows["dense1"] and "pixels to bits" in rows["dense1"]
    assert "384" in rows["dense2"] and "bits to scores" in rows["dense3"]
    status, out, _ = words_of(capsys, "inspect", exported, "--json")
    found = json.loads(out)
    assert found["file_bytes"] == exported.stat().st_size
    assert found["bits"] == 784 * 24 + 24 * 16 + 16 * 10
    assert sum(layer["bytes"] for layer in found["layers"]) == found["array_bytes"]
    assert found["compression"] == round(found["float32_bytes"] / found["file_bytes"], 2)


def test_predict(exported, tmp_path, capsys):
    images = data.load("fashion-mnist-12k").test.images[:3]
    scores = np.asarray(deploy.load(exported)(images))
    folder = tmp_path / "images"
    folder.mkdir()
    for i, image in enumerate(images):
        Image.fromarray(image[..., 0]).convert("RGB" if i else "L").save(folder / f"{i}.png")
    (folder / "notes.txt").write_text("no image")
    np.save(tmp_path / "a.npy", images)
    np.save(tmp_path / "one.npy", images[0, ..., 0])
    header = struct.pack(">BBBB3I", 0, 0, 8, 3, 3, 28, 28)
    (tmp_path / "i.gz").write_bytes(gzip.compress(header + images.tobytes()))

    def lines(path):
        status, out, _ = words_of(capsys, "predict", exported, path, "--json")
        assert status == 0
        return [json.loads(line) for line in out.splitlines()]

    found = lines(folder)
    assert [line["image"] for line in found] == ["0.png", "1.png", "2.png"]
    for line, row in zip(found, scores, strict=True):
        assert line["class"] == row.argmax()
        np.testing.assert_array_equal(np.float32(line["scores"]), row)
    for path in ("a.npy", "i.gz"):
        again = lines(tmp_path / path)
        assert [line["scores"] for line in again] == [line["scores"] for line in found]
        assert again[2]["image"] == f"{path}[2]"
    assert lines(tmp_path / "one.npy")[0]["scores"] == found[0]["scores"]

    _, out, _ = words_of(capsys, "predict", exported, folder)
    table = [line.split() for line in out.splitlines()]
    assert [row[:2] for row in table[1:]] == [
        [f"{i}.png", str(scores[i].argmax())] for i in range(3)
    ]


def test_predict_the_shipped_sample(exported):
    assert cli("predict", exported, ROOT / "configs" / "sample.png") == 0


def test_predict_refuses(exported, tmp_path, capsys):
    def message(path):
        return mistake(capsys, "predict", exported, path)

    Image.fromarray(np.zeros((28, 27), np.uint8)).save(tmp_path / "narrow.png")
    assert "narrow.png: holds an array of shape (28, 27, 1); the network takes" in message(
        tmp_path / "narrow.png"
    )
    np.save(tmp_path / "f.npy", np.zeros((2, 28, 28), np.float32))
    assert "f.npy: holds float32; the network takes uint8" in message(tmp_path / "f.npy")
    np.save(tmp_path / "o.npy", np.array([{}]), allow_pickle=True)
    assert "o.npy: is no readable .npy file" in message(tmp_path / "o.npy")
    (tmp_path / "cut.png").write_bytes((tmp_path / "narrow.png").read_bytes()[:60])
    assert "cut.png: " in message(tmp_path / "cut.png")
    (tmp_path / "text.png").write_text("no picture")
    assert "text.png: is no picture" in message(tmp_path / "text.png")
    assert "nothing.png: " in message(tmp_path / "nothing.png")
    (tmp_path / "empty").mkdir()
    assert "empty: holds no image" in message(tmp_path / "empty")
    np.save(tmp_path / "none.npy", np.zeros((0, 28, 28), np.uint8))
    assert "holds no image" in message(tmp_path / "none.npy")


def test_predict_refuses_what_it_would_misread(exported, tmp_path, capsys):
    def message(path):
        return mistake(capsys, "predict", exported, path)

    deep = Image.fromarray(np.full((28, 28), 40_000, np.uint16))
    deep.save(tmp_path / "deep.png")
    assert "deep.png: has more than 8 bits a channel" in message(tmp_path / "deep.png")
    frames = [Image.fromarray(np.full((28, 28), v, np.uint8)) for v in (0, 99)]
    frames[0].save(tmp_path / "two.gif", save_all=True, append_images=frames[1:])
    assert "two.gif: holds several pictures" in message(tmp_path / "two.gif")
    clear = Image.fromarray(np.full((28, 28, 4), 255, np.uint8))
    clear.save(tmp_path / "opaque.png")
    assert cli("predict", exported, tmp_path / "opaque.png") == 0
    clear.putpixel((3, 4), (0, 0, 0, 0))
    clear.save(tmp_path / "clear.png")
    assert "clear.png: has transparent pixels" in message(tmp_path / "clear.png")
    np.savez(tmp_path / "a.npz", np.zeros((28, 28), np.uint8))
    (tmp_path / "a.npz").rename(tmp_path / "a.npy")
    assert "a.npy: is an archive of arrays" in message(tmp_path / "a.npy")
    (tmp_path / "b.npy").write_bytes(b"\x93NUMPY\x01\x00\x0a\x00{'descr': (")
    assert "b.npy: is no readable .npy file" in message(tmp_path / "b.npy")
    status = cli("predict", exported, ROOT / "configs" / "sample.png", "--backend", "triton")
    assert status == 2 and "binjax: predict: backend='triton'" in capsys.readouterr().err


def test_certificates_belong_to_their_file(run, exported, tmp_path, capsys):
    path = tmp_path / "m.binjax"
    assert cli("export", run, "--out", path, "--random", 10) == 0
    proof = tmp_path / "m.binjax.proof.json"
    assert proof.exists()
    assert cli("export", exported, "--out", path) == 0
    assert not proof.exists()
    message = mistake(capsys, "prove", run, path, "--random", 0, "--certificate", path)
    assert "is the model itself" in message and deploy.load(path)


def test_mistakes_are_found_before_the_proof(run, tmp_path, monkeypatch, capsys):
    def never(*arguments, **options):
        raise AssertionError("a proof was begun")

    monkeypatch.setattr("binjax.cli.network.prove", never)
    for words, message in (
        (("--out", tmp_path), "is a folder"),
        (("--out", tmp_path / "c", "--format", "c", "--name", "3x"), "a C identifier"),
    ):
        assert message in mistake(capsys, "export", run, *words)


def test_other_formats(exported, tmp_path, capsys):
    out = tmp_path / "m.stablehlo"
    status, text, _ = words_of(capsys, "export", exported, "--format", "stablehlo", "--out", out)
    assert status == 0 and out.stat().st_size > 1000 and "StableHLO" in text
    status, text, _ = words_of(
        capsys, "export", exported, "--format", "c", "--out", tmp_path / "c", "--name", "shirts"
    )
    assert status == 0 and (tmp_path / "c" / "shirts.c").exists() and "of arena" in text


def test_prove(run, exported, tmp_path, capsys):
    certificate = tmp_path / "c.json"
    status, out, _ = words_of(
        capsys, "prove", run, exported, "--random", 100, "--certificate", certificate
    )
    assert status == 0 and "proven: 40 thresholds" in out
    assert json.loads(certificate.read_text())["file"] == "model.binjax"


def test_a_file_of_another_epoch_is_refused(run, tmp_path, exported, capsys):
    other = deploy.load(exported)
    other.tensors["dense2.words"] = other.tensors["dense2.words"] ^ np.uint32(1)
    other.save(tmp_path / "other.binjax")
    message = mistake(capsys, "prove", run, tmp_path / "other.binjax", "--random", 0)
    assert "dense2.words is not what the trained network folds to" in message
    assert not (tmp_path / "other.binjax.proof.json").exists()


def test_a_failing_proof_writes_nothing(run, tmp_path, monkeypatch, capsys):
    from binjax.deploy import fold

    right = fold.find_thresholds

    def wrong(bit, variables, op):
        folded = right(bit, variables, op)
        return folded._replace(threshold=folded.threshold + 2 * (folded.threshold < 0))

    monkeypatch.setattr(fold, "find_thresholds", wrong)
    message = mistake(capsys, "export", run, "--out", tmp_path / "m.binjax", "--random", 10)
    assert "dense1, channel" in message and "the network's bit is" in message
    assert not [*tmp_path.iterdir()]


def test_mistakes(run, exported, tmp_path, capsys):
    out = tmp_path / "m.binjax"
    assert "is neither a run folder" in mistake(capsys, "export", tmp_path, "--out", out)
    assert "--random wants a number" in mistake(capsys, "export", run, "--out", out, "--random", -1)
    assert "invalid choice: 'onnx'" in mistake(
        capsys, "export", run, "--out", out, "--format", "onnx"
    )
    assert "damaged, or no binjax model" in mistake(capsys, "inspect", run / "config.toml")
    assert "damaged, or no binjax model" in mistake(capsys, "prove", run, run / "config.toml")
    (tmp_path / "file").write_text("")
    where = tmp_path / "file" / "m.binjax"
    assert "cannot be written" in mistake(capsys, "export", exported, "--out", where)


def test_a_network_with_real_inputs_says_what_to_change(tmp_path, capsys):
    path = write_config(tmp_path, SHORT + 'first_layer = "float"\n')
    fit(path, tmp_path / "run")
    message = mistake(capsys, "export", tmp_path / "run", "--out", tmp_path / "m.binjax")
    assert "dense1: the first layer multiplies" in message or "dense1 multiplies real" in message
    assert not (tmp_path / "m.binjax").exists()


def test_import_of_binarynet_weights(tmp_path, capsys):
    config_file = write_config(
        tmp_path,
        '[data]\nname = "mnist"\n[model]\nkind = "mlp"\nwidths = [20, 12]\n'
        '[model.norm]\nkind = "batch"\nrunning = "inverse_std"\n',
    )
    rng = np.random.default_rng(0)
    arrays = []
    for n_in, n_out in ((784, 20), (20, 12), (12, 10)):
        arrays += [rng.normal(size=(n_in, n_out)), rng.normal(size=n_out)]
        arrays += [*rng.normal(size=(3, n_out)), rng.uniform(0.01, 0.1, n_out)]
    np.savez(tmp_path / "weights.npz", *(array.astype(np.float32) for array in arrays))
    out = tmp_path / "m.binjax"
    status, text, _ = words_of(
        capsys, "import", tmp_path / "weights.npz", config_file, "--out", out, "--random", 200
    )
    assert status == 0 and "proven: 32 thresholds" in text and "on 200 random images" in text
    model = deploy.load(out)
    assert [op.name for op in model.graph.ops] == ["flatten", "dense1", "dense2", "dense3"]
    other = write_config(tmp_path, '[data]\nname = "mnist"\n[model]\nkind = "mlp"\n', "other.toml")
    assert "inverse_std" in mistake(
        capsys, "import", tmp_path / "weights.npz", other, "--out", out, "--random", 0
    )
    assert "weights are imported from" in mistake(
        capsys, "import", config_file, config_file, "--out", out
    )
