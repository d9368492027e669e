"""A process that dies at any moment loses no event: neither one that becomes a dead letter, nor one on its way back."""

import asyncio
import os
import random
import sys
from asyncio.subprocess import DEVNULL, PIPE
from collections import Counter
from pathlib import Path

import pytest

from cloudevents_kit import Event, HandlerSink
from cloudevents_kit.dead_letter import DeadLetterStore, redrive
from cloudevents_kit.stores import open_store
from cloudevents_kit.stores.memory_dead_letters import MemoryDeadLetterStore
from tests.support.clock import ManualClock
from tests.support.dead_letters import Crash, Dying, letter, stored
from tests.support.programs import ROOT


def collecting(got: list[str]) -> HandlerSink:
    async def handler(event: Event) -> None:
        got.append(event.id)

    return HandlerSink(handler)


async def dies(step: int, store: MemoryDeadLetterStore, got: list[str], clock: ManualClock) -> bool:
    """Redrive in a process that dies at ``step``; tell whether it did."""
    dying = Dying(step, store, lambda event: got.append(event.id))
    try:
        await redrive(dying, to=dying, dry_run=False, lease=60, clock=clock)
    except Crash:
        return True
    return False


async def test_a_redrive_that_dies_at_any_step_loses_nothing(clock: ManualClock) -> None:
    """K-D2: before and after each call of the store and of the sink, whatever of them took effect."""
    step, died = 0, True
    while died:
        step += 1
        store, got = MemoryDeadLetterStore(clock=clock), list[str]()
        for name in "abc":
            await store.add(letter(id=name))
        died = await dies(step, store, got, clock)
        soon = await redrive(store, to=collecting(got), dry_run=False, lease=60, clock=clock)
        assert soon.busy <= 1
        assert soon.failed == soon.overtaken == 0
        assert max(Counter(got).values()) == 1  # what was on its way is not sent again before its lease is over
        await clock.sleep(61)
        await redrive(store, to=collecting(got), dry_run=False, lease=60, clock=clock)
        assert len(store) == 0
        assert set(got) == set("abc")
        assert len(got) <= 4
    assert step > 20


PROGRAM = """
import asyncio, sys
from cloudevents_kit import Event, settle, wrap
from cloudevents_kit.dead_letter import dead_letters, redrive
from cloudevents_kit.stores import open_store

url, what, path, first = sys.argv[1:]
file = open(path, "a", buffering=1)


async def fill(store):
    async def broken(event):
        raise ValueError("broken")

    chain = wrap(broken, dead_letters(store, timeout=30))

    async def one(number):
        if await settle(chain, Event(type="t", source="/s", id=str(number), data={"number": number})):
            print(number, file=file)

    for number in range(int(first), int(first) + 100_000, 5):
        await asyncio.gather(*(one(number + part) for part in range(5)))


async def drive(store):
    async def deliver(event):
        print(event.id, file=file)

    await redrive(store, to=deliver, dry_run=False, lease=0.5, attempts=1000, concurrency=3)


async def main():
    async with open_store(url) as store:
        print("open", flush=True)
        await {"fill": fill, "drive": drive}[what](store.dead_letters)
        print("done", flush=True)


asyncio.run(main())
"""


async def killed(url: str, what: str, path: Path, after: float, first: int = 0) -> None:
    """Run `PROGRAM` and kill it some seconds ``after`` it has opened the store; it may be done by then."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-W", "error", "-c", PROGRAM, url, what, str(path), str(first)),
        cwd=ROOT,
        env={name: value for name, value in os.environ.items() if not name.startswith("COV")},
        stdout=PIPE,
        stderr=DEVNULL,  # a line of the log for each letter
    )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(30):
            assert await process.stdout.readline() == b"open\n"
            await asyncio.sleep(after)
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


def lines(path: Path) -> list[str]:
    """Return what was written whole."""
    return path.read_text().splitlines() if path.exists() else []


async def left(store: DeadLetterStore) -> set[str]:
    return {found.event.id for found in await stored(store)}


KILLS = int(os.environ.get("KILLS", "4"))


@pytest.mark.timeout(60 + 10 * KILLS)
async def test_a_kill_loses_no_dead_letter_and_no_redrive(url: str, tmp_path: Path) -> None:
    """K-D2: SIGKILL at random moments, while letters are stored and while they are sent again."""
    chance = random.Random(4)
    acknowledged, delivered = tmp_path / "acknowledged", tmp_path / "delivered"
    for number in range(KILLS):
        await killed(url, "fill", acknowledged, chance.uniform(0, 0.3), number * 100_000)
    async with open_store(url) as opened:
        store = opened.dead_letters
        there = await left(store)
        assert {*lines(acknowledged)} <= there
        assert lines(acknowledged)
        for _ in range(KILLS):
            await killed(url, "drive", delivered, chance.uniform(0, 0.2))
            assert {*lines(delivered)} | await left(store) == there  # nothing is gone that was not delivered
        rest: list[str] = []
        async with asyncio.timeout(30):
            while await left(store):  # what was on its way is leased for half a second
                await redrive(store, to=collecting(rest), dry_run=False, attempts=1000, concurrency=50)
        assert lines(delivered)
        assert rest
        got = Counter([*lines(delivered), *rest])
        assert got.keys() == there
        assert sum(got.values()) - len(got) <= 3 * KILLS  # only what was on its way came twice
