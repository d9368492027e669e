"""What can be wrong with an expression: its text, an exception; or its evaluation, a value beside the result."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from cloudevents_kit._errors import CloudEventsError

#: The kinds of errors that CloudEvents SQL knows.
Kind = Literal["parse", "math", "cast", "missingAttribute", "missingFunction", "functionEvaluation", "generic"]

_AROUND = 60


class ParseError(CloudEventsError, ValueError):
    """A text is no expression. The message says what was expected, and shows the place.

    ``position`` counts characters from 0; ``rule`` is the first line of the message without the ``hint``.
    """

    kind: Final[Kind] = "parse"

    def __init__(self, rule: str, text: str, position: int, *, hint: str = "") -> None:
        """Describe the broken ``rule`` at ``position`` of ``text``; ``hint`` says how to mend it."""
        self.rule = rule
        self.hint = hint
        self.position = position
        head = f"{rule} at position {position}" + (f" ({hint})" if hint else "")
        super().__init__(f"{head}\n{_shown(text, position)}")


def _shown(text: str, position: int) -> str:
    """Return the surroundings of ``position`` on one line, and a caret below it."""
    start, end = max(position - _AROUND, 0), position + _AROUND
    before, after = _printable(text[start:position]), _printable(text[position:end])
    lead = "…" if start else ""
    tail = "…" if end < len(text) else ""
    return f"  {lead}{before}{after}{tail}\n  {' ' * (len(lead) + len(before))}^"


def _printable(text: str) -> str:
    return "".join(
        char if char.isprintable() else " " if char in "\t\r\n" else "\N{REPLACEMENT CHARACTER}" for char in text
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationError:
    """Why an expression has no proper value for an event; it is returned, never raised."""

    kind: Kind
    """What sort of error it is, in the words of CloudEvents SQL."""
    message: str
    """What happened, without any value of the event."""
    position: int
    """Where in the text of the expression, in characters from 0."""

    def __str__(self) -> str:
        """Tell all of it in one line."""
        return f"{self.kind}: {self.message} (position {self.position})"
