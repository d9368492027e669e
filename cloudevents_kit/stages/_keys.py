"""The keys by which stages keep events apart: what a function reads from each event."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from time import perf_counter

from cloudevents_kit._errors import Refusal, Reject, cause_of
from cloudevents_kit._event import Event
from cloudevents_kit.stages._calls import plain
from cloudevents_kit.stages._stage import Stage

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


def written(key: Hashable) -> str | None:
    """Return ``key`` as text for a store. Raises TypeError for what may look otherwise in another process."""
    if key is None or isinstance(key, str):
        return key
    if not _is_lasting(key):
        raise TypeError(f"key: must be a function that returns a str, a number, a tuple of them, or None, not {key!r}")
    return repr(key)


def _is_lasting(key: object) -> bool:
    if isinstance(key, tuple):
        return all(one is None or _is_lasting(one) for one in key)
    return isinstance(key, str | bytes | int | float)


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
