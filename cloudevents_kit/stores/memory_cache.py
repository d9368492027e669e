"""Values kept for a while in the memory of this process: for tests of what several processes share elsewhere."""

from __future__ import annotations

from cloudevents_kit._arguments import check_count
from cloudevents_kit._clock import Clock, SystemClock


class MemoryCache:
    """A second tier of `stages.Cached` that no other process shares; beyond ``max_entries`` the oldest values go."""

    def __init__(self, *, max_entries: int = 10_000, clock: Clock | None = None) -> None:
        """Start empty; ``clock`` tells when values expire."""
        self._max_entries = check_count("max_entries", max_entries)
        self._now = (clock or SystemClock()).monotonic
        self._kept: dict[str, tuple[float, bytes]] = {}  # when it expires

    async def get(self, key: str, /) -> bytes | None:
        """See `stages.SharedCache`."""
        found = self._kept.get(key)
        return None if found is None or found[0] <= self._now() else found[1]

    async def set(self, key: str, value: bytes, ttl: float, /) -> None:
        """See `stages.SharedCache`."""
        self._kept.pop(key, None)
        self._kept[key] = (self._now() + ttl, value)
        if len(self._kept) > self._max_entries:
            del self._kept[next(iter(self._kept))]
