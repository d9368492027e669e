"""A bounded queue with a number of workers: without a store, where its callers wait for the outcome; see `queue`.

A worker is a place to run in, not a task: each event runs in the task of its caller, with its context, and a caller
that is cancelled leaves the queue, or ends the work on its event.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Literal

from cloudevents_kit._contract import Handler, Outcome
from cloudevents_kit._event import Event
from cloudevents_kit._hand_over import Taker
from cloudevents_kit._retry import RetryPolicy
from cloudevents_kit.stages._keys import Key, key_of
from cloudevents_kit.stages._queue_base import Queue, Settings
from cloudevents_kit.stages._queue_store import QueueStore
from cloudevents_kit.stages._queue_stored import StoredQueue
from cloudevents_kit.stages._turns import Turns


class _WaitingQueue(Queue):
    def __init__(self, settings: Settings, name: str | None) -> None:
        super().__init__(settings, name)
        self._turns = Turns(self._workers)

    @property
    def running(self) -> int:
        return self._turns.running

    @property
    def waiting(self) -> int:
        return self._turns.waiting

    async def run(self, event: Event, call_next: Handler) -> Outcome:
        self.check_open()
        find = self._settings.key
        key = None if find is None else key_of(self, find, event)
        turns, settings = self._turns, self._settings
        if settings.on_full == "refuse" and turns.waiting >= settings.capacity and not turns.is_free(key):
            raise self.refusal("the queue is full", settings.retry_after)
        turn = turns.ask(key)
        if turn is not None and not await turns.wait(turn, key):
            raise self.refusal("the queue is closed", settings.retry_after)
        try:
            return await call_next(event)
        finally:
            turns.end(key)

    def resized(self) -> None:
        self._turns.places = self._workers
        self._turns.dispatch()

    def start(self) -> None:
        """There is nothing to begin."""

    async def finish(self) -> None:
        """Wait for what runs and what waits; refuse what still waits in the end. What runs belongs to its callers."""
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._settings.grace):
                    await self._turns.all_ended()
        finally:
            self._turns.refuse_all()


def queue(
    *,
    workers: int = 4,
    capacity: int = 1000,
    on_full: Literal["wait", "refuse"] = "wait",
    key: Key | None = None,
    store: QueueStore | None = None,
    retry: RetryPolicy | None = None,
    dead_letter: Taker | None = None,
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
    Put `deduplicate` inside of it, or that would keep such an event from coming in again.

    Args:
        workers: events that run at once; see `Queue.resize`.
        capacity: events that wait, without a store; events stored and not yet done, with one.
        on_full: what happens to more of them: their callers ``wait``, or are answered 503.
        key: a plain function that tells which events run one after the other, for example `order_key`; None is for
            those that need not, and a list or an object is answered 422.
        store: keeps the events, where a crash cannot lose them. Whoever makes it opens and closes it.
        retry: when an event that failed is tried again; the policy's ``deadline`` does not count. By default 5
            attempts, beginning with 1 s and up to 60 s apart. An event that was rejected for good is not tried again.
        dead_letter: a function, called with the event and the error, or a sink; when that has taken it, the event is
            done. After several attempts the error is a `StageError` that counts them, caused by what went wrong in the
            last one. If it raises, or takes longer than half of ``lease``, the event is parked.
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
