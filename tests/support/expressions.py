"""Short ways to ask CloudEvents SQL: what an expression says of an event, or why it is none."""

from __future__ import annotations

from typing import Any

import pytest

from cloudevents_kit import Event, cesql
from tests.support.events import new

Said = tuple[str | int | bool, str]


def said(text: str, event: Event | None = None, functions: cesql.Functions | None = None, **attributes: Any) -> Said:
    """Return the value and the kind of the error, "" if there is none; the type of the value must be exact."""
    value, errors = cesql.parse(text, functions=functions).evaluate(new(**attributes) if event is None else event)
    assert len(errors) <= 1
    return value, "".join(error.kind for error in errors)


def refused(text: str, **options: Any) -> cesql.ParseError:
    """Return the error of a text that is no expression."""
    with pytest.raises(cesql.ParseError) as caught:
        cesql.parse(text, **options)
    return caught.value


def same(one: Said, other: Said) -> bool:
    """Compare values by type, too: for Python, 1 is True."""
    return one == other and type(one[0]) is type(other[0])
