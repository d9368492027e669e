"""Microseconds per event of decoding, encoding and building, in one pinned process."""

from __future__ import annotations

import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Final

from .loops import HAS_OFFICIAL, usable
from .operations import CASES, KIT, OFFICIAL, Operation
from .process import Child, answer
from .rounds import Case, Goal, Sample, alternate, rows
from .table import Row

_SHARE: Final = 0.1  # of a slice's length: nothing here waits for a peer
# Wanted: microseconds per event of the kit.
_MOST: Final = {"decode structured, 465 B": 2.0, "decode structured, text extensions": 2.0, "decode binary": 4.0}

_Slice = tuple[str, str, float]


def _measure(operation: Operation, seconds: float) -> Sample:
    count = 0
    cpu, began = time.process_time(), time.perf_counter()
    until = began + seconds
    while time.perf_counter() < until:
        operation.run()
        count += operation.events
    return Sample(count, time.perf_counter() - began, time.process_time() - cpu)


def work(pipe: Connection) -> None:
    """The subjects' process: build each operation once, then run the slices it is asked for."""
    ready: dict[tuple[str, str], Operation] = {}

    def reply(command: _Slice) -> Sample:
        case, subject, seconds = command
        if (case, subject) not in ready:
            build: Callable[[], Operation] = CASES[case][subject]
            ready[case, subject] = build()
            ready[case, subject].run()
        return _measure(ready[case, subject], seconds)

    answer(pipe, reply)


def run(rounds: int, seconds: float, failures: list[str]) -> list[Row]:
    """Measure every operation."""
    found: list[Row] = []
    with Child(work) as child:
        for name, builders in CASES.items():

            def measure(subject: str, name: str = name) -> Sample:
                sample: Sample = child.ask((name, subject, seconds * _SHARE))
                return sample

            subjects = usable({subject: subject != OFFICIAL or HAS_OFFICIAL for subject in builders})
            case = Case("codec", name, "events/s", subjects, [Goal(KIT, OFFICIAL, most=_MOST.get(name))])
            found += rows(case, alternate(case, measure, rounds, failures))
    return found
