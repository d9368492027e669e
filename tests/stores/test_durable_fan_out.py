"""`DurableFanOut` in a database: in transactions, across processes that end, and with many events behind a dead one."""

from __future__ import annotations

import asyncio

from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine

from cloudevents_kit import Ack, Event, Nack, RetryPolicy, filters
from cloudevents_kit.pubsub import DurableFanOut, Subscription
from cloudevents_kit.stores import open_store
from cloudevents_kit.stores.sql import SqlStore
from tests.support.events import new
from tests.support.outcomes import ScriptedSink
from tests.support.pubsub import handled
from tests.support.sql import execute

STORED = Ack(status=202)


class Got(list[str]):
    async def __call__(self, event: Event) -> None:
        self.append(event.id)


def engine_of(url: str) -> AsyncEngine:
    return create_async_engine(
        url.replace("sqlite:", "sqlite+aiosqlite:").replace("postgresql:", "postgresql+asyncpg:")
    )


async def test_what_was_stored_by_a_program_that_ended_is_sent_by_the_next(url: str) -> None:
    first, second = Got(), Got()
    wanted = Subscription("b", second, filters.exact(type="order"), key=lambda event: event.source)
    async with open_store(url) as store:
        fan_out = DurableFanOut(store, [Subscription("a", first), wanted])
        for number in range(20):
            assert await fan_out.send(new(id=str(number), type="order" if number % 2 else "t")) == STORED
            assert await fan_out.send(new(id=str(number), type="order" if number % 2 else "t")) == STORED  # as this one
    async with open_store(url) as store, DurableFanOut(store, [Subscription("a", first), wanted]) as fan_out:
        await handled(fan_out)
    assert sorted(map(int, first)) == [*range(20)]
    assert [int(id) for id in second] == [*range(1, 20, 2)]


async def test_an_event_is_there_for_each_if_the_transaction_is_committed_and_only_then(
    url: str, opened: SqlStore
) -> None:
    a, b = Got(), Got()
    keyed = Subscription("b", b, filters.prefix(type="order."), key=lambda event: event.source)
    fan_out = DurableFanOut(opened, [keyed, Subscription("a", a)], poll=0.02)
    engine = engine_of(url)
    async with fan_out:
        async with engine.begin() as connection:
            assert await fan_out.add(new(id="1", type="order.created"), connection) == ("b", "a")
            assert await fan_out.add(new(id="2"), connection) == ("a",)
        async with engine.connect() as connection:
            assert await fan_out.add(new(id="never", type="order.created"), connection) == ("b", "a")
            await connection.rollback()
        async with AsyncSession(engine) as session, session.begin():
            await fan_out.add(new(id="3", type="order.created"), session)
            await session.run_sync(lambda inner: fan_out.add_sync(new(id="4", type="order.created"), inner))
        await handled(fan_out)
    await engine.dispose()
    assert (sorted(a), b) == (["1", "2", "3", "4"], ["1", "3", "4"])


async def test_two_fan_outs_and_an_outbox_in_one_database_do_not_take_each_other_s_events(opened: SqlStore) -> None:
    one, two = Got(), Got()
    first = DurableFanOut(opened, [Subscription("s", one)], name="first")
    second = DurableFanOut(opened, [Subscription("s", two)], name="second")
    await first.send(new(id="1"))
    await second.send(new(id="2"))
    await opened.outbox.add(new(id="3"), key=None)
    async with first, second:
        await handled(first)
        await handled(second)
    assert (one, two) == (["1"], ["2"])
    assert (await opened.outbox.lag())[0] == 1


async def test_several_processes_send_what_is_stored_for_one_subscriber_once(url: str) -> None:
    """Each has a store of its own here, as each process does."""
    got = Got()
    async with open_store(url) as one, open_store(url) as two:
        workers = [DurableFanOut(store, [Subscription("s", got)], batch=20, poll=0.02) for store in (one, two)]
        await asyncio.gather(*(workers[0].send(new(id=str(number))) for number in range(300)))
        async with workers[0], workers[1]:
            await handled(workers[0])
        counts = [worker.status["subscribers"] for worker in workers]
    assert sorted(map(int, got)) == [*range(300)]
    assert all(count["s"]["sent"] for count in counts)  # type: ignore[index]


async def test_many_events_that_wait_for_a_dead_subscriber_delay_no_other(url: str, opened: SqlStore) -> None:
    got = Got()
    dead = ScriptedSink(Nack(503, "down", retryable=True))
    fan_out = DurableFanOut(
        opened,
        [
            Subscription("dead", dead, key=lambda event: "one", retry=RetryPolicy(attempts=1000, initial=0.01)),
            Subscription("well", got),
        ],
        poll=0.02,
    )
    async with fan_out:
        await asyncio.gather(*(fan_out.send(new(id=str(number))) for number in range(500)))
        await handled(fan_out, "well")
        assert sorted(map(int, got)) == [*range(500)]
        assert (await fan_out.lag())["dead"].waiting == 500
        fan_out.cancel("dead")
        assert await fan_out.drop("dead") == 500
    assert await execute(url, "SELECT id FROM cek_outbox") == []


async def test_what_cannot_be_read_any_more_can_be_dropped(url: str, opened: SqlStore) -> None:
    """It can be neither sent nor leased, and waits for ever otherwise."""
    fan_out = DurableFanOut(opened, [Subscription("s", Got())])
    for number in range(3):
        await fan_out.send(new(id=str(number)))
    await execute(url, "UPDATE cek_outbox SET event = CAST('x' AS BLOB)" if url.startswith("sqlite")
                  else "UPDATE cek_outbox SET event = 'x'")  # fmt: skip
    fan_out.cancel("s")
    async with asyncio.timeout(5):
        assert await fan_out.drop("s") == 3
    assert await execute(url, "SELECT id FROM cek_outbox") == []


async def test_transactions_that_store_for_several_keyed_subscribers_do_not_lock_each_other_up(
    url: str, opened: SqlStore
) -> None:
    """With the same key for all: whatever the keys are, each takes one lock."""
    if url.startswith("sqlite"):  # where transactions that write follow each other
        return
    subscriptions = [Subscription(f"s{number}", Got(), key=lambda event: event.subject or "") for number in range(6)]
    fan_out = DurableFanOut(opened, subscriptions)
    engine = create_async_engine(url.replace("postgresql:", "postgresql+asyncpg:"))

    async def store(first: int) -> None:
        for number in range(first, first + 25):
            async with engine.begin() as connection:
                await fan_out.add(new(id=str(number), subject=str(number * 7 % 40)), connection)

    await asyncio.gather(*(store(100 * number) for number in range(5)))
    await engine.dispose()
    assert {lag.waiting for lag in (await fan_out.lag()).values()} == {125}
