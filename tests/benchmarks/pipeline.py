"""The processing pipeline of `examples/event_processing.py` behind HTTP: events per second, and how long a batch takes.

Every event is new, or the deduplicator would have nothing to do.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from itertools import count
from statistics import median, quantiles
from typing import Any, Final

from . import samples
from .load import Request, drive
from .loops import factory, usable
from .process import OTHER_CORE, Child, pin
from .receiver import running
from .rounds import Case, Goal, Sample, alternate, rows
from .servers import SERVERS
from .table import Row

_BARE: Final = "bare aiohttp"
_PIPELINE: Final = "pipeline"
_PIPELINE_UVLOOP: Final = "pipeline, uvloop"
_CONNECTIONS: Final = {"pipeline, batch of 100": 4, "pipeline, single events": 32}
_MOST_P95: Final = 0.030
_PLACE: Final = "PLACE-OF-NUMBER"
_KINDS: Final = ("push", "issues.opened", "pull_request.opened", "star.created")
_LOGINS: Final = ("anna", "ben", "passer-by")


def _webhook(number: int) -> dict[str, Any]:
    """A webhook with the members that the pipeline reads, of about 390 bytes."""
    return {
        "specversion": "1.0",
        "id": f"{_PLACE}-{number:03d}",
        "source": "https://api.github.com/repos/acme/shop",
        "type": f"com.github.{_KINDS[number % len(_KINDS)]}",
        "time": "2026-03-02T09:00:00Z",
        "datacontenttype": "application/json",
        "data": {
            "action": "opened",
            "repository": {"id": 501, "full_name": "acme/shop", "private": False},
            "sender": {"login": _LOGINS[number % len(_LOGINS)], "id": 101, "type": "User"},
            "ref": "refs/heads/main",
        },
    }


_numbers = count()


def _renewing(content_type: str, document: object) -> Request:
    """A request whose ids no other request has, in this round or any other."""
    template = samples.request({"content-type": content_type}, json.dumps(document, separators=(",", ":")).encode())
    place, width = _PLACE.encode(), len(_PLACE)
    return lambda: template.replace(place, f"{next(_numbers):0{width}d}".encode())


def _batch() -> Request:
    return _renewing(samples.BATCH_TYPE, [_webhook(number) for number in range(samples.BATCH_SIZE)])


def _single() -> Request:
    return _renewing(samples.STRUCTURED_TYPE, _webhook(0))


_CASES: Final = (
    Case(
        "pipeline",
        "pipeline, batch of 100",
        "events/s",
        (_BARE, _PIPELINE, _PIPELINE_UVLOOP),
        (Goal(_PIPELINE, "", most=20.0), Goal(_PIPELINE_UVLOOP, "", most=20.0)),
    ),
    Case(
        "pipeline",
        "pipeline, single events",
        "events/s",
        (_BARE, _PIPELINE, _PIPELINE_UVLOOP),
        (Goal(_PIPELINE, _BARE, least=0.7), Goal(_PIPELINE_UVLOOP, _BARE, least=0.7)),
    ),
)


def _measure(
    case: Case,
    server: Callable[[str], tuple[int, Child]],
    runner: asyncio.Runner,
    seconds: float,
    tails: dict[str, list[float]],
) -> Callable[[str], Sample]:
    make, units = (_batch, samples.BATCH_SIZE) if "batch" in case.name else (_single, 1)

    def measure(name: str) -> Sample:
        port, child = server(name)
        requests = [make() for _ in range(_CONNECTIONS[case.name])]
        took: list[float] = []
        sample = runner.run(drive(port, requests, seconds, lambda: float(child.ask("cpu")), units, took=took))
        if len(took) > 1:
            tails.setdefault(name, []).append(quantiles(took, n=20)[-1])
        return sample

    return measure


def _tail(case: Case, subject: str, tails: list[float]) -> Row:
    """How long the slowest twentieth of the requests takes at least."""
    value = median(tails)
    name = f"{case.name}, p95 of a request in us"
    return Row(
        case.suite, name, subject, value * 1e6, "us", target=f"< {_MOST_P95 * 1e6:,.0f} us", met=value < _MOST_P95
    )


def run(rounds: int, seconds: float, failures: list[str]) -> list[Row]:
    """Measure both workloads."""
    pin(OTHER_CORE)
    found: list[Row] = []
    with asyncio.Runner(loop_factory=factory("fastest")) as runner:
        for wanted in _CASES:
            subjects = usable({name: SERVERS[name][2] for name in wanted.subjects})
            case = Case(wanted.suite, wanted.name, wanted.unit, subjects, wanted.goals)
            tails: dict[str, list[float]] = {}
            with running(case) as server:
                found += rows(case, alternate(case, _measure(case, server, runner, seconds, tails), rounds, failures))
            found += [_tail(case, name, tails[name]) for name in subjects if name in tails]
    return found
