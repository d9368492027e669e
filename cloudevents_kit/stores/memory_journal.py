"""The journal of sagas in the memory of this process: for tests only, since a restart loses what was begun."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cloudevents_kit._clock import Clock, SystemClock

_Entry = tuple[str, int, float | None, str, bytes]


@dataclass(slots=True)
class _Kept:
    version: int
    due: float | None
    lease: str
    state: bytes
    expires: float | None


class MemoryJournal:
    """Sagas, for tests only: a restart forgets them, half done as they are. See `saga.Journal`."""

    def __init__(self, *, clock: Clock | None = None) -> None:
        """Start empty."""
        self._now = (clock or SystemClock()).monotonic
        self._kept: dict[tuple[str, str], _Kept] = {}

    async def load(self, saga: str, id: str, /) -> _Entry | None:
        """See `saga.Journal`."""
        found = self._kept.get((saga, id))
        return None if found is None else self._entry(id, found)

    async def save(
        self, saga: str, id: str, state: bytes, /, *, version: int, due: float | None, lease: str, expires: float | None
    ) -> bool:
        """See `saga.Journal`."""
        found = self._kept.get((saga, id))
        if version != (0 if found is None else found.version):
            return False
        self._kept[saga, id] = _Kept(version + 1, self._at(due), lease, state, self._at(expires))
        return True

    async def lease(self, saga: str, seconds: float, token: str, /) -> _Entry | None:
        """See `saga.Journal`."""
        now = self._now()
        due = [
            (found.due, id, found)
            for (name, id), found in self._kept.items()
            if name == saga and found.due is not None and found.due <= now
        ]
        if not due:
            return None
        _, id, found = min(due, key=lambda one: one[0])
        found.version, found.due, found.lease = found.version + 1, now + seconds, token
        return self._entry(id, found)

    async def read(self, saga: str, after: str, limit: int, /, *, expiring: bool) -> Sequence[_Entry]:
        """See `saga.Journal`."""
        found = [
            self._entry(id, one)
            for (name, id), one in self._kept.items()
            if name == saga and id > after and (expiring or one.expires is None)
        ]
        return sorted(found, key=lambda entry: entry[0])[:limit]

    async def forget(self, saga: str, /) -> int:
        """See `saga.Journal`."""
        now = self._now()
        over = [
            (name, id)
            for (name, id), found in self._kept.items()
            if name == saga and found.expires is not None and found.expires <= now
        ]
        for key in over:
            del self._kept[key]
        return len(over)

    def _at(self, seconds: float | None) -> float | None:
        return None if seconds is None else self._now() + seconds

    def _entry(self, id: str, found: _Kept) -> _Entry:
        due = None if found.due is None else found.due - self._now()
        return id, found.version, due, found.lease, found.state
