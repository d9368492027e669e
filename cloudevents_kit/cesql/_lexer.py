"""Cuts a text into tokens: words, literals and operators, each with its place. Knows no grammar beyond that."""

from __future__ import annotations

import re
from typing import NamedTuple

from cloudevents_kit.cesql._budget import MAX_TOKENS, Allowance
from cloudevents_kit.cesql._errors import ParseError

KEYWORDS = frozenset({"AND", "OR", "XOR", "NOT", "LIKE", "IN", "EXISTS", "TRUE", "FALSE"})

_token = re.compile(
    r"""[ \t\r\n]*+ (?:
        (?P<word>     [A-Za-z0-9_]++ )
      | (?P<operator> <> | <= | >= | != | [-+*/%=<>(),] )
      | (?P<string>   '[^'\\]*+(?:\\.[^'\\]*+)*+' | "[^"\\]*+(?:\\.[^"\\]*+)*+" )
      | (?P<end>      \Z )
    )""",
    re.VERBOSE | re.DOTALL,
).match
_surrogate = re.compile("[\ud800-\udfff]").search
_escape = {quote: re.compile(rf"\\({quote}|.)", re.DOTALL) for quote in "'\""}

_HINTS = {
    "!": "NOT negates, != compares",
    "&": "use AND",
    "|": "use OR, or the function CONCAT",
    ".": "numbers have no fraction, and data cannot be addressed",
    ";": "one expression is all there is",
    "\\": "an escape belongs inside a string",
    "`": "names take no quotes",
    "[": "a set stands in round brackets",
    "{": "a set stands in round brackets",
}


class Token(NamedTuple):
    """One piece of the text."""

    kind: str
    """A keyword in capitals, an operator as it is written, or "name", "digits", "string" or "end"."""
    value: str
    """As it is written; of a string what it stands for."""
    at: int


def tokens_of(text: str, allowance: Allowance) -> list[Token]:
    """Return the tokens of ``text``, the last one of kind "end"; raise ParseError where there is none."""
    found: list[Token] = []
    most = allowance.tokens
    at = 0
    while (match := _token(text, at)) is not None:
        group = match.lastgroup
        value = match[match.lastindex or 0]
        at = match.end()
        begin = at - len(value)
        if group == "operator":
            found.append(Token(value, value, begin))
        elif group == "word":
            found.append(Token(_kind_of(value), value, begin))
        elif group == "string":
            found.append(Token("string", _unescaped(text, value, begin), begin))
        else:
            found.append(Token("end", "", begin))
            allowance.tokens -= len(found)
            return found
        if len(found) > most:
            raise ParseError(f"more than {MAX_TOKENS} words and signs", text, begin)
    raise _unreadable(text, at)


def _kind_of(word: str) -> str:
    capitals = word.upper()
    if capitals in KEYWORDS:
        return capitals
    return "digits" if word.isdigit() else "name"


def _unescaped(text: str, literal: str, at: int) -> str:
    """Only the quote around the string can be escaped in it; any other backslash stands for itself, as LIKE needs."""
    if not literal.isascii() and (wrong := _surrogate(literal)):
        raise ParseError("a lone surrogate is no character", text, at + wrong.start())
    quote, inner = literal[0], literal[1:-1]
    if "\\" not in inner:
        return inner
    return _escape[quote].sub(lambda pair: quote if pair[1] == quote else pair[0], inner)


def _unreadable(text: str, at: int) -> ParseError:
    begin = len(text) - len(text[at:].lstrip(" \t\r\n"))
    char = text[begin]
    if char in "'\"":
        return ParseError("a string without an end", text, begin, hint=f"it ends with another {char}")
    shown = repr(char) if char.isprintable() else f"U+{ord(char):04X}"
    return ParseError(f"unexpected character {shown}", text, begin, hint=_HINTS.get(char, ""))
