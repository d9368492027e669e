"""Hands one recorded event to a handler, which can ask where it is in the log, and for the transaction it is in."""

from __future__ import annotations

import asyncio
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from cloudevents_kit._contract import Handler, settle
from cloudevents_kit._event import Event
from cloudevents_kit._recorded import Recorded
from cloudevents_kit._result import Ack, Nack, Undelivered
from cloudevents_kit._tasks import is_cancelled


@dataclass(slots=True)
class _Delivery:
    record: Recorded
    connection: Any
    locks: object
    """The store that nothing can be appended to before this is over, if so."""
    over: bool = False


_current: ContextVar[_Delivery | None] = ContextVar("cloudevents_kit.event_log", default=None)


@dataclass(frozen=True, slots=True)
class Failure:
    """An event that a handler has failed for."""

    record: Recorded
    result: Nack | Undelivered
    """What the exception means; see `cloudevents_kit.settle`."""
    error: Exception
    cut_off: bool
    """Its time was over."""


async def hand(
    handler: Handler, record: Recorded, seconds: float | None = None, *, connection: Any = None, locks: object = None
) -> Failure | None:
    """Run ``handler`` for ``record``, for ``seconds`` at most, and return how it failed, if it did."""
    raised: Exception | None = None
    limit = asyncio.timeout(seconds)

    async def noted(event: Event) -> None:  # what it returns is an answer for nobody
        nonlocal raised
        try:
            async with limit:
                await handler(event)
        except asyncio.CancelledError as error:
            if is_cancelled():
                raise
            raised = RuntimeError("the handler ended as if it had been cancelled")
            raise raised from error
        except Exception as error:
            raised = error
            if limit.expired():
                raised = TimeoutError(f"the handler was cut off after {seconds:.3g} s")
                raise raised from error
            raise

    delivery = _Delivery(record, connection, locks)
    token = _current.set(delivery)
    try:
        result = await settle(noted, record.event)
    finally:
        delivery.over = True
        _current.reset(token)
    if raised is None or isinstance(result, Ack):
        return None
    return Failure(record, result, raised, limit.expired())


def current_record() -> Recorded:
    """Return the event that is being handled here as it is in the log. Raises RuntimeError elsewhere."""
    delivery = _current.get()
    if delivery is None or delivery.over:
        raise RuntimeError("current_record: no event of a log is being handled here")
    return delivery.record


def current_connection() -> Any:
    """Return the connection of the transaction in which the handler runs: an `AsyncConnection` of SQLAlchemy.

    What is written with it is committed together with the events (inline) or with the checkpoint. Raises RuntimeError
    where there is none: in a projection without a transaction, with a store in memory, and after the handler's end; and
    in a thread, where plain functions run: whoever uses a connection must be async.
    """
    delivery = _current.get()
    if delivery is not None and not _is_in_loop():
        raise RuntimeError("current_connection: the handler must be async (a plain function runs in a thread)")
    if delivery is None or delivery.over or delivery.connection is None:
        raise RuntimeError(
            "current_connection: there is none here (make the projection inline or transaction=True, on SQLite or "
            "PostgreSQL, and its handler async)"
        )
    return delivery.connection


def _is_in_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def check_unlocked(store: object) -> None:
    """Raise RuntimeError in a handler for which an append would wait until the handler itself has ended."""
    delivery = _current.get()
    if delivery is not None and delivery.locks is store and not delivery.over:
        raise RuntimeError(
            "append: would wait for the transaction of this handler (append in a projection without a transaction)"
        )
