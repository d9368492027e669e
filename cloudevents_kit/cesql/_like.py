r"""The patterns of LIKE: ``%`` is any text, ``_`` any character, and ``\`` before one of them takes its meaning away.

A pattern is cut at its ``%`` into parts that must follow one another. Taking the leftmost place for each part is always
right, so nothing is ever tried again: the time grows with text and pattern, never with the ways to match.
"""

from __future__ import annotations

import re
from collections.abc import Callable

_piece = re.compile(r"\\[%_]|.", re.DOTALL).findall
#: A part of a pattern: characters, and None for any character.
Part = list[str | None]
#: Finds a part in a text from some place on; returns where it ends, or -1.
Finder = Callable[[str, int], int]

_SHORT = 32


def matcher(pattern: str) -> Callable[[str], bool]:
    """Return a function that tells whether a text fits ``pattern``."""
    parts = _parts(pattern)
    plain = [_literal(part) for part in parts]
    first, last = plain[0], plain[-1]
    if len(parts) == 1:
        return _whole(parts[0]) if first is None else first.__eq__
    if len(parts) == 2 and first is not None and last is not None:
        return _framed(first, last)
    if len(parts) == 3 and first == last == "" and plain[1] is not None:
        return _holding(plain[1])
    return _in_order(parts)


def _parts(pattern: str) -> list[Part]:
    parts: list[Part] = [[]]
    for piece in _piece(pattern):
        if piece != "%":
            parts[-1].append(None if piece == "_" else piece[-1])
        elif len(parts) == 1 or parts[-1]:  # two % in a row are one
            parts.append([])
    return parts


def _literal(part: Part) -> str | None:
    """Return the text that alone fits ``part``, or None if there are several."""
    return None if None in part else "".join(map(str, part))


def _framed(start: str, end: str) -> Callable[[str], bool]:
    if not end:
        return lambda text: text.startswith(start)
    if not start:
        return lambda text: text.endswith(end)
    least = len(start) + len(end)
    return lambda text: len(text) >= least and text.startswith(start) and text.endswith(end)


def _holding(middle: str) -> Callable[[str], bool]:
    return lambda text: middle in text


def _whole(part: Part) -> Callable[[str], bool]:
    size, fits = len(part), _fitting(part)
    return lambda text: len(text) == size and fits(text, 0)


def _in_order(parts: list[Part]) -> Callable[[str], bool]:
    starts, ends = _fitting(parts[0]), _fitting(parts[-1])
    head, tail = len(parts[0]), len(parts[-1])
    finders = [_finder(part) for part in parts[1:-1]]

    def like(text: str) -> bool:
        limit = len(text) - tail
        if limit < head or not starts(text, 0) or not ends(text, limit):
            return False
        at = head
        for find in finders:
            at = find(text, at)
            if at < 0 or at > limit:
                return False
        return True

    return like


def _fitting(part: Part) -> Callable[[str, int], bool]:
    """Return a function that tells whether ``part`` fits at one place, where the text is long enough for it."""
    pieces: list[tuple[int, str]] = []
    for at, char in enumerate(part):
        if char is None:
            continue
        if pieces and pieces[-1][0] + len(pieces[-1][1]) == at:
            pieces[-1] = (pieces[-1][0], pieces[-1][1] + char)
        else:
            pieces.append((at, char))
    return lambda text, at: all(text.startswith(piece, at + offset) for offset, piece in pieces)


def _finder(part: Part) -> Finder:
    literal = _literal(part)
    if literal is not None:
        return _by_text(literal)
    return _by_regex(part) if len(part) <= _SHORT else _by_bits(part)


def _by_text(literal: str) -> Finder:
    size = len(literal)

    def find(text: str, start: int) -> int:
        at = text.find(literal, start)
        return at if at < 0 else at + size

    return find


def _by_regex(part: Part) -> Finder:
    search = re.compile("".join("." if char is None else re.escape(char) for char in part), re.DOTALL).search

    def find(text: str, start: int) -> int:
        found = search(text, start)
        return found.end() if found else -1

    return find


def _by_bits(part: Part) -> Finder:
    """Find a long part with wildcards by the Shift-And algorithm: bit i says that i + 1 characters fit up to here."""
    any_char = sum(1 << at for at, char in enumerate(part) if char is None)
    masks: dict[str, int] = {}
    for at, char in enumerate(part):
        if char is not None:
            masks[char] = masks.get(char, any_char) | 1 << at
    last = 1 << (len(part) - 1)

    def find(text: str, start: int) -> int:
        fits = 0
        for at in range(start, len(text)):
            fits = (fits << 1 | 1) & masks.get(text[at], any_char)
            if fits & last:
                return at + 1
        return -1

    return find
