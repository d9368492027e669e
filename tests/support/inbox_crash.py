"""A receiver that stores events and works on them later: ``python -m tests.support.inbox_crash URL FILE PORT``.

It is killed at any moment. Whatever is handled is a line in FILE.
"""

import asyncio
import os
import sys

from cloudevents_kit import Event, Receiver, RetryPolicy, stages
from cloudevents_kit.stores import open_store


async def main(url: str, path: str, port: str) -> None:
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    async def handle(event: Event) -> None:
        await asyncio.sleep(0.005)
        os.write(file, f"{event.id}\n".encode())

    async with open_store(url, patience=30) as store:
        inbox = stages.queue(
            store=store.queue, workers=8, lease=0.5, poll=0.05, retry=RetryPolicy(attempts=1000, initial=0.01)
        )
        async with Receiver(handle, inbox, port=int(port)):
            print("begun", flush=True)  # noqa: T201 - to whoever started this
            await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
