"""Choreography: no saga in the middle, each service reacts to the events of the others with one of its own."""

from __future__ import annotations

from hashlib import sha256
from typing import Any

from cloudevents_kit._arguments import check_callable, check_kind
from cloudevents_kit._contract import Handler, as_handler
from cloudevents_kit._errors import Refusal
from cloudevents_kit._event import Event


def reacts(function: Any, *, source: str, done: str, failed: str | None = None) -> Handler:
    """Return a handler that does ``function(event)`` and replies with what happened, for others to react to.

    Args:
        function: does it, and returns the data of the reply. A plain function runs in a thread.
        source: of the replies.
        done: type of the reply if it was done.
        failed: type of the reply if ``function`` raised `Reject`: those who have done something before take it back
            when they see it. None: the event is refused.

    Either reply names the event in causationid and has the same id each time, so that a copy leads to a copy.
    """
    check_callable("function", function)
    work: Any = as_handler(function)
    for name, text in (("source", source), ("done", done), ("failed", done if failed is None else failed)):
        check_kind(name, text, str, "a str")

    async def react(event: Event) -> Event:
        kind = done
        try:
            data = await work(event)
        except Refusal as refusal:
            if refusal.retryable or failed is None:
                raise
            kind, data = failed, {"reason": refusal.reason}
        identity = sha256(f"{event.source} {event.id} {kind}".encode()).hexdigest()[:32]
        return event.reply(type=kind, source=source, data=data, id=identity)

    return react
