"""A bounded queue with a number of workers: without a store, where its callers wait for the outcome; see `queue`.

A worker is a place to run in, not a task: each event runs in the task of its caller, with its context, and a caller
that is cancelled leaves the queue, or ends the work on its event.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Hashable
from contextlib import suppress
from typing import Literal

from cloudevents_kit._contract import Handler, Outcome
from cloudevents_kit._event import Event
from cloudevents_kit._retry import RetryPolicy
from cloudevents_kit.stages._keys import Key, key_of
from cloudevents_kit.stages._queue_base import Queue, Settings
from cloudevents_kit.stages._queue_store import QueueStore
from cloudevents_kit.stages._queue_stored import DeadLetter, StoredQueue

#: Callers that wait, in their order; True tells them to run, False to give up.
_Line = OrderedDict[asyncio.Future[bool], Hashable]


class _WaitingQueue(Queue):
    def __init__(self, settings: Settings, name: str | None) -> None:
        super().__init__(settings, name)
        self._running = self._waiting = 0
        self._ready: _Line = OrderedDict()
        #: The keys of the events that run or are ready, each with the line of those behind.
        self._keys: dict[Hashable, _Line | None] = {}
        self._idle: asyncio.Future[None] | None = None

    @property
    def running(self) -> int:
        return self._running

    @property
    def waiting(self) -> int:
        return self._waiting

    async def run(self, event: Event, call_next: Handler) -> Outcome:
        self.check_open()
        find = self._settings.key
        key = None if find is None else key_of(self, find, event)
        if self._running < self._workers and (key is None or key not in self._keys):
            self._running += 1
            if key is not None:
                self._keys[key] = None
        else:
            await self._turn(key)
        try:
            return await call_next(event)
        finally:
            self._end(key)

    async def _turn(self, key: Hashable) -> None:
        """Wait for a worker. Raises Withheld if there will be none."""
        if self._settings.on_full == "refuse" and self._waiting >= self._settings.capacity:
            raise self.refusal("the queue is full", self._settings.retry_after)
        future: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        line = self._line_of(key)
        line[future] = key
        self._waiting += 1
        try:
            mine = await future
        except asyncio.CancelledError:
            if not future.cancelled() and future.result():
                self._end(key)
            else:
                self._leave(line, future, key)
            raise
        finally:
            self._waiting -= 1
        if not mine:
            raise self.refusal("the queue is closed", self._settings.retry_after)

    def _line_of(self, key: Hashable) -> _Line:
        if key is None:
            return self._ready
        if key not in self._keys:
            self._keys[key] = None
            return self._ready
        line = self._keys[key]
        if line is None:
            line = self._keys[key] = OrderedDict()
        return line

    def _leave(self, line: _Line, future: asyncio.Future[bool], key: Hashable) -> None:
        if future in self._ready:
            del self._ready[future]
            self._release(key)
        else:
            line.pop(future, None)

    def _end(self, key: Hashable) -> None:
        """Count out an event that has run."""
        self._running -= 1
        self._release(key)
        self._dispatch()
        if self._idle is not None and not self._running and not self._idle.done():
            self._idle.set_result(None)

    def _release(self, key: Hashable) -> None:
        """Let the next event of ``key`` be ready."""
        if key is None:
            return
        line = self._keys[key]
        if line:
            future, _ = line.popitem(last=False)
            self._ready[future] = key
        else:
            del self._keys[key]

    def _dispatch(self) -> None:
        """Let run what is ready."""
        while self._ready and self._running < self._workers:
            future, key = self._ready.popitem(last=False)
            if future.done():  # cancelled, which its task does not know yet
                self._release(key)
                continue
            self._running += 1
            future.set_result(True)

    def resized(self) -> None:
        self._dispatch()

    def start(self) -> None:
        """There is nothing to begin."""

    async def finish(self) -> None:
        """Wait for what runs and what waits; refuse what still waits in the end. What runs belongs to its callers."""
        if self._running:
            self._idle = asyncio.get_running_loop().create_future()
            try:
                with suppress(TimeoutError):
                    async with asyncio.timeout(self._settings.grace):
                        await self._idle
            finally:
                self._idle = None
                self._refuse_all()

    def _refuse_all(self) -> None:
        left = [*self._ready, *(future for line in self._keys.values() if line for future in line)]
        running = self._keys.keys() - {key for key in self._ready.values() if key is not None}
        self._keys = dict.fromkeys(running)
        self._ready.clear()
        for future in left:
            if not future.done():
                future.set_result(False)


def queue(
    *,
    workers: int = 4,
    capacity: int = 1000,
    on_full: Literal["wait", "refuse"] = "wait",
    key: Key | None = None,
    store: QueueStore | None = None,
    retry: RetryPolicy | None = None,
    dead_letter: DeadLetter | None = None,
    lease: float = 60.0,
    poll: float = 1.0,
    grace: float = 10.0,
    retry_after: float = 1.0,
    name: str | None = None,
) -> Queue:
    """Let ``workers`` events run at once; the others wait in their order.

    Without a store, each caller waits until its event is done and gets its outcome, and a caller that gives up leaves
    the queue. With a ``store``, an event is stored and answered 202; the workers go on with it later, as the current
    event, and what was left is picked up at the next start: an event may run more than once. One that fails is tried
    again as ``retry`` says, then handed to ``dead_letter`` or else parked in the store. Its reply has nobody to go to.

    Args:
        workers: events that run at once; see `Queue.resize`.
        capacity: events that wait, without a store; events stored and not yet done, with one.
        on_full: what happens to more of them: their callers ``wait``, or are answered 503.
        key: a plain function that tells which events run one after the other, for example `order_key`; None is for
            those that need not, and a list or an object is answered 422.
        store: keeps the events, where a crash cannot lose them. Whoever makes it opens and closes it.
        retry: when an event that failed is tried again; the policy's ``deadline`` does not count. By default 5
            attempts, beginning with 1 s and up to 60 s apart. An event that was rejected for good is not tried again.
        dead_letter: is called with the event and the error; when it has returned, the event is done. If it raises, or
            takes longer than half of ``lease``, the event is parked.
        lease: seconds after which another worker may take an event from one that has died. One that still runs is
            cancelled after nine tenths of it.
        poll: seconds between two looks into the store for events that are due again or of other processes.
        grace: seconds for what runs and waits when the stage is closed. After that, without a store, what waits is
            answered 503; with one, what runs is cancelled, and run at the next start, without an attempt less.
        retry_after: seconds after which refused events are to be sent again.
        name: for people and metrics.
    """
    settings = Settings(
        workers=workers, capacity=capacity, on_full=on_full, key=key, grace=grace, retry_after=retry_after
    )
    if store is not None:
        return StoredQueue(store, settings, retry=retry, dead_letter=dead_letter, lease=lease, poll=poll, name=name)
    if retry is not None or dead_letter is not None:
        raise ValueError("retry, dead_letter: are for a queue with a store; without one, the sender tries again")
    return _WaitingQueue(settings, name)
