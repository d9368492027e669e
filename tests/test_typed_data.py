"""Data as a type of the user's, straight from the event. What a router makes of it is in test_router_data.py."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from typing import Annotated, Any, Literal, NotRequired, Optional, TypedDict

import msgspec
import pydantic
import pytest

from cloudevents_kit import DataError, Event
from cloudevents_kit._typed import check_type, is_model
from tests.support.events import new

SECRET = "hunter2"


@dataclass
class Item:
    sku: str
    count: int = 1

    def __post_init__(self) -> None:
        if self.count < 0:
            raise ValueError(f"{SECRET}: {self.count}")


@dataclass
class Order:
    items: list[Item]


class OrderDict(TypedDict):
    items: list[Item]
    note: NotRequired[str]


class OrderStruct(msgspec.Struct, forbid_unknown_fields=True):
    items: list[Item]


class ItemModel(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid")
    sku: str
    count: int = 1


class OrderModel(pydantic.BaseModel):
    items: list[ItemModel]


class Opaque:
    pass


class NoSchema(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(arbitrary_types_allowed=True)
    count: int
    opaque: Opaque | None = None


FITTING = {"items": [{"sku": "a", "count": 2}]}


@pytest.mark.parametrize(
    ("kind", "found"),
    [
        (Order, Order([Item("a", 2)])),
        (OrderDict, {"items": [Item("a", 2)]}),
        (OrderStruct, OrderStruct([Item("a", 2)])),
        (OrderModel, OrderModel(items=[ItemModel(sku="a", count=2)])),
        (dict[str, list[ItemModel]], {"items": [ItemModel(sku="a", count=2)]}),
        (dict, FITTING),
        (Any, FITTING),
    ],
)
def test_data_that_fits_becomes_the_type(kind: Any, found: object) -> None:
    """K-E3: a dataclass, a TypedDict, a pydantic model and what holds them."""
    for event in (new(data=FITTING), new(data=b'{"items":[{"sku":"a","count":2}]}', datacontenttype="a/b+json")):
        once, twice = event.as_type(kind), event.as_type(kind)
        assert once == found
        assert type(once) is type(found)
        assert once is not twice


@pytest.mark.parametrize(
    ("kind", "data", "hint"),
    [
        (Order, {}, "Object missing required field `items`"),
        (Order, {"items": [{"sku": 5}]}, "Expected `str`, got `int` - at `$.items[0].sku`"),
        (Order, {"items": [{"sku": "a", "count": -1}]}, "Invalid value - at `$.items[0]`"),
        (OrderStruct, {"items": [], SECRET: 1}, "Unknown field"),
        (OrderDict, {"items": {}}, "Expected `array`, got `object` - at `$.items`"),
        (OrderModel, {"items": [{"sku": "a", "count": SECRET}]}, "items.0.count: int_parsing"),
        (OrderModel, {"items": [{"sku": "a", SECRET: 1}]}, "items.0.[...]: extra_forbidden"),
        (OrderModel, [SECRET], "data: model_type"),
        (NoSchema, {"count": SECRET}, "count: int_parsing"),
        (list[ItemModel], [{"sku": "a"}, {"sku": SECRET, "count": SECRET}], "Invalid value - at `$[1]`"),
        (Literal["a"], SECRET, "Invalid value"),
        (dict[str, int], {SECRET: "x"}, "Expected `int`, got `str` - at `$[...]`"),
        (dict[int, int], {SECRET: 1}, "Expected `int`, got `str` - at `key` in `$`"),
    ],
)
def test_data_that_does_not_fit_names_the_field_and_no_value(kind: Any, data: object, hint: str) -> None:
    """K-E3."""
    event = new(data=data)
    with pytest.raises(DataError) as caught:
        event.as_type(kind)
    assert str(caught.value) == f"data: does not fit the handler's type ({hint})"
    assert caught.value.key == event.key
    assert SECRET not in str(caught.value)


def test_no_more_than_a_few_mistakes_are_listed() -> None:
    with pytest.raises(DataError) as caught:
        new(data={"items": [{}] * 50}).as_type(OrderModel)
    assert caught.value.hint == "; ".join(f"items.{number}.sku: missing" for number in range(5))


@pytest.mark.parametrize(
    ("raw", "rule"),
    [(b"{", "is not valid JSON"), (b'"\xff"', "is not valid JSON"), (b"[" * 100_000, "is nested too deeply")],
    ids=["cut", "not UTF-8", "deep"],
)
def test_what_is_no_json_says_so(raw: bytes, rule: str) -> None:
    event = new(data=raw, datacontenttype="application/json")
    kind: Any = Any
    with pytest.raises(DataError) as caught:
        event.as_type(kind)
    assert caught.value.rule == rule
    assert caught.value.__cause__ is None


def test_text_and_bytes_are_what_they_are() -> None:
    assert new(data="text", datacontenttype="text/plain").as_type(str) == "text"
    assert new(data=b"\xff").as_type(bytes) == b"\xff"
    with pytest.raises(DataError, match="Expected `int`, got `str`"):
        new(data="5", datacontenttype="text/plain").as_type(int)
    with pytest.raises(DataError, match="data: model_type"):
        new(data="text", datacontenttype="text/plain").as_type(OrderModel)
    with pytest.raises(DataError, match="is not text in the charset"):
        new(data=b"\xff", datacontenttype="text/plain").as_type(str)


@pytest.mark.parametrize(
    "kind",
    [Order, OrderModel, dict[str, list[int]], list[None], Literal["a"], Annotated[int, "positive"], None],
    ids=repr,
)
def test_absent_data_fits_no_type_but_an_optional_one(kind: Any) -> None:
    with pytest.raises(DataError, match=r"^data: is absent"):
        new().as_type(kind)
    if kind is not None:
        optional: Any = Optional[kind]  # noqa: UP045 - not every kind knows the | operator
        annotated: Any = Annotated[optional, "maybe"]
        assert new().as_type(optional) is None
        assert new().as_type(annotated) is None


@pytest.mark.parametrize("kind", [Opaque, list[Opaque], Event, dict[str, tuple[Opaque, ...]]])
def test_a_type_that_nothing_can_be_read_into_is_a_mistake_of_the_program(kind: Any) -> None:
    for check in (check_type, new(data={}).as_type):
        with pytest.raises(TypeError, match="is no dataclass, TypedDict, Struct or pydantic model"):
            check(kind)


@pytest.mark.parametrize("kind", [5, "Order", print])
def test_what_is_no_type_at_all_is_a_mistake_of_the_program(kind: Any) -> None:
    for check in (check_type, new(data={}).as_type):
        with pytest.raises(TypeError, match="is not supported"):
            check(kind)


def test_types_are_checked_without_data() -> None:
    for kind in (Order, OrderDict, OrderStruct, OrderModel, list[OrderModel], Any, object, None, int | str):
        check_type(kind)
    assert is_model(OrderModel)
    assert not is_model(OrderModel(items=[]))
    assert not is_model(Order)


def test_pydantic_is_not_loaded_for_anything_but_its_own_models() -> None:
    program = """
import sys
from dataclasses import dataclass
from cloudevents_kit import Event
@dataclass
class Order: sku: str
print(Event(type="t", source="/s", data={"sku": "a"}).as_type(Order).sku, "pydantic" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["a", "False"]
