"""Hands a part of a log to a handler or a sink once more, and reports what became of it."""

from __future__ import annotations

from collections.abc import AsyncIterable, Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from cloudevents_kit._arguments import check_callable
from cloudevents_kit._contract import Handler, forward
from cloudevents_kit._event import Event
from cloudevents_kit._event_log._delivery import Failure, hand
from cloudevents_kit._recorded import Recorded
from cloudevents_kit._result import Nack, Undelivered
from cloudevents_kit.router import bind

_KEPT = 1000


class Unhandled(NamedTuple):
    """An event for which the handler or the sink failed."""

    record: Recorded
    result: Nack | Undelivered
    """What the failure means; an exception is as a receiver would answer it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Replayed:
    """What became of a replay."""

    handled: int = 0
    """Events that were handled; in a dry run, that would have been handed over."""
    failed: int = 0
    """Events that were not."""
    left_out: int = 0
    """Events that the filter left out."""
    position: int = 0
    """The last event that is done with: ``after=position`` goes on there. One that stopped the replay comes again."""
    stopped: bool = False
    """An event failed, and those behind it were not handed over."""
    failures: tuple[Unhandled, ...] = ()
    """The first thousand of those that failed."""
    dry_run: bool = False

    def __bool__(self) -> bool:
        """Tell whether no event failed."""
        return not self.failed


def handler_of(to: Any) -> Handler:
    """Return the handler that ``to`` is, or that sends to it."""
    if callable(getattr(to, "send", None)) and not isinstance(to, type):
        return forward(to)
    check_callable("to", to)
    return bind(to)


async def replay(
    records: AsyncIterable[Recorded],
    handler: Handler,
    chosen: Callable[[Event], bool] | None,
    *,
    after: int,
    collect: bool,
    limit: int | None,
    dry_run: bool,
) -> Replayed:
    """Hand ``records`` to ``handler``; ``collect`` failures, or stop at the first."""
    handled = failed = left_out = 0
    failures: list[Unhandled] = []
    async for record in records:
        if handled + failed == limit:
            break
        if chosen is not None and not chosen(record.event):
            left_out += 1
        else:
            failure: Failure | None = None if dry_run else await hand(handler, record)
            if failure is None:
                handled += 1
            else:
                failed += 1
                if len(failures) < _KEPT:
                    failures.append(Unhandled(record, failure.result))
                if not collect:
                    break
        after = record.position
    return Replayed(
        handled=handled,
        failed=failed,
        left_out=left_out,
        position=after,
        stopped=bool(failed) and not collect,
        failures=tuple(failures),
        dry_run=dry_run,
    )
