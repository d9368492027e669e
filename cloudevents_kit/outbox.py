"""The transactional outbox: an event is written together with what it tells of, and sent for sure afterwards.

    outbox = Outbox(store.outbox, sender)
    async with store, sender, outbox:                    # the relay runs until the block is left
        async with engine.begin() as connection:         # the caller's own transaction
            await connection.execute(insert(orders), order)
            await outbox.add(event, connection)          # is sent if this is committed, and only then

Every event arrives at least once, with the same source and id each time. Knows no database: see `OutboxStore`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from typing import Any, Self

from cloudevents_kit._arguments import (
    check_callable,
    check_count,
    check_flag,
    check_kind,
    check_methods,
    check_name,
    check_not_negative,
    check_positive,
)
from cloudevents_kit._attempts import check_open
from cloudevents_kit._contract import Sink, log, name_of
from cloudevents_kit._correlation import inherit
from cloudevents_kit._errors import StoreError
from cloudevents_kit._event import Event
from cloudevents_kit._hand_over import Taker, check_taker
from cloudevents_kit._outage import text_of
from cloudevents_kit._outbox_store import Lag, OutboxStore, within
from cloudevents_kit._relay import Relay, Settings
from cloudevents_kit._result import Ack, Nack, Result
from cloudevents_kit._retry import RetryPolicy
from cloudevents_kit.stages._memo import safe_key

__all__ = ["Lag", "Outbox", "OutboxStore"]

_POLICY = RetryPolicy(attempts=10, initial=1.0, max_delay=60.0, deadline=None)
_STORED = Ack(status=202)
_NOT_STORED = Nack(status=503, reason="it could not be stored", retryable=True)


class Outbox:
    """Adds events to ``store``, and, as an async context manager, sends them to ``sink``.

    Any number of processes may relay one store. Whoever makes the store and the sink opens and closes them, around
    this. An event is removed when the sink has acknowledged it; a crash before that sends it once more.

    Args:
        store: ``open_store(...).outbox``, in the database of the transactions that events are added in.
        sink: where events go; None for a process that only adds some.
        key: tells which events are sent one after the other, in the order of their transactions: a function that
            returns a str, or None for those that need not. For example ``lambda event: event.get("partitionkey")``.
            All processes need the same. An event that fails holds up those behind it; one for later takes no part.
        batched: send with ``sink.send_batch``: for a `Sender` with ``max_batch``, whose destination takes batches.
        concurrency: events that are sent at once; by default that of the sink, or else 16. With ``batched``, the
            batches' number is the sender's.
        batch: events that are leased at once, and no more of which wait in this process.
        retry: when an event that failed is tried again, beyond what the sink does itself; the policy's ``deadline``
            does not count. By default 10 attempts, beginning with 1 s and up to 60 s apart.
        dead_letter: a function, called with the event and a `DeliveryError`, which counts the attempts, after the last
            one, or a sink; when that has taken it, the event is removed. Without it, or if it fails, an event stays
            and is tried every ``max_delay`` seconds. One that ``sink`` has stored as a dead letter is removed at once.
        lease: seconds after which another process may take an event from one that has died. A delivery or a
            ``dead_letter`` that takes longer than about half of it is cut off, and counts as failed. Longer by twice
            the time that the store took to answer lately.
        poll: seconds between two looks into the store for events that are due, or due again, or of other processes;
            more, up to 15, while the store fails.
        grace: seconds for what is being sent when the relay is closed.
        name: for logs.
    """

    def __init__(
        self,
        store: OutboxStore,
        sink: Sink | None = None,
        *,
        key: Callable[[Event], str | None] | None = None,
        batched: bool = False,
        concurrency: int | None = None,
        batch: int = 1000,
        retry: RetryPolicy | None = None,
        dead_letter: Taker | None = None,
        lease: float = 60.0,
        poll: float = 1.0,
        grace: float = 10.0,
        name: str = "outbox",
    ) -> None:
        """Check the settings. Raises TypeError or ValueError naming one."""
        check_methods("store", store, "an OutboxStore", "add", "insert", "cancel", "lease", "settle", "lag")
        check_flag("batched", batched)
        if sink is not None:
            check_methods("sink", sink, "a Sink", "send_batch" if batched else "send")
            if batched and getattr(sink, "max_batch", 0) is None:
                raise ValueError("sink: has no max_batch (set it for a destination that has asked for batches)")
        if key is not None:
            check_callable("key", key)
        check_taker("dead_letter", dead_letter)
        if retry is not None:
            check_kind("retry", retry, RetryPolicy, "a RetryPolicy")
        check_positive("lease", lease)
        check_positive("poll", poll)
        check_not_negative("grace", grace)
        check_name("name", name, longest=200)
        found = getattr(sink, "concurrency", 16) if concurrency is None else concurrency
        senders = 2 if batched else check_count("concurrency", found)
        check_count("batch", batch)
        self._store, self._sink, self._key = store, sink, key
        policy = replace(retry or _POLICY, deadline=None)
        self._settings = Settings(name, batched, senders, batch, policy, dead_letter, lease, poll, grace)
        self.counts = {"sent": 0, "failed": 0, "dead_lettered": 0, "dead_letter_failed": 0, "store_failed": 0}
        """What became of attempts, in this process."""
        self._relay: Relay | None = None

    # Adding.

    async def add(
        self, event: Event, connection: Any = None, *, at: datetime | None = None, delay: float | None = None
    ) -> None:
        """Store ``event``, to be sent: now, not before ``at``, or in ``delay`` seconds, by the clock of the store.

        With a ``connection``, an `AsyncConnection` or `AsyncSession` of SQLAlchemy, in its transaction: the event is
        there when that is committed, and was never there if it is rolled back. Without one, the event is stored when
        this returns; events that are added at about the same time share a transaction.

        Added while another event is handled, it inherits correlationid, causationid and trace. Raises StoreError.
        """
        event, key, due = self._prepared(event, at, delay)
        if connection is None:
            await self._store.add(event, key=key, due=due)
            if self._relay is not None:
                self._relay.wake()
            return
        await within(connection, lambda inner: self._store.insert(inner, event, key=key, due=due))
        self._hurry()

    def add_sync(
        self, event: Event, connection: Any, *, at: datetime | None = None, delay: float | None = None
    ) -> None:
        """Do what `add` does in the transaction of a Connection or a Session that is not async, in any thread."""
        event, key, due = self._prepared(event, at, delay)
        self._store.insert(connection, event, key=key, due=due)
        self._hurry()

    async def send(self, event: Event, /) -> Result:
        """Do what ``add(event)`` does, as a sink: an Ack with status 202 says that the event is stored.

        For whatever takes a sink: `forward`, `Subscription`, `dead_letter.redrive`.
        """
        try:
            await self.add(event)
        except StoreError as error:
            log.error("%s: not stored: %s: %s", self._settings.name, name_of(event), text_of(error))
            return _NOT_STORED
        return _STORED

    async def cancel(self, source: str, id: str) -> bool:
        """Remove an event that waits; return True if it is gone, and will not be sent.

        Return False if there is no such event, as it is when it was delivered; or if it is being sent, or was when a
        process died: then it may arrive. Attempts that failed before may have arrived, too. Raises StoreError.
        """
        check_kind("source", source, str, "a str")
        check_kind("id", id, str, "a str")
        return await self._store.cancel(source, id)

    def _prepared(
        self, event: Event, at: datetime | None, delay: float | None
    ) -> tuple[Event, str | None, datetime | float]:
        check_kind("event", event, Event, "an Event")
        due = _due(at, delay)
        event = inherit(event)
        if self._key is None or at is not None or delay:
            return event, None, due
        key = self._key(event)
        if key == "":
            raise ValueError("key: must not be empty (return None for an event that follows no other)")
        return event, None if key is None else safe_key(key), due

    def _hurry(self) -> None:
        relay = self._relay  # which another thread may close meanwhile
        if relay is not None:
            relay.hurry()

    async def lag(self) -> Lag:
        """Return how many events are to be sent, how old the oldest is, and how many are for later; for gauges."""
        return await self._store.lag()

    async def __aenter__(self) -> Self:
        """Begin to send."""
        if self._sink is None:
            raise RuntimeError("sink: is None, so nothing can be relayed (use the outbox without `async with`)")
        if self._relay is not None:
            raise RuntimeError("this outbox is open already")
        check_open("sink", self._sink)
        relay = Relay(self._store, self._sink, self._settings, self.counts)
        relay.open()
        self._relay = relay
        return self

    async def __aexit__(self, *_: object) -> None:
        """End what is being sent; what is not sent by then stays in the store."""
        relay, self._relay = self._relay, None
        if relay is not None:
            await relay.close()


def _due(at: datetime | None, delay: float | None) -> datetime | float:
    """Return when an event is due. Raises TypeError or ValueError."""
    if at is None:
        if delay is None:
            return 0.0
        check_not_negative("delay", delay)
        return delay
    if delay is not None:
        raise ValueError("at, delay: give one of them")
    check_kind("at", at, datetime, "a datetime")
    if at.utcoffset() is None:
        raise ValueError("at: must have a time zone, such as datetime.now(UTC)")
    return at
