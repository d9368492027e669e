"""Events per second of senders: one pinned process against the sink on the other core."""

from __future__ import annotations

import asyncio
import time
from multiprocessing.connection import Connection
from typing import Final

from . import sink
from .clients import CLIENTS, Client, Send
from .loops import factory, usable
from .process import OTHER_CORE, Child, SubjectError, answer
from .rounds import Case, Goal, Sample, alternate, rows
from .table import Row

_WARM_SECONDS: Final = 0.2
_BARE: Final = "bare structured"
_GOALS: Final = (
    Goal("bare binary", _BARE),
    Goal("bare structured, uvloop", _BARE),
    Goal("official structured", _BARE),
    Goal("official binary", _BARE),
    Goal("kit structured", _BARE, least=0.9),
    Goal("kit binary", _BARE, least=0.85),
    Goal("kit binary", "bare binary", least=0.85),
    Goal("kit structured, uvloop", _BARE),
    Goal("kit batch of 100", "kit structured", least=20.0),
)
_Slice = tuple[str, str, int, float]


async def _worker(send: Send, until: float) -> int:
    count = 0
    while time.perf_counter() < until:
        await send()
        count += 1
    return count


async def _burst(send: Send, in_flight: int, seconds: float) -> int:
    """Keep `in_flight` sends going for some seconds and count them."""
    until = time.perf_counter() + seconds
    return sum(await asyncio.gather(*(_worker(send, until) for _ in range(in_flight))))


async def _slice(client: Client, url: str, in_flight: int, seconds: float) -> Sample:
    async with client.open(url) as send:
        await _burst(send, in_flight, _WARM_SECONDS)
        cpu, began = time.process_time(), time.perf_counter()
        count = await _burst(send, in_flight, seconds)
        return Sample(count * client.events, time.perf_counter() - began, time.process_time() - cpu)


def work(pipe: Connection) -> None:
    """The subjects' process: run the slices it is asked for."""

    def reply(command: _Slice) -> Sample:
        name, url, in_flight, seconds = command
        client = CLIENTS[name]
        with asyncio.Runner(loop_factory=factory(client.loop)) as runner:
            return runner.run(_slice(client, url, in_flight, seconds))

    answer(pipe, reply)


def _checked(sample: Sample, client: Client, before: int, after: int, last: bytes) -> Sample:
    """The sample, if the sink saw as many requests as were counted, in the right mode."""
    if after - before < sample.count // client.events:
        raise SubjectError(f"counted {sample.count} events, the sink saw {after - before} requests")
    if client.mark not in last.lower():
        raise SubjectError(f"sent a request without {client.mark.decode()!r}")
    return sample


def run(rounds: int, seconds: float, failures: list[str]) -> list[Row]:
    """Measure every sender with 1 and with 64 sends in flight."""
    found: list[Row] = []
    with Child(sink.serve, core=OTHER_CORE) as receiving, Child(work) as sending:
        url = f"http://127.0.0.1:{receiving.receive()}/"
        subjects = usable({name: client.installed for name, client in CLIENTS.items()})
        for in_flight in (1, 64):

            def measure(name: str, in_flight: int = in_flight) -> Sample:
                before, _ = receiving.ask("seen")
                sample: Sample = sending.ask((name, url, in_flight, seconds))
                after, last = receiving.ask("seen")
                return _checked(sample, CLIENTS[name], before, after, last)

            case = Case("sender", f"{in_flight} in flight", "events/s", subjects, _GOALS)
            found += rows(case, alternate(case, measure, rounds, failures))
    return found
