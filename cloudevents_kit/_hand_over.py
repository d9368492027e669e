"""What failed for good is handed over: to a hook, or to a sink, as ``dead_letter`` of what it failed in.

One rule for all who have such a setting: it was taken if that returned in time, and returned no Nack or Undelivered.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from inspect import isawaitable
from typing import Any

from cloudevents_kit._arguments import check_callable, check_methods
from cloudevents_kit._contract import Sink
from cloudevents_kit._event import Event
from cloudevents_kit._result import Ack, Nack, Undelivered
from cloudevents_kit._tasks import is_cancelled

#: Is called with the event and what it failed with.
FailureHook = Callable[[Event, Exception], Awaitable[object] | object]
#: A sink gets the event alone.
Taker = Sink | FailureHook


def check_taker(name: str, value: object) -> None:
    """Take a hook, a sink, or None."""
    if hasattr(value, "send"):
        check_methods(name, value, "a Sink or a hook", "send")
    elif value is not None:
        check_callable(name, value)


async def hand_over(taker: Any, event: Event, error: Exception, seconds: float) -> None:
    """Raise unless ``taker`` has taken ``event`` within ``seconds``. A CancelledError is that of this task alone."""
    is_sink = hasattr(taker, "send")
    try:
        async with asyncio.timeout(seconds):
            returned: Any = taker.send(event) if is_sink else taker(event, error)
            returned = await returned if isawaitable(returned) else returned
    except asyncio.CancelledError as cancelled:
        if is_cancelled():
            raise
        raise RuntimeError("ended as if it had been cancelled") from cancelled
    if isinstance(returned, Nack | Undelivered):
        returned.raise_for_outcome()
    if is_sink and not isinstance(returned, Ack):
        raise TypeError(f"a sink returned {type(returned).__name__}, which is no result")
