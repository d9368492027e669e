"""What the router takes as a handler: functions of both kinds, objects, partials, decorated ones; and what not."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial, wraps
from typing import Any

import pytest

from cloudevents_kit import ACCEPTED, Ack, Event, HandlerSink, Outcome, Router, current_event

EVENT = Event(type="com.x.a", source="/s", data=[1])


def shouting(function: Callable[..., Any]) -> Callable[..., Any]:
    """A decorator as people write them."""

    @wraps(function)
    async def wrapper(*args: Any, **kwargs: Any) -> Any:
        found: Event = await function(*args, **kwargs)
        return found.evolve(subject=(found.subject or "").upper())

    return wrapper


def thread_or_loop() -> str:
    return "loop" if threading.current_thread() is threading.main_thread() else "thread"


def answer(event: Event, *more: object) -> Event:
    assert current_event() is event
    return event.reply(type="r", source="/r", subject=" ".join([thread_or_loop(), *map(str, more)]))


async def async_handler(event: Event) -> Event:
    return answer(event)


async def async_typed(event: Event, data: list[int]) -> Event:
    return answer(event, data)


async def with_default(event: Event, extra: str = "kept", *, more: int = 3) -> Event:
    return answer(event, extra, more)


def positional(event: Event, data: list[int], /) -> Event:
    return answer(event, data)


class AsyncObject:
    async def __call__(self, event: Event) -> Event:
        return answer(event)

    async def method(self, event: Event, data: list[int]) -> Event:
        return answer(event, data)

    @staticmethod
    async def static(event: Event, data: list[int]) -> Event:
        return answer(event, data)


class TypedObject:
    async def __call__(self, event: Event, data: list[int]) -> Event:
        return answer(event, data)


class SyncObject:
    def __call__(self, event: Event, data: list[int]) -> Event:
        return answer(event, data)


async def before(first: str, event: Event, data: list[int]) -> Event:
    return answer(event, first, data)


async def by_keyword(event: Event, data: list[int], *, last: str) -> Event:
    return answer(event, data, last)


@pytest.mark.parametrize(
    ("handler", "said"),
    [
        (async_handler, "loop"),
        (async_typed, "loop [1]"),
        (with_default, "loop kept 3"),
        (answer, "thread"),
        (positional, "thread [1]"),
        (AsyncObject(), "loop"),
        (AsyncObject().method, "loop [1]"),
        (AsyncObject.static, "loop [1]"),
        (TypedObject(), "loop [1]"),
        (SyncObject(), "thread [1]"),
        (shouting(async_handler), "LOOP"),
        (shouting(async_typed), "LOOP [1]"),
        (partial(before, "first"), "loop first [1]"),
        (partial(by_keyword, last="last"), "loop [1] last"),
        (partial(TypedObject()), "loop [1]"),
        (shouting(partial(before, "first")), "LOOP FIRST [1]"),
    ],
)
async def test_whatever_can_be_called_is_a_handler(handler: Any, said: str) -> None:
    """A plain function runs in a thread and sees the current event there; what is async runs in the loop."""
    router = Router()
    router.on("com.x.a")(handler)
    result = await HandlerSink(router).send(EVENT)
    assert isinstance(result, Ack), result
    assert result.reply is not None
    assert result.reply.subject == said


async def test_a_function_of_c_is_a_handler() -> None:
    router, seen = Router(), list[Event]()
    router.on("com.x.a")(seen.append)
    assert await HandlerSink(router).send(EVENT) == Ack(status=204)
    assert len(seen) == 1


async def test_a_handler_may_store_the_event() -> None:
    router = Router()

    @router.on("com.x.a")
    def store(event: Event) -> Outcome:
        return ACCEPTED

    assert await HandlerSink(router).send(EVENT) == Ack(status=202)


async def keyword_needed(event: Event, *, db: str) -> None: ...


@pytest.mark.parametrize(
    "handler",
    [lambda: None, lambda event, data, more: None, lambda *args: None, lambda **kwargs: None, keyword_needed],
    ids=["none", "three", "any", "any keyword", "a keyword"],
)
def test_a_signature_that_cannot_be_served_is_refused_at_once(handler: Any) -> None:
    for register in (Router().on("com.x.a"), lambda function: Router(default=function)):
        with pytest.raises(TypeError, match="a handler takes the event, or the event and its data"):
            register(handler)


@pytest.mark.parametrize("handler", [None, "handler", 5, AsyncObject])
def test_what_cannot_be_called_is_refused_at_once(handler: Any) -> None:
    with pytest.raises(TypeError, match=r"must be"):
        Router().on("com.x.a")(handler)


def test_a_method_is_not_registered_before_there_is_an_object() -> None:
    router = Router()
    with pytest.raises(TypeError, match=r"handle: mark methods with cloudevents_kit\.on"):

        class Orders:
            @router.on("com.x.a")
            async def handle(self, event: Event) -> None: ...
