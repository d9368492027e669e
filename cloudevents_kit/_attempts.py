"""What a relay does with an event that it has leased: one attempt at the sink, and in the end one at the dead letter.

Whatever these two do becomes a result, or a truth value. Knows no stores.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from cloudevents_kit._contract import log, name_of
from cloudevents_kit._errors import DeliveryError
from cloudevents_kit._event import Event
from cloudevents_kit._hand_over import Taker, hand_over
from cloudevents_kit._lifecycle import walk
from cloudevents_kit._result import Result, Undelivered
from cloudevents_kit._tasks import is_cancelled


class Attempts:
    """Sends to ``sink``, and hands what it has given up to ``dead_letter``, if that is not None."""

    def __init__(
        self, name: str, sink: Any, dead_letter: Taker | None, counts: dict[str, int], *, batched: bool
    ) -> None:
        """Take ``name`` for logs; ``counts`` are those of the relay."""
        self._name, self._sink, self._dead_letter, self._counts = name, sink, dead_letter, counts
        self._batched = batched

    async def send(self, events: list[Event], left: float) -> Sequence[Result]:
        """Return a result for each of ``events``, a single one unless they are sent as a batch, in ``left`` seconds."""
        limit = asyncio.timeout(left)
        try:
            async with limit:
                if self._batched:
                    results: Any = await self._sink.send_batch(events)
                else:
                    results = [await self._sink.send(events[0])]
                if len(results) != len(events) or not all(isinstance(one, Result) for one in results):
                    raise TypeError("a sink returns a result for each event")
                return results  # type: ignore[no-any-return]
        except asyncio.CancelledError as error:
            if is_cancelled():
                raise
            result = Undelivered(error=f"ended as if it had been cancelled ({error})", possibly_delivered=True)
        except Exception as error:  # noqa: BLE001 - a sink should not raise; these failed, the others may not
            if limit.expired():
                told = f"not done within {left:.0f} s: the lease must be longer than a delivery takes"
                result = Undelivered(reason="timeout", error=told, possibly_delivered=True)
            else:
                log.error("%s: the sink raised: %s", self._name, name_of(events[0]), exc_info=error)
                result = Undelivered(error=f"{type(error).__name__}: {error}", possibly_delivered=True)
        return [result] * len(events)

    async def bury(self, event: Event, attempts: int, result: Result, left: float) -> bool:
        """Return True if ``event``, which failed so often, with ``result`` in the end, is a dead letter now."""
        name = name_of(event)
        try:
            result.raise_for_outcome()
        except DeliveryError as error:
            if self._dead_letter is None:
                log.error("%s: still not delivered, tried again later: %s: %s", self._name, name, error)
                return False
            error.attempts += attempts - 1  # those before the last one
            try:
                await hand_over(self._dead_letter, event, error, left)
            except Exception as second:  # noqa: BLE001 - it stays
                self._counts["dead_letter_failed"] += 1
                log.error("%s: could not be handed over: %s", self._name, name, exc_info=second)
                return False
        return True


def check_open(name: str, sink: object) -> None:
    """Raise RuntimeError if ``sink``, or what it hands events to, is one that would refuse all of them: not open."""
    for part in walk(sink):
        if getattr(part, "is_open", True) is False:
            raise RuntimeError(f"{name}: a {type(part).__name__} is not open (enter it first, around this)")
