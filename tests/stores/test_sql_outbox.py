"""The outbox in SQLite and PostgreSQL, in the transactions of others."""

from __future__ import annotations

import asyncio
import random
import sqlite3
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from cloudevents_kit import Ack, Event, HandlerSink, Result, RetryPolicy, Undelivered, _frozen
from cloudevents_kit.outbox import Outbox, OutboxStore
from cloudevents_kit.stores import open_store
from cloudevents_kit.stores.sql import SqlStore, _outbox
from cloudevents_kit.stores.sql._outbox import _Lease
from cloudevents_kit.testing import OutboxStoreConformance
from cloudevents_kit.testing._outbox import add
from tests.support.events import new
from tests.support.sql import age, execute, made


class TestConformance(OutboxStoreConformance):
    url: str

    @pytest.fixture
    def store(self, opened: SqlStore, url: str) -> OutboxStore:
        type(self).url = url
        return opened.outbox

    async def passes(self, ticks: float) -> None:
        await age(self.url, "cek_outbox", "due", ticks * self.tick)
        await age(self.url, "cek_outbox", "since", ticks * self.tick)


class Base(DeclarativeBase):
    pass


class Order(Base):
    __tablename__ = "orders"
    id: Mapped[int] = mapped_column(primary_key=True)


@pytest.fixture
async def engine(url: str) -> AsyncIterator[AsyncEngine]:
    """An engine of the program's own, with a business table."""
    drivers = {"sqlite:": "sqlite+aiosqlite:", "postgresql:": "postgresql+asyncpg:"}
    beginning, _, rest = url.partition("//")
    engine = create_async_engine(f"{drivers[beginning]}//{rest}")
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    yield engine
    await engine.dispose()


async def waiting(store: SqlStore) -> list[str]:
    return [event.id for _, event, *_ in await store.outbox.lease(100, 0.001)]


async def test_an_event_is_there_when_the_transaction_is_committed_and_not_before(
    opened: SqlStore, engine: AsyncEngine
) -> None:
    """In a transaction of the program itself."""
    outbox = Outbox(opened.outbox)
    async with engine.connect() as connection:
        await connection.execute(sa.insert(Order).values(id=1))
        await outbox.add(new(id="1"), connection)
        await outbox.add(new(id="1"), connection)
        assert (await outbox.lag()).waiting == 0
        await connection.rollback()
    assert (await outbox.lag()).waiting == 0
    async with engine.begin() as connection:
        await connection.execute(sa.insert(Order).values(id=2))
        await outbox.add(new(id="2"), connection)
    assert await waiting(opened) == ["2"]


async def test_it_goes_along_with_an_orm_session(opened: SqlStore, engine: AsyncEngine) -> None:
    outbox = Outbox(opened.outbox)
    async with AsyncSession(engine) as session, session.begin():
        session.add(Order(id=1))
        await outbox.add(new(id="1"), session)
    with pytest.raises(ZeroDivisionError):
        async with AsyncSession(engine) as session, session.begin():
            session.add(Order(id=2))
            await outbox.add(new(id="2"), session)
            raise ZeroDivisionError
    assert await waiting(opened) == ["1"]
    async with AsyncSession(engine) as session:
        assert [*await session.scalars(sa.select(Order.id))] == [1]


async def test_it_goes_along_with_what_is_not_async(opened: SqlStore, engine: AsyncEngine) -> None:
    outbox = Outbox(opened.outbox)

    def by_connection(connection: sa.Connection) -> None:
        connection.execute(sa.insert(Order).values(id=1))
        outbox.add_sync(new(id="1"), connection)

    def by_session(session: Session) -> None:
        session.add(Order(id=2))
        outbox.add_sync(new(id="2"), session)

    async with engine.begin() as connection:
        await connection.run_sync(by_connection)
    async with AsyncSession(engine) as session, session.begin():
        await session.run_sync(by_session)
    assert await waiting(opened) == ["1", "2"]


async def test_a_savepoint_that_is_rolled_back_takes_its_events_along(opened: SqlStore, engine: AsyncEngine) -> None:
    outbox = Outbox(opened.outbox)
    async with engine.begin() as connection:
        await outbox.add(new(id="kept"), connection)
        async with connection.begin_nested() as savepoint:
            await outbox.add(new(id="lost"), connection)
            await savepoint.rollback()
    assert await waiting(opened) == ["kept"]


async def test_what_is_no_transaction_of_this_database_is_refused(
    opened: SqlStore, engine: AsyncEngine, tmp_path: Path
) -> None:
    outbox = Outbox(opened.outbox)
    other = create_async_engine(f"sqlite+aiosqlite:///{tmp_path / 'other.db'}")
    async with other.connect() as connection:
        with pytest.raises(ValueError, match="connection: is to another database than the outbox, which is in the"):
            await outbox.add(new(), connection)
    await other.dispose()
    for in_memory in ("sqlite+aiosqlite://", "sqlite+aiosqlite:///:memory:"):
        other = create_async_engine(in_memory)
        async with other.connect() as connection:
            with pytest.raises(ValueError, match="connection: is to another database than the outbox, which is in the"):
                await outbox.add(new(), connection)
        await other.dispose()
    async with engine.connect() as plain:
        connection = await plain.execution_options(isolation_level="AUTOCOMMIT")
        with pytest.raises(ValueError, match="connection: must be in a transaction, not in AUTOCOMMIT"):
            await outbox.add(new(), connection)
    always = create_async_engine(engine.url, isolation_level="AUTOCOMMIT")
    async with always.connect() as connection:
        with pytest.raises(ValueError, match="connection: must be in a transaction, not in AUTOCOMMIT"):
            await outbox.add(new(), connection)
    await always.dispose()
    async with always.execution_options(isolation_level="SERIALIZABLE").connect() as connection:
        await outbox.add(new(), connection)
        await connection.rollback()
    await always.dispose()
    async with engine.connect() as connection:
        with pytest.raises(TypeError, match="connection: must not be an async one here"):
            outbox.add_sync(new(), connection)
    with pytest.raises(TypeError, match="connection: must be an AsyncConnection or AsyncSession, not Engine"):
        await outbox.add(new(), engine.sync_engine)
    with pytest.raises(TypeError, match="connection: must be SQLAlchemy's, or a session, not str"):
        outbox.add_sync(new(), "sqlite:")
    assert await waiting(opened) == []


async def test_a_connection_that_a_function_of_the_program_makes_is_looked_at_itself(tmp_path: Path) -> None:
    """The URL of its engine names no file."""
    async with made(open_store(f"sqlite:///{tmp_path / 'shop.db'}")) as store:
        outbox = Outbox(store.outbox)
        for name, is_right in (("shop.db", True), ("other.db", False)):
            engine = sa.create_engine("sqlite://", creator=partial(sqlite3.connect, tmp_path / name))
            with engine.begin() as connection:
                if is_right:
                    outbox.add_sync(new(id="1"), connection)
                else:
                    with pytest.raises(ValueError, match="connection: is to another database"):
                        outbox.add_sync(new(id="2"), connection)
            engine.dispose()
        assert await waiting(store) == ["1"]


async def test_many_are_cleared_some_at_a_time(opened: SqlStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """And none that came later, or of another scope."""
    other = opened.scoped("other").outbox
    await add(other, "z")
    await asyncio.gather(*(opened.outbox.add(new(id=str(number)), key=None) for number in range(25)))
    monkeypatch.setattr(_outbox, "_AT_ONCE", 10)
    before = opened.outbox._lane.transactions
    assert await opened.outbox.clear() == 25
    assert opened.outbox._lane.transactions - before == 4
    assert (await other.lag()).waiting == 1


async def test_scopes_do_not_see_each_other(opened: SqlStore) -> None:
    other = opened.scoped("other").outbox
    await add(opened.outbox, "a")
    await add(other, "a", "b")
    assert (await opened.outbox.lag())[0] == 1
    [(token, *_)] = await opened.outbox.lease(5, 60)
    await other.settle({token: None})
    assert (await opened.outbox.lag())[0] == 1
    assert len(await other.lease(5, 60)) == 2


async def test_an_event_that_cannot_be_read_does_not_hold_up_the_others(
    opened: SqlStore, url: str, caplog: pytest.LogCaptureFixture
) -> None:
    await add(opened.outbox, "broken", "good")
    await execute(url, "UPDATE cek_outbox SET event = CAST('x' AS BLOB) WHERE id = 1"
                  if url.startswith("sqlite") else "UPDATE cek_outbox SET event = 'x' WHERE id = 1")  # fmt: skip
    assert await waiting(opened) == ["good"]
    assert "row 1 of cek_outbox cannot be read" in caplog.text
    assert (await opened.outbox.lag())[0] == 2


async def test_an_event_that_cannot_be_read_holds_up_those_of_its_key(opened: SqlStore, url: str) -> None:
    """They are to follow it, and somebody is to look."""
    await add(opened.outbox, "good", "broken", "behind", key="k")
    await add(opened.outbox, "another", key="j")
    await execute(url, "UPDATE cek_outbox SET event = CAST('x' AS BLOB) WHERE id = 2"
                  if url.startswith("sqlite") else "UPDATE cek_outbox SET event = 'x' WHERE id = 2")  # fmt: skip
    assert await waiting(opened) == ["good", "another"]


async def test_many_events_of_one_key_are_leased_at_once_in_their_order(opened: SqlStore) -> None:
    """Beside those without one, which get their share."""
    for number in range(50):
        await add(opened.outbox, f"a{number}", key="a")
    await add(opened.outbox, "b0", "b1", key="b")
    found = await opened.outbox.lease(20, 60)
    assert [event.id for _, event, *_ in found] == [*(f"a{number}" for number in range(19)), "b0"]
    await asyncio.gather(*(add(opened.outbox, f"n{number}") for number in range(50)))
    assert len(await opened.outbox.lease(20, 60)) == 20
    await opened.outbox.settle({token: None for token, *_ in found})
    found = await opened.outbox.lease(20, 60)
    assert sorted(event.id[0] for _, event, *_ in found) == ["a"] * 9 + ["b"] + ["n"] * 10


async def test_if_there_are_keys_only_they_have_all_the_room(opened: SqlStore) -> None:
    for number in range(30):
        await add(opened.outbox, str(number), key=str(number))
    assert len(await opened.outbox.lease(20, 60)) == 20
    assert len(await opened.outbox.lease(20, 60)) == 10


async def test_several_relays_keep_the_order_of_each_key(url: str) -> None:
    """And never send two events of a key at once, whatever fails."""
    chance = random.Random(3)
    sent: dict[str, list[str]] = defaultdict(list)
    active: set[str] = set()
    policy = RetryPolicy(attempts=100, initial=0.001, max_delay=0.01)

    class Sink:
        concurrency = 5

        async def send(self, event: Event) -> Result:
            key = str(event["partitionkey"])
            assert key not in active
            active.add(key)
            await asyncio.sleep(chance.random() * 0.003)
            active.discard(key)
            if chance.random() < 0.1:
                return Undelivered(reason="reset")
            sent[key].append(event.id)
            return Ack()

    async with AsyncExitStack() as stack:
        stores = [await stack.enter_async_context(open_store(url)) for _ in range(3)]
        outboxes = [
            Outbox(
                store.outbox, Sink(), key=lambda event: event.get("partitionkey"), retry=policy, poll=0.01, batch=batch
            )
            for store, batch in zip(stores, (5, 20, 100), strict=True)
        ]
        for outbox in outboxes:
            await stack.enter_async_context(outbox)
        for number in range(0, 300, 20):
            for part in range(20):
                key = f"k{(number + part) % 7}"
                await outboxes[part % 3].add(new(id=str(number + part), partitionkey=key))
        async with asyncio.timeout(30):
            while (await outboxes[0].lag()).waiting:  # noqa: ASYNC110 - three empty it
                await asyncio.sleep(0.01)
    assert dict(sent) == {f"k{key}": [str(number) for number in range(300) if number % 7 == key] for key in range(7)}


async def test_an_event_for_later_survives_a_restart(url: str) -> None:
    """K-D11: by the clock of the database, also in a transaction of the program itself."""
    async with open_store(url) as store:
        outbox = Outbox(store.outbox, key=lambda event: "k")
        [[stamp]] = await execute(url, f"SELECT {NOW[url[:6]]}")
        moment = datetime.fromtimestamp(stamp / 1e6, UTC) + timedelta(seconds=50)
        await outbox.add(new(id="at"), at=moment)
        await outbox.add(new(id="delay"), delay=100)
        await outbox.add(new(id="cancelled"), delay=100)
    async with made(open_store(url)) as store:
        outbox = Outbox(store.outbox)
        assert await outbox.cancel("/s", "cancelled")
        assert await waiting(store) == []
        assert await outbox.lag() == (0, 0.0, 2)
        [[due]] = await execute(url, "SELECT due FROM cek_outbox WHERE identity = '2:/sat'")
        assert due == (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
        for passed, ids in ((49, []), (2, ["at"]), (50, ["at", "delay"])):
            for column in ("since", "due"):
                await age(url, "cek_outbox", column, passed)
            assert await waiting(store) == ids
            await age(url, "cek_outbox", "due", 1)


NOW = {
    "sqlite": "CAST((julianday('now') - 2440587.5) * 86400000000 AS INTEGER)",
    "postgr": "CAST(EXTRACT(EPOCH FROM now()) * 1000000 AS BIGINT)",
}


async def test_a_transaction_may_add_events_for_later(opened: SqlStore, engine: AsyncEngine) -> None:
    """K-D11."""
    outbox = Outbox(opened.outbox)
    async with engine.begin() as connection:
        await outbox.add(new(id="1"), connection, delay=50)
        await connection.run_sync(lambda inner: outbox.add_sync(new(id="2"), inner, delay=60))
    async with engine.connect() as connection:
        await outbox.add(new(id="3"), connection, delay=50)
        await connection.rollback()
    assert await outbox.lag() == (0, 0.0, 2)


async def test_one_of_several_processes_cancels_an_event_or_sends_it(url: str) -> None:
    """K-D11: never both, however they meet."""
    got: list[str] = []

    async def handler(event: Event) -> None:
        got.append(event.id)

    async with open_store(url) as one, open_store(url) as other:
        sending, outbox = Outbox(one.outbox, HandlerSink(handler), poll=0.01), Outbox(other.outbox)
        ids = [str(number) for number in range(100)]
        for id in ids:
            await outbox.add(new(id=id), delay=0.02 * int(id))
        async with sending:
            said = await asyncio.gather(*(outbox.cancel("/s", id) for id in ids))
            async with asyncio.timeout(10):
                while any(await sending.lag()):  # noqa: ASYNC110 - the other empties it
                    await asyncio.sleep(0.01)
    assert sorted(got + [id for id, gone in zip(ids, said, strict=True) if gone]) == sorted(ids)
    assert any(said)


async def test_a_cancellation_whose_answers_were_lost_says_the_truth(
    opened: SqlStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    await opened.outbox.add(new(id="later"), key=None, due=100.0)
    transact = opened.outbox._lane._transact

    async def twice(work: Callable[[AsyncConnection], Awaitable[Any]]) -> Any:
        await transact(work)
        return await transact(work)

    monkeypatch.setattr(opened.outbox._lane, "_transact", twice)
    assert await opened.outbox.cancel("/s", "later")
    assert not await opened.outbox.cancel("/s", "later")
    assert await opened.outbox.lag() == (0, 0.0, 0)


async def test_in_postgresql_events_of_one_key_have_the_order_of_the_commits(
    opened: SqlStore, engine: AsyncEngine
) -> None:
    if engine.dialect.name == "sqlite":  # where transactions that write follow each other anyway
        return
    outbox = Outbox(opened.outbox, key=lambda event: event.subject)
    order: list[str] = []

    async def second(connection: AsyncConnection) -> None:
        await outbox.add(new(id="2", subject="k"), connection)
        order.append("2")
        await connection.commit()

    async with engine.connect() as one, engine.connect() as two, engine.connect() as three:
        await outbox.add(new(id="1", subject="k"), one)
        task = asyncio.create_task(second(two))
        await outbox.add(new(id="3", subject="another"), three)
        await three.commit()
        assert await waiting(opened) == ["3"]
        order.append("1")
        await one.commit()
        await task
    assert order == ["1", "2"]


async def test_the_relay_sends_what_another_transaction_has_committed(opened: SqlStore, engine: AsyncEngine) -> None:
    got: list[str] = []
    arrived = asyncio.Event()

    async def handler(event: object) -> None:
        got.append(event.id)  # type: ignore[attr-defined]
        arrived.set()

    async with Outbox(opened.outbox, HandlerSink(handler), poll=30) as outbox:
        async with asyncio.timeout(5):
            async with engine.begin() as connection:
                await outbox.add(new(id="1"), connection)
                assert not got
            await arrived.wait()
            arrived.clear()
            async with engine.begin() as connection:
                await connection.run_sync(lambda inner: outbox.add_sync(new(id="2"), inner))
            await arrived.wait()
    assert got == ["1", "2"]
    assert await outbox.lag() == (0, 0.0, 0)


async def test_a_lease_whose_answer_was_lost_is_found_again(opened: SqlStore) -> None:
    await add(opened.outbox, *"abc")
    wanted = _Lease(2, 60)

    async def twice(connection: AsyncConnection) -> list[list[str]]:
        answers = [await opened.outbox._lease_all(connection, [wanted]) for _ in range(2)]
        return [[_frozen.unpack(row.event).id for row in rows] for [(rows, _)] in answers]

    assert await opened.outbox._lease._lane.run(twice) == [["a", "b"], ["a", "b"]]
    assert await waiting(opened) == ["c"]


async def test_what_a_closed_relay_had_leased_is_due_at_once(url: str) -> None:
    """Also what was being sent, with the attempts it had."""
    hanging = asyncio.Event()

    async def hang(event: object) -> None:
        hanging.set()
        await asyncio.Event().wait()

    async with open_store(url) as store:
        for number in range(20):
            await store.outbox.add(new(id=str(number)), key=None)
        async with Outbox(store.outbox, HandlerSink(hang), grace=0.01, concurrency=3):
            await hanging.wait()
        found = await store.outbox.lease(100, 60)
        assert [(event.id, attempts) for _, event, attempts, _ in found] == [(str(number), 0) for number in range(20)]
