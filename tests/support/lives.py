"""Lives of a program, one after the other, each of which ends by SIGKILL: for tests of what survives that.

Lives are forks of a process that has loaded all modules, which saves a second each time; it must run no thread.
"""

from __future__ import annotations

import asyncio
import ctypes
import importlib
import os
import random
import signal
import sys
import time
import traceback
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress

from tests.support.programs import ROOT

#: How often each program is killed; a longer run is asked for by the environment.
KILLS = int(os.environ.get("KILLS", "20"))

#: What is imported as late as it is needed, which would be in each life.
LOADED = (
    "cloudevents_kit.receiver", "cloudevents_kit.sender", "cloudevents_kit.stores.sql", "aiohttp.web", "tenacity",
    "sqlalchemy.dialects.sqlite.aiosqlite", "sqlalchemy.dialects.postgresql.asyncpg", "aiosqlite", "asyncpg",
)  # fmt: skip

Work = Callable[[Callable[[], None]], Coroutine[object, object, None]]


def begin(work: Work) -> tuple[int, int]:
    """Run ``work(tell)`` in a process of its own; return that, and a pipe that gets a byte when ``tell`` is called."""
    for name in LOADED:
        importlib.import_module(name)
    reading, writing = os.pipe()
    process = os.fork()
    if process:
        os.close(writing)
        return process, reading
    code = 1
    try:
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # it ends with its parent
        os.set_blocking(writing, False)

        def tell() -> None:
            with suppress(BlockingIOError):  # nobody reads it
                os.write(writing, b"!")

        asyncio.run(work(tell))
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def end(process: int, reading: int) -> int:
    """Wait for the end of a process, and return its exit code."""
    os.close(reading)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def kill_at(number: int, work: Work) -> None:
    """Begin ``work``, and kill it at a moment that ``number`` decides: after some progress, or while it begins."""
    chance = random.Random(number)
    process, reading = begin(work)
    if number % 5:
        for _ in range(chance.randrange(60)):
            assert os.read(reading, 1) == b"!", f"life {number} ended by itself"
    time.sleep(chance.uniform(0.0, 0.03))
    os.kill(process, signal.SIGKILL)
    if end(process, reading) != -signal.SIGKILL:
        raise AssertionError(f"life {number} ended by itself")


@asynccontextmanager
async def program(module: str, *arguments: object) -> AsyncIterator[Process]:
    """Run a module that makes lives."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-W", "error", "-m", module, *map(str, arguments)),
        cwd=ROOT,
        env={name: value for name, value in os.environ.items() if not name.startswith("COV")},
        stdin=PIPE,
        stdout=PIPE,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()
