"""Keys of events that are being handled, or are done: a text each, which the server forgets when its time is over.

It is ``c`` and the token while the key is claimed; when it is done, ``d``, the token with its length, and the outcome.
"""

from __future__ import annotations

from typing import Any

import msgspec

from cloudevents_kit.stores.redis._group import Lanes
from cloudevents_kit.stores.redis._server import Script

#: Milliseconds, above which no server can tell the end of a time; a hundred years.
_LONGEST_MS = 100 * 366 * 86_400_000

#: For each key of KEYS there is an item in ARGV[1]: token, milliseconds (0 to release), and to commit, which of ARGV is
#: the outcome. ARGV[2] is 1 if all that may have been done before. Answers with what is to be told, behind the number
#: of its key: an outcome, milliseconds, or that a commit was refused.
_TAKE = Script("""
local items, again, told = cmsgpack.unpack(ARGV[1]), ARGV[2] == '1', {}
for number, key in ipairs(KEYS) do
  local item = items[number]
  local token, ms, outcome = item[1], item[2], ARGV[item[3]]
  local held = 'c' .. token
  if outcome then
    local done = 'd' .. #token .. ':' .. token .. outcome
    local found = redis.call('GET', key)
    if not found or found == held then
      redis.call('SET', key, done, 'PX', ms)
    elseif not (again and found == done) then
      told[#told + 1] = number
      told[#told + 1] = 0
    end
  elseif ms == 0 then
    if redis.call('GET', key) == held then redis.call('DEL', key) end
  elseif not redis.call('SET', key, held, 'NX', 'PX', ms) then
    local found = redis.call('GET', key)
    if found == held then
      redis.call('PEXPIRE', key, ms)
    else
      told[#told + 1] = number
      if string.sub(found, 1, 1) == 'c' then
        told[#told + 1] = redis.call('PTTL', key)
      else
        local _, last, length = string.find(found, '^d(%d+):')
        told[#told + 1] = string.sub(found, last + 1 + tonumber(length))
      end
    end
  end
end
return told
""")

#: The key, what to do with it, and the outcome if there is one.
_Item = tuple[bytes, list[Any], bytes | None]
_encode = msgspec.msgpack.Encoder().encode


class RedisDedupeStore:
    """Which events are being handled, and which are done. Leases run by the clock of the server."""

    def __init__(self, lanes: Lanes, scope: str) -> None:
        """Use `open_store`."""
        self._server = lanes.server
        self._prefix = f"cek:d:{len(scope)}:{scope}:"
        self._take = lanes.lane(self._take_all)

    async def claim(self, key: str, token: str, lease: float, /) -> bytes | float | None:
        """See `stages.DedupeStore`."""
        return await self._take.post(self._item(key, token, milliseconds(lease)))

    async def commit(self, key: str, token: str, outcome: bytes, ttl: float, /) -> bool:
        """See `stages.DedupeStore`."""
        return await self._take.post(self._item(key, token, milliseconds(ttl), outcome), len(outcome)) is None

    async def release(self, key: str, token: str, /) -> None:
        """See `stages.DedupeStore`."""
        await self._take.post(self._item(key, token, 0))

    def _item(self, key: str, token: str, ms: int, outcome: bytes | None = None) -> _Item:
        token.encode()  # what cannot be written is an error here, and not for all who share the trip
        return (self._prefix + key).encode(), [token, ms, 0], outcome

    async def _take_all(self, items: list[_Item]) -> list[bytes | float | None]:
        keys = [key for key, _, _ in items]
        outcomes = []
        for _, wanted, outcome in items:
            if outcome is not None:
                outcomes.append(outcome)
                wanted[2] = 2 + len(outcomes)
        wants = _encode([wanted for _, wanted, _ in items])
        told = await self._server.patiently(
            lambda number: self._server.attempt(_TAKE, keys, wants, int(number > 0), *outcomes)
        )
        answers: list[bytes | float | None] = [None] * len(items)
        for number, found in zip(told[::2], told[1::2], strict=True):
            answers[number - 1] = found if type(found) is bytes else max(found, 1) / 1000
        return answers


def milliseconds(seconds: float) -> int:
    """Return ``seconds`` as the server takes them."""
    return max(1, round(min(seconds * 1000, _LONGEST_MS)))
