"""The outbox and its twin for receivers, in processes that are killed at random moments: nothing is lost."""

from __future__ import annotations

import asyncio
import os
import random
import sys
from asyncio.subprocess import PIPE, Process
from collections import Counter
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest

from cloudevents_kit import RetryPolicy, Sender
from cloudevents_kit.stores import open_store
from tests.support.events import new
from tests.support.peer import unused_port
from tests.support.programs import ROOT
from tests.support.sql import execute

#: How often each is killed; a longer run is asked for by the environment.
KILLS = int(os.environ.get("OUTBOX_KILLS", "20"))


async def start(module: str, *arguments: object, **environment: str) -> Process:
    """Run a module, and wait until it has begun."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-W", "error", "-m", module, *map(str, arguments), cwd=ROOT, stdin=PIPE, stdout=PIPE,
        env={name: value for name, value in os.environ.items() if not name.startswith("COV")} | environment,
    )  # fmt: skip
    assert process.stdout is not None
    async with asyncio.timeout(30):
        assert await process.stdout.readline() == b"begun\n"
    return process


async def kill(process: Process) -> None:
    with suppress(ProcessLookupError):
        process.kill()
    await process.communicate()


async def end(process: Process, seconds: float = 60, told: bytes = b"") -> None:
    """Tell it something, and wait for its own end."""
    try:
        async with asyncio.timeout(seconds):
            said, _ = await process.communicate(told)
        assert (said, process.returncode) == (b"done\n", 0)
    finally:
        if process.returncode is None:
            await kill(process)


def lines(path: Path) -> list[list[str]]:
    return [line.split() for line in path.read_text().splitlines()] if path.exists() else []


@pytest.mark.timeout(120 + 6 * KILLS)
async def test_every_committed_order_is_sent_and_no_other(url: str, tmp_path: Path) -> None:
    """SIGKILL at random moments while orders are written and relayed."""
    chance, file = random.Random(9), tmp_path / "lines"
    async with open_store(url):
        await execute(url, "CREATE TABLE orders (id TEXT PRIMARY KEY)")
    for number in range(KILLS):
        process = await start("tests.support.outbox_crash", url, file, "shop", number * 100_000)
        await asyncio.sleep(chance.uniform(0.0, 0.4))
        await kill(process)
    await end(await start("tests.support.outbox_crash", url, file, "relay", 0))
    by_word: dict[str, list[str]] = {"sent": [], "stored": [], "committed": []}
    for word, id, *_ in lines(file):
        by_word[word].append(id)
    orders = {id for (id,) in await execute(url, "SELECT id FROM orders")}
    sent = Counter(by_word["sent"])
    assert {*by_word["committed"]} <= orders
    assert {id for id in sent if id[0] == "o"} == orders  # none without its row, none of those rolled back, none lost
    assert {*by_word["stored"]} <= {*sent}
    assert len(by_word["committed"]) > KILLS
    assert by_word["stored"]
    assert sum(sent.values()) - len(sent) <= 20 * KILLS  # what was on its way, at most


EVENTS = int(os.environ.get("OUTBOX_EVENTS", "3000"))


@pytest.mark.timeout(240)
async def test_several_processes_that_relay_one_database_send_nothing_twice(url: str, tmp_path: Path) -> None:
    """No event is leased twice."""
    file = tmp_path / "lines"
    async with open_store(url) as store:
        await asyncio.gather(*(store.outbox.add(new(id=str(number)), key=None) for number in range(EVENTS)))
    one = partial(start, "tests.support.outbox_crash", url, file, "relay", "wait", LEASE="60")
    processes = await asyncio.gather(*(one() for _ in range(3)))
    await asyncio.gather(*(end(process, 200, b"go\n") for process in processes))
    sent = Counter(id for _, id, _ in lines(file))
    assert sent == Counter(str(number) for number in range(EVENTS))
    assert len({pid for _, _, pid in lines(file)}) > 1


@pytest.mark.timeout(120 + 6 * KILLS)
async def test_every_event_that_a_receiver_has_stored_is_handled(url: str, tmp_path: Path) -> None:
    """The inbox: a queue with a store, killed while it takes events and while it works on them."""
    chance, file, port = random.Random(10), tmp_path / "lines", unused_port()
    acknowledged: set[str] = set()
    sender = Sender(
        f"http://127.0.0.1:{port}/", retry=RetryPolicy(attempts=100, initial=0.02, max_delay=0.1), timeout=5
    )

    async def flow(first: int) -> None:
        """Send on and on; an event that may have been lost is sent again, as a sender does."""
        for number in range(first, 10**9, 4):
            result = await sender.send(new(id=str(number)))
            assert result, result
            acknowledged.add(str(number))

    async with sender:
        flows = [asyncio.create_task(flow(first)) for first in range(4)]
        try:
            for _ in range(KILLS):
                process = await start("tests.support.inbox_crash", url, file, port)
                await asyncio.sleep(chance.uniform(0.0, 0.4))
                await kill(process)
            assert not any(task.done() for task in flows)
        finally:
            for task in flows:
                task.cancel()
            await asyncio.gather(*flows, return_exceptions=True)
    process = await start("tests.support.inbox_crash", url, file, port)
    try:
        async with asyncio.timeout(30):
            while await execute(url, "SELECT id FROM cek_queue LIMIT 1"):  # noqa: ASYNC110 - it is another process
                await asyncio.sleep(0.05)
    finally:
        await kill(process)
    handled = Counter(id for (id,) in lines(file))
    assert len(acknowledged) > KILLS
    assert acknowledged <= handled.keys()
    assert len(handled) - len(acknowledged) <= 4 * (KILLS + 1)  # stored, but killed before the answer
