"""Command line: argument parsing and error reporting. JAX is imported by the commands only."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

import binjax
from binjax.cli.bench import add_bench, run_bench
from binjax.cli.deploy import (
    add_deploy,
    run_export,
    run_import,
    run_inspect,
    run_predict,
    run_prove,
)
from binjax.cli.launch import add_launch, run_launch
from binjax.config import ConfigError

_OVERRIDES = (
    "Every key of the config can be set behind it: --epochs 3 --optimizer.learning-rate 0.001 "
    "--model.widths 1024 1024. `binjax train CONFIG --help` lists them."
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns:
        The exit status: 0, 2 for a user's mistake (one line on stderr), 130 when interrupted.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    asks = {"-h", "--help"} & set(words[2:])
    if words[:1] == ["train"] and asks and not words[1].startswith("-"):
        return guarded(lambda: _list_keys(words[1]))
    return guarded(lambda: _run(words))


class _Parser(argparse.ArgumentParser):
    """Reports a mistake in one line and not with the usage."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message}; see {self.prog} --help")


def make_parser() -> argparse.ArgumentParser:
    """All commands and their options."""
    parser = _Parser(
        prog="binjax", description="Train, measure and deploy binarized neural networks."
    )
    parser.add_argument("--version", action="version", version=f"binjax {binjax.__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    train = commands.add_parser(
        "train", help="train from a config", epilog=_OVERRIDES, allow_abbrev=False
    )
    train.add_argument("config", metavar="CONFIG", help="a TOML file, or RUN/config.toml")
    train.add_argument("--out", metavar="DIR", help="run folder; default runs/NAME-TIME")
    train.add_argument(
        "--resume",
        default="auto",
        metavar="auto|never|RUN",
        help="auto: go on if --out holds this run; RUN: go on with that run folder",
    )
    train.add_argument("--fast", action="store_true", help="smoke run: one epoch of eight batches")
    train.add_argument("--quiet", action="store_true", help="print the final result only")
    train.add_argument(
        "--distributed",
        action="store_true",
        help="one of several processes, as SLURM, MPI, Kubernetes or `binjax launch` start them",
    )

    evaluate = commands.add_parser("eval", help="accuracy of a run on the test set")
    evaluate.add_argument("run", metavar="RUN", help="a run folder")
    evaluate.add_argument("--json", action="store_true", help="print JSON")
    evaluate.add_argument("--last", action="store_true", help="the last epoch, not the best")
    evaluate.add_argument("--data.dir", dest="data_dir", metavar="DIR", help="where the images are")

    summary = commands.add_parser("summary", help="parameters, memory and MACs of a network")
    summary.add_argument("source", metavar="CONFIG|RUN|MODEL")
    summary.add_argument("--input-shape", nargs=3, type=int, metavar=("H", "W", "C"))
    summary.add_argument("--classes", type=int, metavar="N")
    summary.add_argument("--json", action="store_true", help="print JSON")
    summary.add_argument("--csv", action="store_true", help="print the layers as CSV")
    summary.add_argument("--no-macs", action="store_true", help="leave them out")
    summary.add_argument(
        "--batch",
        type=int,
        metavar="N",
        help="images of a step whose kept activations are counted; 0: none (default: the config's)",
    )

    data = commands.add_parser("data", help="list, fetch and verify image sets")
    actions = data.add_subparsers(dest="action", required=True, metavar="ACTION")
    actions.add_parser("list", help="known image sets")
    for action, text in (("fetch", "download"), ("verify", "check the files of")):
        command = actions.add_parser(action, help=f"{text} an image set")
        command.add_argument("name", metavar="NAME")
        command.add_argument("--dir", metavar="DIR", help="default: BINJAX_DATA_DIR or the cache")
    add_deploy(commands)
    add_bench(commands)
    add_launch(commands)
    return parser


def _run(words: Sequence[str]) -> int:
    parser = make_parser()
    if words[:1] == ["launch"] and "--" in words:
        at = words.index("--")
        return run_launch(parser.parse_args(words[:at]), words[at + 1 :])
    args, rest = parser.parse_known_args(words)
    if rest and args.command != "train":
        parser.error(f"unexpected argument {rest[0]!r}")
    if args.command == "train":
        from binjax.cli.train import run_train

        return run_train(args, rest, ["binjax", *words], guarded)
    if args.command == "data":
        from binjax.cli.data import run_data

        return run_data(args)
    if args.command == "bench":
        return run_bench(args)
    if args.command == "launch":
        return run_launch(args, [])
    deployment = {
        "export": run_export,
        "import": run_import,
        "inspect": run_inspect,
        "predict": run_predict,
        "prove": run_prove,
    }
    if args.command in deployment:
        return deployment[args.command](args)
    from binjax.cli.inspect import run_eval, run_summary

    return run_eval(args) if args.command == "eval" else run_summary(args)


def _list_keys(path: str) -> int:
    import tyro

    from binjax import config

    tyro.cli(
        config.Config,
        prog="binjax train CONFIG",
        default=config.load(path),
        config=(tyro.conf.AvoidSubcommands, tyro.conf.FlagConversionOff),
        args=["--help"],
    )
    return 0


def guarded(run: Callable[[], int]) -> int:
    """Turn what a user can mend into one line on stderr, and an exit status."""
    try:
        return run()
    except ValueError as error:
        if not is_user_error(error):
            raise
        print(f"binjax: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        return 2
    except OSError as error:
        print(f"binjax: {error.filename or 'error'}: {error.strerror or error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("binjax: interrupted", file=sys.stderr)
        return 130


def is_user_error(error: ValueError) -> bool:
    """Whether an error's one-line message is meant for the user."""
    from binjax.data import DataError

    if isinstance(error, ConfigError | DataError):
        return True
    names = {f"{kind.__module__}.{kind.__qualname__}" for kind in type(error).__mro__}
    late = {
        "binjax.checkpoint.CheckpointError",
        "binjax.train.rundir.RunError",
        "binjax.deploy.operations.DeployError",
    }
    return bool(names & late)
