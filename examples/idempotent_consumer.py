"""An order is charged once, however often its event comes and wherever the process is killed.

    uv run python examples/idempotent_consumer.py

All is in SQLite files, and every part begins with opening them anew. The processes that die do so at the worst moment:
the handler has just committed, and nobody has been told.
"""

import asyncio
import logging
import os
import sys
import tempfile
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.dialects.sqlite import insert
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine

from cloudevents_kit import Event, HandlerSink, Middleware, stages, wrap
from cloudevents_kit.outbox import Outbox
from cloudevents_kit.stores import open_store

KILLED = 9
METADATA = sa.MetaData()
CHARGES = sa.Table("charges", METADATA, sa.Column("number", sa.Integer, primary_key=True), sa.Column("total", sa.Float))
HANDLED = sa.Table(
    "handled", METADATA, sa.Column("source", sa.Text, primary_key=True), sa.Column("id", sa.Text, primary_key=True)
)
ORDER = Event(type="com.example.order.placed", source="/shop", id="order-1", data={"total": 12.5})


async def charge(event: Event, connection: AsyncConnection, outbox: Outbox) -> None:
    """Charge whenever it is called."""
    await connection.execute(sa.insert(CHARGES).values(total=event.data["total"]))


async def charge_once(event: Event, connection: AsyncConnection, outbox: Outbox) -> None:
    """Charge, tell so, and note that both is done: in one transaction."""
    mark = insert(HANDLED).values(source=event.source, id=event.id).on_conflict_do_nothing()
    if (await connection.execute(mark)).rowcount == 0:
        return
    await charge(event, connection, outbox)
    charged = event.reply(type="com.example.order.charged", source="/billing", id=f"{event.id}/charged")
    await outbox.add(charged, connection)


Work = Callable[[Event, AsyncConnection, Outbox], Awaitable[None]]
WORK: dict[str, Work] = {work.__name__: work for work in (charge, charge_once)}


async def consume(path: Path, work: Work, front: str, copies: int, *, dies: bool = False) -> None:
    """Get the event ``copies`` times, and go on until nothing is left to do."""
    engine = create_async_engine(f"sqlite+aiosqlite:///{path}", connect_args={"timeout": 10})
    done = asyncio.Event()

    async with AsyncExitStack() as stack:
        store = await stack.enter_async_context(open_store(f"sqlite:///{path}"))
        stack.push_async_callback(engine.dispose)
        async with engine.begin() as connection:
            await connection.run_sync(METADATA.create_all)
        outbox = Outbox(store.outbox)

        async def handle(event: Event) -> None:
            async with engine.begin() as connection:
                await work(event, connection, outbox)
            if dies:
                os._exit(KILLED)  # as if somebody had pulled the plug
            done.set()

        fronts: dict[str, Middleware] = {
            "deduplicate": stages.deduplicate(store.deduplication, lease=1),
            "inbox": stages.queue(store=store.queue, lease=1, poll=0.05),
        }
        handler = wrap(handle, *[fronts[name] for name in fronts if name == front])
        async with stages.running(handler):
            for _ in range(copies):
                while not await HandlerSink(handler).send(ORDER):  # noqa: ASYNC110 - as a sender comes again
                    await asyncio.sleep(0.05)
            if front == "inbox":
                await done.wait()


async def die(path: Path, work: Work, front: str) -> None:
    """Run `consume` in a process that dies at its worst moment."""
    child = await asyncio.create_subprocess_exec(sys.executable, __file__, str(path), work.__name__, front)
    if await child.wait() != KILLED:
        raise RuntimeError("it ended in another way")


async def show(path: Path) -> None:
    async with open_store(f"sqlite:///{path}") as store:
        told = (await Outbox(store.outbox).lag()).waiting
    engine = create_async_engine(f"sqlite+aiosqlite:///{path}")
    async with engine.connect() as connection:
        charged = (await connection.execute(sa.select(sa.func.count()).select_from(CHARGES))).scalar()
    await engine.dispose()
    print(f"     charged: {charged}, told: {told}")


async def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        one, two, three, four, five = (Path(name) / f"{number}.db" for number in range(1, 6))
        await asyncio.gather(
            die(three, charge, "deduplicate"), die(four, charge_once, "deduplicate"), die(five, charge_once, "inbox")
        )

        print("1. Nothing in front of the handler: the event comes three times")
        await consume(one, charge, "nothing", copies=3)
        await show(one)

        print("2. With deduplicate: three times, and twice more after a restart")
        await consume(two, charge, "deduplicate", copies=3)
        await consume(two, charge, "deduplicate", copies=2)
        await show(two)

        print("3. With deduplicate, in a process that died after the handler's commit: the sender comes again")
        await consume(three, charge, "deduplicate", copies=1)
        await show(three)

        print("4. The same, but the handler notes in its own transaction what it has handled")
        await consume(four, charge_once, "deduplicate", copies=1)
        await show(four)

        print("5. The same with an inbox: the sender was answered before, and does not come again")
        await consume(five, charge_once, "inbox", copies=0)
        await show(five)


if __name__ == "__main__":
    logging.basicConfig(level=logging.CRITICAL)
    if len(sys.argv) == 1:
        asyncio.run(main())
    else:
        _, path, work, front = sys.argv
        asyncio.run(consume(Path(path), WORK[work], front, copies=1, dies=True))
