"""Processes that keep or redrive dead letters, and are killed: ``python -m tests.support.dead_letter_crash URL FILE``.

Reads lines such as ``fill SEED FIRST LAST``, or ``drive``, makes and kills the processes of these numbers, and answers
``done``. The
processes are forks of this one: all modules are loaded, which saves a second each time. FILE gets a line for whatever
they did, written whole and before it counts: a handler that has written ``delivered`` may be killed before it returns.
"""

import asyncio
import itertools
import logging
import os
import random
import signal
import sys
import time
import traceback
from collections.abc import Callable, Coroutine
from functools import partial
from importlib import import_module

from cloudevents_kit import Event, settle, wrap
from cloudevents_kit.dead_letter import DeadLetterStore, dead_letters, redrive
from cloudevents_kit.stores import open_store

#: Letters that a process has on their way at once, and processes that redrive at once.
CONCURRENCY = 3
TOGETHER = 2
LEASE = 30.0
#: Between the ids of two processes that fill.
STEP = 10_000

#: What `open_store` would load.
DIALECTS = ("sqlalchemy.dialects.sqlite.aiosqlite", "sqlalchemy.dialects.postgresql.asyncpg")
LOADED = ("cloudevents_kit.stores.sql", "aiosqlite", "asyncpg", *DIALECTS)

Write = Callable[..., object]


def event(number: int) -> Event:
    return Event(type="t", source="/s", id=str(number), data={"number": number}, time=None)


def fails(id: str) -> bool:
    """Tell whether an event fails each time it is redriven."""
    return int(id) % 7 == 0


async def fill(store: DeadLetterStore, write: Write, chance: random.Random, number: int) -> None:
    """Handle events that fail, and again a few of those that the process before this one had."""

    async def broken(event: Event) -> None:
        await asyncio.sleep(chance.random() * 0.002)
        raise ValueError("broken")

    chain = wrap(broken, dead_letters(store, timeout=30))

    async def one(id: int) -> None:
        write("sent", id)
        if await settle(chain, event(id)):
            write("acknowledged", id)

    again = range(max(number - 1, 0) * STEP, max(number - 1, 0) * STEP + 10)
    for first in itertools.chain(again[::5], itertools.count(number * STEP, 5)):
        await asyncio.gather(*(one(first + part) for part in range(5)))


async def drive(store: DeadLetterStore, write: Write, chance: random.Random, _: int) -> None:
    """Redrive on and on."""

    async def deliver(found: Event) -> None:
        write("called" if found == event(int(found.id)) else "changed", found.id)
        await asyncio.sleep(chance.random() * 0.004)
        if fails(found.id):
            raise ValueError("still broken")
        write("delivered", found.id)

    while True:
        await redrive(store, to=deliver, dry_run=False, lease=LEASE, attempts=10**6, concurrency=CONCURRENCY)
        await asyncio.sleep(0.001)


async def live(url: str, path: str, what: str, chance: random.Random, number: int, opened: int) -> None:  # noqa: PLR0917
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def write(*words: object) -> None:
        os.write(file, (" ".join(map(str, words)) + "\n").encode())

    async with open_store(url, patience=30) as store:
        os.write(opened, b"!")
        await (fill if what == "fill" else drive)(store.dead_letters, write, chance, number)


def fork(work: Callable[[int], Coroutine[object, object, None]]) -> tuple[int, int]:
    """Return a process that does ``work``, and where it says that it has opened its store."""
    told, tell = os.pipe()
    process = os.fork()
    if process:
        os.close(tell)
        return process, told
    try:
        asyncio.run(work(tell))
    except BaseException:
        traceback.print_exc()
    os._exit(1)  # not to go on as the parent


def killed(url: str, path: str, what: str, seed: int, number: int) -> None:
    """Make one process, or more, and kill each at a moment of its own: one in five before its store is open."""
    chance = random.Random(f"{what} {seed} {number}")
    count = 1 if what == "fill" else TOGETHER
    made = [fork(partial(live, url, path, what, random.Random(chance.random()), number)) for _ in range(count)]
    for process, told in made:
        if chance.random() < 0.2:
            time.sleep(chance.uniform(0, 0.03))
        elif os.read(told, 1):
            time.sleep(chance.uniform(0, 0.1))
        os.close(told)
        os.kill(process, signal.SIGKILL)
        _, status = os.waitpid(process, 0)
        assert os.WIFSIGNALED(status), f"{what} {seed} {number}: ended by itself, {status}"


if __name__ == "__main__":
    for name in LOADED:
        import_module(name)
    logging.disable(logging.CRITICAL)  # a line for each letter
    for line in sys.stdin:
        what, seed, first, last = line.split()
        for number in range(int(first), int(last)):
            killed(sys.argv[1], sys.argv[2], what, int(seed), number)
        print("done", flush=True)  # noqa: T201 - to whoever started this
