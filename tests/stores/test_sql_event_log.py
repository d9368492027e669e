"""The event log in SQLite and PostgreSQL: one order for all, and transactions that views are written in."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from cloudevents_kit import Event, RetryPolicy
from cloudevents_kit.event_log import (
    Conflict,
    EventLog,
    EventLogStore,
    Projection,
    Recorded,
    Snapshot,
    current_connection,
)
from cloudevents_kit.outbox import Outbox
from cloudevents_kit.stores import StoreError, open_store
from cloudevents_kit.stores.sql import SqlStore
from cloudevents_kit.stores.sql._event_log import _Append
from cloudevents_kit.testing import EventLogStoreConformance
from tests.support.events import new
from tests.support.proxy import Proxy
from tests.support.real_servers import Postgres
from tests.support.sql import age, execute, made

SOON = RetryPolicy(attempts=3, initial=0.01, max_delay=0.01, jitter=False)


class TestConformance(EventLogStoreConformance):
    url: str

    @pytest.fixture
    def store(self, opened: SqlStore, url: str) -> EventLogStore:
        type(self).url = url
        return opened.event_log

    async def passes(self, ticks: float) -> None:
        await age(self.url, "cek_log", "at", ticks * self.tick)
        await age(self.url, "cek_log_checkpoints", "until", ticks * self.tick)


VIEW = sa.Table("view", sa.MetaData(), sa.Column("id", sa.Text, primary_key=True), sa.Column("position", sa.Integer))


@pytest.fixture
async def view(opened: SqlStore, url: str) -> Callable[[], Awaitable[list[str]]]:
    """A table for a view; returns what is in it."""
    await execute(url, "CREATE TABLE view (id TEXT PRIMARY KEY)")

    async def read() -> list[str]:
        return sorted(id for (id,) in await execute(url, "SELECT id FROM view"))

    return read


@pytest.fixture
async def second(url: str, opened: SqlStore) -> AsyncIterator[SqlStore]:
    """Another process, as far as the database can tell."""
    async with open_store(url) as store:
        assert isinstance(store, SqlStore)
        yield store


async def write(event: Event) -> None:
    """Put the event into the view, and fail if it is a bad one."""
    await current_connection().execute(sa.insert(VIEW).values(id=event.id))
    if event.get("bad"):
        raise OSError("bad")


async def empty(connection: AsyncConnection) -> None:
    await connection.execute(sa.delete(VIEW))


async def append(log: EventLog, *ids: str, **given: Any) -> None:
    await log.append("s", [new(id=id, **given) for id in ids])


# One order for all.


async def test_a_reader_never_meets_a_gap_that_is_filled_later(opened: SqlStore, second: SqlStore) -> None:
    """Several writers, each with a connection of its own, and one who reads all the time."""
    stores = [opened.event_log, second.event_log]
    done = asyncio.Event()

    async def writer(number: int) -> None:
        for at in range(60):
            await stores[number % 2].append(
                f"s{number % 3}", [new(id=f"{number}-{at}-{part}") for part in "ab"], None, {}
            )

    async def reader() -> list[Recorded]:
        found: list[Recorded] = []
        while not done.is_set() or await stores[0].find(None) > len(found):
            page = await stores[0].read(None, len(found), 1000)
            assert [one.position for one in page] == [*range(len(found) + 1, len(found) + len(page) + 1)]
            found += page
            await asyncio.sleep(0)
        return found

    reading = asyncio.create_task(reader())
    await asyncio.gather(*(writer(number) for number in range(6)))
    done.set()
    found = await reading
    assert len(found) == 720
    assert [one.at for one in found] == sorted(one.at for one in found)
    for stream in ("s0", "s1", "s2"):
        assert [one.version for one in found if one.stream == stream] == [*range(1, 241)]


async def test_who_appends_waits_for_a_transaction_that_has_a_lower_position(
    opened: SqlStore, second: SqlStore
) -> None:
    began, go_on = asyncio.Event(), asyncio.Event()

    async def slow(event: Event) -> None:
        began.set()
        await go_on.wait()

    slowly = EventLog(opened.event_log, Projection("slow", slow, delivery="inline"))
    first = asyncio.create_task(append(slowly, "1"))
    await began.wait()
    other = EventLog(second.event_log)
    later = asyncio.create_task(append(other, "2"))
    await asyncio.sleep(0.1)
    assert not later.done()
    assert [one async for one in other.read_all()] == []
    go_on.set()
    await asyncio.gather(first, later)
    assert [one.event.id async for one in other.read_all()] == ["1", "2"]


async def test_of_two_processes_that_expect_one_version_one_wins(opened: SqlStore, second: SqlStore) -> None:
    """K-D9.1: on a real database."""
    logs = [EventLog(opened.event_log), EventLog(second.event_log)]
    for version in range(20):
        both = (log.append("s", new(id=f"{version}-{at}"), expected=version) for at, log in enumerate(logs))
        ends = await asyncio.gather(*both, return_exceptions=True)
        [conflict] = [end for end in ends if isinstance(end, Conflict)]
        assert conflict.actual == version + 1


async def test_scopes_do_not_see_each_other(opened: SqlStore) -> None:
    one, other = opened.event_log, opened.scoped("other").event_log
    await one.append("s", [new(id="1")], None, {})
    await other.append("s", [new(id="1")], 0, {})
    await one.checkpoints.advance("p", None, 0, 1, None)
    await one.snapshots.save("s", "n", 1, 1, b"1")
    assert (await other.read(None, 0, 5))[0].position == 1
    assert (await other.checkpoints.read(["p"]))[0].position == 0
    assert await other.snapshots.load("s", "n", 1) is None
    assert await other.snapshots.forget(None) == 0


async def test_time_never_goes_back_from_one_position_to_the_next(opened: SqlStore, url: str) -> None:
    await opened.event_log.append("s", [new(id="1")], None, {})
    await age(url, "cek_log", "at", -60)  # as if the clock had been set back since
    await opened.event_log.append("s", [new(id="2")], None, {})
    first, second = await opened.event_log.read("s", 0, 5)
    assert first.at == second.at


async def test_a_damaged_event_is_told_with_its_position(opened: SqlStore, url: str) -> None:
    await opened.event_log.append("s", [new(id="1"), new(id="2")], None, {})
    for broken in ("x", '{"attributes":{'):
        binary = f"CAST('{broken}' AS BLOB)" if url.startswith("sqlite") else f"'{broken}'"
        await execute(url, f"UPDATE cek_log SET event = {binary} WHERE position = 2")
        with pytest.raises(StoreError, match="the event at position 2 of the log cannot be read"):
            await opened.event_log.read(None, 0, 5)


# Answers that are lost.


async def test_an_append_whose_answer_was_lost_is_not_done_twice(opened: SqlStore) -> None:
    item = _Append("s", ["4:/s1"], [b'{"specversion":"1.0","id":"1","source":"/s","type":"t"}'], 0, {})

    async def twice(connection: AsyncConnection) -> list[Any]:
        return [await opened.event_log._append_all(connection, [item]) for _ in range(2)]

    [[first], [second]] = await opened.event_log._append._lane.run(twice)
    assert (first, second) == ((1, 1, False), (1, 1, True))
    assert len(await opened.event_log.read("s", 0, 5)) == 1


async def test_a_move_whose_answer_was_lost_is_not_done_twice(
    opened: SqlStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    marks, database, done = opened.event_log.checkpoints, opened._database, []
    transaction = database.transaction

    async def twice(work: Any, **given: Any) -> Any:
        await transaction(work, **given)
        return await transaction(work, **given)

    async def work(connection: object) -> None:
        done.append(connection)

    await marks.lease("p", "me", 60)
    with monkeypatch.context() as patched:
        patched.setattr(database, "transaction", twice)
        assert await marks.advance("p", "me", 0, 5, work)
    assert not await marks.advance("p", "me", 0, 5, work)
    assert len(done) == 1
    assert (await marks.read(["p"]))[0].position == 5


# Views in the transaction.


@pytest.mark.parametrize("delivery", ["inline", "background"])
async def test_a_view_is_written_in_the_transaction_and_rebuilt(
    opened: SqlStore, view: Callable[[], Awaitable[list[str]]], url: str, delivery: Any
) -> None:
    background = delivery == "background"
    projection = Projection("view", write, delivery=delivery, transaction=background, reset=empty, batch=2, poll=0.05)
    async with EventLog(opened.event_log, projection) as log:
        await append(log, *"123")
        await log.reached("view")
        assert await view() == [*"123"]
        await execute(url, "INSERT INTO view VALUES ('nonsense')", "DELETE FROM view WHERE id = '2'")
        await log.rebuild("view")
        await log.reached("view")
        assert await view() == [*"123"]


@pytest.mark.parametrize("delivery", ["inline", "background"])
async def test_a_plain_function_gets_no_connection_that_nobody_would_await(
    opened: SqlStore, view: Callable[[], Awaitable[list[str]]], delivery: Any
) -> None:
    def plain(event: Event) -> None:
        current_connection().execute(sa.insert(VIEW).values(id=event.id))

    told, failures = "current_connection: the handler must be async", []
    if delivery == "inline":
        log = EventLog(opened.event_log, Projection("view", plain, delivery="inline"))
        with pytest.raises(RuntimeError, match=told):
            await append(log, "1")
        assert await log.find() == 0
        return
    given: Any = {"retry": SOON, "dead_letter": lambda _, error: failures.append(str(error)), "poll": 0.05}
    async with EventLog(opened.event_log, Projection("view", plain, transaction=True, **given)) as log:
        await append(log, "1")
        await log.reached("view")
    assert [told in failure for failure in failures] == [True]


@pytest.mark.parametrize("delivery", ["inline", "background"])
async def test_a_plain_function_cannot_empty_a_view(
    opened: SqlStore, view: Callable[[], Awaitable[list[str]]], delivery: Any
) -> None:
    """But one that returns what is to be awaited can."""

    def plain(connection: AsyncConnection) -> None:
        connection.execute(sa.delete(VIEW)).close()  # nobody awaits it

    def returns(connection: AsyncConnection) -> Awaitable[None]:
        return empty(connection)

    given: Any = {"delivery": delivery, "transaction": delivery == "background", "poll": 0.05}
    async with EventLog(opened.event_log, Projection("view", write, reset=plain, **given)) as log:
        await append(log, "1")
        await log.reached("view")
        with pytest.raises(TypeError, match="reset: must be async in projection view"):
            await log.rebuild("view")
        await append(log, "2")
        await log.reached("view")
    async with EventLog(opened.event_log, Projection("view", write, reset=returns, **given)) as log:
        assert await view() == [*"12"]
        await log.rebuild("view")
        await log.reached("view")
    assert await view() == [*"12"]


async def test_if_an_inline_view_fails_neither_the_events_nor_the_view_are_there(
    opened: SqlStore, view: Callable[[], Awaitable[list[str]]]
) -> None:
    log = EventLog(opened.event_log, Projection("view", write, delivery="inline"))
    good = [append(log, f"{number}") for number in range(5)]
    results = await asyncio.gather(*good, append(log, "x", "bad", bad=True), return_exceptions=True)
    assert [type(result) for result in results] == [type(None)] * 5 + [OSError]
    assert await view() == [*"01234"]
    assert await log.find() == 5
    [status] = await log.status()
    assert (status.position, status.waiting) == (5, 0)


async def test_what_the_database_refuses_a_view_is_raised_as_it_is(
    opened: SqlStore, view: Callable[[], Awaitable[list[str]]], url: str
) -> None:
    await execute(url, "INSERT INTO view VALUES ('2')")
    log = EventLog(opened.event_log, Projection("view", write, delivery="inline"))
    results = await asyncio.gather(append(log, "1"), append(log, "2"), append(log, "3"), return_exceptions=True)
    assert [type(result) for result in results] == [type(None), IntegrityError, type(None)]
    assert await view() == [*"123"]
    assert [one.event.id async for one in log.read_all()] == ["1", "3"]


async def test_a_background_view_in_a_transaction_has_nothing_of_an_attempt_that_failed(
    opened: SqlStore, view: Callable[[], Awaitable[list[str]]]
) -> None:
    fails = {"2": 2, "4": 99}
    calls: list[str] = []

    async def flaky(event: Event) -> None:
        await current_connection().execute(sa.insert(VIEW).values(id=event.id))
        calls.append(event.id)
        if fails.get(event.id, 0):
            fails[event.id] -= 1
            raise OSError("not now")

    dead: list[str] = []
    projection = Projection(
        "view", flaky, transaction=True, retry=SOON, dead_letter=lambda event, _: dead.append(event.id), poll=0.05
    )
    log = EventLog(opened.event_log, projection)
    await append(log, *"12345")
    async with log:
        await log.reached("view")
        counts = log._projections["view"].counts
    assert await view() == [*"1235"]
    assert dead == ["4"]
    assert counts == {"handled": 4, "failed": 5, "dead_lettered": 1, "dead_letter_failed": 0, "store_failed": 0}
    assert calls == ["1", "2", "1", "2", "2", "3", "4", "2", "3", "4", "4", "5"]


@pytest.mark.parametrize("delivery", ["inline", "background"])
async def test_a_handler_that_takes_too_long_is_cut_off_and_leaves_the_database_usable(
    opened: SqlStore, view: Callable[[], Awaitable[list[str]]], delivery: Any
) -> None:
    slow = True

    async def hang(event: Event) -> None:
        nonlocal slow
        await write(event)
        if slow:
            slow = False
            await asyncio.sleep(30)

    retry = None if delivery == "inline" else SOON
    projection = Projection(
        "view", hang, delivery=delivery, transaction=delivery != "inline", lease=0.4, retry=retry, poll=0.05
    )
    async with EventLog(opened.event_log, projection) as log:
        if delivery == "inline":
            with pytest.raises(TimeoutError):
                await append(log, "1")
            assert await log.find() == 0
        await append(log, "1")
        await log.reached("view")
    assert await view() == ["1"]


async def test_an_append_in_a_transaction_of_a_handler_is_refused_and_an_outbox_goes_along(
    opened: SqlStore, view: Callable[[], Awaitable[list[str]]]
) -> None:
    outbox = Outbox(opened.outbox)
    told: list[str] = []

    async def handler(event: Event) -> None:
        await outbox.add(event, current_connection())
        try:
            await append(log, "more")
        except RuntimeError as error:
            told.append(str(error)[:45])
        await write(event)

    log = EventLog(opened.event_log, Projection("view", handler, delivery="inline"))
    await append(log, "1")
    with pytest.raises(OSError, match="bad"):
        await append(log, "2", bad=True)
    assert {*told} == {"append: would wait for the transaction of thi"}
    assert (await outbox.lag()).waiting == 1


async def test_a_connection_that_is_lost_in_a_handler_is_no_failure_of_the_handler(
    opened: SqlStore, view: Callable[[], Awaitable[list[str]]], url: str
) -> None:
    if url.startswith("sqlite"):  # which has no connection to lose
        return
    lost: list[str] = []

    async def lose(event: Event) -> None:
        await write(event)
        if event.id not in lost:
            lost.append(event.id)
            await current_connection().execute(sa.text("SELECT pg_terminate_backend(pg_backend_pid())"))

    inline = EventLog(opened.event_log, Projection("inline", lose, delivery="inline"))
    await append(inline, "1")
    assert await view() == ["1"]
    await execute(url, "DELETE FROM view")
    lost.clear()
    async with EventLog(opened.event_log, Projection("background", lose, transaction=True, poll=0.05)) as log:
        await log.reached("background")
        assert log._projections["background"].counts == {
            "handled": 1,
            "failed": 0,
            "dead_lettered": 0,
            "dead_letter_failed": 0,
            "store_failed": 0,
        }
    assert await view() == ["1"]


async def test_two_processes_bring_one_view_up_to_date_each_event_once(
    opened: SqlStore, second: SqlStore, view: Callable[[], Awaitable[list[str]]]
) -> None:
    """Exactly once, whoever has the lease: a second row of one event would be refused."""
    logs = [
        EventLog(
            store.event_log, Projection("view", write, transaction=True, reset=empty, lease=0.2, batch=7, poll=0.01)
        )
        for store in (opened, second)
    ]
    async with logs[0], logs[1]:
        for number in range(50):
            await append(logs[number % 2], f"{number:02}")
            if number % 10 == 9:
                await asyncio.sleep(0.05)
            if number == 29:
                await logs[0].rebuild("view")
        await logs[0].reached("view", 50)
    assert await view() == [f"{number:02}" for number in range(50)]


# What others must not pay for.


async def test_a_handler_that_ends_as_if_cancelled_fails_its_own_append_alone(
    opened: SqlStore, view: Callable[[], Awaitable[list[str]]]
) -> None:
    async def handler(event: Event) -> None:
        await write(event)
        if event.id == "bad":
            task = asyncio.create_task(asyncio.sleep(9))
            task.cancel()
            await task

    log = EventLog(opened.event_log, Projection("view", handler, delivery="inline"))
    results = await asyncio.gather(*(append(log, id) for id in ("1", "bad", "2")), return_exceptions=True)
    assert [type(result) for result in results] == [type(None), RuntimeError, type(None)]
    assert await view() == ["1", "2"]


@pytest.mark.parametrize("lock", ["of the log", "of a checkpoint"])
async def test_a_machine_that_loses_its_power_does_not_keep_others_waiting_for_its_lock(
    postgres: Postgres, monkeypatch: pytest.MonkeyPatch, lock: str
) -> None:
    monkeypatch.setattr("cloudevents_kit.stores.sql._event_log._DEAD", 1.0)
    monkeypatch.setattr("cloudevents_kit.stores.sql._event_log_marks._LONGEST", 1.0)
    name = f"power {lock}"
    began, end = asyncio.Event(), asyncio.Event()

    async def hang(*_: Any) -> None:
        began.set()
        await end.wait()

    async with (
        Proxy.to_socket(postgres.folder / ".s.PGSQL.5432") as proxy,
        made(open_store(await asyncio.to_thread(postgres.database, name), patience=5)) as store,
        made(open_store(f"postgresql://postgres@127.0.0.1:{proxy.port}/{name}", patience=1)) as far,
    ):
        if lock == "of the log":
            left = asyncio.create_task(far.event_log.append("s", [new(id="1")], None, {"view": hang}))
        else:
            left = asyncio.create_task(far.event_log.checkpoints.advance("view", None, 0, 1, hang))  # type: ignore[arg-type]
        await began.wait()
        proxy.forget()  # it is not heard of again
        if lock == "of the log":
            assert (await store.event_log.append("s", [new(id="2")], None, {})).position == 1
        else:
            assert await store.event_log.checkpoints.advance("view", None, 0, 2, None)
        end.set()
        await asyncio.gather(left, return_exceptions=True)


async def test_numbers_beyond_what_a_database_knows_are_behind_the_end(opened: SqlStore) -> None:
    log = EventLog(opened.event_log)
    await append(log, "1")
    assert [one async for one in log.read("s", after=1 << 70)] == []
    assert [one async for one in log.read_all(after=1 << 63)] == []


async def test_a_snapshot_may_have_any_printable_name_and_a_number_such_as_a_time(opened: SqlStore) -> None:
    log = EventLog(opened.event_log)
    await append(log, "1")
    for _ in range(2):
        snapshot = Snapshot("größe 'x'", int, schema=1_700_000_000_000, every=1)
        assert await log.fold("s", lambda state, _: state + 1, int, snapshot=snapshot) == (1, 1)
    assert await log.forget_snapshots() == 1


@pytest.mark.parametrize("delivery", ["inline", "background"])
async def test_a_handler_that_is_cut_off_within_a_statement_leaves_the_database_usable(
    opened: SqlStore,
    view: Callable[[], Awaitable[list[str]]],
    url: str,
    delivery: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("cloudevents_kit.stores.sql._event_log._DEAD", 1.5)
    long = f"SELECT pg_sleep({30 if delivery == 'inline' else 1})"
    if url.startswith("sqlite"):
        long = "WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < 1000000) SELECT max(n) FROM c"
    slow = True

    async def hang(event: Event) -> None:
        nonlocal slow
        await write(event)
        if slow and event.id == "2":
            slow = False
            await current_connection().execute(sa.text(long))

    retry = None if delivery == "inline" else SOON
    projection = Projection(
        "view", hang, delivery=delivery, transaction=delivery != "inline", lease=0.4, retry=retry, poll=0.05
    )
    async with EventLog(opened.event_log, projection) as log:
        results = await asyncio.gather(*(append(log, id) for id in "123"), return_exceptions=True)
        await log.reached("view")
        if delivery == "inline":
            assert all(result is None or isinstance(result, TimeoutError) for result in results)
            for id in "123":
                await append(log, id)
    assert await view() == [*"123"]
    assert not slow
