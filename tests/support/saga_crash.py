"""A shop that is killed at any moment, for tests of sagas: ``python -m tests.support.saga_crash URL FOLDER KILLS``.

This process makes one after the other and kills it some time later with SIGKILL, until all orders of a round are over;
then comes the next round, until there were enough kills. For each round it prints how the orders ended.

Each effect is a file, named by its key, as a service keeps it that tells copies; a second line in it is a second
attempt. The shop starts sagas for the orders that nobody has acknowledged yet.
"""

import asyncio
import hashlib
import os
import random
import signal
import sys
import time
import traceback
from pathlib import Path

from cloudevents_kit import ACCEPTED, Reject, RetryPolicy
from cloudevents_kit.saga import Context, Saga, Step
from cloudevents_kit.stores import open_store
from tests.support.events import new

ORDERS = 12
STEPS = ("reserve", "pay", "pack", "ship")


def fails(order: int) -> str | None:
    """Return the step that fails for good for ``order``, if any."""
    return (None, "ship", None, "pay", "pack")[order % 5]


async def shop(url: str, folder: Path, seed: int) -> None:
    chance = random.Random(seed)

    def work(name: str) -> object:
        async def work(step: Context) -> str:
            await asyncio.sleep(chance.random() * 0.01)
            if name == fails(int(step.event.id)):
                raise Reject("never")
            if chance.random() < 0.1:
                raise OSError("not now")
            file = folder / f"{step.event.id}.{name}.{hashlib.sha256(step.key.encode()).hexdigest()[:8]}"
            with file.open("a") as effect:
                effect.write(f"{step.attempt} {asyncio.get_running_loop().time()}\n")
            await asyncio.sleep(chance.random() * 0.01)
            return f"{name} {step.event.id}"

        return work

    async with open_store(url) as store:
        saga = Saga(
            "order",
            [Step(name, work(name), work(f"{name}:undo")) for name in STEPS],  # type: ignore[arg-type]
            journal=store.scoped(folder.name).sagas,
            retry=RetryPolicy(attempts=30, initial=0.01, max_delay=0.02, deadline=None),
            lease=0.5,
            poll=0.05,
            concurrency=4,
        )
        async with saga:
            events = [new(id=str(number)) for number in range(ORDERS)]
            for event in events:
                acknowledged = folder / f"{event.id}.acknowledged"
                if not acknowledged.exists() and await saga(event) is ACCEPTED:
                    acknowledged.touch()
            while True:
                found = [await saga.find(saga.id_of(event)) for event in events]
                if all(one is not None and one.status in {"completed", "compensated", "stuck"} for one in found):
                    break
                await asyncio.sleep(0.02)
        (folder / "over").write_text(" ".join(one.status for one in found if one is not None))


def main(url: str, root: Path, kills: int) -> None:
    chance, killed, number, seed = random.Random(8), 0, 0, 0
    while killed < kills:
        number += 1
        folder = root / str(number)
        folder.mkdir()
        while not (folder / "over").exists():
            seed += 1
            # Now and then long enough for the leases of the dead to end.
            killed += not _lives(url, folder, seed, chance.uniform(0.02, 0.8) if killed < kills else 60.0)
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
