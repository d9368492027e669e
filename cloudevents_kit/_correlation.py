"""What an event sent inside a handler inherits from the event being handled: correlation, causation, trace.

Attributes that the new event has already are never touched (correlation and distributed-tracing extensions).
"""

from __future__ import annotations

import os

from cloudevents_kit._contract import current_event
from cloudevents_kit._event import Event, correlation_of
from cloudevents_kit._values import Value, match_traceparent


def inherit(event: Event) -> Event:
    """Return ``event`` with correlationid, causationid and a child traceparent of the event being handled, if any.

    Outside a handler, and for the handled event itself sent on, that is ``event`` unchanged.
    """
    cause = current_event()
    if cause is None or cause.key == event.key:
        return event
    inherited: dict[str, Value] = {
        "correlationid": correlation_of(cause),
        "causationid": cause.id,
        **({} if "traceparent" in event else _trace(cause)),
    }
    return Event._checked({**inherited, **event._attributes}, event._raw, event._form)


def _trace(cause: Event) -> dict[str, Value]:
    found = match_traceparent(str(cause.get("traceparent", "")))
    if found is None:
        return {}
    child: dict[str, Value] = {"traceparent": f"00-{found[1]}-{os.urandom(8).hex()}-{found[2]}"}
    if "tracestate" in cause:
        child["tracestate"] = cause["tracestate"]
    return child
