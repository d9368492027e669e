"""Typed data: the second parameter of a handler, decoded into its annotation, which may be text."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from enum import Enum
from typing import Any, Optional, TypedDict
from uuid import UUID

import msgspec
import pydantic
import pytest

from cloudevents_kit import Ack, Event, HandlerSink, Nack, Router
from tests.support import annotated
from tests.support.annotated import (
    Handlers,
    Line,
    LineModel,
    LineStruct,
    LineTuple,
    Order,
    OrderOfModels,
    Plain,
)

ABSENT: Any = object()


class Color(Enum):
    RED = "red"


async def got(kind: Any, data: Any = ABSENT, **attributes: Any) -> Any:
    """Return what a handler annotated with `kind` gets; or why it is not called."""
    seen: list[Any] = []

    async def handle(event: Event, data: kind) -> None:
        seen.append(data)

    router = Router()
    router.on("t")(handle)
    given = {} if data is ABSENT else {"data": data}
    result = await HandlerSink(router).send(Event(type="t", source="/s", **given, **attributes))
    if isinstance(result, Ack):
        (found,) = seen
        return found
    assert isinstance(result, Nack)
    assert (result.status, result.retryable, seen) == (422, False, [])
    return result.reason


class Given(TypedDict, total=False):
    a: int


@pytest.mark.parametrize(
    ("kind", "data", "found"),
    [
        (dict, {"a": [1]}, {"a": [1]}),
        (dict[str, int], {"a": 1}, {"a": 1}),
        (Mapping[str, int], {"a": 1}, {"a": 1}),
        (list, [1, "a", None], [1, "a", None]),
        (list[int], [1], [1]),
        (tuple[int, str], [1, "a"], (1, "a")),
        (set[int], [1, 1], {1}),
        (int, 5, 5),
        (float, 5, 5.0),
        (bool, True, True),
        (str, "text", "text"),
        (None, None, None),
        (Any, {"a": 1}, {"a": 1}),
        (object, {"a": 1}, {"a": 1}),
        (int | None, None, None),
        (Optional[int], 5, 5),  # noqa: UP045 - as older code writes it
        (int | str, "a", "a"),
        (dict[str, int] | list[int], [1], [1]),
        (Line | None, {"sku": "a"}, Line("a")),
        (Line | None, None, None),
        (datetime, "2026-01-01T00:00:00Z", datetime(2026, 1, 1, tzinfo=UTC)),
        (UUID, "6e8bc430-9c3a-11d9-9669-0800200c9a66", UUID("6e8bc430-9c3a-11d9-9669-0800200c9a66")),
        (Decimal, "1.50", Decimal("1.50")),
        (Color, "red", Color.RED),
        (Given, {}, {}),
        (LineModel | None, {"sku": "a"}, LineModel(sku="a")),
        (list[LineModel], [{"sku": "a"}], [LineModel(sku="a")]),
    ],
)
async def test_data_is_decoded_into_the_annotation(kind: Any, data: Any, found: Any) -> None:
    """K-E3."""
    decoded = await got(kind, data)
    assert decoded == found
    assert type(decoded) is type(found)


@pytest.mark.parametrize(
    ("kind", "data", "reason"),
    [
        (int, "5", "Expected `int`, got `str`"),
        (int, 5.5, "Expected `int`, got `float`"),
        (bool, 1, "Expected `bool`, got `int`"),
        (str, 5, "Expected `str`, got `int`"),
        (list[int], [1, None], "Expected `int`, got `null` - at `$[1]`"),
        (Line, {}, "Object missing required field `sku`"),
        (Line, None, "Expected `object`, got `null`"),
        (int | None, "x", "Expected `int | null`, got `str`"),
        (Color, "green", "Invalid value"),
        (LineModel, {"count": 1}, "sku: missing"),
        (list[LineModel], [{"sku": "a"}, {"count": 1}], "Invalid value - at `$[1]`"),
        (LineModel | None, {"count": "x"}, "Invalid value"),
    ],
)
async def test_data_that_does_not_fit_is_refused_and_the_handler_does_not_run(
    kind: Any, data: Any, reason: str
) -> None:
    """K-E3: 422 with the field, never to be sent again."""
    assert await got(kind, data) == f"data: does not fit the handler's type ({reason})"


@pytest.mark.parametrize(
    ("kind", "reason"),
    [(Line, "data: is absent (Line was asked for)"), (int, "data: is absent (int was asked for)")],
)
async def test_absent_data_is_none_where_the_handler_takes_none(kind: Any, reason: str) -> None:
    assert await got(kind) == reason
    assert await got(kind | None) is None
    assert await got(kind | None, None) is None
    assert await got(Optional[kind]) is None  # noqa: UP045 - this spelling too


async def test_data_that_is_no_json_is_text_or_bytes() -> None:
    assert await got(str, "text", datacontenttype="text/plain") == "text"
    assert await got(bytes, b"\x00", datacontenttype="image/png") == b"\x00"
    assert await got(bytes, b"\x00") == b"\x00"
    assert await got(Any, "text", datacontenttype="text/plain") == "text"
    refused = "data: does not fit the handler's type (Expected `int`, got `str`)"
    assert await got(int, "5", datacontenttype="text/plain") == refused
    assert await got(Line, b"{", datacontenttype="application/json") == "data: is not valid JSON"


async def test_a_model_inside_another_type_follows_the_rules_for_json() -> None:
    """As it does alone: a strict model takes a date from its text, which is all that JSON has."""

    class Strict(pydantic.BaseModel, strict=True):
        when: datetime

    data = {"when": "2026-01-01T00:00:00Z"}
    assert await got(Strict, data) == Strict(when=datetime(2026, 1, 1, tzinfo=UTC))
    assert await got(list[Strict], [data]) == [Strict(when=datetime(2026, 1, 1, tzinfo=UTC))]
    assert await got(list[Strict], [{"when": 5}]) == "data: does not fit the handler's type (Invalid value - at `$[0]`)"


# ------------------------------------------------------------------------------------------- annotations as text


@pytest.mark.parametrize(
    ("name", "data", "found"),
    [
        ("order", {"lines": [{"sku": "a"}], "before": {"lines": []}}, Order([Line("a")], Order([]))),
        ("dict", {"sku": "a", "count": 2}, {"sku": "a", "count": 2}),
        ("struct", {"sku": "a"}, LineStruct("a")),
        ("tuple", ["a", 2], LineTuple("a", 2)),
        ("model", {"sku": "a", "count": "2"}, LineModel(sku="a", count=2)),
        ("models", {"lines": [{"sku": "a"}]}, OrderOfModels([LineModel(sku="a")])),
        ("model or none", None, None),
        ("by name", {"x": {"sku": "a"}}, {"x": LineModel(sku="a")}),
        ("literal", "red", "red"),
        ("positive", 1, 1),
        ("nothing said", {"any": "thing"}, {"any": "thing"}),
    ],
)
async def test_annotations_may_be_text(name: str, data: Any, found: Any) -> None:
    """K-E3: `from __future__ import annotations`; where Event itself is imported for type checkers only, too."""
    handlers, router = Handlers(), Router()
    router.include(handlers)
    assert await HandlerSink(router).send(Event(type=name, source="/s", data=data)) == Ack(status=204)
    assert handlers.seen == [found]
    assert type(handlers.seen[0]) is type(found)
    misfit = await HandlerSink(router).send(Event(type=name, source="/s", data=-1))
    assert isinstance(misfit, Nack) or name == "nothing said"


async def test_only_the_annotation_of_the_data_has_to_be_known() -> None:
    router = Router()
    router.on("t")(annotated.unknown_return)
    assert await HandlerSink(router).send(Event(type="t", source="/s", data=[1]))


def test_an_annotation_that_is_not_known_at_run_time_is_refused_at_once() -> None:
    with pytest.raises(TypeError) as caught:
        Router().on("t")(annotated.checked_only)
    assert str(caught.value) == (
        "checked_only: the annotation of 'price' names 'Decimal', which is not known at run time "
        "(import it outside TYPE_CHECKING, and define it at module level)"
    )


async def test_a_type_that_is_local_to_a_function_is_known_unless_annotations_are_text() -> None:
    @dataclass
    class Local:
        a: int

    assert await got(Local, {"a": 1}) == Local(1)
    router = Router()

    async def handle(event: Event, data: "Local") -> None: ...

    with pytest.raises(TypeError, match=r"handle: the annotation of 'data' names 'Local', which is not known"):
        router.on("t")(handle)


@pytest.mark.parametrize(
    "kind", [Plain, list[Plain], dict[str, Plain] | None, Event, Callable[[], None], Line | LineModel, 5]
)
def test_a_type_that_data_can_never_be_decoded_into_is_refused_at_once(kind: Any) -> None:
    """It would be the sender who is told that its events are wrong, for ever."""

    async def handle(event: Event, order: kind) -> None: ...

    with pytest.raises(TypeError, match=r"handle: data cannot be decoded into the type of 'order': "):
        Router().on("t")(handle)


def test_the_refusal_says_what_would_do() -> None:
    with pytest.raises(TypeError, match="Plain is no dataclass, TypedDict, Struct or pydantic model"):
        Router().on("t")(annotated.undecodable)


async def test_without_a_router_such_a_type_is_the_handlers_failure() -> None:
    """500, to be sent again once the handler is mended; the event is not to blame."""

    async def handle(event: Event) -> None:
        event.as_type(Plain)

    for data in ({"a": 1}, b"\x00"):
        result = await HandlerSink(handle).send(Event(type="t", source="/s", data=data))
        assert isinstance(result, Nack)
        assert (result.status, result.retryable) == (500, True)


async def test_a_plain_function_gets_its_data_decoded_in_its_thread() -> None:
    router = Router()

    @router.on("t")
    def handle(event: Event, line: LineStruct) -> Event:
        return event.reply(type="r", source="/r", data=line.count)

    sink = HandlerSink(router)
    result = await sink.send(Event(type="t", source="/s", data={"sku": "a", "count": 3}))
    assert isinstance(result, Ack)
    assert result.reply is not None
    assert result.reply.data == 3
    assert (await sink.send(Event(type="t", source="/s", data=3))).is_nack


async def test_types_are_looked_up_by_type_and_not_by_equality() -> None:
    """Two Structs of the same shape stay apart."""
    one = msgspec.defstruct("Same", [("a", int)])
    other = msgspec.defstruct("Same", [("a", int)])
    assert type(await got(one, {"a": 1})) is one
    assert type(await got(other, {"a": 1})) is other
