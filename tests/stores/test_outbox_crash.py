"""The outbox and its twin for receivers, in processes that are killed at random moments: nothing is lost."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from pathlib import Path

import pytest

from cloudevents_kit import RetryPolicy, Sender
from cloudevents_kit.stores import open_store
from tests.support.events import new
from tests.support.lives import KILLS, program
from tests.support.peer import unused_port
from tests.support.sql import execute


def lines(path: Path) -> list[list[str]]:
    return [line.split() for line in path.read_text().splitlines()] if path.exists() else []


@pytest.mark.timeout(120 + 3 * KILLS)
async def test_every_committed_order_is_sent_and_no_other(url: str, tmp_path: Path) -> None:
    """K-D11: SIGKILL at random moments while orders are written and relayed, some of them for later."""
    file = tmp_path / "lines"
    async with open_store(url):
        await execute(url, "CREATE TABLE orders (id TEXT PRIMARY KEY)")
    async with program("tests.support.outbox_crash", url, file, "shop", KILLS) as process:
        assert await process.wait() == 0
    found: dict[str, dict[str, list[str]]] = defaultdict(dict)
    sent: list[str] = []
    for word, id, *told in lines(file):
        found[word].setdefault(id, told)
        sent += [id] * (word == "sent")
    orders = {id for (id,) in await execute(url, "SELECT id FROM orders")}
    assert found["committed"].keys() <= orders
    assert {id for id in sent if id[0] == "o"} == orders  # none without its row, none of those rolled back, none lost
    assert found["stored"].keys() - found["cancelling"].keys() <= {*sent}
    assert not found["cancelled"].keys() & {*sent}
    assert len(found["committed"]) > KILLS
    assert len(found["stored"]) > KILLS
    assert found["cancelled"]
    assert len(sent) - len({*sent}) <= 50 * KILLS  # what was leased, at most
    by_key: dict[str, list[int]] = defaultdict(list)
    for id in dict.fromkeys(sent):
        if id[0] == "l":
            assert float(found["sent"][id][-1]) >= float(found["wanted"][id][0]) - 0.001  # the digits of a database
        else:
            by_key[id[-1]].append(int(id[1:]))
    for numbers in by_key.values():
        assert numbers == sorted(numbers)
    # Some were for later, and for another life than the one that stored them.
    assert any(found["sent"][id][0] != pid for id, (pid, _) in found["stored"].items() if id in found["sent"])


EVENTS = 20_000


@pytest.mark.timeout(120)
async def test_several_processes_that_relay_one_database_send_nothing_twice(url: str, tmp_path: Path) -> None:
    """No event is leased twice; half of them have keys."""
    file = tmp_path / "lines"
    async with open_store(url) as store:
        for first in range(0, EVENTS, 5000):
            keys = {number: None if number % 2 else str(number % 97) for number in range(first, first + 5000)}
            await asyncio.gather(*(store.outbox.add(new(id=str(id)), key=key) for id, key in keys.items()))
    async with asyncio.timeout(60), program("tests.support.outbox_crash", url, file, "relay", 3) as process:
        assert await process.wait() == 0
    sent = Counter(id for _, id, *_ in lines(file))
    assert sent == Counter(str(number) for number in range(EVENTS))
    assert len({pid for _, _, pid, _ in lines(file)}) == 3


@pytest.mark.timeout(120 + 3 * KILLS)
async def test_every_event_that_a_receiver_has_stored_is_handled(url: str, tmp_path: Path) -> None:
    """The inbox: a queue with a store, killed while it takes events and while it works on them."""
    file, port = tmp_path / "lines", unused_port()
    acknowledged: set[str] = set()
    sender = Sender(
        f"http://127.0.0.1:{port}/",
        retry=RetryPolicy(attempts=10**6, initial=0.02, max_delay=0.1, deadline=None),
        timeout=5,
    )

    async def flow(first: int) -> None:
        """Send on and on; an event that may have been lost is sent again, as a sender does."""
        for number in range(first, 10**9, 4):
            result = await sender.send(new(id=str(number)))
            assert result, result  # at last, however long the others keep this machine busy
            acknowledged.add(str(number))

    async with program("tests.support.inbox_crash", url, file, port, KILLS) as process:
        async with sender:
            flows = [asyncio.create_task(flow(first)) for first in range(4)]
            try:
                assert process.stdout is not None
                assert await process.stdout.readline() == b"killed\n"
                ended = [task for task in flows if task.done()]
                await asyncio.gather(*ended)  # raises why
                assert not ended
            finally:
                for task in flows:
                    task.cancel()
                await asyncio.gather(*flows, return_exceptions=True)
        async with asyncio.timeout(30):
            while await execute(url, "SELECT id FROM cek_queue LIMIT 1"):  # noqa: ASYNC110 - it is another process
                await asyncio.sleep(0.05)
        await process.communicate(b"enough\n")
        assert process.returncode == 0
    handled = Counter(id for (id,) in lines(file))
    assert len(acknowledged) > KILLS
    assert acknowledged <= handled.keys()
    assert len(handled) - len(acknowledged) <= 4 * (KILLS + 1)  # stored, but killed before the answer
