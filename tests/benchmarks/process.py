"""Processes of our own: started, pinned to a core, asked over a pipe, and ended by handle."""

from __future__ import annotations

import asyncio
import logging
import multiprocessing
import os
import signal
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any, Final, Self

_ANSWER_SECONDS: Final = 60.0
_END_SECONDS: Final = 5.0


class SubjectError(Exception):
    """A subject failed, stayed silent, or answered wrongly."""


@dataclass(frozen=True)
class _Failure:
    text: str


def _cores() -> list[int]:
    return sorted(os.sched_getaffinity(0)) if sys.platform == "linux" else []


_CORES: Final = _cores()
SUBJECT_CORE: Final = _CORES[0] if len(_CORES) > 1 else None
OTHER_CORE: Final = _CORES[-1] if len(_CORES) > 1 else None


def pin(core: int | None) -> None:
    """Keep this process on one core, where the system can do that."""
    if core is not None and sys.platform == "linux":
        os.sched_setaffinity(0, {core})


def answer(pipe: Connection, reply: Callable[[Any], object]) -> None:
    """Answer commands one after another until the other side closes the pipe."""
    while True:
        try:
            command = pipe.recv()
        except EOFError:
            return
        try:
            pipe.send(reply(command))
        except Exception:
            pipe.send(_failure())


async def answer_on_loop(pipe: Connection, reply: Callable[[], object]) -> None:
    """Answer every command with `reply()` beside other work of the loop, until the other side closes the pipe."""
    loop = asyncio.get_running_loop()
    closed = asyncio.Event()

    def on_command() -> None:
        try:
            pipe.recv()
        except EOFError:
            loop.remove_reader(pipe.fileno())
            closed.set()
        else:
            pipe.send(reply())

    loop.add_reader(pipe.fileno(), on_command)
    await closed.wait()


def _failure() -> _Failure:
    """The exception being handled, as its last frame and its message."""
    return _Failure(traceback.format_exc(limit=-1).partition("\n")[2].strip())


def _run(target: Callable[..., None], pipe: Connection, core: int | None, arguments: tuple[Any, ...]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    logging.getLogger().addHandler(logging.NullHandler())  # a failure is reported once, not once per request
    pin(core)
    try:
        target(pipe, *arguments)
    except Exception:
        pipe.send(_failure())


class Child:
    """A spawned process that runs `target(pipe, *arguments)` on one core."""

    def __init__(self, target: Callable[..., None], *arguments: Any, core: int | None = SUBJECT_CORE) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_run, args=(target, theirs, core, arguments), daemon=True)
        self._process.start()
        theirs.close()

    def ask(self, command: object) -> Any:
        """Send one command and wait for its answer."""
        try:
            self._pipe.send(command)
        except OSError as error:
            raise SubjectError("the process has ended") from error
        return self.receive()

    def receive(self) -> Any:
        """Wait for what the process sends next."""
        if not self._pipe.poll(_ANSWER_SECONDS):
            raise SubjectError(f"no answer within {_ANSWER_SECONDS:g} s")
        try:
            message = self._pipe.recv()
        except (EOFError, OSError) as error:
            raise SubjectError("the process has ended") from error
        if isinstance(message, _Failure):
            raise SubjectError(message.text)
        return message

    def close(self) -> None:
        """Close the pipe, which ends the process; terminate it, then kill it, if it stays."""
        self._pipe.close()
        for insist in (None, self._process.terminate, self._process.kill):
            if insist is not None:
                insist()
            self._process.join(_END_SECONDS)
            if not self._process.is_alive():
                return

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()
