"""CloudEvents SQL once more, slow and simple: an interpreter that walks a tree.

It is written from the specification and shares nothing with the package. A tree is a tuple that begins
with its kind: lit, attr, exists, not, minus, like, in, binary, call.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

Value = str | int | bool
Tree = tuple[Any, ...]

LOGIC, COMPARISON, SUM, PRODUCT = range(1, 5)
LEVEL = {
    **dict.fromkeys(["AND", "OR", "XOR"], LOGIC),
    **dict.fromkeys(["=", "!=", "<>", "<", "<=", ">", ">="], COMPARISON),
    **dict.fromkeys(["+", "-"], SUM),
    **dict.fromkeys(["*", "/", "%"], PRODUCT),
}
RETURNS: dict[str, type] = {
    **dict.fromkeys(["LENGTH", "ABS", "INT"], int),
    **dict.fromkeys(["CONCAT", "CONCAT_WS", "LOWER", "UPPER", "TRIM", "LEFT", "RIGHT", "SUBSTRING", "STRING"], str),
    "BOOL": bool,
}
ZERO: dict[type, Value] = {str: "", int: 0, bool: False}


class Stop(Exception):
    """The first error, which ends the evaluation."""

    def __init__(self, kind: str, value: Value | None = None) -> None:
        self.kind = kind
        self.value = value


def evaluate(tree: Tree, event: Mapping[str, Value]) -> tuple[Value, list[str]]:
    """Return the value of ``tree``, and the kinds of its errors."""
    arguments: list[Value] = []
    try:
        if tree[0] != "call":
            return walk(tree, event), []
        arguments = arguments_of(tree, event)
    except Stop as stop:
        return ZERO[type_of(tree)], [stop.kind]
    try:
        return apply(tree[1], arguments), []
    except Stop as stop:
        return ZERO[type_of(tree)] if stop.value is None else stop.value, [stop.kind]


def type_of(tree: Tree) -> type:
    if tree[0] == "call":
        return RETURNS[tree[1]] if arity_fits(tree) else bool
    if tree[0] == "minus" or (tree[0] == "binary" and LEVEL[tree[1]] in (SUM, PRODUCT)):
        return int
    return bool


def walk(tree: Tree, event: Mapping[str, Value]) -> Value:
    match tree:
        case ("lit", value, _):
            return value  # type: ignore[no-any-return]
        case ("attr", name):
            if name not in event:
                raise Stop("missingAttribute")
            return event[name]
        case ("exists", name):
            return name in event
        case ("not", inner):
            return not cast(walk(inner, event), bool)
        case ("minus", inner):
            return fit(-int(cast(walk(inner, event), int)))
        case ("like", inner, pattern, _, negated):
            return like(str(cast(walk(inner, event), str)), pattern) is not bool(negated)
        case ("in", inner, elements, negated):
            value = walk(inner, event)
            return any(cast(walk(one, event), type(value)) == value for one in elements) is not bool(negated)
        case ("binary", operator, left, right):
            return binary(operator, left, right, event)
        case ("call", name, _):
            return apply(name, arguments_of(tree, event))
    raise AssertionError(tree)


def binary(operator: str, left: Tree, right: Tree, event: Mapping[str, Value]) -> Value:
    one = walk(left, event)
    if LEVEL[operator] == LOGIC:
        one = cast(one, bool)
        if (operator == "AND" and not one) or (operator == "OR" and one):
            return one
        other = cast(walk(right, event), bool)
        return one is not other if operator == "XOR" else other
    other = walk(right, event)
    if operator in ("=", "!=", "<>"):
        return (cast(one, type(other)) == other) == (operator == "=")
    x, y = int(cast(one, int)), int(cast(other, int))
    if LEVEL[operator] == COMPARISON:
        return {"<": x < y, "<=": x <= y, ">": x > y, ">=": x >= y}[operator]
    if operator in "/%" and y == 0:
        raise Stop("math")
    if operator in "/%":
        sign = -1 if (x < 0) != (y < 0) else 1
        quotient = sign * (abs(x) // abs(y))
        return fit(quotient) if operator == "/" else x - quotient * y
    return fit({"+": x + y, "-": x - y, "*": x * y}[operator])


def fit(number: int) -> int:
    if not -(2**31) <= number < 2**31:
        raise Stop("math")
    return number


def cast(value: Value, kind: type) -> Value:
    if type(value) is kind:
        return value
    if kind is str:
        return str(value).lower()
    if kind is bool:
        if isinstance(value, int):
            return value != 0
        if value.lower() not in ("true", "false"):
            raise Stop("cast")
        return value.lower() == "true"
    if isinstance(value, bool):
        return 1 if value else 0
    text = str(value)
    digits = text[1:] if text[:1] in ("+", "-") else text
    if not digits or any(char not in "0123456789" for char in digits):
        raise Stop("cast")
    number = int(text)
    if not -(2**31) <= number < 2**31:
        raise Stop("cast")
    return number


def like(text: str, pattern: str) -> bool:
    if not pattern:
        return not text
    if pattern[:2] in ("\\%", "\\_"):
        return text[:1] == pattern[1] and like(text[1:], pattern[2:])
    if pattern[0] == "%":
        return like(text, pattern[1:]) or (text != "" and like(text[1:], pattern))
    return text != "" and pattern[0] in ("_", text[0]) and like(text[1:], pattern[1:])


TAKES: dict[str, tuple[type | None, ...]] = {
    **dict.fromkeys(["LENGTH", "LOWER", "UPPER", "TRIM"], (str,)),
    **dict.fromkeys(["LEFT", "RIGHT"], (str, int)),
    **dict.fromkeys(["INT", "BOOL", "STRING"], (None,)),
    "SUBSTRING": (str, int, int),
    "ABS": (int,),
}


def arity_fits(tree: Tree) -> bool:
    name, count = str(tree[1]), len(tree[2])
    if name in ("CONCAT", "CONCAT_WS"):
        return count >= (name == "CONCAT_WS")
    return count in (2, 3) if name == "SUBSTRING" else name in TAKES and count == len(TAKES[name])


def arguments_of(tree: Tree, event: Mapping[str, Value]) -> list[Value]:
    if not arity_fits(tree):
        raise Stop("missingFunction")
    kinds = TAKES.get(tree[1], (str,) * len(tree[2]))
    values = []
    for argument, kind in zip(tree[2], kinds, strict=False):
        value = walk(argument, event)
        values.append(value if kind is None else cast(value, kind))
    return values


PLAIN: dict[str, Callable[[str], Value]] = {
    "LENGTH": len,
    "LOWER": str.lower,
    "UPPER": str.upper,
    "TRIM": lambda text: text.strip(" \t\n\u3000"),  # of all white space, what the trees have
}


def apply(name: str, given: list[Any]) -> Value:
    if name in PLAIN:
        return PLAIN[name](given[0])
    match name, given:
        case "CONCAT", texts:
            return "".join(texts)
        case "CONCAT_WS", [delimiter, *texts]:
            return str(delimiter).join(texts)
        case (("LEFT" | "RIGHT"), [text, count]):
            if count < 0:
                raise Stop("functionEvaluation", text)
            return str(text if count >= len(text) else text[:count] if name == "LEFT" else text[len(text) - count :])
        case "ABS", [number]:
            if number == -(2**31):
                raise Stop("math", 2**31 - 1)
            return abs(int(number))
        case "SUBSTRING", [text, position, *length]:
            return substring(text, position, *length)
        case (("INT" | "BOOL" | "STRING"), [value]):
            return cast(value, RETURNS[name])
    raise AssertionError(name, given)


def substring(text: str, position: int, length: int = 2**31 - 1) -> str:
    if length < 0 or position > len(text) or position < -len(text):
        raise Stop("functionEvaluation", "")
    begin = position + len(text) if position < 0 else position - 1
    return "".join(char for at, char in enumerate(text) if position and begin <= at < begin + length)
