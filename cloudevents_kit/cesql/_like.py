r"""The patterns of LIKE: ``%`` is any text, ``_`` any character, and ``\`` before one of them takes its meaning away.

A pattern is cut at its ``%`` into parts that must follow one another. Taking the leftmost place for each part is always
right, so nothing is ever tried again: the time grows with text and pattern, never with the ways to match. What a match
costs for each character of the text is told beside it, in the units of `_budget`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

from cloudevents_kit.cesql._budget import Allowance

# A backslash always stands for itself before anything else, another backslash too: looking back by one is enough.
_parts = re.compile(r"(?<!\\)%+").split
_wild = re.compile(r"(?<!\\)_").search
_piece = re.compile(r"\\[%_]|.", re.DOTALL).findall
_escape = re.compile(r"\\([%_])").sub
#: A part of a pattern with wildcards: characters, and None for any character.
Part = list[str | None]
#: Tells whether a text fits.
Fits = Callable[[str], bool]
#: Finds a part in a text from some place on; returns where it ends, or -1.
Finder = Callable[[str, int], int]

_SHORT = 32


class Matcher(NamedTuple):
    """A pattern, compiled."""

    fits: Fits
    weight: int
    """What each character of a text may cost; 0 if no more of it is looked at than the pattern has characters."""


def matcher(pattern: str, allowance: Allowance) -> Matcher:
    """Return what tells whether a text fits ``pattern``."""
    parts = [_read(part) for part in _parts(pattern)]
    first, last = parts[0], parts[-1]
    if len(parts) == 1:
        return Matcher(first.__eq__ if isinstance(first, str) else _whole(first), 0)
    inner = [part for part in parts[1:-1] if part]
    if not inner and isinstance(first, str) and isinstance(last, str):
        return Matcher(_framed(first, last), 0)
    if first == last == "" and len(inner) == 1 and isinstance(inner[0], str):
        return Matcher(_holding(inner[0]), _weight(inner[0]))
    weight = _weight(max((part for part in inner if isinstance(part, str)), key=len, default=""))
    finders: list[str | Finder] = []
    for part in inner:
        if isinstance(part, str):
            finders.append(part)
        else:
            found, cost = _finder(part, allowance)
            finders.append(found)
            weight = max(weight, cost)
    return Matcher(_in_order(first, last, finders), weight)


def _read(part: str) -> str | Part:
    """Return the text that alone fits ``part``, or its pieces if there are several."""
    if "_" in part and _wild(part):
        return [None if piece == "_" else piece[-1] for piece in _piece(part)]
    return _escape(r"\1", part) if "\\" in part else part


def _weight(literal: str) -> int:
    return 1 + min(len(literal), 100) // 16


def _framed(start: str, end: str) -> Fits:
    if not end:
        return lambda text: text.startswith(start)
    if not start:
        return lambda text: text.endswith(end)
    least = len(start) + len(end)
    return lambda text: len(text) >= least and text.startswith(start) and text.endswith(end)


def _holding(middle: str) -> Fits:
    return lambda text: middle in text


def _whole(part: Part) -> Fits:
    size, fits = len(part), _fitting(part)
    return lambda text: len(text) == size and fits(text, 0)


def _in_order(first: str | Part, last: str | Part, finders: list[str | Finder]) -> Fits:
    starts, ends = _fitting(first), _fitting(last)
    head, tail = len(first), len(last)

    def like(text: str) -> bool:
        limit = len(text) - tail
        if limit < head or not starts(text, 0) or not ends(text, limit):
            return False
        at = head
        for find in finders:
            if isinstance(find, str):
                found = text.find(find, at)
                at = found if found < 0 else found + len(find)
            else:
                at = find(text, at)
            if at < 0 or at > limit:
                return False
        return True

    return like


def _fitting(part: str | Part) -> Callable[[str, int], bool]:
    """Return a function that tells whether ``part`` fits at one place, where the text is long enough for it."""
    if isinstance(part, str):
        return lambda text, at: text.startswith(part, at)
    pieces: list[tuple[int, str]] = []
    for at, char in enumerate(part):
        if char is None:
            continue
        if pieces and pieces[-1][0] + len(pieces[-1][1]) == at:
            pieces[-1] = (pieces[-1][0], pieces[-1][1] + char)
        else:
            pieces.append((at, char))
    return lambda text, at: all(text.startswith(piece, at + offset) for offset, piece in pieces)


def _finder(part: Part, allowance: Allowance) -> tuple[Finder, int]:
    """Return what finds ``part``, and what each character may cost."""
    if len(part) <= _SHORT and allowance.regexes:
        allowance.regexes -= 1
        return _by_regex(part), 1 + len(part) // 3
    return _by_bits(part), 12 + len(part) // 64


def _by_regex(part: Part) -> Finder:
    search = re.compile("".join("." if char is None else re.escape(char) for char in part), re.DOTALL).search

    def find(text: str, start: int) -> int:
        found = search(text, start)
        return found.end() if found else -1

    return find


def _by_bits(part: Part) -> Finder:
    """Find a long part with wildcards by the Shift-And algorithm: bit i says that i + 1 characters fit up to here.

    Its masks are made anew each time, if the text is as long at all: kept, they could take up a lot of memory.
    """
    size = len(part)

    def find(text: str, start: int) -> int:
        if len(text) - start < size:
            return -1
        any_char = int("".join("0" if char else "1" for char in reversed(part)), 2)
        masks: dict[str, int] = {}
        for at, char in enumerate(part):
            if char is not None:
                masks[char] = masks.get(char, any_char) | 1 << at
        last = 1 << (size - 1)
        fits = 0
        for at in range(start, len(text)):
            fits = (fits << 1 | 1) & masks.get(text[at], any_char)
            if fits & last:
                return at + 1
        return -1

    return find
