"""Results of every kind, and a sink that gives them."""

from __future__ import annotations

from typing import Any, get_args

from hypothesis import strategies as st

from cloudevents_kit import Ack, Attempt, Event, Nack, Result, Undelivered
from cloudevents_kit._result import Reason
from tests.support.strategies import events

_seconds = st.floats(0, 1e6)
_reasons = st.sampled_from(get_args(Reason))


def _common() -> dict[str, st.SearchStrategy[Any]]:
    tries = st.builds(
        Attempt,
        number=st.integers(1, 9),
        status=st.none() | st.integers(100, 599),
        error=st.none() | _reasons,
        wait=_seconds,
        elapsed=_seconds,
    )
    return {"attempts": st.lists(tries, max_size=3).map(tuple), "elapsed": _seconds}


def acks() -> st.SearchStrategy[Ack]:
    """Acknowledgements, stored ones and replies included; a 202 has no reply."""
    bare = st.builds(Ack, status=st.integers(200, 299), reply_error=st.none() | st.text(max_size=9), **_common())
    replied = st.builds(
        Ack, status=st.integers(200, 299).filter(lambda status: status != 202), reply=events(), **_common()
    )
    return bare | replied


def nacks() -> st.SearchStrategy[Nack]:
    """Refusals with any status, final and retryable."""
    return st.builds(
        Nack,
        status=st.integers(300, 599),
        reason=st.text(max_size=20),
        retryable=st.booleans(),
        retry_after=st.none() | _seconds,
        **_common(),
    )


def undelivereds() -> st.SearchStrategy[Undelivered]:
    """Sends without an answer."""
    return st.builds(
        Undelivered, reason=_reasons, error=st.text(max_size=9), possibly_delivered=st.booleans(), **_common()
    )


class ScriptedSink:
    """A sink that keeps what it is sent and gives one result, or whatever it was told to give."""

    def __init__(self, result: Any) -> None:
        self.result = result
        self.sent: list[Event] = []

    async def send(self, event: Event, /) -> Result:
        self.sent.append(event)
        found: Result = self.result
        return found
