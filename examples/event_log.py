"""Accounts whose events are the truth: balances are folded from them, a view is made of them, old ones are upcast.

    uv run python examples/event_log.py

The first program appends events of version 1; the second one, which knows version 2, goes on with the same file.
"""

import asyncio
import logging
import tempfile
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from cloudevents_kit import Event, stages
from cloudevents_kit.event_log import Conflict, EventLog, Projection, Snapshot, current_connection, current_record
from cloudevents_kit.stores import Store, open_store

BALANCES = sa.Table(
    "balances",
    sa.MetaData(),
    sa.Column("account", sa.Text, primary_key=True),
    sa.Column("cents", sa.Integer, nullable=False),
)


@dataclass
class Moved:
    """The data of version 2: version 1 had the amount alone, and no cents."""

    cents: int
    why: str


@dataclass
class Account:
    """What the events of one account come to."""

    cents: int = 0
    moves: int = 0


def moved(cents: int, why: str) -> Event:
    return Event(type="com.example.account.moved.v2", source="/bank", data={"cents": cents, "why": why})


def apply(account: Account, event: Event) -> Account:
    return Account(account.cents + event.as_type(Moved).cents, account.moves + 1)


UPCAST = stages.upcast(
    (
        "com.example.account.moved.v1",
        "com.example.account.moved.v2",
        lambda event: {"cents": round(event.data * 100), "why": "unknown"},
    ),
)
SNAPSHOT = Snapshot("account", Account, every=50)


async def empty(connection: AsyncConnection) -> None:
    await connection.execute(sa.delete(BALANCES))


view = Projection("balances", transaction=True, reset=empty)


@view.on("com.example.account.moved.v2")
async def add_up(event: Event, move: Moved) -> None:
    """Write the view in the same transaction as how far it is: no event is missing, and none counts twice."""
    account, connection = current_record().stream, current_connection()
    known = sa.update(BALANCES).where(BALANCES.c.account == account)
    if not (await connection.execute(known.values(cents=BALANCES.c.cents + move.cents))).rowcount:
        await connection.execute(sa.insert(BALANCES).values(account=account, cents=move.cents))


async def withdraw(log: EventLog, account: str, cents: int) -> str:
    """Decide on what is known, and begin again if somebody else was quicker."""
    while True:
        state, version = await log.fold(account, apply, Account, snapshot=SNAPSHOT)
        if state.cents < cents:
            return f"no: there are {state.cents / 100:.2f}"
        try:
            done = await log.append(account, moved(-cents, "withdrawal"), expected=version)
        except Conflict:
            continue
        return f"yes, as version {done.version}"


async def old_program(store: Store) -> None:
    print("1. The first program appends what it knows: version 1")
    log = EventLog(store.event_log)
    for number, amount in enumerate((10.5, 20.0), 1):
        await log.append("ann", Event(type="com.example.account.moved.v1", source="/bank", id=f"{number}", data=amount))
    twice = await log.append(
        "ann", Event(type="com.example.account.moved.v1", source="/bank", id="2", data=20.0), expected=1
    )
    print(f"     the same event once more: repeated={twice.repeated}, version {twice.version}")


async def balances(engine: AsyncEngine) -> str:
    """Read the view: it is a table like any other."""
    async with engine.connect() as connection:
        rows = await connection.execute(sa.select(BALANCES).order_by(BALANCES.c.account))
        return ", ".join(f"{account} {cents / 100:.2f}" for account, cents in rows)


async def new_program(store: Store, engine: AsyncEngine) -> None:
    print("2. The second one goes on, and sees only version 2")
    log = EventLog(store.event_log, view, upcast=UPCAST)
    async with log:
        await log.append("bob", moved(500, "deposit"))
        answers = await asyncio.gather(*(withdraw(log, "ann", 2000) for _ in range(2)))
        print("     two withdrawals of 20.00 at once:", "; ".join(sorted(answers)))
        await log.reached("balances")
        async for record in log.read("ann"):
            print(f"     {record.version}: {record.event.as_type(Moved)}")

        print("3. The view has the same, also when it is made anew")
        first = await balances(engine)
        await log.rebuild("balances")
        await log.reached("balances")
        print(f"     {first}; again: {await balances(engine)}")

        print("4. A replay hands the past to somebody new")
        seen: list[str] = []

        async def auditor(event: Event) -> None:
            seen.append(event.as_type(Moved).why)

        plan = await log.replay(auditor, after=2, dry_run=True)
        report = await log.replay(auditor, after=2)
        print(f"     {plan.handled} planned, {report.handled} handed over: {', '.join(seen)}")


async def main() -> None:
    logging.basicConfig(level=logging.CRITICAL)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "bank.db"
        async with open_store(f"sqlite:///{file}") as store:
            await old_program(store)
        engine = create_async_engine(f"sqlite+aiosqlite:///{file}")
        async with engine.begin() as connection:
            await connection.run_sync(BALANCES.metadata.create_all)
        async with open_store(f"sqlite:///{file}") as store:
            await new_program(store, engine)
        await engine.dispose()


if __name__ == "__main__":
    asyncio.run(main())
