"""The keys by which stages keep events apart: what a function reads from each event."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from time import perf_counter

from cloudevents_kit._errors import Refusal, Reject
from cloudevents_kit._event import Event
from cloudevents_kit.stages._calls import plain
from cloudevents_kit.stages._stage import Stage, cause_of

Key = Callable[[Event], Hashable]


def order_key(event: Event) -> Hashable:
    """Return what tells which events are to be kept in order: partitionkey, or else source and subject together.

    None, for an event without partitionkey and subject, stands for no order.
    """
    key: Hashable = event.get("partitionkey")
    if key is not None:
        return key
    subject = event.subject
    return None if subject is None else (event.source, subject)


def key_of(stage: Stage, key: Key, event: Event) -> Hashable:
    """Return the key of ``event``. Raises StageError if ``key`` fails, Reject if it finds a list or an object."""
    try:
        found = key(event)
        if type(found) is str:  # as most are
            return found
        plain(found)
    except Refusal:
        raise
    except Exception as error:  # noqa: BLE001 - whatever it is, it becomes a StageError
        raise stage.failure(error, event, perf_counter()) from cause_of(error)
    try:
        hash(found)
    except TypeError:  # sent again, the event would have no other
        stage.note("refused")
        raise Reject(f"the key of this event is no single value ({stage.name})") from None
    return found
