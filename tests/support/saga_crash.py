"""A shop that is killed at any moment, for tests of sagas: ``python -m tests.support.saga_crash URL FOLDER KILLS``.

This process makes one after the other and kills it some time later with SIGKILL, until all orders of a round are over;
then comes the next round, until there were enough kills. For each round it prints how the orders ended.

Each effect is a file, named by its key, as a service keeps it that tells copies; a second line in it is a second
attempt. The shop starts sagas for the orders that nobody has acknowledged yet. Its bank is asked by event, and answers
later, by an event of its own, which it sends until it is taken.
"""

import asyncio
import hashlib
import logging
import os
import random
import signal
import sys
import time
import traceback
from collections.abc import Awaitable, Callable
from pathlib import Path

from cloudevents_kit import ACCEPTED, Event, Outcome, Reject, Result, RetryPolicy, settle
from cloudevents_kit.saga import Context, Saga, Step, ask
from cloudevents_kit.stores import open_store

ORDERS = 14
STEPS = ("reserve", "pay", "pack", "ship")
OVER = {"completed", "compensated", "stuck"}


def fails(order: int) -> str | None:
    """Return the step that fails for good for ``order``, if any."""
    return (None, "ship", None, "pay", "pack", "ship", None)[order % 7]


def sticks(order: int) -> bool:
    """Tell whether the money cannot be given back."""
    return order % 7 == 5


def breaks_down(order: int) -> bool:
    """Tell whether the shipper answers once at most: if the shop does not live to hear it, nobody can tell."""
    return order % 7 == 6


class Services:
    """What the steps do, with accidents; ``seed`` says which."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder = folder
        self.chance = random.Random(seed)

    def work(self, name: str) -> Callable[[Context], Awaitable[str]]:
        async def work(step: Context) -> str:
            if name == "ship" and breaks_down(int(step.event.id)):
                if step.attempt > 1:
                    raise OSError("broken down")
                self.effect(name, step.event.id, step.key)
                await asyncio.sleep(0.1)  # time to be killed in
                return "shipped"
            return await self.act(name, step.event.id, step.key)

        return work

    async def act(self, name: str, order: str, key: str) -> str:
        await asyncio.sleep(self.chance.random() * 0.01)
        if name == fails(int(order)) or (name == "pay:undo" and sticks(int(order))):
            raise Reject("never")
        if self.chance.random() < 0.1:
            raise OSError("not now")
        self.effect(name, order, key)
        await asyncio.sleep(self.chance.random() * 0.01)
        return f"{name} {order}"

    def effect(self, name: str, order: str, key: str) -> None:
        file = self.folder / f"{order}.{name}.{hashlib.sha256(key.encode()).hexdigest()[:8]}"
        with file.open("a") as effect:
            effect.write(f"{time.monotonic()}\n")

    async def send(self, event: Event, /) -> Result:
        """Take money, and answer later."""

        async def pay(event: Event) -> Outcome:
            await self.act("pay", event.data, event.id)
            (self.folder / f"{event.data}.paid").write_text(event.id)
            return ACCEPTED

        return await settle(pay, event)

    async def answer(self, saga: Saga) -> None:
        """Tell the shop of payments that it has not acknowledged yet."""
        while True:
            for paid in self.folder.glob("*.paid"):
                number = paid.stem
                told = self.folder / f"{number}.told"
                if not told.exists():
                    await saga.deliver(Event(type="paid", source="/bank", id=number, causationid=paid.read_text()))
                    told.touch()
            await asyncio.sleep(0.01)

    def letter(self, event: Event, error: Exception) -> None:
        (self.folder / f"{event.id}.letter").write_text(str(error))

    def steps(self) -> list[Step]:
        def question(step: Context) -> Event:
            return step.make(type="pay", source="/shop", data=step.event.id)

        pay = Step("pay", ask(self, question, timeout=20), self.work("pay:undo"))
        steps = {name: Step(name, self.work(name), self.work(f"{name}:undo")) for name in STEPS}
        ship = Step(
            "ship",
            self.work("ship"),
            self.work("ship:undo"),
            retry=RetryPolicy(attempts=12, initial=0.01, max_delay=0.02, deadline=None),
        )
        return [*{**steps, "pay": pay, "ship": ship}.values()]


async def shop(url: str, folder: Path, seed: int) -> None:
    services = Services(folder, seed)
    logging.disable()
    async with open_store(url) as store:
        saga = Saga(
            "order",
            services.steps(),
            journal=store.scoped(folder.name).sagas,
            retry=RetryPolicy(attempts=50, initial=0.01, max_delay=0.02, deadline=None),
            dead_letter=services.letter,
            lease=0.3,
            poll=0.03,
            concurrency=4,
        )
        async with saga:
            answering = asyncio.create_task(services.answer(saga))
            events = [Event(type="t", source="/s", id=str(number)) for number in range(ORDERS)]
            for event in events:
                acknowledged = folder / f"{event.id}.acknowledged"
                if not acknowledged.exists() and await saga(event) is ACCEPTED:
                    acknowledged.touch()
            while True:
                found = [await saga.find(saga.id_of(event)) for event in events]
                if all(one is not None and one.status in OVER for one in found):
                    break
                await asyncio.sleep(0.02)
            answering.cancel()
            await asyncio.gather(answering, return_exceptions=True)
        (folder / "over").write_text(" ".join(one.status for one in found if one is not None))


def main(url: str, root: Path, kills: int) -> None:
    chance, killed, number, seed = random.Random(8), 0, 0, 0
    while killed < kills:
        number += 1
        folder = root / str(number)
        folder.mkdir()
        while not (folder / "over").exists():
            seed += 1
            # Short as a rule, and now and then long enough for the leases of the dead to end.
            seconds = 0.02 + 0.48 * chance.random() ** 2 if killed < kills else 60.0
            killed += not _lives(url, folder, seed, seconds)
        sys.stdout.write((folder / "over").read_text() + "\n")


def _lives(url: str, folder: Path, seed: int, seconds: float) -> bool:
    """Run the shop in a process of its own and kill it after ``seconds``; return whether it had ended by itself."""
    process = os.fork()  # all modules are loaded, which saves a second each time
    if process == 0:
        try:
            asyncio.run(shop(url, folder, seed))
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        ended, status = os.waitpid(process, os.WNOHANG)
        if ended:
            assert status == 0, status
            return True
        time.sleep(0.002)
    os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)
    return False


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
