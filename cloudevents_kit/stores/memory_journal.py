"""The journal of sagas in the memory of this process: for tests only, since a restart loses what was begun."""

from __future__ import annotations

from dataclasses import dataclass

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

    def __init__(self) -> None:
        """Start empty."""
        self._kept: dict[tuple[str, str], _Kept] = {}

    async def load(self, saga: str, id: str, /) -> _Entry | None:
        """See `saga.Journal`."""
        found = self._kept.get((saga, id))
        return None if found is None else _entry(id, found)

    async def save(
        self, saga: str, id: str, state: bytes, /, *, version: int, due: float | None, lease: str, expires: float | None
    ) -> bool:
        """See `saga.Journal`."""
        found = self._kept.get((saga, id))
        if version != (0 if found is None else found.version):
            return False
        self._kept[saga, id] = _Kept(version + 1, due, lease, state, expires)
        return True

    async def lease(self, saga: str, /, *, now: float, until: float, token: str) -> _Entry | None:
        """See `saga.Journal`."""
        due = [
            (found.due, id, found)
            for (name, id), found in self._kept.items()
            if name == saga and found.due is not None and found.due <= now
        ]
        if not due:
            return None
        _, id, found = min(due, key=lambda one: one[0])
        found.version, found.due, found.lease = found.version + 1, until, token
        return _entry(id, found)

    async def forget(self, saga: str, /, *, now: float) -> int:
        """See `saga.Journal`."""
        over = [
            (name, id)
            for (name, id), found in self._kept.items()
            if name == saga and found.expires is not None and found.expires <= now
        ]
        for key in over:
            del self._kept[key]
        return len(over)


def _entry(id: str, found: _Kept) -> _Entry:
    return id, found.version, found.due, found.lease, found.state
