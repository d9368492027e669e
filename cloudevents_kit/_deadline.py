"""One time limit for many tasks: a queue of deadlines and a single timer of the loop.

`asyncio.timeout` arms and cancels a timer for every use. Here all uses share one length, so they expire in the order
in which they began, and one timer for the oldest is enough. Knows nothing of events or HTTP.
"""

from __future__ import annotations

import asyncio
import types
from collections.abc import Coroutine, Generator
from typing import Any, TypeVar

_Task = asyncio.Task[Any]
T = TypeVar("T")


class Expired(TimeoutError):
    """Raised where a use of ``deadlines`` is over, ``elapsed`` seconds after it began."""

    def __init__(self, deadlines: Deadlines, elapsed: float) -> None:
        """Tell whose limit it was: whoever set one must not take another's for his own."""
        super().__init__(f"out of time after {elapsed:.3f} s")
        self.deadlines = deadlines
        self.elapsed = elapsed


class Deadlines:
    """Limits the time that a task spends inside ``with deadlines:`` to ``seconds``, then raises `Expired` there.

    One object serves any number of tasks. A use inside another of the same task began later, so the outer limit is the
    one that counts.
    """

    __slots__ = ("_expired", "_loop", "_nested", "_running", "_shortened", "_timer", "seconds")

    def __init__(self, seconds: float) -> None:
        """Allow ``seconds`` for each use."""
        self.seconds = seconds
        # By task: when its time is over, and how often it was asked to cancel before it came here.
        self._running: dict[_Task, tuple[float, int]] = {}
        self._expired: dict[_Task, tuple[float, int]] = {}
        self._nested: dict[_Task, int] = {}
        self._shortened: dict[_Task, asyncio.TimerHandle] = {}
        self._timer: asyncio.Handle | None = None
        self._loop: asyncio.AbstractEventLoop | None = None  # that of the timer

    def __enter__(self) -> None:
        """Begin a use in the current task."""
        loop = asyncio.get_running_loop()
        task = asyncio.current_task(loop)
        assert task is not None  # noqa: S101 - callbacks of the loop, which have no task, cannot await
        if task in self._running or task in self._expired:
            self._nested[task] = self._nested.get(task, 0) + 1
            return
        due = loop.time() + self.seconds
        self._running[task] = (due, task.cancelling())
        if self._timer is None or self._loop is not loop:  # a loop that is gone never calls
            self._timer = loop.call_at(due, self._ring, loop)
            self._loop = loop

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        """Turn the cancellation that this deadline caused into `Expired`; let every other one pass."""
        task: Any = asyncio.current_task()
        if self._nested and task in self._nested:
            self._leave_nested(task)
            return
        if self._shortened and (timer := self._shortened.pop(task, None)) is not None:
            timer.cancel()
        if self._running.pop(task, None) is None:
            due, before = self._expired.pop(task)
            if task.uncancel() <= before and kind is asyncio.CancelledError:
                raise Expired(self, task.get_loop().time() - due + self.seconds) from error

    @types.coroutine
    def limit(self, coroutine: Coroutine[Any, Any, T]) -> Generator[Any, Any, T]:
        """Await ``coroutine`` as ``with deadlines:`` would; one that ends without ever waiting needs no timer."""
        try:
            waits_for = coroutine.send(None)
            with self:
                while True:
                    try:
                        sent = yield waits_for
                    except BaseException as error:  # noqa: BLE001 - whatever it is, it is for the coroutine
                        waits_for = coroutine.throw(error)
                    else:
                        waits_for = coroutine.send(sent)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]

    def shorten(self, seconds: float) -> None:
        """Let the current task's use end ``seconds`` from now, if that is sooner."""
        task: Any = asyncio.current_task()
        if seconds < self.seconds and task not in self._nested:
            timer = task.get_loop().call_later(seconds, self._expire, task, self._running[task])
            self._shortened[task] = timer

    def in_time(self, _: object = None) -> bool:
        """Tell whether the current task's use goes on; a task may answer although it was cancelled."""
        return not self._expired or asyncio.current_task() not in self._expired

    def expire_all(self) -> None:
        """End every running use now, as if its time were over."""
        for task, use in list(self._running.items()):
            self._expire(task, use)

    def close(self) -> None:
        """Let go of the timer; what still runs is no longer limited."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _leave_nested(self, task: _Task) -> None:
        self._nested[task] -= 1
        if not self._nested[task]:
            del self._nested[task]

    def _expire(self, task: _Task, use: tuple[float, int]) -> None:
        if self._running.get(task) is use:
            del self._running[task]
            self._expired[task] = use
            task.cancel()

    def _ring(self, loop: asyncio.AbstractEventLoop) -> None:
        """Let first go on who got in this very turn of the loop what they waited for: that was in time."""
        self._timer = loop.call_soon(self._sweep, loop)

    def _sweep(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = None
        now = loop.time()
        while self._running:
            task, use = next(iter(self._running.items()))
            if use[0] > now:
                self._timer = loop.call_at(use[0], self._ring, loop)
                return
            self._expire(task, use)
