"""What handlers and stages must look like is said when they are given, not when the first event comes."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypedDict, runtime_checkable

import msgspec
import pytest

from cloudevents_kit import Ack, Event, Handler, HandlerSink, Nack, Outcome, Receiver, Router, wrap
from cloudevents_kit.asgi import asgi_app
from tests.support.servers import ignore

if TYPE_CHECKING:
    from cloudevents.core.base import BaseCloudEvent

EVENT = Event(type="t", source="/s", id="1", data={"a": 1})

# --------------------------------------------------------------------------------------- handlers without a router

TAKERS: list[Callable[..., object]] = [Receiver, asgi_app, HandlerSink]
by_taker = pytest.mark.parametrize("take", TAKERS, ids=lambda take: getattr(take, "__name__", ""))


async def typed(event: Event, data: dict[str, int]) -> None: ...


async def of_nothing() -> None: ...


async def by_keyword(event: Event, *, db: str) -> None: ...


class Orders:
    async def handle(self, event: Event) -> None: ...


@by_taker
@pytest.mark.parametrize("handler", [typed, of_nothing, by_keyword, Orders.handle, lambda: None])
def test_a_handler_that_cannot_take_one_event_is_refused(take: Callable[..., object], handler: object) -> None:
    with pytest.raises(TypeError) as raised:
        take(handler)
    assert str(raised.value) == (
        "handler: must be callable with 1 positional arguments (the event; typed data needs a Router)"
    )


def yielding(event: Event) -> Iterator[None]:
    yield


async def async_yielding(event: Event) -> AsyncIterator[None]:
    yield


@by_taker
@pytest.mark.parametrize("handler", [yielding, async_yielding])
def test_a_handler_that_yields_is_refused(take: Callable[..., object], handler: object) -> None:
    with pytest.raises(TypeError, match=r"^handler: must return its outcome, not yield it$"):
        take(handler)


@pytest.mark.parametrize("handler", [yielding, async_yielding])
def test_a_router_refuses_a_handler_that_yields(handler: Callable[..., Any]) -> None:
    with pytest.raises(TypeError, match=r"^handler: must return its outcome, not yield it$"):
        Router().on("t")(handler)


async def with_default(event: Event, more: int = 3) -> None: ...


@by_taker
@pytest.mark.parametrize(
    "handler", [ignore, with_default, lambda *events: None, Orders().handle, Router(), list[Event]().append]
)
def test_whatever_can_take_one_event_is_taken(take: Callable[..., object], handler: object) -> None:
    take(handler)


# ---------------------------------------------------------------------------------------------------------- stages


async def one_argument(event: Event) -> Outcome: ...


async def three(event: Event, call_next: Handler, more: int) -> Outcome: ...


def yielding_stage(event: Event, call_next: Handler) -> Iterator[None]:
    yield


async def async_yielding_stage(event: Event, call_next: Handler) -> AsyncIterator[None]:
    yield


by_stager = pytest.mark.parametrize("take", [*TAKERS, wrap], ids=lambda take: getattr(take, "__name__", ""))


@by_stager
@pytest.mark.parametrize("stage", [one_argument, three, lambda: None])
def test_a_stage_that_cannot_take_two_arguments_is_refused(take: Callable[..., object], stage: object) -> None:
    with pytest.raises(TypeError) as raised:
        take(ignore, stage)
    assert str(raised.value) == "stage: must be callable with 2 positional arguments (the event and call_next)"


@by_stager
@pytest.mark.parametrize("stage", [yielding_stage, async_yielding_stage])
def test_a_stage_that_yields_is_refused(take: Callable[..., object], stage: object) -> None:
    with pytest.raises(TypeError, match=r"^stage: must return its outcome, not yield it$"):
        take(ignore, stage)


# ------------------------------------------------------------------------- the first parameter of a router's handler


@dataclass
class Order:
    a: int


class OrderDict(TypedDict):
    a: int


class OrderStruct(msgspec.Struct):
    a: int


class HasKey(Protocol):
    @property
    def key(self) -> tuple[str, str]: ...


@runtime_checkable
class Sized(Protocol):
    def get_type(self) -> str: ...


def annotated(kind: Any, *, second: bool) -> Callable[..., Any]:
    async def handle(event: Any) -> None: ...

    async def handle_both(event: Any, data: Any) -> None: ...

    handler = handle_both if second else handle
    handler.__annotations__["event"] = kind
    return handler


by_arity = pytest.mark.parametrize("second", [False, True], ids=["event", "event and data"])


@by_arity
@pytest.mark.parametrize(
    "kind",
    [Order, OrderDict, OrderStruct, dict, dict[str, int], list[int], str, int, "Order", "dict[str, int]"],
    ids=repr,
)
def test_a_first_parameter_that_is_to_be_data_is_refused(kind: Any, second: bool) -> None:
    with pytest.raises(TypeError) as raised:
        Router().on("t")(annotated(kind, second=second))
    assert str(raised.value).endswith(": the first parameter takes the event, not its data (event: Event)")


class Special(Event):
    """An event of somebody's own."""


@by_arity
@pytest.mark.parametrize(
    "kind",
    [Event, "Event", object, Any, HasKey, Sized, Event | None, Special, "BaseCloudEvent", "the event", "json.Missing"],
    ids=repr,
)
async def test_a_first_parameter_that_an_event_may_be_is_taken(kind: Any, second: bool) -> None:
    """The last ones are known to type checkers only, or to nobody."""
    router = Router()
    router.on("t")(annotated(kind, second=second))
    assert await HandlerSink(router).send(EVENT) == Ack(status=204)


async def test_a_first_parameter_that_is_not_annotated_is_taken() -> None:
    router, seen = Router(), list[object]()

    @router.on("t")
    async def handle(event, data: Mapping[str, int]):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
        seen.append((event, data))

    assert await HandlerSink(router).send(EVENT) == Ack(status=204)
    assert seen == [(EVENT, {"a": 1})]


async def of_a_checked_type(event: BaseCloudEvent) -> None: ...


def test_a_type_imported_for_type_checkers_only_may_be_that_of_the_event() -> None:
    assert Router().on("t")(of_a_checked_type) is of_a_checked_type


# -------------------------------------------------------------------------------------------------- replies


async def test_a_reply_with_the_key_of_its_event_is_the_handlers_mistake(caplog: pytest.LogCaptureFixture) -> None:
    async def echo(event: Event) -> Event:
        return event.evolve(type="other")

    with caplog.at_level(logging.ERROR, "cloudevents_kit"):
        result = await HandlerSink(echo).send(EVENT)
    assert isinstance(result, Nack)
    assert (result.status, result.reason) == (500, "the handler failed")
    assert (
        "the reply has the key of the event it answers, which a broker would deliver again: use event.reply(...)"
        in caplog.text
    )


def test_a_function_that_does_not_tell_its_parameters_is_taken() -> None:
    silent: Any = max
    assert isinstance(HandlerSink(silent), HandlerSink)
