"""What single stages cost, in one pinned process, and what a waiting event weighs.

A handler that does nothing is the floor; each subject is the same handler behind the stages named.
"""

from __future__ import annotations

import asyncio
import gc
import time
import tracemalloc
from collections.abc import Awaitable, Callable
from itertools import count
from multiprocessing.connection import Connection
from typing import Final

from cloudevents_kit import Event, Handler, Outcome, cesql, stages, wrap

from . import samples
from .clients import kit_event
from .process import Child, answer
from .rounds import Case, Goal, Sample, alternate, rows
from .table import Row

_SHARE: Final = 0.1  # of a slice's length: nothing here waits for a peer
_FLOOR: Final = "handler alone"
_WAITING: Final = 2_000

RULES: Final = [
    {"name": "big", "action": "allow", "when": [{"field": "data.total", "op": "gt", "value": 1000}]},
    {"name": "test", "action": "block", "when": [{"field": "tenantid", "op": "eq", "value": "test"}]},
    {"name": "old", "action": "block", "when": [{"field": "source", "op": "starts_with", "value": "https://old."}]},
    {"name": "shard", "action": "block", "when": [{"field": "shardnumber", "op": "in", "value": [1, 2, 3]}]},
    {"name": "yen", "action": "block", "when": [{"field": "data.currency", "op": "eq", "value": "JPY"}]},
]


async def _done(event: Event) -> None:
    """Nothing to do."""


async def _plain(event: Event, call_next: Handler) -> Outcome:
    return await call_next(event)


def _total(event: Event) -> bool:
    return bool(stages.field("data.total")(event))


def _chains() -> dict[str, Callable[[], Handler]]:
    numbers = count()
    return {
        _FLOOR: lambda: _done,
        "five plain middlewares": lambda: wrap(_done, *[_plain] * 5),
        "five taps": lambda: wrap(_done, *[stages.tap(lambda _: None) for _ in range(5)]),
        "five taps, observed": lambda: stages.observe(
            wrap(_done, *[stages.tap(lambda _: None) for _ in range(5)]), stages.Metrics()
        ),
        "deduplicate": lambda: wrap(_done, stages.deduplicate(key=lambda _: str(next(numbers)))),
        "aggregate": lambda: wrap(
            _done,
            stages.aggregate(
                {"n": stages.count(), "total": stages.sum_of("data.total"), "who": stages.distinct("tenantid")},
                without_time="arrival",
            ),
        ),
        "rule_filter, 5 rules": lambda: wrap(_done, stages.rule_filter(RULES)),
        "retry": lambda: wrap(_done, stages.retry()),
        "timeout": lambda: wrap(_done, stages.timeout(5)),
        "circuit_breaker": lambda: wrap(_done, stages.circuit_breaker()),
        "rate_limit": lambda: wrap(_done, stages.rate_limit(1e9)),
        "fan_out, 2 in turn": lambda: wrap(_done, stages.fan_out({"a": _done, "b": _done}, limit=1)),
        "fan_out, 2 at once": lambda: wrap(_done, stages.fan_out({"a": _done, "b": _done})),
    }


def _filters() -> dict[str, Callable[[Event], bool]]:
    simple = cesql.parse(f"type = '{samples.EVENT_TYPE}'").matches
    return {
        "type equals": simple,
        "type equals AND attribute equals": cesql.parse(
            f"type = '{samples.EVENT_TYPE}' AND tenantid = 'acme-eu-1'"
        ).matches,
    }


_GOALS: Final = {"five taps": 1.0, "deduplicate": 3.0, "aggregate": 2.5, "type equals": 0.15}
_Slice = tuple[str, str, float]


def _events() -> list[Event]:
    events = [kit_event(samples.small(number)) for number in range(samples.POOL_SIZE)]
    for event in events:
        _total(event)  # the data is decoded once, by whichever stage comes first
    return events


async def _through(handler: Handler, events: list[Event], seconds: float) -> Sample:
    total = 0
    cpu, began = time.process_time(), time.perf_counter()
    until = began + seconds
    async with stages.running(handler):
        while time.perf_counter() < until:
            for event in events:
                await handler(event)
            total += len(events)
    return Sample(total, time.perf_counter() - began, time.process_time() - cpu)


def _matching(function: Callable[[Event], bool], events: list[Event], seconds: float) -> Sample:
    total = 0
    cpu, began = time.process_time(), time.perf_counter()
    until = began + seconds
    while time.perf_counter() < until:
        for event in events:
            function(event)
        total += len(events)
    return Sample(total, time.perf_counter() - began, time.process_time() - cpu)


async def _waiting_bytes() -> float:
    """Bytes of overhead for each event that waits in a queue: beyond the event and the task of its caller."""

    async def held(make: Callable[[asyncio.Event], Callable[[Event], Awaitable[object]]]) -> int:
        gate = asyncio.Event()
        send = make(gate)
        events = [kit_event(samples.small(number)) for number in range(_WAITING)]
        gc.collect()
        tracemalloc.start()
        tasks = [asyncio.ensure_future(send(event)) for event in events]
        await asyncio.sleep(0.05)
        gc.collect()
        found = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
        gate.set()
        await asyncio.gather(*tasks)
        return found

    def alone(gate: asyncio.Event) -> Callable[[Event], Awaitable[object]]:
        async def handle(_: Event) -> None:
            await gate.wait()

        return handle

    bare = await held(alone)
    queue = stages.queue(workers=1, capacity=2 * _WAITING)

    def queued(gate: asyncio.Event) -> Callable[[Event], Awaitable[object]]:
        return wrap(alone(gate), queue)  # type: ignore[arg-type]

    async with stages.running(queue):
        return (await held(queued) - bare) / _WAITING


def work(pipe: Connection) -> None:
    """The subjects' process."""
    chains, filters, events = _chains(), _filters(), _events()
    with asyncio.Runner() as runner:

        def reply(command: _Slice) -> Sample | float:
            case, subject, seconds = command
            if case == "memory":
                return runner.run(_waiting_bytes())
            if case == "filter":
                return _matching(filters[subject], events, seconds)
            return runner.run(_through(chains[subject](), events, seconds))

        answer(pipe, reply)


def run(rounds: int, seconds: float, failures: list[str]) -> list[Row]:
    """Measure every chain and filter, and the weight of a waiting event."""
    found: list[Row] = []
    with Child(work) as child:
        for kind, title, subjects in (("stage", "stages", _chains()), ("filter", "CloudEvents SQL", _filters())):

            def measure(subject: str, kind: str = kind) -> Sample:
                sample: Sample = child.ask((kind, subject, seconds * _SHARE))
                return sample

            goals = [Goal(name, _FLOOR, most=_GOALS.get(name)) for name in subjects if name != _FLOOR]
            case = Case("stages", title, "events/s", list(subjects), goals)
            found += rows(case, alternate(case, measure, rounds, failures))
        weight = child.ask(("memory", "", 0.0))
        found.append(
            Row(
                "stages",
                "queue, overhead of a waiting event",
                "queue",
                weight,
                "bytes",
                target="< 1,024 bytes",
                met=weight < 1024,
            )
        )
    return found
