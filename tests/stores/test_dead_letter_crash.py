"""A process that dies at any moment loses no event: neither one that becomes a dead letter, nor one on its way back."""

import asyncio
import os
import signal
import sys
from asyncio.subprocess import PIPE
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from cloudevents_kit import Event, HandlerSink
from cloudevents_kit.dead_letter import DeadLetter, DeadLetterStore, letters, redrive
from cloudevents_kit.stores import open_store
from cloudevents_kit.stores.memory_dead_letters import MemoryDeadLetterStore
from cloudevents_kit.testing._dead_letters import letter
from tests.support.clock import ManualClock
from tests.support.dead_letter_crash import CONCURRENCY, LEASE, TOGETHER, fails
from tests.support.dead_letters import Crash, Dying
from tests.support.lives import KILLS
from tests.support.programs import ROOT
from tests.support.sql import age


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


SEED = int(os.environ.get("SEED", "4"))


@asynccontextmanager
async def killing(url: str, file: Path) -> AsyncIterator[Callable[..., Awaitable[None]]]:
    """Give a function that has processes made and killed."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-W", "error", "-m", "tests.support.dead_letter_crash", url, str(file),
        cwd=ROOT, stdin=PIPE, stdout=PIPE, start_new_session=True,
        env={name: value for name, value in os.environ.items() if not name.startswith("COV")},
    )  # fmt: skip

    async def kills(what: str, first: int, last: int) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(f"{what} {SEED} {first} {last}\n".encode())
        async with asyncio.timeout(30 + 3 * (last - first)):
            assert await process.stdout.readline() == b"done\n"

    try:
        yield kills
        await process.communicate(b"")  # no more
        assert process.returncode == 0
    finally:
        if process.returncode is None:
            os.killpg(process.pid, signal.SIGKILL)  # its children, too
            await process.communicate()


def words(file: Path) -> dict[str, Counter[str]]:
    """Return how often each word was written, by event."""
    found: dict[str, Counter[str]] = defaultdict(Counter)
    for line in file.read_text().splitlines():
        word, id = line.split()
        found[word][id] += 1
    return found


async def kept(store: DeadLetterStore) -> dict[str, DeadLetter]:
    return {found.event.id: found async for found in letters(store)}


@pytest.mark.timeout(120 + 6 * KILLS)
async def test_a_kill_loses_no_dead_letter_and_no_redrive(url: str, tmp_path: Path) -> None:
    """K-D2: SIGKILL at random moments, while letters are stored, and while two processes send them again."""
    file = tmp_path / "lines"
    async with killing(url, file) as kills:
        await kills("fill", 0, KILLS)
        async with open_store(url) as opened:
            there = await kept(opened.dead_letters)
        wrote = words(file)
        assert {*wrote["acknowledged"]} <= there.keys() <= {*wrote["sent"]}
        assert len(there) > KILLS
        for id, found in there.items():
            assert wrote["acknowledged"][id] <= found.times <= wrote["sent"][id]
            assert (found.attempts, len(found.tries), found.redrives) == (found.times, found.times, 0)
        assert max(found.times for found in there.values()) > 1
        for first in range(0, KILLS, 10):
            await kills("drive", first, min(first + 10, KILLS))
            await age(url, "cek_dead_letters", "until", LEASE)  # what was on its way is sent again

    in_doubt = CONCURRENCY * TOGETHER * KILLS
    wrote, got = words(file), list[str]()
    async with open_store(url) as one, open_store(url) as other:
        left = await kept(one.dead_letters)
        assert not wrote["changed"]
        assert there.keys() - left.keys() <= {*wrote["delivered"]}  # nothing is gone that was not delivered
        assert not any(fails(id) for id in there.keys() - left.keys())
        for id, found in left.items():
            assert found.failures <= wrote["called"][id] <= found.redrives
            assert found.attempts == found.times + found.failures
            assert len(found.tries) == min(found.attempts, 50)
            assert (found.times, found.quarantined) == (there[id].times, False)
            assert found.possibly_delivered <= (found.redrives > found.failures)
        assert sum(found.redrives - found.failures for found in left.values()) <= in_doubt
        assert any(found.failures for found in left.values())
        rest = [
            redrive(store.dead_letters, to=collecting(got), dry_run=False, attempts=10**6, concurrency=20)
            for store in (one, other)
        ]
        ended = await asyncio.gather(*rest)
        assert sum(report.delivered for report in ended) == len(left)
        assert not await kept(one.dead_letters)
    assert Counter(got) == Counter(left.keys())  # two at once, and none of it twice
    delivered = wrote["delivered"] + Counter(got)
    assert delivered.keys() == there.keys()
    assert wrote["delivered"]
    assert delivered.total() - len(delivered) <= in_doubt  # only what was on its way came twice
