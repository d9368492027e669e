"""The tree that an expression is parsed to. A run of operators of one level is one node, however long it is."""

from __future__ import annotations

from typing import Final, NamedTuple, Union

from cloudevents_kit._values import Value

#: The levels of the binary operators, from the loosest: a higher one binds tighter.
LOGIC, COMPARISON, SUM, PRODUCT = 1, 2, 3, 4
LEVELS: Final = {
    **dict.fromkeys(("AND", "OR", "XOR"), LOGIC),
    **dict.fromkeys(("=", "!=", "<>", "<", "<=", ">", ">="), COMPARISON),
    **dict.fromkeys(("+", "-"), SUM),
    **dict.fromkeys(("*", "/", "%"), PRODUCT),
}


class Literal(NamedTuple):
    """A string, number or truth value."""

    value: Value
    at: int
    height: int = 1


class Attribute(NamedTuple):
    """The value of an attribute; ``name`` is in lower case."""

    name: str
    at: int
    height: int = 1


class Exists(NamedTuple):
    """Whether the event has an attribute."""

    name: str
    at: int
    height: int = 1


class Not(NamedTuple):
    """The opposite of a Boolean."""

    operand: Node
    at: int
    height: int


class Minus(NamedTuple):
    """The negative of an Integer."""

    operand: Node
    at: int
    height: int


class Like(NamedTuple):
    """Whether a String fits a pattern, or does not."""

    operand: Node
    pattern: str
    expected: bool
    at: int
    height: int


class In(NamedTuple):
    """Whether a value is one of several, or is not."""

    operand: Node
    elements: list[Node]
    expected: bool
    at: int
    height: int


class Call(NamedTuple):
    """A function of some arguments; ``name`` is in capitals."""

    name: str
    arguments: list[Node]
    at: int
    height: int


class Step(NamedTuple):
    """One operator of a chain and what stands right of it."""

    operator: str
    operand: Node
    at: int


class Chain:
    """Operators of one level, evaluated from left to right: ``a - b + c``, ``a AND b OR c``."""

    __slots__ = ("at", "first", "height", "level", "steps")

    def __init__(self, level: int, first: Node) -> None:
        """Begin with the leftmost operand."""
        self.level = level
        self.first = first
        self.at: int = first.at
        self.height: int = first.height + 1
        self.steps: list[Step] = []

    def add(self, step: Step) -> None:
        """Append an operator and its right side."""
        self.steps.append(step)
        self.height = max(self.height, step.operand.height + 1)


Node = Union[Literal, Attribute, Exists, Not, Minus, Like, In, Call, Chain]  # noqa: UP007 - some are not defined yet
