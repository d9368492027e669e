"""For tests of what is kept in Redis."""

from __future__ import annotations

from typing import Any

from redis.asyncio import Redis


async def run(url: str, *command: str | bytes | float) -> Any:
    """Run ``command`` on a connection of its own, as another program would."""
    async with Redis.from_url(url, protocol=2) as client:
        try:
            return await client.execute_command(*command)
        finally:
            await client.connection_pool.disconnect()


async def age(url: str, seconds: float) -> None:
    """Let time pass for all keys: move the times at which they end back."""
    script = """
    for _, key in ipairs(redis.call('KEYS', '*')) do
      local left = redis.call('PTTL', key)
      if left >= 0 then redis.call('PEXPIRE', key, left - ARGV[1]) end
    end
    """
    await run(url, "EVAL", script, 0, round(seconds * 1000))
