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
from typing import Any, NamedTuple, Self

from cloudevents_kit._arguments import (
    check_callable,
    check_count,
    check_flag,
    check_kind,
    check_methods,
    check_not_negative,
    check_positive,
)
from cloudevents_kit._contract import Sink
from cloudevents_kit._correlation import inherit
from cloudevents_kit._event import Event
from cloudevents_kit._relay import DeadLetter, OutboxStore, Relay, Settings
from cloudevents_kit._retry import RetryPolicy
from cloudevents_kit.stages._memo import safe_key

__all__ = ["DeadLetter", "Lag", "Outbox", "OutboxStore"]

_POLICY = RetryPolicy(attempts=10, initial=1.0, max_delay=60.0, deadline=None)


class Lag(NamedTuple):
    """How far the relay is behind."""

    waiting: int
    """Events that are stored and not delivered."""
    oldest: float
    """Seconds since the first of them was added; 0.0 if there is none."""


class Outbox:
    """Adds events to ``store``, and, as an async context manager, sends them to ``sink``.

    Any number of processes may relay one store. Whoever makes the store and the sink opens and closes them, around
    this. An event is removed when the sink has acknowledged it; a crash before that sends it once more.

    Args:
        store: ``open_store(...).outbox``, in the database of the transactions that events are added in.
        sink: where events go; None for a process that only adds some.
        key: tells which events are sent one after the other, in the order of their transactions: a function that
            returns a str, or None for those that need not. For example ``lambda event: event.get("partitionkey")``.
            All processes need the same. An event that fails holds up those behind it.
        batched: send with ``sink.send_batch``: for a `Sender` with ``max_batch``, whose destination takes batches.
        concurrency: events that are sent at once; by default that of the sink, or else 16. With ``batched``, the
            batches' number is the sender's.
        batch: events that are leased at once, and no more of which wait in this process.
        retry: when an event that failed is tried again, beyond what the sink does itself; the policy's ``deadline``
            does not count. By default 10 attempts, beginning with 1 s and up to 60 s apart.
        dead_letter: is called with the event and a `DeliveryError` after the last attempt; when it has returned, the
            event is removed. Without it, or if it fails, an event stays and is tried every ``max_delay`` seconds.
        lease: seconds after which another process may take an event from one that has died. A delivery that takes
            longer than about half of it is cut off, and counts as failed.
        poll: seconds between two looks into the store for events that are due again or of other processes.
        grace: seconds for what is being sent when the relay is closed.
    """

    def __init__(
        self,
        store: OutboxStore,
        sink: Sink | None = None,
        *,
        key: Callable[[Event], str | None] | None = None,
        batched: bool = False,
        concurrency: int | None = None,
        batch: int = 500,
        retry: RetryPolicy | None = None,
        dead_letter: DeadLetter | None = None,
        lease: float = 60.0,
        poll: float = 1.0,
        grace: float = 10.0,
    ) -> None:
        """Check the settings. Raises TypeError or ValueError naming one."""
        check_methods("store", store, "an OutboxStore", "add", "insert", "lease", "settle", "lag")
        check_flag("batched", batched)
        if sink is not None:
            check_methods("sink", sink, "a Sink", "send_batch" if batched else "send")
        for name, function in (("key", key), ("dead_letter", dead_letter)):
            if function is not None:
                check_callable(name, function)
        if retry is not None:
            check_kind("retry", retry, RetryPolicy, "a RetryPolicy")
        check_positive("lease", lease)
        check_positive("poll", poll)
        check_not_negative("grace", grace)
        found = getattr(sink, "concurrency", 16) if concurrency is None else concurrency
        senders = 2 if batched else check_count("concurrency", found)
        check_count("batch", batch)
        self._store, self._sink, self._key = store, sink, key
        policy = replace(retry or _POLICY, deadline=None)
        self._settings = Settings(batched, senders, batch, policy, dead_letter, lease, poll, grace)
        self.counts = {"sent": 0, "failed": 0, "dead_lettered": 0, "store_failed": 0}
        """What became of attempts, in this process."""
        self._relay: Relay | None = None

    # Adding.

    async def add(self, event: Event, connection: Any = None) -> None:
        """Store ``event``, to be sent.

        With a ``connection``, an `AsyncConnection` or `AsyncSession` of SQLAlchemy, in its transaction: the event is
        there when that is committed, and was never there if it is rolled back. Without one, the event is stored when
        this returns; events that are added at about the same time share a transaction.

        Added while another event is handled, it inherits correlationid, causationid and trace. Raises StoreError.
        """
        event, key = self._prepared(event)
        if connection is None:
            await self._store.add(event, key=key)
            if self._relay is not None:
                self._relay.wake()
            return
        run = getattr(connection, "run_sync", None)
        if run is None:
            raise TypeError(
                f"connection: must be an AsyncConnection or AsyncSession, not {type(connection).__name__} "
                "(use add_sync for one that is not async)"
            )
        await run(lambda inner: self._store.insert(inner, event, key=key))
        self._hurry()

    def add_sync(self, event: Event, connection: Any) -> None:
        """Do what `add` does in the transaction of a Connection or a Session that is not async, in any thread."""
        event, key = self._prepared(event)
        self._store.insert(connection, event, key=key)
        self._hurry()

    def _prepared(self, event: Event) -> tuple[Event, str | None]:
        check_kind("event", event, Event, "an Event")
        event = inherit(event)
        key = None if self._key is None else self._key(event)
        return event, None if key is None else safe_key(key)

    def _hurry(self) -> None:
        if self._relay is not None:
            self._relay.hurry()

    async def lag(self) -> Lag:
        """Return how many events are stored and not delivered, and how old the oldest is; for a gauge."""
        return Lag(*await self._store.lag())

    async def __aenter__(self) -> Self:
        """Begin to send."""
        if self._sink is None:
            raise RuntimeError("sink: is None, so nothing can be relayed (use the outbox without `async with`)")
        if self._relay is not None:
            raise RuntimeError("this outbox is open already")
        self._relay = Relay(self._store, self._sink, self._settings, self.counts)
        self._relay.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        """End what is being sent; what is not sent by then stays in the store."""
        relay, self._relay = self._relay, None
        if relay is not None:
            await relay.close()
