"""What the stages share that hold events back: they are open or not.

A stage that is not open refuses, so that the sender sends again: nothing is held that nobody would let go.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from typing import Self

from cloudevents_kit.stages._stage import Stage, Withheld

_SOON = 1.0


class Holding(Stage, ABC):
    """A stage that takes events only while it is open. Several chains may open it; the last one to leave closes it."""

    def __init__(self, name: str | None) -> None:
        super().__init__(name)
        self._users = 0
        self._finished = asyncio.Event()  # whoever opens it again waits until it is closed
        self._finished.set()
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
        while not self._finished.is_set():
            await self._finished.wait()
        self._draining = False
        if not self._users:
            self.start()
        self._users += 1
        return self

    async def __aexit__(self, *_: object) -> None:
        """Refuse events from now on, and end truthfully what is held."""
        self._users -= 1  # before anything that a cancellation could keep it from
        self._draining = False  # that was for a chain which has left
        if self._users:
            return
        self._finished.clear()
        try:
            await self.finish()
        finally:
            self._finished.set()

    def check_open(self) -> None:
        """Raise `Withheld` unless events are taken."""
        if not self._users:
            raise self.refusal("not open")

    def refusal(self, why: str, after: float = _SOON) -> Withheld:
        """Count a refused event, and return what to raise."""
        self.counts["refused"] += 1
        return Withheld(after, f"{why} ({self.name})")
