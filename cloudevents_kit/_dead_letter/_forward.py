"""Dead letters as Knative sends them on: the event, with extensions that tell what went wrong."""

from __future__ import annotations

import base64

from cloudevents_kit._arguments import check_methods
from cloudevents_kit._contract import Sink
from cloudevents_kit._event import Event
from cloudevents_kit._letters import DeadLetter

_KNATIVE_DATA = 1024


def forwarded(letter: DeadLetter) -> Event:
    """Return the letter's event with the extensions by which Knative tells why it is a dead letter.

    ``knativeerrordest`` is the destination; ``knativeerrorcode`` the last status, 500 if there was no answer;
    ``knativeerrordata`` the reason in base64, cut after 1024 characters, left out if there is none.
    """
    reason = letter.reason
    if letter.status is None:
        reason = f"dispatch error: {reason or letter.error}"
    data = base64.b64encode(reason.encode()).decode("ascii")[:_KNATIVE_DATA]
    return letter.event.evolve(
        knativeerrordest=letter.destination or None,
        knativeerrorcode=500 if letter.status is None else letter.status,
        knativeerrordata=data or None,
    )


class Forwarder:
    """Sends dead letters on to ``sink``, `forwarded`, instead of storing them. They are kept if it acknowledges."""

    def __init__(self, sink: Sink) -> None:
        """Send to ``sink``."""
        check_methods("sink", sink, "a Sink", "send")
        self._sink = sink

    async def add(self, letter: DeadLetter, /) -> bool:
        """Send ``letter`` on. Raises DeliveryError if it is not acknowledged."""
        (await self._sink.send(forwarded(letter))).raise_for_outcome()
        return True
