"""Makes a tree of tokens: a Pratt parser for the grammar of CloudEvents SQL, with limits on how deep it goes.

Both its own recursion and the height of the tree stay below `MAX_DEPTH`, so that nothing that works on the tree can
run out of stack. The precedence, from the tightest: function, NOT and minus, LIKE, EXISTS, IN, then `_syntax.LEVELS`.
"""

from __future__ import annotations

from typing import NoReturn

from cloudevents_kit.cesql._budget import Allowance
from cloudevents_kit.cesql._casts import to_integer
from cloudevents_kit.cesql._errors import ParseError
from cloudevents_kit.cesql._lexer import KEYWORDS, Token, tokens_of
from cloudevents_kit.cesql._syntax import (
    LEVELS,
    LOGIC,
    Attribute,
    Call,
    Chain,
    Exists,
    In,
    Like,
    Literal,
    Minus,
    Node,
    Not,
    Step,
)

MAX_DEPTH = 100
_TESTS = frozenset({"LIKE", "IN", "NOT"})
_SIGNS = frozenset({"-", "+"})
_BOOLEANS = {"TRUE": True, "FALSE": False}


def tree_of(text: str, allowance: Allowance) -> Node:
    """Return the tree of ``text``; raise ParseError if it is no expression, or has more tokens than allowed."""
    return _Parser(text, allowance).whole()


class _Parser:
    __slots__ = ("_at", "_text", "_token", "_tokens")

    def __init__(self, text: str, allowance: Allowance) -> None:
        self._text = text
        self._tokens = tokens_of(text, allowance)
        self._at = 0
        self._token = self._tokens[0]

    def whole(self) -> Node:
        found = self._expression(LOGIC, 1)
        if self._token.kind != "end":
            self._refuse("an operator or the end")
        return found

    # Tokens.

    def _next(self) -> Token:
        """Go on by one token; return the one that was there."""
        here = self._token
        self._at += 1
        self._token = self._tokens[self._at]
        return here

    def _follower(self) -> Token:
        return self._tokens[min(self._at + 1, len(self._tokens) - 1)]

    def _expect(self, kind: str, wanted: str) -> Token:
        if self._token.kind != kind:
            self._refuse(wanted)
        return self._next()

    def _refuse(self, wanted: str) -> NoReturn:
        token = self._token
        hint = _hint(self._tokens[self._at - 1], token)
        raise ParseError(f"expected {wanted}, found {_shown(token)}", self._text, token.at, hint=hint)

    def _limit(self, depth: int, at: int) -> None:
        if depth > MAX_DEPTH:
            raise ParseError(f"nested deeper than {MAX_DEPTH} levels", self._text, at)

    # Grammar.

    def _expression(self, least: int, depth: int) -> Node:
        """Parse what is joined by operators that bind at least as tight as ``least``."""
        self._limit(depth, self._token.at)
        left = self._tested(depth)
        while (level := LEVELS.get(self._token.kind, 0)) >= least:
            operator = self._next()
            chain = left if isinstance(left, Chain) and left.level == level else Chain(level, left)
            chain.add(Step(operator.kind, self._expression(level + 1, depth + 1), operator.at))
            self._limit(chain.height, operator.at)
            left = chain
        return left

    def _tested(self, depth: int) -> Node:
        """Parse an operand and the LIKE and IN that follow it: they bind tighter than any binary operator."""
        left = self._operand(depth)
        while self._token.kind in _TESTS:
            at = self._token.at
            expected = self._token.kind != "NOT"
            if not expected:
                self._next()
            if self._token.kind == "LIKE":
                self._next()
                pattern = self._expect("string", "a pattern between quotes").value
                left = Like(left, pattern, expected, at, left.height + 1)
            else:
                self._expect("IN", "LIKE or IN after NOT")
                self._expect("(", "( and a set")
                elements = self._list(depth)
                left = In(left, elements, expected, at, max(left.height, _height(elements)) + 1)
            self._limit(left.height, at)
        return left

    def _operand(self, depth: int) -> Node:
        self._limit(depth, self._token.at)
        token = self._token
        kind = token.kind
        if kind == "name":
            self._next()
            return self._call(token, depth) if self._token.kind == "(" else self._attribute(token)
        if kind == "string":
            self._next()
            return Literal(token.value, token.at)
        if kind == "(":
            self._next()
            inner = self._expression(LOGIC, depth + 1)
            self._expect(")", "an operator or )")
            return inner
        if kind in _BOOLEANS:
            self._next()
            return Literal(_BOOLEANS[kind], token.at)
        return self._signed(token, depth)

    def _signed(self, token: Token, depth: int) -> Node:
        """Parse a number, or what begins with NOT, minus or EXISTS."""
        kind = token.kind
        follower = self._follower()
        if kind == "digits":
            return self._number(token, "")
        if kind in _SIGNS and follower.kind == "digits" and follower.at == token.at + 1:
            self._next()
            return self._number(token, kind)
        if kind == "NOT":
            self._next()
            operand = self._operand(depth + 1)
            return Not(operand, token.at, operand.height + 1)
        if kind == "-":
            self._next()
            operand = self._operand(depth + 1)
            return Minus(operand, token.at, operand.height + 1)
        if kind == "EXISTS":
            self._next()
            attribute = self._attribute(self._expect("name", "the name of an attribute"))
            return Exists(attribute.name, token.at)
        return self._refuse("a value")

    def _number(self, token: Token, sign: str) -> Node:
        value = to_integer(sign + self._next().value)
        if value is None:
            rule = "expected an Integer of 32 bits, found a larger one"
            raise ParseError(rule, self._text, token.at, hint="write larger numbers between quotes")
        return Literal(value, token.at)

    def _attribute(self, token: Token) -> Attribute:
        if "_" in token.value:
            hint = "the names of attributes have no underscore"
            raise ParseError("expected the name of an attribute or function", self._text, token.at, hint=hint)
        return Attribute(token.value.lower(), token.at)

    def _call(self, token: Token, depth: int) -> Node:
        name = token.value.upper()
        if not is_function_name(name):
            hint = "it has letters and underscores, and begins with a letter"
            raise ParseError("expected the name of a function before (", self._text, token.at, hint=hint)
        self._next()
        if self._token.kind == ")":
            self._next()
            return Call(name, [], token.at, 1)
        arguments = self._list(depth)
        return Call(name, arguments, token.at, _height(arguments) + 1)

    def _list(self, depth: int) -> list[Node]:
        """Parse expressions between commas, up to the closing bracket."""
        found = [self._expression(LOGIC, depth + 1)]
        while self._token.kind == ",":
            self._next()
            found.append(self._expression(LOGIC, depth + 1))
        self._expect(")", "an operator, a comma or )")
        return found


def is_function_name(name: str) -> bool:
    """Tell whether ``name``, in capitals, may name a function."""
    return name.isascii() and name[:1].isalpha() and name.replace("_", "").isalpha() and name not in KEYWORDS


def _height(nodes: list[Node]) -> int:
    return max(node.height for node in nodes)


def _shown(token: Token) -> str:
    if token.kind == "end":
        return "the end"
    if token.kind == "string":
        return "a string"
    return repr(token.value if len(token.value) <= 20 else token.value[:20] + "…")


def _hint(before: Token, token: Token) -> str:
    """Say what may be meant by a token that does not belong after the one ``before`` it."""
    if before.kind == token.kind == "=":
        return "equality is written with one ="
    if before.kind == token.kind == "string":
        return "a quote inside a string is written with a backslash before it"
    if token.value.upper() == "IS":
        return "presence is tested with EXISTS"
    for keyword in (token.kind, before.kind if token.kind in LEVELS else ""):
        if keyword in KEYWORDS:
            return f"{keyword} is a keyword, never the name of an attribute"
    return ""
