"""What the stages share that hold events back: they are open or not, and they may keep events of one key in order.

A stage that is not open refuses, so that the sender sends again: nothing is held that nobody would let go.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable
from time import perf_counter
from typing import Self

from cloudevents_kit._errors import Refusal, Retry
from cloudevents_kit._event import Event
from cloudevents_kit.stages._stage import Stage, cause_of

Key = Callable[[Event], Hashable]
_SOON = 1.0


class Holding(Stage, ABC):
    """A stage that takes events only while it is open. Several chains may open it; the last one to leave closes it."""

    def __init__(self, name: str | None) -> None:
        super().__init__(name)
        self._users = 0
        self._changing = asyncio.Lock()  # whoever opens it again waits until it is closed
        self._draining = False

    @abstractmethod
    def start(self) -> None:
        """Begin anew."""
        ...

    @abstractmethod
    async def finish(self) -> None:
        """Let go of everything that is held. No new event comes any more."""
        ...

    def drain(self) -> None:
        """Do not wait for more events."""
        self._draining = True

    async def __aenter__(self) -> Self:
        """Take events from now on."""
        async with self._changing:
            self._draining = False
            if not self._users:
                self.start()
            self._users += 1
        return self

    async def __aexit__(self, *_: object) -> None:
        """Refuse events from now on, and end truthfully what is held."""
        async with self._changing:
            self._users -= 1
            self._draining = False  # that was for a chain which has left
            if not self._users:
                await self.finish()

    def check_open(self) -> None:
        """Raise `Retry` unless events are taken."""
        if not self._users:
            raise self.refusal("not open")

    def refusal(self, why: str, after: float = _SOON) -> Retry:
        """Count a refused event, and return what to raise."""
        self.counts["refused"] += 1
        return Retry(after, f"{why} ({self.name})")


def order_key(event: Event) -> Hashable:
    """Return what tells which events are to be kept in order: partitionkey, or else source and subject together.

    None, for an event without partitionkey and subject, stands for no order.
    """
    key: Hashable = event.get("partitionkey")
    if key is not None:
        return key
    subject = event.subject
    return None if subject is None else (event.source, subject)


def key_of(stage: Stage, key: Key, event: Event) -> Hashable:
    """Return the key of ``event``. Raises StageError if ``key`` fails, or returns what cannot be one."""
    try:
        found = key(event)
        hash(found)
    except Refusal:
        raise
    except Exception as error:  # noqa: BLE001 - whatever it is, it becomes a StageError
        raise stage.failure(error, event, perf_counter()) from cause_of(error)
    return found
