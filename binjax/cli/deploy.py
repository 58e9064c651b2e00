"""``binjax export``, ``inspect``, ``predict`` and ``prove``."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from binjax import config as configs
from binjax.config import Config, ConfigError

if TYPE_CHECKING:
    from flax import nnx

    from binjax.data import Dataset
    from binjax.deploy import PackedModel
    from binjax.deploy.prove import Certificate, Reference

FORMATS = ("binjax", "c", "stablehlo", "tflite")
_FLOAT_MACS = 2e12
"""Multiply-accumulates of float products worth a proof: some ten seconds on two cores."""


def add_deploy(commands: Any) -> None:
    """Register the four commands."""
    export = commands.add_parser(
        "export", help="pack a run's network into one file, proven equal to it"
    )
    export.add_argument("source", metavar="RUN|FILE", help="a run folder, or a packed model")
    export.add_argument("--out", required=True, metavar="FILE", help="for C: a folder")
    export.add_argument("--format", default="binjax", choices=FORMATS)
    export.add_argument("--name", default="model", help="of the functions in C")
    export.add_argument(
        "--allow-float", action="store_true", help="keep layers that cannot be packed, in floats"
    )
    export.add_argument("--skip-proof", action="store_true", help="write it unproven")
    _add_proof_options(export)

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
    _add_proof_options(prove)


def _add_proof_options(command: Any) -> None:
    command.add_argument("--random", type=int, default=100_000, metavar="N", help="random images")
    command.add_argument("--last", action="store_true", help="the last epoch, not the best")
    command.add_argument("--data.dir", dest="data_dir", metavar="DIR", help="where the images are")


def run_export(args: argparse.Namespace) -> int:
    """Pack, prove, write."""
    source, out = Path(args.source), Path(args.out)
    if args.random < 0:
        raise ConfigError("export: --random wants a number of images, at least 0")
    if source.is_file():
        from binjax import deploy

        return _write(deploy.load(source), out, args)
    run = _Run(source, args)
    packed = run.pack(allow_float=args.allow_float)
    for name, reason in run.float_layers(packed).items():
        print(f"binjax: warning: {name} stays float: {reason}", file=sys.stderr)
    if args.skip_proof:
        print("not proven", file=sys.stderr)
    else:
        certificate = run.prove(packed, args.random)
        print(_in_words(certificate))
    status = _write(packed, out, args)
    if args.format == "binjax" and not args.skip_proof:
        _write_certificate(certificate, out, None)
    return status


def run_prove(args: argparse.Namespace) -> int:
    """Prove a file, print and write the certificate."""
    if args.random < 0:
        raise ConfigError("prove: --random wants a number of images, at least 0")
    from binjax import deploy

    packed = deploy.load(args.file)
    run = _Run(Path(args.run), args)
    certificate = run.prove(packed, args.random)
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

    model = deploy.load(args.file, backend=args.backend)
    images, names = read_images(args.images, model.graph.image.shape, model.graph.image.dtype)
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


class _Run:
    """A run's data and network."""

    def __init__(self, root: Path, args: argparse.Namespace):
        path = root / "config.toml"
        if not path.exists():
            raise ConfigError(f"{root}: is neither a run folder (no config.toml) nor a file")
        overrides = ["--data.dir", args.data_dir] if args.data_dir else []
        config = configs.load(path, overrides)
        if config.dtype != "float32":
            print(
                f"binjax: {root} was trained in {config.dtype}; its network is exported in float32",
                file=sys.stderr,
            )
        # Deployed and proven on one device, in float32.
        self.config = config.model_copy(update={"dtype": "float32", "backend": "auto"})
        self.root, self.last = root, args.last

        from binjax.train import load_data

        self.dataset: Dataset = load_data(self.config)

    def _trained(self, config: Config) -> Any:
        from binjax.cli.progress import warn
        from binjax.train import RunFolder, restore_run

        return restore_run(config, RunFolder(self.root), self.dataset, warn, last=self.last)

    def pack(self, *, allow_float: bool) -> PackedModel:
        from binjax import deploy
        from binjax.train import pixel_scaling

        trained = self._trained(self.config)
        return deploy.pack(
            trained.model(),
            self.dataset.image_shape,
            scaling=self.config.data.scaling.model_dump_json(),
            allow_float=allow_float,
            pixel_scaling=pixel_scaling(self.config.data.scaling),
        )

    def float_layers(self, packed: PackedModel) -> dict[str, str]:
        """Why layers of a packed model multiply floats."""
        from binjax.deploy.pack import blocks_of

        if not packed.graph.float_layers:
            return {}
        model, image = self._trained(self.config).model(), packed.graph.image
        blocks, _, _ = blocks_of(model, image.shape, image.scaling, pixels=True, allow_float=True)
        return {block.op.name: block.floats for block in blocks if block.floats is not None}

    def prove(self, packed: PackedModel, n_random: int) -> Certificate:
        from binjax.deploy.prove import prove
        from binjax.summary import summarize

        trained = self._trained(self.config)
        model: nnx.Module = trained.model()
        macs = sum(summarize(model, self.dataset.image_shape).macs.values())
        in_floats = int(_FLOAT_MACS / macs)
        floats = self._trained(self.config.model_copy(update={"backend": "float"}))
        references: list[Reference] = [floats.scores(), trained.scores()]
        return prove(
            model,
            packed,
            references[0],
            {"test": self.dataset.test.images},
            kernels=references[1],
            in_floats=in_floats,
            n_random=n_random,
        )


def _write(packed: PackedModel, out: Path, args: argparse.Namespace) -> int:
    if args.format == "binjax":
        from binjax.deploy.inspect import describe, totals

        packed.save(out)
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
    return 0


def _write_certificate(certificate: Certificate, file: Path, named: str | None) -> None:
    from binjax.deploy.file import sha256_of
    from binjax.train.rundir import write_atomic

    path = Path(named) if named else file.with_name(f"{file.name}.proof.json")
    found = {"file": file.name, "sha256": sha256_of(file), **certificate.as_json()}
    write_atomic(path, json.dumps(found, indent=1) + "\n")
    print(f"certificate: {path}")


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
