"""Turns a tree into closures, once, choosing for each node by the kinds of its operands.

What does not depend on the event is computed here, an error too. The closures themselves are in `_code` and `_logic`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from cloudevents_kit._values import Value
from cloudevents_kit.cesql import _code, _logic
from cloudevents_kit.cesql._budget import FREE, Allowance, afford
from cloudevents_kit.cesql._builtin import Failed, Function
from cloudevents_kit.cesql._casts import ZEROS, cast, to_text
from cloudevents_kit.cesql._code import Attributes, Code
from cloudevents_kit.cesql._errors import EvaluationError
from cloudevents_kit.cesql._like import matcher
from cloudevents_kit.cesql._operators import OPERATORS, Outcome, no_cast, too_much
from cloudevents_kit.cesql._syntax import (
    COMPARISON,
    LOGIC,
    Attribute,
    Call,
    Chain,
    Exists,
    In,
    Like,
    Literal,
    Node,
    Not,
)

#: Returns the function of a name, in capitals, and a number of arguments.
Find = Callable[[str, int], Function | None]
_NOTHING: Attributes = {}
_EQUALITY = frozenset({"=", "!=", "<>"})


@dataclass(frozen=True, slots=True)
class Both:
    """The value of a function that found an error, and the error; only a whole expression has such an outcome."""

    value: Value
    error: EvaluationError


def compiled(node: Node, find: Find, allowance: Allowance) -> tuple[Callable[[Attributes], Outcome | Both], Value]:
    """Return the closure of a whole expression, and its value where an error leaves it without one.

    The closure raises `Costly` if it is to be called with `Counted` attributes instead.
    """
    compiler = _Compiler(find, allowance)
    if isinstance(node, Call) and (function := find(node.name, len(node.arguments))):
        codes = [compiler.code(argument) for argument in node.arguments]
        return _called(node, function, codes), ZEROS[function.returns]
    code = compiler.code(node)
    return code.run, ZEROS[code.kind or bool]


class _Compiler:
    __slots__ = ("_allowance", "_find")

    def __init__(self, find: Find, allowance: Allowance) -> None:
        self._find = find
        self._allowance = allowance

    def code(self, node: Node) -> Code:
        """Return the code of a node within an expression."""
        if isinstance(node, Attribute):
            return _code.attribute(node.name, node.at)
        if isinstance(node, Literal):
            return _code.constant(node.value)
        if isinstance(node, Chain):
            return self._logic(node) if node.level == LOGIC else self._chain(node)
        if isinstance(node, Like):
            operand = self.code(node.operand)
            pattern = matcher(node.pattern, self._allowance)
            return _code.folded(_code.like(operand, pattern, node.at, expected=node.expected), operand)
        if isinstance(node, In):
            return self._in(node)
        if isinstance(node, Call):
            return self._call(node)
        if isinstance(node, Exists):
            return _code.exists(node.name)
        operand = self.code(node.operand)
        make = _code.opposite if isinstance(node, Not) else _code.negative
        return _code.folded(make(operand, node.at), operand)

    def _logic(self, node: Chain) -> Code:
        codes = [self.code(node.first), *[self.code(step.operand) for step in node.steps]]
        places = [node.steps[0].at, *[step.at for step in node.steps]]
        runs = [_code.boolean(code, at) for code, at in zip(codes, places, strict=True)]
        operators = {step.operator for step in node.steps}
        if operators == {"AND"}:
            run = _logic.every(codes, runs)
        elif operators == {"OR"}:
            run = _logic.some(runs)
        else:
            run = _logic.mixed(runs[0], [(step.operator, run) for step, run in zip(node.steps, runs[1:], strict=True)])
        return _code.folded(Code(run, bool), *codes)

    def _chain(self, node: Chain) -> Code:
        first = self.code(node.first)
        kind = bool if node.level == COMPARISON else int
        codes = [self.code(step.operand) for step in node.steps]
        if len(codes) > 1:
            steps = [(OPERATORS[one.operator], code.run, one.at) for one, code in zip(node.steps, codes, strict=True)]
            return _code.folded(_code.run_of(first.run, steps, kind), first, *codes)
        operator, _, at = node.steps[0]
        right = codes[0]
        wanted = right.run(_NOTHING) if right.constant else None
        if operator in _EQUALITY and isinstance(wanted, str | int):
            return _code.folded(self._compared(node.first, first, wanted, at, expected=operator == "="), first)
        return _code.folded(_code.pair(first.run, right.run, OPERATORS[operator], at, kind), first, right)

    def _compared(self, node: Node, code: Code, wanted: Value, at: int, *, expected: bool) -> Code:
        if isinstance(node, Attribute) and isinstance(wanted, str):
            if node.name in _code.REQUIRED:
                return _code.equality(node.name, wanted, expected=expected)
            return _code.optional_equality(node.name, wanted, node.at, expected=expected)
        return _code.comparison(code, wanted, at, expected=expected)

    def _in(self, node: In) -> Code:
        operand = self.code(node.operand)
        codes = [self.code(element) for element in node.elements]
        found = _code.within(operand, [code.run for code in codes], _texts(codes), node.at, expected=node.expected)
        return _code.folded(found, operand, *codes)

    def _call(self, node: Call) -> Code:
        function = self._find(node.name, len(node.arguments))
        if function is None:
            return _code.constant(_no_function(node), bool)
        codes = [self.code(argument) for argument in node.arguments]
        run = _called(node, function, codes)

        def run_call(attributes: Attributes) -> Outcome:
            outcome = run(attributes)
            return outcome.error if isinstance(outcome, Both) else outcome

        code = Code(run_call, function.returns)
        return _code.folded(code, *codes) if function.built_in else code


def _texts(codes: list[Code]) -> frozenset[str] | None:
    """Return the elements of a set as String, or None if they are not literals alone."""
    values = [code.run(_NOTHING) if code.constant else None for code in codes]
    texts = frozenset(to_text(value) for value in values if isinstance(value, str | int))
    return texts if all(isinstance(value, str | int) for value in values) else None


def _no_function(node: Call) -> EvaluationError:
    message = f"there is no function {node.name[:40]} of {len(node.arguments)} arguments"
    return EvaluationError(kind="missingFunction", message=message, position=node.at)


def _called(node: Call, function: Function, codes: list[Code]) -> Callable[[Attributes], Outcome | Both]:
    further = [function.rest or object] * (len(codes) - len(function.arguments))
    operands = [(code.run, kind) for code, kind in zip(codes, (*function.arguments, *further), strict=True)]
    call = function.run
    at = node.at

    def run(attributes: Attributes) -> Outcome | Both:
        values: list[Value] = []
        size = 0
        for operand, kind in operands:
            value = operand(attributes)
            if isinstance(value, EvaluationError):
                return value
            argument = cast(value, kind)
            if argument is None:
                return no_cast(kind, at)
            if isinstance(argument, str):
                size += len(argument)
            values.append(argument)
        if size > FREE and not afford(attributes, size):
            return too_much(at)
        result = call(*values)
        if isinstance(result, str):
            more = len(result) - size
            return too_much(at) if more > FREE and not afford(attributes, more) else result
        if isinstance(result, Failed):
            return Both(result.value, EvaluationError(kind=result.kind, message=result.message, position=at))
        return result

    return run
