"""``binjax train``."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from binjax import config as configs
from binjax.config import Config


def run_train(args: argparse.Namespace, overrides: Sequence[str], argv: Sequence[str]) -> int:
    """Train; print progress and, last, the test accuracy."""
    config = configs.load(args.config, overrides)
    if args.fast:
        config = configs.fast(config)

    if config.data.dir is not None:
        where = {"dir": str(Path(config.data.dir).expanduser().absolute())}
        config = config.model_copy(update={"data": config.data.model_copy(update=where)})

    from binjax import train
    from binjax.cli.progress import make_reporter

    folder = train.RunFolder(_choose_folder(args))
    resume = args.resume != "never"
    reporter = make_reporter(folder, quiet=args.quiet)
    try:
        with reporter:
            line = train.fit(config, folder, reporter, resume=resume, argv=argv)
    except train.Interrupted as stopped:
        print(f"binjax: {stopped}", file=sys.stderr)
        return 130
    print(_result(config, line))
    from binjax.cli.plot import plot_curves

    figure = plot_curves(folder.lines(), folder.root / "curves.png")
    print(f"run folder: {folder.root}" + (f", curves: {figure}" if figure else ""))
    return 0


def _choose_folder(args: argparse.Namespace) -> Path:
    if args.resume not in ("auto", "never"):
        if args.out and Path(args.out).resolve() != Path(args.resume).resolve():
            raise configs.ConfigError(
                f"--resume {args.resume}: goes on in that folder; leave --out {args.out} away"
            )
        return _existing(Path(args.resume))
    if args.out:
        return Path(args.out)
    stem = Path(args.config).stem
    return Path("runs") / f"{stem}-{time.strftime('%Y%m%d-%H%M%S')}"


def _existing(folder: Path) -> Path:
    if not (folder / "config.toml").exists():
        raise configs.ConfigError(f"--resume {folder}: is not a run folder (no config.toml)")
    return folder


def _result(config: Config, line: dict[str, object]) -> str:
    best = f", of the best epoch {line['best_epoch']}" if "validation_accuracy" in line else ""
    return (
        f"test accuracy {line['test_accuracy']:.4f}{best} "
        f"(seed {config.seed}, {line['epoch']} epochs, {line['seconds']:.1f} s of training)"
    )
