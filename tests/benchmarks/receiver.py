"""Requests per second of receivers, one pinned process each, loaded from the other core."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Final

from . import samples
from .load import drive
from .loops import factory, usable
from .process import OTHER_CORE, Child, SubjectError, pin
from .rounds import Case, Goal, Sample, alternate, rows
from .servers import SERVERS, serve
from .table import Row

_CONNECTIONS: Final = 32
_BARE: Final = "bare aiohttp"
_OFFICIAL: Final = "official SDK"
_BY_HAND: Final = "official SDK by hand"
_BY_FORMAT: Final = "official JSONFormat"
_KIT: Final = "kit"
_KIT_UVLOOP: Final = "kit, uvloop"


def _structured(number: int) -> bytes:
    return samples.request({"content-type": samples.STRUCTURED_TYPE}, samples.structured(number))


def _binary(number: int) -> bytes:
    return samples.request(*samples.binary(number))


def _batch(number: int) -> bytes:
    return samples.request({"content-type": samples.BATCH_TYPE}, samples.batch(number))


def _large(number: int) -> bytes:
    return samples.request({"content-type": samples.STRUCTURED_TYPE}, samples.structured_large(number))


@dataclass(frozen=True)
class _Workload:
    name: str
    request: Callable[[int], bytes]
    subjects: tuple[str, ...]
    goals: tuple[Goal, ...]
    events: int = 1

    def case(self) -> Case:
        """The workload with the subjects that can run here."""
        subjects = usable({name: SERVERS[name][2] for name in self.subjects})
        return Case("receiver", self.name, "events/s", subjects, self.goals)


_SMALL_GOALS: Final = (
    Goal(_OFFICIAL, _BARE),
    Goal(_KIT, _BARE, least=1.15),
    Goal(_KIT, _OFFICIAL, least=2.0),
    Goal(_KIT_UVLOOP, _BARE, least=1.35),
    Goal("bare aiohttp, uvloop", _BARE),
)
_SMALL_SUBJECTS: Final = (_BARE, "bare aiohttp, uvloop", _OFFICIAL, _KIT, _KIT_UVLOOP)
_WORKLOADS: Final = (
    _Workload("structured, 465 B", _structured, _SMALL_SUBJECTS, _SMALL_GOALS),
    _Workload("binary", _binary, _SMALL_SUBJECTS, _SMALL_GOALS),
    _Workload(
        "batch of 100",
        _batch,
        (_BY_HAND, _BY_FORMAT, _KIT, _KIT_UVLOOP),
        (Goal(_KIT, _BY_HAND, least=6.0), Goal(_KIT, _BY_FORMAT, least=6.0), Goal(_KIT_UVLOOP, _BY_HAND)),
        events=samples.BATCH_SIZE,
    ),
    _Workload(
        "structured, 64 KiB",
        _large,
        (_BARE, _OFFICIAL, _KIT, _KIT_UVLOOP),
        (Goal(_BARE, _OFFICIAL), Goal(_KIT, _OFFICIAL, least=4.0), Goal(_KIT_UVLOOP, _OFFICIAL)),
    ),
)


@contextmanager
def running(case: Case) -> Iterator[Callable[[str], tuple[int, Child]]]:
    """All servers of a case, started together; a server that failed to start raises when it is asked for."""
    with ExitStack() as stack:
        started = {name: stack.enter_context(Child(serve, name)) for name in case.subjects}
        ports: dict[str, int] = {}

        def server(name: str) -> tuple[int, Child]:
            if name not in ports:
                port = started[name].receive()
                if not isinstance(port, int):
                    raise SubjectError(f"said {port!r} where its port was expected")
                ports[name] = port
            return ports[name], started[name]

        yield server


def _measure(
    workload: _Workload, server: Callable[[str], tuple[int, Child]], runner: asyncio.Runner, seconds: float
) -> Callable[[str], Sample]:
    """A function that loads one server, by name, for some seconds."""
    requests = [workload.request(number) for number in range(_CONNECTIONS)]

    def measure(name: str) -> Sample:
        port, child = server(name)
        return runner.run(drive(port, requests, seconds, lambda: float(child.ask("cpu")), workload.events))

    return measure


def run(rounds: int, seconds: float, failures: list[str]) -> list[Row]:
    """Measure every workload."""
    pin(OTHER_CORE)
    found: list[Row] = []
    with asyncio.Runner(loop_factory=factory("fastest")) as runner:
        for workload in _WORKLOADS:
            case = workload.case()
            with running(case) as server:
                measure = _measure(workload, server, runner, seconds)
                found += rows(case, alternate(case, measure, rounds, failures))
    return found
