"""Windows of `aggregate`: what is folded here is written there, if nobody else has changed it meanwhile.

What was written last is remembered, so that most events take one trip; where several processes add to one key of one
window, the one that comes second is told what there is, and folds again.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from time import monotonic
from typing import Any

import msgspec

from cloudevents_kit._arguments import check_count
from cloudevents_kit._errors import StoreError
from cloudevents_kit._tally import Added, Fold, HandOut, Tally, WindowInfo
from cloudevents_kit.stages._memo import safe_key
from cloudevents_kit.stores.redis._group import Lane, Lanes
from cloudevents_kit.stores.redis._window_closing import Closing, Scope, to_bytes
from cloudevents_kit.stores.redis._window_scripts import ADD, LIST, READ, TAG

_ADDED: dict[str, Added] = {"c": "counted", "u": "unremembered", "r": "repeated", "l": "late", "o": "overflow"}
_AGAIN, _FAILED = "a", "f"
_REMEMBERED = 1000
_decode = msgspec.msgpack.Decoder(tuple[list[str], list[int]]).decode
_encode = msgspec.msgpack.Encoder().encode

_Place = tuple[int, bytes]


@dataclass(slots=True, eq=False)
class _Add:
    place: _Place
    event: str
    values: list[Any]
    fold: Fold
    anywhere: bool
    error: Exception | None = None
    """What the fold raised."""


@dataclass(slots=True)
class _Chain:
    """Events for one key of one window, one after the other."""

    text: str
    """The states before, behind their tag; '' if there are none."""
    states: list[Any] | None
    items: dict[str, _Add] = field(default_factory=dict)
    """By event."""
    copies: list[_Add] = field(default_factory=list)
    """Of events that are there already."""

    def put(self, item: _Add) -> None:
        if item.event in self.items:
            self.copies.append(item)
        else:
            self.items[item.event] = item
            self.fold(item)

    def fold(self, item: _Add) -> None:
        try:
            self.states, item.error = item.fold(item.values, self.states), None
        except Exception as error:  # noqa: BLE001 - raised to whoever gave the fold
            item.error = error

    def written(self, tag: str) -> str:
        return tag + json.dumps(self.states)


class RedisWindowStore:
    """Windows in a server, which several processes may share."""

    def __init__(
        self,
        lanes: Lanes,
        scope: str,
        *,
        max_windows: int = 1000,
        max_keys: int = 10_000,
        max_events: int = 1_000_000,
        keep: int = 60,
    ) -> None:
        """Use `open_store`. The limits are those of `stores.memory.MemoryWindowStore`."""
        self._limits = {
            "windows": check_count("max_windows", max_windows),
            "keys": check_count("max_keys", max_keys),
            "events": check_count("max_events", max_events, least=0),
        }
        self._server = lanes.server
        self._scope = Scope(lanes.server, f"cek:w:{len(scope)}:{scope}:")
        self._closing = Closing(lanes, self._scope, keep=check_count("keep", keep, least=0))
        self._adding: Lane[_Add, Added] = lanes.lane(self._add_all)
        self._known: dict[_Place, str] = {}
        self._answered = ""
        """The last trip whose answer came, which the server need not keep any longer."""

    async def add(
        self, start: int, key: str, event: tuple[str, str], values: list[Any], fold: Fold, *, anywhere: bool
    ) -> Added:
        """See `stages.WindowStore.add`."""
        source, number = event
        name = safe_key(f"{len(source)}:{source}{number}")
        return await self._adding.post(_Add((start, to_bytes(key)), name, values, fold, anywhere))

    async def _add_all(self, items: list[_Add]) -> list[Added | Exception]:
        found: dict[_Add, Added | Exception] = {}
        left = items
        until = monotonic() + self._server.patience
        trips = 0
        while left:
            try:
                await self._try(self._chains(left), found)
            except StoreError as error:
                if not found:
                    raise
                found.update((item, StoreError(str(error))) for item in left)  # the others are told what is known
                break
            left = [item for item in left if item not in found]
            trips += 1
            if trips > 2 and left:  # the first two tell what is there
                if monotonic() >= until:
                    told = f"{self._server.name} is contended: others change these windows all the time"
                    found.update((item, StoreError(told)) for item in left)
                    break
                await asyncio.sleep(random.uniform(0, 0.002 * min(trips, 10)))  # noqa: S311 - no secret
        return [found[item] for item in items]

    def _chains(self, items: list[_Add]) -> dict[_Place, _Chain]:
        chains: dict[_Place, _Chain] = {}
        for item in items:
            chain = chains.get(item.place)
            if chain is None:
                text = self._known.get(item.place, "")
                chain = chains[item.place] = _Chain(text, json.loads(text[TAG:]) if text else None)
            chain.put(item)
        return chains

    async def _try(self, chains: dict[_Place, _Chain], found: dict[_Add, Added | Exception]) -> None:
        """Write ``chains``, and note what became of the events of which that can be said."""
        tag = os.urandom(TAG // 2).hex()
        written: dict[_Place, str] = {}
        for place, chain in [*chains.items()]:
            try:
                written[place] = chain.written(tag)
            except (TypeError, ValueError) as error:  # no JSON
                found.update((item, error) for item in (*chain.items.values(), *chain.copies))
                del chains[place]
        if not chains:
            return
        wanted = [
            (
                str(place[0]),
                number,  # of the key, among the arguments
                chain.text[:TAG],
                written[place],
                [(item.event, item.anywhere, item.error is not None) for item in chain.items.values()],
            )
            for number, (place, chain) in enumerate(chains.items(), start=4)
        ]
        blob = _encode({**self._limits, "token": tag, "answered": self._answered, "chains": wanted})
        kept_ms = round(1000 * max(60.0, 2 * self._server.patience))
        keys = [key for _, key in chains]

        async def attempt(number: int) -> bytes:
            again = int(number > 0)
            answer: bytes = await self._server.attempt(ADD, [self._scope.mark], blob, again, kept_ms, *keys)
            return answer

        told, status = _decode(await self._server.patiently(attempt))
        self._answered = tag
        self._scope.note(status)
        for (place, chain), codes, current in zip(chains.items(), told[::2], told[1::2], strict=True):
            self._remember(place, codes, current, written[place])
            for item, code in zip(chain.items.values(), codes, strict=True):
                if code == _FAILED and item.error is not None:
                    found[item] = item.error
                elif code != _AGAIN:
                    found[item] = _ADDED[code]
            for copy in chain.copies:  # the others come again
                if found.get(chain.items[copy.event]) in {"counted", "repeated"}:
                    found[copy] = "repeated"

    def _remember(self, place: _Place, codes: str, current: str, written: str) -> None:
        if "c" in codes or "u" in codes:
            text = written
        elif _AGAIN in codes:
            text = current
        else:
            return
        self._known.pop(place, None)
        if text:
            self._known[place] = text
        if len(self._known) > _REMEMBERED:
            del self._known[next(iter(self._known))]

    async def close(self, before: int, hand_out: HandOut | None) -> list[Exception]:
        """See `stages.WindowStore.close`. Who dies while handing out is waited for a minute."""
        return await self._closing.close(before, hand_out)

    async def read(self, key: str, start: int | None) -> Tally | None:
        """See `stages.WindowStore.read`."""
        wanted = "" if start is None else str(start)
        found = await self._server.run(READ, [self._scope.mark], to_bytes(key), wanted)
        if found is None:
            return None
        begins, text, is_open, unremembered = found
        return Tally(int(begins), key, json.loads(text[TAG:]), not is_open, complete=not unremembered)

    async def windows(self) -> list[WindowInfo]:
        """See `stages.WindowStore.windows`."""
        rows = await self._server.run(LIST, [self._scope.mark])
        found = [
            WindowInfo(int(start), not is_open, keys, events, overflow)
            for start, is_open, keys, events, overflow in rows
        ]
        return sorted(found, key=lambda window: window.start)

    @property
    def status(self) -> Mapping[str, int]:
        """See `stages.WindowStore.status`: what this process saw when it last added or closed."""
        return dict(self._scope.status)
