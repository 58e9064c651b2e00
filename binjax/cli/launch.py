"""``binjax launch``: several processes of this machine; and how each finds the others."""

from __future__ import annotations

import argparse
import importlib.util
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from binjax.config import ConfigError

# Where process 0 listens (host:port), which process this is, of how many.
_COORDINATOR, _PROCESS, _PROCESSES = "BINJAX_COORDINATOR", "BINJAX_PROCESS_ID", "BINJAX_PROCESSES"
_LAUNCHED = "BINJAX_LAUNCHED"  # stdin ends when the launcher does
_GRACE = 5.0  # seconds in which the others may end by themselves after one has failed
_LONG_GRACE = 60.0
LOST = 3  # exit status of a process that another one's end has ended
_SHOWN = 20  # last lines of a process that failed
_FORWARDED = {signal.SIGINT, signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM)}


def add_launch(commands: Any) -> None:
    """Register the command's options."""
    launch = commands.add_parser(
        "launch",
        help="train with several processes on this machine",
        usage="binjax launch -n N -- train CONFIG ...",
        allow_abbrev=False,
    )
    launch.add_argument("-n", type=int, required=True, metavar="N", help="how many processes")


def run_launch(args: argparse.Namespace, words: Sequence[str]) -> int:
    """Run ``binjax train ... --distributed`` n times; the status of the first that fails.

    Process 0 has this process's stdout and stderr. What another one says is shown if it is the
    first to fail. None outlives this process.
    """
    if args.n < 1:
        raise ConfigError(f"launch: -n: is {args.n}, must be at least 1")
    if not words:
        raise ConfigError("launch: the command is missing: binjax launch -n 2 -- train CONFIG")
    if words[0] != "train":
        raise ConfigError(f"launch: runs train only, not {words[0]!r}")
    received: list[int] = []
    before = {s: signal.signal(s, lambda number, _: received.append(number)) for s in _FORWARDED}
    children: list[subprocess.Popen[bytes]] = []
    try:
        with tempfile.TemporaryDirectory(prefix="binjax_launch_") as folder:
            outputs = [Path(folder) / str(process) for process in range(args.n)]
            address = f"127.0.0.1:{_free_port()}"
            for process, output in enumerate(outputs):
                children.append(_start(words, process, args.n, address, output))
            return _watch(children, outputs, received)
    finally:
        for child in children:
            _kill(child)
        for number, handler in before.items():
            signal.signal(number, handler)


def _start(
    words: Sequence[str], process: int, n: int, address: str, output: Path
) -> subprocess.Popen[bytes]:
    environment = os.environ | {
        _COORDINATOR: address,
        _PROCESS: str(process),
        _PROCESSES: str(n),
        _LAUNCHED: "1",
        "JAX_COORDINATOR_BIND_ADDRESS": address,  # not on every network interface
        "JAX_LOCAL_DEVICE_IDS": str(process),  # of GPUs, one each
    }
    # This package again, and not a folder of that name where we happen to be.
    safe = [] if sys.path[:1] == [str(Path.cwd())] else ["-P"]
    command = [sys.executable, *safe, "-m", "binjax", *words]
    if "--distributed" not in words:
        command.append("--distributed")
    with output.open("wb") as file:
        return subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=file if process else None,
            stderr=subprocess.STDOUT if process else None,
            start_new_session=True,  # Ctrl-C comes from us only, not from the terminal as well
        )


def _watch(
    children: Sequence[subprocess.Popen[bytes]], outputs: Sequence[Path], received: list[int]
) -> int:
    """Wait for all; once one has failed, not long. The status of the first that did."""
    failed: list[int] = []  # in the order in which they did, of themselves
    deadline = float("inf")
    while True:
        running = [child for child in children if child.poll() is None]
        failed += [i for i, c in enumerate(children) if c.returncode and i not in failed]
        if not running:
            break
        while received:
            number = received.pop(0)
            for child in running:
                child.send_signal(signal.SIGINT if number == signal.SIGINT else signal.SIGTERM)
        if failed and deadline == float("inf"):
            stopped = children[failed[0]].returncode == 130  # the checkpoint may take a while
            deadline = time.monotonic() + (_LONG_GRACE if stopped else _GRACE)
        if time.monotonic() > deadline:
            for child in running:
                _kill(child)
            break
        time.sleep(0.05)
    if not failed:
        return 0
    first = min(failed, key=lambda i: children[i].returncode == LOST)  # not who noticed it
    status = children[first].returncode
    if first and not (0 in failed and children[0].returncode == status):  # else it has said so
        for line in outputs[first].read_text(errors="replace").splitlines()[-_SHOWN:]:
            print(f"[{first}] {line}", file=sys.stderr)
    if status < 0:
        name = signal.Signals(-status).name
        print(f"binjax: launch: process {first} was ended by {name}", file=sys.stderr)
    return int(status if status > 0 else 128 - status)


def _kill(child: subprocess.Popen[bytes]) -> None:
    if child.poll() is None:
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


# In each of the processes


def join(seconds: int) -> None:
    """Find the other processes: those of ``binjax launch``, SLURM, MPI or Kubernetes.

    Ends the process with status 2 where they do not find one another in so many seconds: JAX
    would abort it.

    Raises:
        ConfigError: none of these has started this process, or what they say is not complete.
    """
    import jax

    where, asked = _where(), "--distributed"
    if _LAUNCHED in os.environ:
        threading.Thread(target=_end_with_launcher, daemon=True).start()
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    # It would keep SIGTERM to itself until our own handler is there.
    jax.config.update("jax_enable_preemption_service", False)
    address = where.get("coordinator_address")
    late = threading.Timer(seconds, _give_up, (seconds, address))
    late.daemon = True
    late.start()
    try:
        jax.distributed.initialize(**where, initialization_timeout=seconds + 60)
    except (ValueError, RuntimeError, KeyError, OSError) as error:
        why = " ".join(str(error).split())
        if re.search(r"(should|must) be defined", why):
            why = (
                "finds no SLURM, MPI or Kubernetes job; start several processes on this machine "
                f"with binjax launch -n N -- train CONFIG, or set {_COORDINATOR}=HOST:PORT, "
                f"{_PROCESSES} and {_PROCESS}"
            )
        raise ConfigError(f"{asked}: {why}") from None
    finally:
        late.cancel()
    with _stdout_hidden():  # gloo reports its connections there
        from jax.experimental import multihost_utils

        multihost_utils.sync_global_devices("binjax")


def leads(distributed: bool) -> bool:
    """Whether this process tells the user how training goes."""
    if not distributed:
        return True
    import jax

    return jax.process_index() == 0


def command(words: Sequence[str], distributed: bool) -> list[str]:
    """How to run ``["binjax", "train", ...]`` once more with as many processes."""
    if not distributed:
        return list(words)
    if _LAUNCHED in os.environ:
        return ["binjax", "launch", "-n", os.environ[_PROCESSES], "--", *words[1:]]
    return [*words, "--distributed"]


def is_lost_process(error: BaseException) -> bool:
    """Whether an error looks like another process's end, as gloo or JAX's service reports it."""
    text = rf"{type(error).__name__}: {error}"
    return re.search(r"Gloo|NCCL|UNAVAILABLE|DEADLINE_EXCEEDED|coordination", text) is not None


def _where() -> dict[str, Any]:
    """Arguments of ``jax.distributed.initialize``; what is left out it finds out itself."""
    names = (_COORDINATOR, _PROCESSES, _PROCESS)
    if any(name in os.environ for name in names):
        missing = [name for name in names if name not in os.environ]
        if missing:
            raise ConfigError(f"--distributed: {', '.join(missing)} is not set")
        address = os.environ[_COORDINATOR]
        if not re.fullmatch(r".+:\d+", address):
            raise ConfigError(f"--distributed: {_COORDINATOR} wants HOST:PORT, got {address!r}")
        n, process = (_number(name) for name in names[1:])
        if process >= n:
            raise ConfigError(f"--distributed: {_PROCESS} is {process}, {_PROCESSES} is {n}")
        return {
            "coordinator_address": address,
            "num_processes": n,
            "process_id": process,
            "cluster_detection_method": "deactivate",
        }
    if {"OMPI_MCA_orte_hnp_uri", "SLURM_PROCID"} & os.environ.keys():
        return {}
    # Of MPIs, JAX recognizes Open MPI before version 5 only; mpi4py knows all.
    if {"OMPI_COMM_WORLD_SIZE", "PMI_SIZE"} & os.environ.keys():
        _need("mpi4py", "this MPI")
        return {"cluster_detection_method": "mpi4py"}
    if "KUBERNETES_SERVICE_HOST" in os.environ:
        _need("kubernetes", "Kubernetes")
    return {}


def _need(package: str, where: str) -> None:
    if importlib.util.find_spec(package) is None:
        raise ConfigError(
            f"--distributed: needs {package} under {where} (pip install {package}), "
            f"or set {_COORDINATOR}=HOST:PORT, {_PROCESSES} and {_PROCESS}"
        )


def _number(name: str) -> int:
    text = os.environ[name]
    if not text.isdecimal():
        raise ConfigError(f"--distributed: {name} wants a number, got {text!r}")
    return int(text)


def _give_up(seconds: int, address: str | None) -> None:
    where = f" at {address}" if address else ""
    print(
        f"binjax: --distributed: the processes did not find one another{where} within {seconds} s "
        "(parallel.timeout); are all of them running, and can they reach process 0?",
        file=sys.stderr,
        flush=True,
    )
    os._exit(2)


def _end_with_launcher() -> None:
    """Stop as on SIGTERM when the launcher is no more; at once if that takes long."""
    while os.read(0, 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(_LONG_GRACE)
    os._exit(1)


@contextmanager
def _stdout_hidden() -> Iterator[None]:
    sys.stdout.flush()
    kept = os.dup(1)
    nothing = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nothing, 1)
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)
        os.close(nothing)
