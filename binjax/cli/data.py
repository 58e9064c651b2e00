"""``binjax data list | fetch | verify``."""

from __future__ import annotations

import argparse
import sys

from binjax import data


def run_data(args: argparse.Namespace) -> int:
    """Print what there is, what was fetched, or what is damaged (then the status is 2)."""
    if args.action == "list":
        for name, info in data.INFO.items():
            shape = "x".join(map(str, info.image_shape))
            print(
                f"{name:18} {info.n_train:>7,} train {info.n_test:>6,} test  "
                f"{shape:8} {info.n_classes} classes"
            )
        for name, what in data.CUSTOM.items():
            print(f"{name:18} yours: {what}")
        return 0
    if args.action == "fetch":
        for path in data.fetch(args.name, args.dir, progress=sys.stderr.isatty()):
            print(path)
        return 0
    statuses = data.verify(args.name, args.dir)
    for file in statuses:
        print(f"{file.status:10} {file.path}")
    return 0 if all(file.status in ("ok", "unverified") for file in statuses) else 2
