"""Event loops by name, and which optional packages are here."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from typing import Final

HAS_UVLOOP: Final = find_spec("uvloop") is not None
HAS_OFFICIAL: Final = find_spec("cloudevents") is not None

Factory = Callable[[], asyncio.AbstractEventLoop]


def factory(name: str) -> Factory:
    """The loop factory called `asyncio` or `uvloop`; `fastest` is uvloop where it is installed."""
    if name == "uvloop" or (name == "fastest" and HAS_UVLOOP):
        uvloop: Factory = import_module("uvloop").new_event_loop
        return uvloop
    return asyncio.new_event_loop


def usable(subjects: dict[str, bool]) -> list[str]:
    """The names whose packages are installed, in the order given."""
    return [name for name, present in subjects.items() if present]
