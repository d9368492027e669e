"""What claims in Redis cost: the store against SET NX in pipelines that the driver sends, on one Valkey, in one run.

256 claims are in flight: for the store, tasks that claim one key after the other; raw, as many commands in a pipeline.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from itertools import count
from multiprocessing.connection import Connection
from typing import Final

from redis.asyncio import Redis

from cloudevents_kit.stages import DedupeStore
from cloudevents_kit.stores import open_store
from tests.support.real_servers import Valkey

from .process import Child, answer
from .rounds import Case, Goal, Sample, alternate, rows
from .table import Row

_IN_FLIGHT: Final = 256
_LEASE: Final = 30.0
_ALONE: Final = "raw SET NX, one by one"
_RAW: Final = "raw SET NX, pipelined"
_CLAIM: Final = "claim"
_BOTH: Final = "claim and commit"
_TOKEN: Final = f"{'0' * 24}-"
_CASE: Final = Case(
    "redis",
    "deduplication in Valkey",
    "keys/s",
    (_ALONE, _RAW, _CLAIM, _BOTH),
    (Goal(_CLAIM, _RAW, least=0.7), Goal(_BOTH, _RAW)),
)

_Turn = Callable[[str], Awaitable[object]]


def _keys() -> Callable[[], str]:
    numbers = count()
    return lambda: f"19:https://example.com{next(numbers):032x}"


async def _by_tasks(turn: _Turn, seconds: float, tasks: int) -> int:
    key, done, until = _keys(), 0, time.perf_counter() + seconds

    async def one_after_the_other() -> None:
        nonlocal done
        while time.perf_counter() < until:
            await turn(key())
            done += 1

    await asyncio.gather(*(one_after_the_other() for _ in range(tasks)))
    return done


async def _in_pipelines(client: Redis, seconds: float) -> int:
    key, done, until = _keys(), 0, time.perf_counter() + seconds
    while time.perf_counter() < until:
        pipeline = client.pipeline(transaction=False)
        for number in range(done, done + _IN_FLIGHT):
            _ = pipeline.set(f"cek:d:0::{key()}", f"{_TOKEN}{number}", nx=True, px=int(_LEASE * 1000))
        assert all(await pipeline.execute())
        done += _IN_FLIGHT
    return done


def _turn_of(keys: DedupeStore, subject: str) -> _Turn:
    numbers = count()

    async def claim(key: str) -> None:
        assert await keys.claim(key, f"{_TOKEN}{next(numbers)}", _LEASE) is None

    async def both(key: str) -> None:
        token = f"{_TOKEN}{next(numbers)}"
        assert await keys.claim(key, token, _LEASE) is None
        assert await keys.commit(key, token, b"", _LEASE)

    return claim if subject == _CLAIM else both


async def _measure(url: str, subject: str, seconds: float) -> Sample:
    async with Redis.from_url(url, protocol=2) as client, open_store(url) as store:
        await client.flushall()
        began, cpu = time.perf_counter(), time.process_time()
        if subject == _RAW:
            done = await _in_pipelines(client, seconds)
        elif subject == _ALONE:
            done = await _by_tasks(lambda key: client.set(key, _TOKEN, nx=True, px=int(_LEASE * 1000)), seconds, 1)
        else:
            done = await _by_tasks(_turn_of(store.deduplication, subject), seconds, _IN_FLIGHT)
        return Sample(done, time.perf_counter() - began, time.process_time() - cpu)


def work(pipe: Connection) -> None:
    """The process of all subjects."""

    def measure(command: tuple[str, str, float]) -> Sample:
        return asyncio.run(_measure(*command))

    answer(pipe, measure)


def run(rounds: int, seconds: float, failures: list[str]) -> list[Row]:
    """Measure all subjects in turn, on one server."""
    server = Valkey("--appendfsync", "everysec").start()
    try:
        with Child(work) as child:

            def measure(subject: str) -> Sample:
                found: Sample = child.ask((server.url(), subject, seconds))
                return found

            return rows(_CASE, alternate(_CASE, measure, rounds, failures))
    finally:
        server.close()
