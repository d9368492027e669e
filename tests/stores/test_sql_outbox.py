"""The outbox in SQLite and PostgreSQL, in the transactions of others."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from cloudevents_kit import HandlerSink, _json
from cloudevents_kit.outbox import Outbox, OutboxStore
from cloudevents_kit.stores import open_store
from cloudevents_kit.stores.sql import SqlStore
from cloudevents_kit.stores.sql._outbox import _Lease
from tests.support.conformance_outbox import OutboxStoreConformance, add
from tests.support.events import new
from tests.support.sql import age, execute


class TestConformance(OutboxStoreConformance):
    url: str

    @pytest.fixture
    def store(self, opened: SqlStore, url: str) -> OutboxStore:
        type(self).url = url
        return opened.outbox

    async def passes(self, ticks: float) -> None:
        await age(self.url, "cek_outbox", "due", ticks * self.tick)
        await age(self.url, "cek_outbox", "added", ticks * self.tick)


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
    return [event.id for _, event, _ in await store.outbox.lease(100, 0.001)]


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
    async with engine.connect() as plain:
        connection = await plain.execution_options(isolation_level="AUTOCOMMIT")
        with pytest.raises(ValueError, match="connection: must be in a transaction, not in AUTOCOMMIT"):
            await outbox.add(new(), connection)
    async with engine.connect() as connection:
        with pytest.raises(TypeError, match="connection: must not be an async one here"):
            outbox.add_sync(new(), connection)
    with pytest.raises(TypeError, match="connection: must be an AsyncConnection or AsyncSession, not Engine"):
        await outbox.add(new(), engine.sync_engine)
    with pytest.raises(TypeError, match="connection: must be SQLAlchemy's, or a session, not str"):
        outbox.add_sync(new(), "sqlite:")
    assert await waiting(opened) == []


async def test_scopes_do_not_see_each_other(opened: SqlStore) -> None:
    other = opened.scoped("other").outbox
    await add(opened.outbox, "a")
    await add(other, "a", "b")
    assert (await opened.outbox.lag())[0] == 1
    [(token, _, _)] = await opened.outbox.lease(5, 60)
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
    assert await outbox.lag() == (0, 0.0)


async def test_a_lease_whose_answer_was_lost_is_found_again(opened: SqlStore) -> None:
    await add(opened.outbox, *"abc")
    wanted = _Lease(2, 60)

    async def twice(connection: AsyncConnection) -> list[list[str]]:
        answers = [await opened.outbox._lease_all(connection, [wanted]) for _ in range(2)]
        return [[_json.decode(row.event).id for row in rows] for [(rows, _)] in answers]

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
        assert [(event.id, attempts) for _, event, attempts in found] == [(str(number), 0) for number in range(20)]
