"""A receiver that stores events and works on them later: ``python -m tests.support.inbox_crash URL FILE PORT KILLS``.

It is killed that often, and then goes on until there is a line on its input. Whatever is handled is a line in FILE.
"""

import asyncio
import os
import signal
import sys
from collections.abc import Callable
from functools import partial

from cloudevents_kit import Event, Receiver, RetryPolicy, stages
from cloudevents_kit.stores import open_store
from tests.support.lives import begin, end, kill_at


async def live(url: str, path: str, port: int, tell: Callable[[], None]) -> None:
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    async def handle(event: Event) -> None:
        await asyncio.sleep(0.005)
        os.write(file, f"{event.id}\n".encode())
        tell()

    async with open_store(url, patience=30) as store:
        inbox = stages.queue(
            store=store.queue, workers=8, lease=0.5, poll=0.05, retry=RetryPolicy(attempts=1000, initial=0.01)
        )
        async with Receiver(handle, inbox, port=port):
            await asyncio.Event().wait()


def main(url: str, path: str, port: str, kills: str) -> None:
    work = partial(live, url, path, int(port))
    for number in range(int(kills)):
        kill_at(number, work)
    process, reading = begin(work)
    print("killed", flush=True)  # noqa: T201 - to whoever started this
    sys.stdin.readline()
    os.kill(process, signal.SIGKILL)
    end(process, reading)


if __name__ == "__main__":
    main(*sys.argv[1:])
