"""Dead letters in the memory of this process: for tests only, since a restart loses what was acknowledged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import count

from cloudevents_kit._arguments import check_count
from cloudevents_kit._clock import Clock, SystemClock
from cloudevents_kit._letters import DeadLetter, pack, unpack

_FREE = float("-inf")


@dataclass(slots=True)
class _Kept:
    position: int
    packed: bytes
    last_at: datetime
    redrives: int
    token: str | None = None
    until: float = _FREE

    @property
    def letter(self) -> DeadLetter:
        return unpack(self.packed, position=self.position, redrives=self.redrives)


class MemoryDeadLetterStore:
    """Dead letters, forgotten at a restart although their events were acknowledged: for tests.

    Holds ``capacity`` letters of ``max_bytes`` in all at most. When it is full it refuses further ones: nothing is
    ever dropped to make room.
    """

    def __init__(
        self, *, capacity: int = 10_000, max_bytes: int = 64 * 1024 * 1024, clock: Clock | None = None
    ) -> None:
        """Start empty; ``clock`` tells when leases end."""
        self.capacity = check_count("capacity", capacity)
        self.max_bytes = check_count("max_bytes", max_bytes)
        self._now = (clock or SystemClock()).monotonic
        self._kept: dict[str, _Kept] = {}
        self._bytes = 0
        self._positions = count(1)
        self._tokens = count(1)

    def __len__(self) -> int:
        """Return the number of letters."""
        return len(self._kept)

    async def add(self, letter: DeadLetter, /) -> bool:
        """See `dead_letter.DeadLetterStore`."""
        identity = letter.id
        found = self._kept.get(identity)
        if found is not None:
            letter = found.letter.again(letter)
        elif len(self._kept) >= self.capacity:
            return False
        packed = pack(letter)
        size = self._bytes + len(packed) - (len(found.packed) if found is not None else 0)
        if size > self.max_bytes:
            return False
        self._bytes = size
        position = next(self._positions) if found is None else found.position
        self._kept[identity] = _Kept(position, packed, letter.last_at, letter.redrives)
        return True

    async def read(self, after: int, limit: int, /) -> Sequence[DeadLetter]:
        """See `dead_letter.DeadLetterStore`."""
        found = sorted((one for one in self._kept.values() if one.position > after), key=_position)
        return [one.letter for one in found[:limit]]

    async def lease(self, id: str, seconds: float, /) -> tuple[str, DeadLetter] | None:
        """See `dead_letter.DeadLetterStore`."""
        found = self._kept.get(id)
        if found is None or found.until > self._now():
            return None
        found.token, found.until = str(next(self._tokens)), self._now() + seconds
        found.redrives += 1
        return found.token, found.letter

    async def settle(self, id: str, token: str, letter: DeadLetter | None, /) -> bool:
        """See `dead_letter.DeadLetterStore`."""
        found = self._kept.get(id)
        if found is None or found.token != token:
            return False
        self._bytes -= len(found.packed)
        if letter is None:
            del self._kept[id]
            return True
        packed = pack(letter)
        self._bytes += len(packed)
        self._kept[id] = _Kept(found.position, packed, letter.last_at, letter.redrives)
        return True

    async def purge(self, before: datetime | None, keep: int | None, /) -> int:
        """See `dead_letter.DeadLetterStore`."""
        ordered = sorted(self._kept.items(), key=lambda item: item[1].position, reverse=True)
        now, removed = self._now(), 0
        for number, (identity, one) in enumerate(ordered):
            unwanted = (before is not None and one.last_at < before) or (keep is not None and number >= keep)
            if unwanted and one.until <= now:
                del self._kept[identity]
                self._bytes -= len(one.packed)
                removed += 1
        return removed


def _position(one: _Kept) -> int:
    return one.position
