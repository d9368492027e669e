"""Handlers in a module whose annotations are text, as `from __future__ import annotations` leaves them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple, TypedDict

import msgspec
import pydantic

from cloudevents_kit import on

if TYPE_CHECKING:
    from decimal import Decimal

    from cloudevents_kit import Event, Outcome


@dataclass(frozen=True)
class Line:
    """A dataclass inside others."""

    sku: str
    count: int = 1


@dataclass(frozen=True)
class Order:
    """A dataclass that holds another, and itself."""

    lines: list[Line]
    before: Order | None = None
    note: str = field(default="")


class LineDict(TypedDict):
    """A TypedDict."""

    sku: str
    count: int


class LineStruct(msgspec.Struct, frozen=True):
    """A Struct."""

    sku: str
    count: int = 1


class LineTuple(NamedTuple):
    """A NamedTuple, which is a JSON array."""

    sku: str
    amount: int


class LineModel(pydantic.BaseModel):
    """A pydantic model."""

    sku: str
    count: int = 1


@dataclass(frozen=True)
class OrderOfModels:
    """A dataclass that holds pydantic models."""

    lines: list[LineModel]


class Plain:
    """No type that data can be decoded into."""


Positive = Annotated[int, msgspec.Meta(gt=0)]


class Handlers:
    """One method for each kind of type; notes what it gets."""

    def __init__(self) -> None:
        self.seen: list[Any] = []

    @on("order")
    async def order(self, event: Event, order: Order) -> Outcome:
        self.seen.append(order)
        return None

    @on("dict")
    async def typed_dict(self, event: Event, line: LineDict) -> None:
        self.seen.append(line)

    @on("struct")
    def struct(self, event: Event, line: LineStruct) -> Outcome:
        self.seen.append(line)
        return None

    @on("tuple")
    async def named_tuple(self, event: Event, line: LineTuple) -> None:
        self.seen.append(line)

    @on("model")
    async def model(self, event: Event, line: LineModel) -> None:
        self.seen.append(line)

    @on("models")
    async def models(self, event: Event, order: OrderOfModels) -> None:
        self.seen.append(order)

    @on("model or none")
    async def model_or_none(self, event: Event, line: LineModel | None) -> None:
        self.seen.append(line)

    @on("by name")
    async def by_name(self, event: Event, lines: dict[str, LineModel]) -> None:
        self.seen.append(lines)

    @on("literal")
    async def literal(self, event: Event, word: Literal["red", "blue"]) -> None:
        self.seen.append(word)

    @on("positive")
    async def positive(self, event: Event, number: Positive) -> None:
        self.seen.append(number)

    @on("nothing said")
    async def unannotated(self, event, data):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201
        self.seen.append(data)


async def unknown_return(event: Event, numbers: list[int]) -> Unknown:  # type: ignore[name-defined]  # noqa: F821
    """Is served all the same: only the annotation of the data matters."""


async def checked_only(event: Event, price: Decimal) -> None:
    """Has a type for its data that is imported for type checkers only."""


async def undecodable(event: Event, order: Plain) -> None:
    """Has a type for its data that nothing can decode into."""
