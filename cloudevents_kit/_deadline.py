"""One time limit for many tasks: a queue of deadlines and a single timer of the loop.

`asyncio.timeout` arms and cancels a timer for every use. Here all uses share one length, so they expire in the order
in which they began, and one timer for the oldest is enough. Knows nothing of events or HTTP.
"""

from __future__ import annotations

import asyncio
from typing import Self


class Deadline:
    """One running use of `Deadlines`; a context manager around awaits of the current task."""

    __slots__ = ("_cancelling", "_owner", "_task", "due", "expired")

    def __init__(self, owner: Deadlines, task: asyncio.Task[object], due: float) -> None:
        """Belong to ``owner``; cancel ``task`` at loop time ``due``."""
        self._owner = owner
        self._task = task
        self._cancelling = task.cancelling()
        self.due = due
        self.expired = False

    def __enter__(self) -> Self:
        """Nothing to do: the clock runs since `Deadlines.start`."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        """Turn the cancellation that this deadline caused into TimeoutError; let every other one pass."""
        self._owner.running.pop(self, None)
        if self.expired and self._task.uncancel() <= self._cancelling and kind is asyncio.CancelledError:
            raise TimeoutError from error

    def expire(self) -> None:
        """End this use now, as if its time were over."""
        if self._owner.running.pop(self, False) is None:
            self.expired = True
            self._task.cancel()


class Deadlines:
    """Cancels tasks that stay inside ``with deadlines.start():`` for more than ``seconds``."""

    __slots__ = ("_timer", "running", "seconds")

    def __init__(self, seconds: float) -> None:
        """Allow ``seconds`` for each use."""
        self.seconds = seconds
        self.running: dict[Deadline, None] = {}
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> Deadline:
        """Begin a use in the current task."""
        task = asyncio.current_task()
        if task is None:
            msg = "a deadline needs a running task"
            raise RuntimeError(msg)
        loop = task.get_loop()
        deadline = Deadline(self, task, loop.time() + self.seconds)
        self.running[deadline] = None
        if self._timer is None:
            self._timer = loop.call_at(deadline.due, self._sweep, loop)
        return deadline

    def expire_all(self) -> int:
        """End every running use now; return how many there were."""
        running = list(self.running)
        for deadline in running:
            deadline.expire()
        return len(running)

    def close(self) -> None:
        """Forget the timer; what still runs is no longer limited."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _sweep(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = None
        now = loop.time()
        while self.running:
            oldest = next(iter(self.running))
            if oldest.due > now:
                self._timer = loop.call_at(oldest.due, self._sweep, loop)
                return
            oldest.expire()
