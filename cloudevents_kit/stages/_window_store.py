"""What keeps the windows of `aggregate`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from cloudevents_kit._tally import Added, Fold, HandOut, Tally, WindowInfo


class WindowStore(Protocol):
    """Where `aggregate` keeps windows. Each method is atomic, for any number of stages and processes that share it."""

    async def add(
        self, start: int, key: str, event: tuple[str, str], values: list[Any], fold: Fold, *, anywhere: bool
    ) -> Added:
        """Fold ``values`` into ``key`` of the window, unless ``event`` (source and id) was counted in it before.

        With ``anywhere`` no other open window may have counted the event either. ``fold`` may be called more than
        once; what it raises comes out, and nothing has changed.
        """
        ...

    async def close(self, before: int, hand_out: HandOut | None) -> list[Exception]:
        """Close the windows that start before ``before``, for ever, and hand out what is in closed ones.

        Each key of each window is handed out until that once returned without an exception, and never twice at once;
        what was raised is returned. None takes them as handed out.
        """
        ...

    async def read(self, key: str, start: int | None) -> Tally | None:
        """Return what is known of ``key`` in a window, by default in the newest one that has it."""
        ...

    async def windows(self) -> list[WindowInfo]:
        """Return all windows that are open, waiting to be handed out or kept for reading, the oldest first."""
        ...

    @property
    def status(self) -> Mapping[str, int]:
        """What is known without asking anybody, of ``open``, ``waiting``, ``closed``, ``keys`` and ``remembered``."""
        ...
