"""Who may run now, and who waits: so many at once, in the order in which they came, and one at a time for each key.

A turn is asked for at once and waited for later, so that the order is that of the asking. Knows nothing of events.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Hashable

#: Becomes True when it is one's turn, False when there will be none. None: it is one's turn at once.
Turn = asyncio.Future[bool] | None
#: Those that wait, in their order, each with its key.
_Line = OrderedDict[asyncio.Future[bool], Hashable]


class Turns:
    """Lets ``places`` run at once. Whoever was given a turn gives it back: `end` or, if it never came, `give_up`."""

    __slots__ = ("_ended", "_keys", "_ready", "places", "running", "waiting")

    def __init__(self, places: int) -> None:
        """Begin with nobody."""
        self.places = places
        self.running = self.waiting = 0
        self._ready: _Line = OrderedDict()
        #: The keys of those that run or are ready, each with the line of those behind.
        self._keys: dict[Hashable, _Line | None] = {}
        self._ended: asyncio.Future[None] | None = None

    def is_free(self, key: Hashable = None) -> bool:
        """Tell whether a turn would come at once."""
        return self.running < self.places and (key is None or key not in self._keys)

    def ask(self, key: Hashable = None) -> Turn:
        """Ask for a turn, after all others of the same ``key``, if that is not None."""
        if self.is_free(key):
            self.running += 1
            if key is not None:
                self._keys[key] = None
            return None
        turn: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._line_of(key)[turn] = key
        self.waiting += 1
        return turn

    async def wait(self, turn: asyncio.Future[bool], key: Hashable = None) -> bool:
        """Wait for ``turn`` and tell whether it came; a waiter that is cancelled gives it up."""
        try:
            return await turn
        except asyncio.CancelledError:
            self.give_up(turn, key)
            raise

    def give_up(self, turn: Turn, key: Hashable = None) -> None:
        """Leave, whether the turn has come or not."""
        if turn is None or (turn.done() and not turn.cancelled() and turn.result()):
            self.end(key)
        elif turn in self._ready:
            del self._ready[turn]
            self.waiting -= 1
            self._release(key)
        else:
            line = self._keys.get(key)
            if line and line.pop(turn, turn) is not turn:
                self.waiting -= 1

    def end(self, key: Hashable = None) -> None:
        """Say that one has run."""
        self.running -= 1
        self._release(key)
        self.dispatch()
        if self._ended is not None and not self.running and not self._ended.done():
            self._ended.set_result(None)

    def dispatch(self) -> None:
        """Let run who is ready."""
        while self._ready and self.running < self.places:
            turn, key = self._ready.popitem(last=False)
            self.waiting -= 1
            if turn.done():  # cancelled, which its task does not know yet
                self._release(key)
                continue
            self.running += 1
            turn.set_result(True)

    async def all_ended(self) -> None:
        """Wait until nobody runs or waits. One caller at a time."""
        if self.running:
            self._ended = asyncio.get_running_loop().create_future()
            try:
                await self._ended
            finally:
                self._ended = None

    def refuse_all(self) -> None:
        """Tell all who wait that their turn will not come."""
        left = [*self._ready, *(turn for line in self._keys.values() if line for turn in line)]
        running = self._keys.keys() - {key for key in self._ready.values() if key is not None}
        self._keys = dict.fromkeys(running)
        self._ready.clear()
        self.waiting = 0
        for turn in left:
            if not turn.done():
                turn.set_result(False)

    def _line_of(self, key: Hashable) -> _Line:
        if key is None:
            return self._ready
        if key not in self._keys:
            self._keys[key] = None
            return self._ready
        line = self._keys[key]
        if line is None:
            line = self._keys[key] = OrderedDict()
        return line

    def _release(self, key: Hashable) -> None:
        """Let the next one of ``key`` be ready."""
        if key is None:
            return
        line = self._keys[key]
        if line:
            turn, _ = line.popitem(last=False)
            self._ready[turn] = key
        else:
            del self._keys[key]
