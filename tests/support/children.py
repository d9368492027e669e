"""A receiver in a process of its own, to be ended from outside."""

import asyncio
import json
import os
import signal
import sys
from asyncio.subprocess import PIPE, STDOUT, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from tests.support.programs import ROOT
from tests.support.servers import port_of

#: Says when it handles an event and goes on when it is sent SIGUSR1; the options come as JSON.
PROGRAM = """
import asyncio, json, logging, signal, sys
from cloudevents_kit import Event, Receiver

logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)


async def handle(event: Event) -> None:
    leave = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, leave.set)
    print("handling", event.id)
    try:
        await leave.wait()
        print("handled", event.id)
    except asyncio.CancelledError:
        print("cancelled", event.id)
        raise


Receiver(handle, port=0, **json.loads(sys.argv[1])).run()
print("after run")
"""


class Child:
    """A process whose output is read line by line; each wait has its limit."""

    def __init__(self, process: Process) -> None:
        assert process.stdout is not None
        self._process = process
        self._output = process.stdout
        self.lines: list[str] = []

    @property
    def port(self) -> int:
        """The port that the first line names."""
        return port_of(self.lines[0].removeprefix("receiving at "))

    async def says(self, wanted: str) -> None:
        """Read on to the line ``wanted``, or to one that begins with it."""
        async with asyncio.timeout(10):
            while line := (await self._output.readline()).decode().rstrip():
                self.lines.append(line)
                if line.startswith(wanted):
                    return
        raise AssertionError(f"ended without {wanted!r}: {self.lines}")

    def signal(self, number: signal.Signals) -> None:
        """Send a signal."""
        self._process.send_signal(number)

    async def end(self) -> int | None:
        """Wait for the end and return the exit code."""
        async with asyncio.timeout(10):
            rest, _ = await self._process.communicate()
        self.lines += rest.decode().splitlines()
        return self._process.returncode


@asynccontextmanager
async def child(**options: Any) -> AsyncIterator[Child]:
    """Run `PROGRAM` until it serves; make sure that it ends."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-W", "error", "-u", "-c", PROGRAM, json.dumps(options)),
        cwd=ROOT,
        env={name: value for name, value in os.environ.items() if not name.startswith("COV")},
        stdout=PIPE,
        stderr=STDOUT,
    )
    try:
        found = Child(process)
        await found.says("receiving at ")
        yield found
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()
