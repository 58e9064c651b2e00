"""``binjax train``."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

from binjax import config as configs
from binjax.cli import launch
from binjax.config import Config

Guard = Callable[[Callable[[], int]], int]


def run_train(
    args: argparse.Namespace, overrides: Sequence[str], argv: Sequence[str], guard: Guard
) -> int:
    """Train; print progress and, last, the test accuracy.

    ``guard`` calls a function and turns users' mistakes into a line on stderr and a status.
    """
    config = configs.load(args.config, overrides)
    if args.fast:
        config = configs.fast(config)

    # A file is in the folder, if one is named.
    key = "file" if config.data.dir is None else "dir"
    path = getattr(config.data, key)
    if path is not None:
        where = {key: _absolute(path)}
        config = config.model_copy(update={"data": config.data.model_copy(update=where)})
    if config.init_from is not None:
        config = config.model_copy(update={"init_from": _absolute(config.init_from)})
    if config.distill is not None:
        where = {"teacher": _absolute(config.distill.teacher)}
        config = config.model_copy(update={"distill": config.distill.model_copy(update=where)})

    if not args.distributed:
        return _train(args, config, argv)
    launch.join(config.parallel.timeout)
    return _leave_on_error(lambda: _train(args, config, argv), guard)


def _absolute(path: str) -> str:
    return str(Path(path).expanduser().absolute())


def _train(args: argparse.Namespace, config: Config, argv: Sequence[str]) -> int:
    from binjax import train
    from binjax.cli.progress import make_reporter

    folder = train.RunFolder(_choose_folder(args))
    resume = args.resume != "never"
    reporter = make_reporter(folder, quiet=args.quiet)
    try:
        with reporter:
            line = train.fit(config, folder, reporter, resume=resume, argv=argv)
    except train.Interrupted as stopped:
        if launch.leads(args.distributed):
            command = launch.command(stopped.words, args.distributed)
            print(f"binjax: stopped; go on with: {shlex.join(command)}", file=sys.stderr)
        return 130
    if not launch.leads(args.distributed):
        return 0
    print(_result(config, line))
    from binjax.cli.plot import plot_curves

    figure = plot_curves(folder.lines(), folder.root / "curves.png")
    print(f"run folder: {folder.root}" + (f", curves: {figure}" if figure else ""))
    return 0


def _leave_on_error(train: Callable[[], int], guard: Guard) -> int:
    """Train; after an error, leave at once.

    The others wait for this process in the middle of a step. JAX's way of leaving would wait for
    them to leave as well.
    """
    import jax

    done = False

    def run() -> int:
        nonlocal done
        status = train()
        done = True
        return status

    try:
        status = guard(run)
    except BaseException as error:
        status = 1
        if launch.is_lost_process(error):
            who = f"process {jax.process_index()} of {jax.process_count()}"
            why = str(error).strip().split("\n")[0]
            status = launch.LOST
            print(f"binjax: {who}: another process has ended: {why}", file=sys.stderr)
        else:
            traceback.print_exc()
    if not done:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    return status


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
