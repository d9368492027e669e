"""Where claims on events are kept, and how copies wait for the one that has the claim."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Protocol

#: What a claim finds; see `DedupeStore.claim`.
Found = bytes | float | None


class DedupeStore(Protocol):
    """Where `deduplicate` keeps which events are being handled, and which are done. Each method is atomic.

    A key is free, claimed until its lease ends, or done until its ttl ends. Whoever claims it chooses a token that
    nobody else has, and shows it again with everything further. Time that has run out makes a key free at once. Keys
    are printable text of 256 characters at most.
    """

    async def claim(self, key: str, token: str, lease: float, /) -> bytes | float | None:
        """Claim ``key`` for ``lease`` seconds, if it is free; or extend the claim, if ``token`` has it already.

        Returns None if the key is the caller's now; the outcome it was committed with (bytes) if it is done; or the
        seconds, above 0, until the lease of whoever else has it ends.
        """
        ...

    async def commit(self, key: str, token: str, outcome: bytes, ttl: float, /) -> bool:
        """Make ``key`` done for ``ttl`` seconds, and keep ``outcome``, also if the claim of ``token`` has run out.

        Returns False, and changes nothing, if another token has claimed the key, or it is done already.
        """
        ...

    async def release(self, key: str, token: str, /) -> None:
        """Make ``key`` free if ``token`` has claimed it; otherwise do nothing."""
        ...


class Waiting:
    """Copies that wait, by key, for whoever has the claim, ``most`` seconds at most."""

    def __init__(self, most: float) -> None:
        """Begin with none."""
        self.most = most
        self.by_key: dict[str, set[asyncio.Future[None]]] = {}

    async def wait(self, key: str, seconds: float, claim: Callable[[], Awaitable[Found]]) -> Found:
        """Claim ``key`` again and again, until it is free or done or the time is over; return what was found last.

        ``seconds`` is what the first claim found.
        """
        found: Found = seconds
        now = asyncio.get_running_loop().time
        until, pause = now() + self.most, 0.05  # another process tells nobody that it is done
        while isinstance(found, int | float) and (left := until - now()) > 0:
            await self._woken(key, max(0.001, min(left, found, pause)))
            pause = min(2 * pause, 1.0)
            found = await claim()
        return found

    async def _woken(self, key: str, seconds: float) -> None:
        future = asyncio.get_running_loop().create_future()
        waiting = self.by_key.setdefault(key, set())
        waiting.add(future)
        try:
            await asyncio.wait((future,), timeout=seconds)
        finally:
            waiting.discard(future)
            if not waiting and self.by_key.get(key) is waiting:
                del self.by_key[key]

    def wake(self, key: str) -> None:
        """Let those that wait for ``key`` claim it again."""
        for future in self.by_key.pop(key, ()):
            future.set_result(None)
