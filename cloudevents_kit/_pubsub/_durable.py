"""A fan-out that a crash cannot take an event from: stored for each subscriber, and sent by a relay to each.

Composes what outboxes are made of, one per subscriber. Knows no database: see `OutboxStore`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, Literal, Protocol, Self

from cloudevents_kit._arguments import check_count, check_methods, check_name, check_not_negative, check_positive
from cloudevents_kit._attempts import check_open
from cloudevents_kit._clock import SystemClock
from cloudevents_kit._contract import log, name_of
from cloudevents_kit._correlation import inherit
from cloudevents_kit._errors import EventError, StoreError
from cloudevents_kit._event import Event
from cloudevents_kit._hand_over import hand_over
from cloudevents_kit._outage import text_of
from cloudevents_kit._outbox_store import Lag, OutboxStore, within
from cloudevents_kit._pubsub._delivery import DEAD_LETTER_LIMIT, NO_FILTER, NO_KEY, Line
from cloudevents_kit._pubsub._published import judge
from cloudevents_kit._pubsub._subscribers import Subscribers
from cloudevents_kit._pubsub._subscription import Subscription
from cloudevents_kit._relay import Relay, Settings
from cloudevents_kit._result import Ack, Nack, Result, Undelivered
from cloudevents_kit._retry import RetryPolicy
from cloudevents_kit._tasks import Tasks
from cloudevents_kit.stages._keys import written
from cloudevents_kit.stages._memo import safe_key
from cloudevents_kit.stages._policy import error_of

_POLICY = RetryPolicy(attempts=10, initial=1.0, max_delay=60.0, deadline=None)
_STORED = Ack(status=202)
_NOT_STORED = Nack(status=503, reason="it could not be stored", retryable=True)


class Kept(Protocol):
    """A place in a store; see `stores.Scope`."""

    @property
    def outbox(self) -> OutboxStore:
        """Events that are to be sent."""
        ...


class Places(Protocol):
    """What has a place for each name; see `stores.Store`."""

    def scoped(self, name: str) -> Kept:
        """Return the place of ``name``."""
        ...


class _Box:
    """What is stored for a subscriber, and who sends it."""

    def __init__(self, line: Line, store: OutboxStore) -> None:
        self.line, self.store = line, store
        self.counts = {"sent": 0, "failed": 0, "dead_lettered": 0, "dead_letter_failed": 0, "store_failed": 0}
        self.relay: Relay | None = None
        self.branches = {"sink": line.sink}

    def open(self, settings: Settings) -> None:
        """Begin to send."""
        wants = self.line.subscription
        bury = None if wants.dead_letter is None else self._bury
        policy = replace(wants.retry or _POLICY, deadline=None)
        settings = settings._replace(
            name=f"{settings.name}/{self.line.name}", concurrency=wants.concurrency, policy=policy, dead_letter=bury
        )
        self.relay = Relay(self.store, self, settings, self.counts)
        self.relay.open()

    async def send(self, event: Event, /) -> Result:
        """Send for the relay."""
        return await self.line.once(event)

    async def _bury(self, event: Event, error: Any) -> None:
        taker, told = self.line.subscription.dead_letter, error_of(self.line.name, error.result)
        told.attempts = error.attempts
        await hand_over(taker, event, told, DEAD_LETTER_LIMIT)

    def key_of(self, event: Event) -> str | None:
        """Return what the event is in order by. Raises whatever the function of a user does."""
        find = self.line.subscription.key
        key = None if find is None else written(find(event))
        return None if key is None else safe_key(key)


class DurableFanOut(Subscribers):
    """A sink that stores each event for every subscriber that wants it, and, in ``async with``, sends what is stored.

    Who wants an event is decided when it is stored, by the subscriptions of the process that does it. Each subscriber
    gets it at least once, with the same source and id each time: also after a crash, and however late. Any number of
    processes may store and send; those of one ``name`` share what is stored.

    What waits is in the store: the ``capacity`` and ``on_full`` of a `Subscription` are not for this.

    Args:
        store: ``open_store(...)`` of a kind that keeps outboxes, which whoever made it opens and closes, around this.
        subscriptions: who is there from the beginning; see `subscribe`.
        unhandled: what becomes of an event that nobody wants: ``"reject"``, not to be sent again, or ``"ack"``.
        batch: events of a subscriber that are leased at once.
        lease: seconds after which another process may take an event from one that has died. A delivery that takes
            longer than about half of it is cut off, and counts as failed.
        poll: seconds between two looks into the store for events that are due again or of other processes.
        grace: seconds for what a subscriber has at work when it is cancelled or this is left.
        name: of the place in the store, and for logs, without a ``/``. Two fan-outs in one database need two.
    """

    def __init__(
        self,
        store: Places,
        subscriptions: Iterable[Subscription] = (),
        *,
        unhandled: Literal["reject", "ack"] = "reject",
        batch: int = 500,
        lease: float = 60.0,
        poll: float = 1.0,
        grace: float = 10.0,
        name: str = "fan_out",
    ) -> None:
        """Store events at once; send them in ``async with``."""
        check_methods("store", store, "a store, of `open_store`", "scoped")
        check_name("name", name, longest=200)
        if "/" in name:
            raise ValueError("name: must not have a /, which is between it and the name of a subscriber in the store")
        _ = store.scoped(name).outbox  # raises for a store that keeps none
        check_count("batch", batch)
        check_positive("lease", lease)
        check_positive("poll", poll)
        check_not_negative("grace", grace)
        super().__init__(name, unhandled, SystemClock())
        self._store = store
        self._settings = Settings(
            name=name,
            batched=False,
            concurrency=1,
            batch=batch,
            policy=_POLICY,
            dead_letter=None,
            lease=lease,
            poll=poll,
            grace=grace,
        )
        self._boxes: dict[str, _Box] = {}
        self._open = False
        self._closing = Tasks(partial(log.error, "%s: a relay has not ended well: %r", name))
        self._leaving: set[asyncio.Task[None]] = set()
        for subscription in subscriptions:
            self.subscribe(subscription)

    # Subscribing.

    def subscribe(self, subscription: Subscription) -> None:
        """Let ``subscription`` have every event from now on, and what is stored for its name from earlier on.

        Raises ValueError if its name is taken, or for what it cannot have here.
        """
        if isinstance(subscription, Subscription):
            check_name("name", subscription.name, longest=200)
            if self._open:
                check_open(subscription.name, subscription.sink)
            for setting, usual in (("capacity", 1000), ("on_full", "refuse")):
                if getattr(subscription, setting) != usual:
                    raise ValueError(f"{setting}: is not for a durable fan-out, where what waits is in the store")
        super().subscribe(subscription)
        line = self._lines[subscription.name]
        box = self._boxes[line.name] = _Box(line, self._place(line.name))
        if self._open:
            box.open(self._settings)

    def cancel(self, name: str) -> bool:
        """Store no more events for the subscriber ``name``, and send it none; tell whether there was one.

        What is at work there has the grace period. What is stored for it stays, for whoever subscribes by this name
        again, or until it is `drop`ped.
        """
        if not super().cancel(name):
            return False
        self._close(self._boxes.pop(name))
        return True

    async def drop(self, name: str) -> int:
        """Delete what is stored for ``name``, which nobody here may have subscribed; return how many events it was.

        One that another process is sending at this moment may still arrive there. Raises StoreError.
        """
        if name in self._lines:
            raise ValueError(f"{name}: is a subscriber (cancel it first)")
        if self._leaving:
            await asyncio.wait(self._leaving)
        count = await self._place(name).clear()
        log.warning("%s: deleted what was stored for %s: %d events", self.name, name, count)
        return count

    # Storing.

    async def send(self, event: Event, /) -> Result:
        """Store ``event`` for everybody who wants it; an Ack with status 202 says that it is.

        Otherwise it may be stored for some, and is to be sent again. Those who have handled it by then get it again.
        """
        try:
            event = inherit(Event.of(event))
        except EventError as error:
            return Undelivered(reason="invalid-event", error=str(error))
        wanted = self._wanted_by(event)
        if not wanted:
            return self._note_unwanted(event)
        results = await asyncio.gather(*(self._keep(self._boxes[line.name], event, sure=sure) for line, sure in wanted))
        return judge({line.name: result for (line, _), result in zip(wanted, results, strict=True)}, "all")

    async def _keep(self, box: _Box, event: Event, *, sure: bool) -> Result:
        found = self._key_of(box, event, sure=sure)
        if isinstance(found, Nack):
            return found
        try:
            await box.store.add(event, key=found)
        except Exception as error:  # noqa: BLE001 - told, and in the result
            told = "%s: not stored for %s: %s: %s"
            traceback = None if isinstance(error, StoreError) else error
            log.error(told, self.name, box.line.name, name_of(event), text_of(error), exc_info=traceback)
            self.counts[f"store_failed.{box.line.name}"] += 1
            return _NOT_STORED
        if box.relay is not None:
            box.relay.wake()
        return _STORED

    def _key_of(self, box: _Box, event: Event, *, sure: bool) -> str | Nack | None:
        """Return the event's key, or the result of a subscriber whose filter, or whose key, cannot tell."""
        if not sure:
            return NO_FILTER
        try:
            return box.key_of(event)
        except Exception as error:  # noqa: BLE001 - one subscriber must not harm another
            log.error("subscriber %s: its key failed: %s", box.line.name, name_of(event), exc_info=error)
            return NO_KEY

    async def add(self, event: Event, connection: Any) -> tuple[str, ...]:
        """Store ``event`` in the transaction of ``connection``, and return for whom, which may be nobody.

        It is an `AsyncConnection` or `AsyncSession` of SQLAlchemy. The event is there when that is committed, and was
        never there if it is rolled back. Raises DeliveryError if a filter or a key fails, before anything is written.
        """
        return await within(connection, partial(self.add_sync, event))

    def add_sync(self, event: Event, connection: Any) -> tuple[str, ...]:
        """Do what `add` does in the transaction of a Connection or a Session that is not async, in any thread."""
        event = inherit(Event.of(event))
        rows: list[tuple[_Box, str | None]] = []
        for line, sure in self._wanted_by(event):
            found = self._key_of(self._boxes[line.name], event, sure=sure)
            if isinstance(found, Nack):
                raise error_of(line.name, found)
            rows.append((self._boxes[line.name], found))
        if not rows:
            self._note_unwanted(event)
        for box, key in sorted(rows, key=lambda row: row[0].line.name):  # the same everywhere: they take locks
            box.store.insert(connection, event, key=key)
        for box, _ in rows:
            relay = box.relay  # which another thread may close meanwhile
            if relay is not None:
                relay.hurry()
        return tuple(box.line.name for box, _ in rows)

    async def lag(self) -> Mapping[str, Lag]:
        """Return, by subscriber, how many events are stored and not handled, and how old the oldest is."""
        boxes = [*self._boxes.items()]
        lags = await asyncio.gather(*(box.store.lag() for _, box in boxes))
        return {name: lag for (name, _), lag in zip(boxes, lags, strict=True)}

    @property
    def status(self) -> Mapping[str, object]:
        """What went wrong here, and what this process did for each subscriber, as JSON."""
        return {**self.counts, "subscribers": {name: {**box.counts} for name, box in self._boxes.items()}}

    # Sending.

    async def __aenter__(self) -> Self:
        """Begin to send."""
        if self._open:
            raise RuntimeError("this fan-out is open already")
        for line in self._lines.values():
            check_open(line.name, line.sink)
        self._open = True
        for box in self._boxes.values():
            box.open(self._settings)
        return self

    async def __aexit__(self, *_: object) -> None:
        """End what is at work; what is not handled by then stays in the store."""
        self._open = False
        for box in self._boxes.values():
            self._close(box)
        await asyncio.gather(*self._leaving)

    def _close(self, box: _Box) -> None:
        relay, box.relay = box.relay, None
        if relay is not None:
            task = self._closing.start(relay.close())
            self._leaving.add(task)
            task.add_done_callback(self._leaving.discard)

    def _place(self, name: str) -> OutboxStore:
        return self._store.scoped(f"{self.name}/{name}").outbox
