"""Calls the report functions that users give to stages: what those do must not change what becomes of an event."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from cloudevents_kit._contract import log, name_of
from cloudevents_kit._event import Event
from cloudevents_kit.stages._calls import called, ends_task


async def tell(name: str, report: Callable[[Event, Any], object], event: Event, what: object) -> bool:
    """Call ``report`` of the stage ``name``, sync or async, and log what it raises; return whether it did its work."""
    try:
        await called(report, event, what)
    except BaseException as error:  # whatever it is, it is not the event's fault
        if ends_task(error):
            raise
        log.exception("stage %s: its report function failed: %s", name, name_of(event))
        return False
    return True
