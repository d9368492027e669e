"""Texts of a bounded length: what stages keep of events may be as long as their senders like."""

from __future__ import annotations

from hashlib import sha256

LONGEST = 256


def short(text: str) -> str:
    """Return ``text``, or its digest if it is longer than `LONGEST`."""
    return text if len(text) <= LONGEST else digest(text)


def digest(text: str) -> str:
    """Return what stands for ``text``, and for no other: short and printable."""
    return f"sha256:{sha256(text.encode('utf-8', 'surrogatepass')).hexdigest()}"
