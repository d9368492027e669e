"""Where a projection is."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """Where a projection is: in all processes, but for what is said of this one."""

    name: str
    position: int
    """The last event that it has got; 0 if none."""
    waiting: int
    """Events after that."""
    oldest: float
    """Seconds since the first of these was appended; 0.0 if there is none."""
    here: bool = False
    """This process works on it: inline, or it has the lease."""
    error: Exception | None = None
    """Why the event after ``position`` failed in this process, if it did; another process does not know."""
    attempts: int = 0
    """How often it was tried in this process."""
    retry_in: float = 0.0
    """Seconds until this process tries it again: see `EventLog.retry`."""
