"""An event log with views, in processes that are killed at random moments; and on a server that is."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from pathlib import Path

import pytest

from cloudevents_kit.event_log import EventLog
from cloudevents_kit.stores import open_store
from tests.support.event_log_crash import BATCH
from tests.support.events import new
from tests.support.lives import KILLS, program
from tests.support.real_servers import Postgres
from tests.support.sql import execute


@pytest.mark.timeout(120 + 3 * KILLS)
async def test_what_was_acknowledged_is_there_in_order_and_the_views_are_what_it_comes_to(
    url: str, tmp_path: Path
) -> None:
    """K-D9.2: killed at any moment, without loss or double effect."""
    file = tmp_path / "lines"
    for view in ("inline_view", "background_view"):
        await execute(url, f"CREATE TABLE {view} (stream TEXT, id TEXT, version TEXT)")
    async with program("tests.support.event_log_crash", url, file, KILLS) as process:
        assert await process.wait() == 0
    async with open_store(url) as store:
        log = [one async for one in EventLog(store.event_log).read_all()]
    assert [one.position for one in log] == [*range(1, len(log) + 1)]
    by_stream = defaultdict(list)
    for one in log:
        by_stream[one.stream].append(one)
    for records in by_stream.values():
        assert [one.version for one in records] == [*range(1, len(records) + 1)]
    assert len({one.event.id for one in log}) == len(log)

    lines = [line.split() for line in file.read_text().splitlines()]
    at = {one.position: one.event.id for one in log}
    tried = {id for word, _, *ids in lines if word == "tried" for id in ids}
    acknowledged = [(ids, int(position)) for word, _, *ids, position in lines if word == "acknowledged"]
    assert tried == {*at.values()}  # what was not acknowledged was appended again, and is there once
    for ids, position in acknowledged:
        assert [at[position - len(ids) + 1 + number] for number in range(len(ids))] == ids
    assert len(acknowledged) > KILLS // 2

    rows = sorted((one.stream, one.event.id, f"{one.version}") for one in log)
    for view in ("inline_view", "background_view"):
        assert sorted(await execute(url, f"SELECT stream, id, version FROM {view}")) == rows, view
    got = Counter(int(position) for word, position, *_ in lines if word == "got")
    assert got.keys() == at.keys()
    assert got.total() - len(got) <= BATCH * KILLS  # a batch for each kill, at most
    first = [*dict.fromkeys(int(position) for word, position, *_ in lines if word == "got")]
    assert first == sorted(first)


@pytest.mark.timeout(120)
async def test_an_append_goes_on_through_a_server_that_is_killed_and_is_done_once() -> None:
    """An answer that was lost is asked for again by the store, or by the caller with the same events."""
    server = Postgres("fsync=off").start()
    try:
        async with open_store(server.url(), patience=30) as store:
            log, done = EventLog(store.event_log), asyncio.Event()

            async def flow(stream: str) -> int:
                version = 0
                while not done.is_set():
                    events = [new(id=f"{stream}.{version + part}") for part in (1, 2)]
                    version = (await log.append(stream, events, expected=version)).version
                return version

            flows = [asyncio.create_task(flow(f"s{number}")) for number in range(4)]
            for _ in range(3):
                await asyncio.sleep(0.15)
                await asyncio.to_thread(server.kill)
                await asyncio.to_thread(server.start)
            await asyncio.sleep(0.15)
            done.set()
            versions = await asyncio.gather(*flows)
            assert sum(versions) > 20
            for number, version in enumerate(versions):
                found = [one.event.id async for one in log.read(f"s{number}")]
                assert found == [f"s{number}.{one}" for one in range(1, version + 1)]
            assert await log.find() == sum(versions)
    finally:
        server.close()
