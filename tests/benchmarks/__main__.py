"""Run the benchmarks and print one table: `python -m tests.benchmarks --only codec --rounds 5`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Final

from .table import Row, environment, text, write_json

_SUITES: Final = ("receiver", "sender", "codec", "memory", "stages", "pipeline", "stores", "redis")
#: Suites whose module has another name.
_MODULES: Final = {"redis": "redis_store"}


def _suites(value: str) -> list[str]:
    chosen = value.split(",")
    for name in chosen:
        if name not in _SUITES:
            raise argparse.ArgumentTypeError(f"unknown suite {name!r}, choose from {', '.join(_SUITES)}")
    return chosen


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="slices of every subject (5)")
    parser.add_argument("--seconds", type=float, default=1.0, help="length of one slice (1.0)")
    parser.add_argument("--only", type=_suites, default=list(_SUITES), help=f"some of {','.join(_SUITES)}")
    parser.add_argument("--json", type=Path, help="write the rows to this file too")
    arguments = parser.parse_args(argv)
    if arguments.rounds < 1 or arguments.seconds <= 0:
        parser.error("--rounds must be 1 or more, --seconds more than 0")
    return arguments


def main(argv: Sequence[str] | None = None) -> int:
    """Run the chosen suites; the exit code says whether every subject did its work, never how fast."""
    arguments = _arguments(argv)
    rows: list[Row] = []
    failures: list[str] = []
    for name in arguments.only:
        rows += import_module(f"{__package__}.{_MODULES.get(name, name)}").run(
            arguments.rounds, arguments.seconds, failures
        )
    print("  ".join(f"{name} {version}" for name, version in environment().items()))
    print(text(rows))
    for failure in failures:
        print(f"FAILED {failure}", file=sys.stderr)
    if arguments.json is not None:
        write_json(arguments.json, rows, failures)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
