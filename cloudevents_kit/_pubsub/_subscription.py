"""What a subscriber asks for: a value, checked when it is made."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Hashable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import KW_ONLY, dataclass
from typing import Literal, TypedDict

from cloudevents_kit import filters
from cloudevents_kit._arguments import check_callable, check_choice, check_count, check_kind, check_methods
from cloudevents_kit._contract import HandlerSink, Outcome, Sink, is_async
from cloudevents_kit._errors import DeliveryError
from cloudevents_kit._event import Event
from cloudevents_kit._filters import Filter, decide
from cloudevents_kit._hand_over import check_taker
from cloudevents_kit._retry import RetryPolicy
from cloudevents_kit.router import Pattern, bind

Subscriber = Sink | Callable[..., Awaitable[Outcome] | Outcome]
#: A `Taker` whose hook is always given a `DeliveryError`.
DeadLetter = Sink | Callable[[Event, DeliveryError], Awaitable[object] | object]


@dataclass(frozen=True, slots=True)
class Subscription:
    """Who gets which events, and how. Immutable: to change one, cancel it and subscribe anew."""

    name: str
    """Shows up in results, logs and counts."""
    sink: Subscriber
    """A sink, or a handler of this process; one with a second parameter gets the data, decoded into its type."""
    filter: Callable[[Event], bool] | None = None
    """Of `cloudevents_kit.filters`, or a function that returns at once; None takes every event."""
    _: KW_ONLY
    order: int = 0
    """Whose turn it is: the lowest comes first, equal ones in the order in which they subscribed."""
    retry: RetryPolicy | None = None
    """When to send again, and, by its ``deadline``, how long one event may take in all. A `Sender` has its own.

    By default an event has one attempt of 60 seconds; in a `DurableFanOut` ten, from 1 to 60 seconds apart."""
    dead_letter: DeadLetter | None = None
    """Gets what failed in the end: a sink, or a function of the event and a `DeliveryError`, within 5 seconds."""
    concurrency: int = 10
    """Events at work at once."""
    capacity: int = 1000
    """Events that wait for that."""
    on_full: Literal["wait", "refuse"] = "refuse"
    """What becomes of one more: its publisher waits, or it fails at once, as ``overload``."""
    key: Callable[[Event], Hashable] | None = None
    """Tells which events go one after the other, such as `stages.order_key`; None is for those that need not."""

    def __post_init__(self) -> None:
        """Raise TypeError or ValueError for what cannot work."""
        check_kind("name", self.name, str, "a str, short, for people and metrics")
        if not self.name:
            raise ValueError("name: must not be empty")
        for name in ("filter", "key"):
            function = getattr(self, name)
            if function is not None:
                check_callable(name, function)
                if is_async(function):
                    raise TypeError(f"{name}: must return at once, not an awaitable")
        check_kind("order", self.order, int, "an int")
        check_kind("retry", self.retry, (RetryPolicy, type(None)), "a RetryPolicy or None")
        check_taker("dead_letter", self.dead_letter)
        check_count("concurrency", self.concurrency)
        as_sink(self.sink, self.concurrency)
        check_count("capacity", self.capacity, least=0)
        check_choice("on_full", self.on_full, ("wait", "refuse"))

    def decide(self, type: str) -> bool | None:
        """Tell whether all events of ``type`` are wanted, or none, or, with None, that each has to be asked about."""
        if self.filter is None:
            return True
        return decide(self.filter, type) if isinstance(self.filter, Filter) else None


class Settings(TypedDict, total=False):
    """The settings of a `Subscription` that have defaults."""

    order: int
    retry: RetryPolicy | None
    dead_letter: DeadLetter | None
    concurrency: int
    capacity: int
    on_full: Literal["wait", "refuse"]
    key: Callable[[Event], Hashable] | None


def filter_of(pattern: Pattern) -> Filter | None:
    """Return the filter that passes what ``pattern`` matches, or None if that is everything."""
    parts = [("type", pattern.type), ("source", pattern.source), ("subject", pattern.subject)]
    found = [_filter_of(name, text) for name, text in parts if text is not None and (name, text) not in _EVERYTHING]
    return filters.all_of(*found) if found else None


_EVERYTHING = {("type", "*"), ("source", "*")}


def _filter_of(name: str, text: str) -> Filter:
    if text == "*":
        return filters.sql(f"EXISTS {name}")
    return filters.prefix({name: text[:-1]}) if text.endswith("*") else filters.exact({name: text})


def as_sink(subscriber: Subscriber, threads: int) -> Sink:
    """Return ``subscriber`` as a sink. A plain function gets so many ``threads`` of its own: it may hang in them."""
    if hasattr(subscriber, "send"):
        check_methods("sink", subscriber, "a Sink or a handler", "send")
        return subscriber
    return HandlerSink(bind(subscriber, None if is_async(subscriber) else ThreadPoolExecutor(threads)))
