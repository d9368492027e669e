"""Programs that are run as their users run them: in a process of their own."""

import asyncio
import os
import re
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

ROOT = Path(__file__).parents[2]
_STRICT = ("-W", "error", "-X", "dev")
"""Warnings of our programs are errors; servers that others wrote have their own ways."""
_url = re.compile(rb"https?://[^\s]+:[0-9]+")


async def run(*arguments: str) -> tuple[int | None, str]:
    """Run Python to its end; return its exit code and what it printed, errors included."""
    process = await _start(*arguments)
    try:
        async with asyncio.timeout(30):
            printed, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()
    return process.returncode, printed.decode()


class Server:
    """A program that serves; what it printed can be read once it has ended."""

    def __init__(self, process: Process, url: str) -> None:
        self.url = url
        self.printed = ""
        self._process = process

    async def stop(self) -> int | None:
        """Send SIGTERM, wait for the end, and return the exit code."""
        self._process.send_signal(signal.SIGTERM)
        printed, _ = await self._process.communicate()
        self.printed += printed.decode()
        return self._process.returncode


@asynccontextmanager
async def serving(*arguments: str, strict: bool = True) -> AsyncIterator[Server]:
    """Run Python until the block is left; begin when the program has said its URL."""
    process = await _start(*arguments, strict=strict)
    assert process.stdout is not None
    printed = b""
    try:
        async with asyncio.timeout(30):
            while (found := _url.search(printed)) is None:
                line = await process.stdout.readline()
                assert line, f"ended before it served:\n{printed.decode()}"
                printed += line
        server = Server(process, found[0].decode())
        server.printed = printed.decode()
        yield server
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()


async def _start(*arguments: str, strict: bool = True) -> Process:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("COV")}
    environment["PYTHONUNBUFFERED"] = "1"
    return await asyncio.create_subprocess_exec(
        sys.executable,
        *(_STRICT if strict else ()),
        *arguments,
        cwd=ROOT,
        env=environment,
        stdout=PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
