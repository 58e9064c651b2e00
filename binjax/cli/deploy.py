"""``binjax export``, ``import``, ``inspect``, ``predict`` and ``prove``."""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import binjax
from binjax.config import ConfigError

if TYPE_CHECKING:
    from binjax.cli.network import Network
    from binjax.deploy import PackedModel
    from binjax.deploy.prove import Certificate

FORMATS = ("binjax", "c", "stablehlo", "tflite")
_RANDOM = "random images in the proof"


def add_deploy(commands: Any) -> None:
    """Register the commands."""
    export = commands.add_parser(
        "export", help="pack a run's network into one file, proven equal to it"
    )
    export.add_argument("source", metavar="RUN|FILE", help="a run folder, or a packed model")
    export.add_argument(
        "--data.dir", dest="data_dir", metavar="DIR", help="where the test images are"
    )
    export.add_argument("--last", action="store_true", help="the last epoch, not the best")
    foreign = commands.add_parser(
        "import", help="pack the weights of a Larq (.h5) or BinaryNet (.npz) network"
    )
    foreign.add_argument("weights", metavar="WEIGHTS")
    foreign.add_argument("config", metavar="CONFIG", help="a TOML file of the same network")
    for command in (export, foreign):
        command.add_argument("--out", required=True, metavar="FILE", help="for C: a folder")
        command.add_argument("--format", default="binjax", choices=FORMATS)
        command.add_argument("--name", default="model", help="of the functions in C")
        command.add_argument(
            "--allow-float",
            action="store_true",
            help="keep layers that cannot be packed, in floats",
        )
        command.add_argument("--skip-proof", action="store_true", help="write it unproven")
        command.add_argument("--random", type=int, default=100_000, metavar="N", help=_RANDOM)

    inspect = commands.add_parser("inspect", help="what is in a packed model")
    inspect.add_argument("file", metavar="FILE")
    inspect.add_argument("--json", action="store_true", help="print JSON")

    predict = commands.add_parser("predict", help="classify images with a packed model")
    predict.add_argument("file", metavar="FILE")
    predict.add_argument(
        "images", metavar="IMAGES", help="PNG, JPEG, .npy, IDX, or a folder of images"
    )
    predict.add_argument("--json", action="store_true", help="a JSON line for each image")
    predict.add_argument("--backend", choices=("native", "xla", "triton"))

    prove = commands.add_parser("prove", help="check a packed model against the network of a run")
    prove.add_argument("run", metavar="RUN")
    prove.add_argument("file", metavar="FILE")
    prove.add_argument("--certificate", metavar="FILE", help="default: FILE.proof.json")
    prove.add_argument("--random", type=int, default=100_000, metavar="N", help=_RANDOM)
    prove.add_argument("--last", action="store_true", help="the last epoch, not the best")
    prove.add_argument(
        "--data.dir", dest="data_dir", metavar="DIR", help="where the test images are"
    )


def run_export(args: argparse.Namespace) -> int:
    """Pack, prove, write."""
    source, out = Path(args.source), Path(args.out)
    _check_random(args)
    _check_output(out, args)
    if source.is_file():
        from binjax import deploy

        _write(deploy.load(source), out, args)
        return 0
    from binjax.cli.network import of_run

    network = of_run(source, args.data_dir, last=args.last)
    return _export(network, out, args)


def run_import(args: argparse.Namespace) -> int:
    """Read another framework's weights into a config's network; pack, prove, write."""
    _check_random(args)
    _check_output(Path(args.out), args)
    from binjax.cli.network import of_weights

    return _export(of_weights(Path(args.config), Path(args.weights)), Path(args.out), args)


def _check_output(out: Path, args: argparse.Namespace) -> None:
    """Find mistakes before minutes have been spent on a proof."""
    if args.format == "c":
        from binjax.deploy.c import check_name

        check_name(args.name)
    elif not out.name or out.is_dir():
        raise ConfigError(f"export: --out: {out} is a folder; give the name of a file")
    if args.format in ("stablehlo", "tflite") and importlib.util.find_spec("flatbuffers") is None:
        raise ConfigError(
            f"export: --format {args.format} needs flatbuffers: pip install 'binjax[export]'"
        )


def _export(network: Network, out: Path, args: argparse.Namespace) -> int:
    packed = network.pack(allow_float=args.allow_float)
    for name, reason in network.float_layers(packed).items():
        print(f"binjax: warning: {name} stays float: {reason}", file=sys.stderr)
    certificate = None
    if args.skip_proof:
        print("binjax: warning: not proven", file=sys.stderr)
    else:
        certificate = network.prove(packed, args.random)
        print(_in_words(certificate))
    _write(packed, out, args)
    if args.format == "binjax" and certificate is not None:
        _write_certificate(certificate, out, None)
    return 0


def run_prove(args: argparse.Namespace) -> int:
    """Prove a file, print and write the certificate."""
    _check_random(args)
    from binjax import deploy
    from binjax.cli.network import of_run

    packed = deploy.load(args.file)
    if args.certificate and Path(args.certificate).resolve() == Path(args.file).resolve():
        raise ConfigError(f"prove: --certificate: {args.certificate} is the model itself")
    network = of_run(Path(args.run), args.data_dir, last=args.last)
    certificate = network.prove(packed, args.random)
    print(_in_words(certificate))
    _write_certificate(certificate, Path(args.file), args.certificate)
    return 0


def run_inspect(args: argparse.Namespace) -> int:
    """Print a model's layers."""
    from binjax import deploy
    from binjax.deploy.inspect import describe, table

    found = describe(deploy.load(args.file), Path(args.file))
    print(json.dumps(found) if args.json else table(found))
    return 0


def run_predict(args: argparse.Namespace) -> int:
    """Classify images."""
    import numpy as np

    from binjax import deploy
    from binjax.data.images import read_images

    if args.backend not in (None, *binjax.backends()):
        usable = ", ".join(binjax.backends())
        raise ConfigError(
            f"predict: backend={args.backend!r} cannot be used here; usable: {usable}"
        )
    model = deploy.load(args.file, backend=args.backend)
    images, names = read_images(args.images, model.graph.image.shape, model.graph.image.dtype)
    names = [name.encode(errors="backslashreplace").decode() for name in names]
    scores = np.concatenate([np.asarray(model(part)) for part in _parts(images)])
    width = max(len(name) for name in ["image", *names])
    if not args.json:
        print(f"{'image':{width}}  class     score   next class     score")
    for name, row in zip(names, scores, strict=True):
        order = np.argsort(-row, kind="stable")
        if args.json:
            line = {"image": name, "class": int(order[0]), "scores": [float(s) for s in row]}
            print(json.dumps(line))
            continue
        first, second = order[0], order[min(1, len(order) - 1)]
        print(f"{name:{width}}  {first:5d} {row[first]:9.4f}   {second:10d} {row[second]:9.4f}")
    return 0


def _write(packed: PackedModel, out: Path, args: argparse.Namespace) -> None:
    if args.format == "binjax":
        from binjax import deploy
        from binjax.deploy.file import to_bytes
        from binjax.deploy.inspect import describe, totals

        packed.save(out)
        _certificate_of(out).unlink(missing_ok=True)
        if out.read_bytes() != to_bytes(packed.graph, packed.tensors):
            raise deploy.DeployError(f"{out}: is not what was written; is the disk full?")
        print(f"{out}: {totals(describe(packed, out))}")
    elif args.format == "stablehlo":
        from binjax.deploy.stablehlo import write_stablehlo

        write_stablehlo(packed, out)
        print(f"{out}: StableHLO for CPUs and CUDA devices, any batch")
    elif args.format == "c":
        from binjax.deploy.c import write_c

        written = write_c(packed, out, args.name)
        print(
            f"{out}: {', '.join(path.name for path in written.paths)}; "
            f"{written.weight_bytes:,} bytes of weights, {written.arena_bytes:,} of arena"
        )
    else:
        from binjax.deploy.tflite import write_tflite

        write_tflite(packed, out)
        print(f"{out}: {out.stat().st_size:,} bytes for Larq Compute Engine's interpreter")


def _check_random(args: argparse.Namespace) -> None:
    if args.random < 0:
        raise ConfigError(f"{args.command}: --random wants a number of images, at least 0")


def _write_certificate(certificate: Certificate, file: Path, named: str | None) -> None:
    from binjax.deploy.file import sha256_of
    from binjax.train.rundir import write_atomic

    path = Path(named) if named else _certificate_of(file)
    found = {"file": file.name, "sha256": sha256_of(file), **certificate.as_json()}
    write_atomic(path, json.dumps(found, indent=1) + "\n")
    print(f"certificate: {path}")


def _certificate_of(file: Path) -> Path:
    return file.with_name(f"{file.name}.proof.json")


def _in_words(certificate: Certificate) -> str:
    sums = sum(layer.sums for layer in certificate.layers)
    channels = sum(layer.channels for layer in certificate.layers)
    images = ", ".join(f"{n:,} {name}" for name, n in certificate.images.items())
    if certificate.float_layers:
        total = sum(certificate.images.values())
        return (
            f"checked, not proven ({', '.join(certificate.float_layers)} multiply floats): "
            f"{channels:,} thresholds equal to the trained network at all {sums:,} sums they can "
            f"meet; scores bit-equal on {total - certificate.mismatches:,} of {total:,} images"
        )
    return (
        f"proven: {channels:,} thresholds equal to the trained network at all {sums:,} sums they "
        f"can meet; all scores bit-equal on {images} images ({certificate.in_floats:,} of them "
        f"against products of floats); 0 mismatches, {certificate.seconds:.1f} s"
    )


def _parts(images: Any, size: int = 1000) -> list[Any]:
    return [images[start : start + size] for start in range(0, len(images), size)]
