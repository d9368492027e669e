"""Warnings about what fails again and again, without filling the log."""

from __future__ import annotations

from cloudevents_kit._clock import Clock
from cloudevents_kit._contract import log


class Seldom:
    """Logs one warning in ``seconds``, and how many others it stands for."""

    def __init__(self, clock: Clock, seconds: float = 60.0) -> None:
        """Let the first one through."""
        self._clock = clock
        self._seconds = seconds
        self._next = float("-inf")
        self._kept_back = 0

    def warn(self, what: str, error: BaseException | None) -> None:
        """Log ``what`` and the traceback of ``error``, or count it for the next line."""
        now = self._clock.monotonic()
        if now < self._next:
            self._kept_back += 1
            return
        more = f" (and {self._kept_back} times since the last such line)" if self._kept_back else ""
        self._next, self._kept_back = now + self._seconds, 0
        log.warning("%s%s", what, more, exc_info=error)
