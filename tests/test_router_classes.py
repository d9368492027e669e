"""Classes whose methods are handlers: `on` marks them, `Router.include` registers an object of the class."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import pytest

from cloudevents_kit import Ack, Event, HandlerSink, Nack, Router, on


class Orders:
    """Notes what its handlers get."""

    def __init__(self) -> None:
        self.seen: list[Any] = []

    @on("com.x.created")
    @on("com.x.changed", source="/shops/*")
    async def note(self, event: Event) -> None:
        self.seen.append(("note", event.type))

    @on("com.x.counted")
    async def count(self, event: Event, numbers: list[int]) -> None:
        self.seen.append(("count", sum(numbers)))

    @on("com.x.slow")
    def slow(self, event: Event) -> None:
        self.seen.append(("slow", event.type))

    def helper(self, event: Event) -> None:
        raise AssertionError("not marked")


async def sent(handlers: Any, *types: str, data: Any = None) -> list[Any]:
    """Return what the object noted of events of these types."""
    router = Router(unhandled="ack")
    router.include(handlers)
    for name in types:
        assert await HandlerSink(router).send(Event(type=name, source="/shops/1", data=data)) == Ack(status=204)
    seen: list[Any] = handlers.seen
    return seen


async def test_an_object_is_registered_as_a_whole() -> None:
    """Marks may be stacked and narrowed; data is decoded; plain methods run."""
    seen = await sent(Orders(), "com.x.created", "com.x.changed", "com.x.counted", "com.x.slow", data=[1, 2])
    assert seen == [("note", "com.x.created"), ("note", "com.x.changed"), ("count", 3), ("slow", "com.x.slow")]


async def test_each_object_has_handlers_of_its_own() -> None:
    first, second = Orders(), Orders()
    assert await sent(first, "com.x.created") == [("note", "com.x.created")]
    assert await sent(second) == []


async def test_an_override_takes_the_place_of_the_marked_method() -> None:
    """K-S5: with the mark of its base; it may have another type for the data."""

    class Special(Orders):
        async def note(self, event: Event) -> None:
            await super().note(event)
            self.seen.append("special")

        async def count(self, event: Event, numbers: tuple[int, int]) -> None:  # type: ignore[override]
            self.seen.append(numbers)

    class MoreSpecial(Special):
        def note(self, event: Event) -> None:  # type: ignore[override]
            self.seen.append("more special")

    assert await sent(Special(), "com.x.created", "com.x.counted", data=[1, 2]) == [
        ("note", "com.x.created"),
        "special",
        (1, 2),
    ]
    assert await sent(MoreSpecial(), "com.x.created", "com.x.changed") == ["more special"] * 2


async def test_an_override_with_a_mark_of_its_own_has_that_mark_only() -> None:
    """K-S5."""

    class Same(Orders):
        @on("com.x.created")
        async def note(self, event: Event) -> None:
            self.seen.append("same")

    class Other(Orders):
        @on("com.y.created")
        async def note(self, event: Event) -> None:
            self.seen.append("other")

    assert await sent(Same(), "com.x.created", "com.x.changed") == ["same"]
    assert await sent(Other(), "com.x.created", "com.y.created") == ["other"]


async def test_a_mixin_brings_its_handlers() -> None:
    class Audit:
        seen: list[Any]

        @on("com.audit.*")
        async def audit(self, event: Event) -> None:
            self.seen.append("audit")

    class Both(Audit, Orders):
        pass

    assert await sent(Both(), "com.audit.a", "com.x.created") == ["audit", ("note", "com.x.created")]


async def test_methods_of_the_class_are_handlers_whichever_decorator_comes_first() -> None:
    notes: list[Any] = []

    class Mixed:
        seen = notes

        @on("com.x.a")
        @staticmethod
        async def a(event: Event) -> None:
            notes.append("a")

        @staticmethod
        @on("com.x.b")
        async def b(event: Event, data: list[int]) -> None:
            notes.append(data)

        @on("com.x.c")
        @classmethod
        async def c(cls, event: Event) -> None:
            notes.append(cls.__name__)

        @classmethod
        @on("com.x.d")
        async def d(cls, event: Event, data: list[int]) -> None:
            notes.append((cls.__name__, data))

    assert await sent(Mixed(), "com.x.a", "com.x.b", "com.x.c", "com.x.d", data=[1]) == [
        "a",
        [1],
        "Mixed",
        ("Mixed", [1]),
    ]


async def test_a_decorated_method_keeps_its_mark() -> None:
    def twice(method: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(method)
        async def wrapper(*args: Any) -> None:
            await method(*args)
            await method(*args)

        return wrapper

    class Decorated:
        def __init__(self) -> None:
            self.seen: list[Any] = []

        @twice
        @on("com.x.outside")
        async def outside(self, event: Event) -> None:
            self.seen.append("outside")

        @on("com.x.inside")
        @twice
        async def inside(self, event: Event, data: list[int]) -> None:
            self.seen.append(data)

    assert await sent(Decorated(), "com.x.outside", "com.x.inside", data=[1]) == ["outside", "outside", [1], [1]]


class Twice:
    @on("com.x.a")
    async def one(self, event: Event) -> None: ...

    @on("com.x.b")
    async def two(self, event: Event) -> None: ...

    @on("com.x.b")
    async def three(self, event: Event) -> None: ...


async def test_two_handlers_of_one_class_for_one_pattern_are_an_error_and_nothing_is_registered() -> None:
    """K-S5."""
    router = Router()
    with pytest.raises(ValueError, match=r"^com\.x\.b: there is a handler for this pattern already"):
        router.include(Twice())
    for name in ("com.x.a", "com.x.b"):
        assert isinstance(await HandlerSink(router).send(Event(type=name, source="/s")), Nack)


async def test_a_pattern_that_is_taken_keeps_its_handler() -> None:
    router = Router()
    ran: list[str] = []

    @router.on("com.x.created")
    async def first(event: Event) -> None:
        ran.append("first")

    for _ in range(2):
        with pytest.raises(ValueError, match=r"^com\.x\.created: there is a handler"):
            router.include(Orders())
    assert await HandlerSink(router).send(Event(type="com.x.created", source="/s"))
    assert ran == ["first"]


def test_an_object_without_marked_methods_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"^object has no method marked with @on\(\.\.\.\)"):
        Router().include(object())


def test_the_class_itself_is_an_error() -> None:
    with pytest.raises(TypeError, match="not the class Orders"):
        Router().include(Orders)
