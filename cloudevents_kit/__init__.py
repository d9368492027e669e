"""Send, receive and answer CloudEvents over HTTP, and learn the truth about every delivery.

Names that need aiohttp are loaded when they are first used, so that importing this package stays cheap.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from cloudevents_kit._clock import Clock, SystemClock
from cloudevents_kit._contract import (
    ACCEPTED,
    Handler,
    HandlerSink,
    Middleware,
    Outcome,
    Sink,
    current_event,
    current_headers,
    forward,
    settle,
    wrap,
)
from cloudevents_kit._errors import (
    CloudEventsError,
    DataError,
    DeliveryError,
    EventError,
    Reject,
    Retry,
    UnsupportedVersion,
)
from cloudevents_kit._event import Event
from cloudevents_kit._http import Message, from_http, to_http
from cloudevents_kit._json import decode as from_json
from cloudevents_kit._json import encode as to_json
from cloudevents_kit._result import Ack, Attempt, Nack, Result, Undelivered
from cloudevents_kit._retry import RetryPolicy
from cloudevents_kit.router import Router, on

if TYPE_CHECKING:
    from cloudevents_kit.receiver import Receiver
    from cloudevents_kit.sender import Sender

_LAZY = {"Receiver": "cloudevents_kit.receiver", "Sender": "cloudevents_kit.sender"}

__all__ = [
    "ACCEPTED",
    "Ack",
    "Attempt",
    "Clock",
    "CloudEventsError",
    "DataError",
    "DeliveryError",
    "Event",
    "EventError",
    "Handler",
    "HandlerSink",
    "Message",
    "Middleware",
    "Nack",
    "Outcome",
    "Receiver",
    "Reject",
    "Result",
    "Retry",
    "RetryPolicy",
    "Router",
    "Sender",
    "Sink",
    "SystemClock",
    "Undelivered",
    "UnsupportedVersion",
    "current_event",
    "current_headers",
    "forward",
    "from_http",
    "from_json",
    "on",
    "settle",
    "to_http",
    "to_json",
    "wrap",
]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
