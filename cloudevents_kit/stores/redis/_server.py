"""One Redis or Valkey server and the connections to it: what can go wrong with it, and what passes by itself.

Knows no key but the one that tells the release; what is called may be called again, and so must come to the same end.
"""

from __future__ import annotations

import asyncio
import hashlib
import ssl
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from time import monotonic
from typing import Any, NamedTuple, TypeVar

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import (
    AuthenticationError,
    BusyLoadingError,
    ClusterDownError,
    ConnectionError,  # noqa: A004 - as the package calls it
    InvalidResponse,
    MasterDownError,
    MovedError,
    NoPermissionError,
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
)

from cloudevents_kit._errors import StoreError
from cloudevents_kit.stores.redis._url import Address

T = TypeVar("T")

_LONGEST_PAUSE = 0.5
#: Of what stands under the keys, as this release writes it.
_FORMAT = 1
_FORMAT_KEY = "cek:format"


class Unusable(StoreError):
    """The server itself is in trouble, which did not pass."""


class Trouble(NamedTuple):
    """What is wrong with the server, and no fault of what was to be done."""

    text: str
    passing: bool = False
    """It may pass by itself."""
    lost: bool = False
    """Connections are of no more use."""


class Script:
    """A script that the server runs, as one step."""

    def __init__(self, text: str) -> None:
        """Take it as it is written in Lua."""
        self.text = text
        self.sha = hashlib.sha1(text.encode()).hexdigest()  # noqa: S324 - it is its name, and no secret


_GONE = Trouble("cannot be reached: is the server running, and is its address right?", passing=True, lost=True)
_CLUSTER = Trouble("is a Redis Cluster: name a server that has all keys")
_NO_PRIMARY = Trouble("is a replica that has lost its primary: name the primary", passing=True)
_NO_NUMBER = Trouble("has no database of that number: name another one at the end of the URL")
_BY_KIND: tuple[tuple[type[RedisError], Trouble], ...] = (
    (AuthenticationError, Trouble("refuses the user or the password of the URL")),
    (BusyLoadingError, Trouble("is loading its data", passing=True)),
    (MasterDownError, _NO_PRIMARY),
    (ClusterDownError, _CLUSTER),
    (MovedError, _CLUSTER),
    (InvalidResponse, Trouble("does not talk as Redis does: is its address right?")),
    (NoPermissionError, Trouble("does not let the user of the URL do that: grant ~cek:*, +@all or what is used")),
    (OutOfMemoryError, Trouble("has no memory left: raise its maxmemory, or free some")),
    (ReadOnlyError, Trouble("is read-only, a replica: name its primary", passing=True, lost=True)),
)
#: By the beginning of what the server says.
_BY_CODE = {
    "MISCONF": Trouble("cannot write to its disk: free space there"),
    "BUSY": Trouble("is busy with somebody's script", passing=True),
    "MASTERDOWN": _NO_PRIMARY,  # older drivers have no class for it
    "NOREPLICAS": Trouble("has too few replicas at the moment to take writes", passing=True),
    "max number of clients": Trouble("has no connection left", passing=True, lost=True),
    "DB index": _NO_NUMBER,
    "invalid DB index": _NO_NUMBER,
}

_OPEN = Script(f"""
local found = redis.call('GET', KEYS[1])
redis.call('SET', KEYS[1], found or {_FORMAT})  -- written in any case: to show that it can be
return found or {_FORMAT}
""")


class Server:
    """A server, by its URL."""

    def __init__(self, url: str, *, patience: float) -> None:
        """Read ``url``. Raises StoreError if it makes no sense; its text holds nothing of it that may be secret."""
        self.patience = patience
        self._address = Address(url)
        self.name = self._address.name
        self._client: Any = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._calls = 0
        self._idle = asyncio.Event()
        """Set when the last call has ended; another one for each event loop."""

    # Opening and closing.

    async def open(self) -> None:
        """Connect, and see whether the server can be used. Raises StoreError."""
        if self._client is not None:
            raise StoreError(f"{self.name} is open already: open a store once, and hand it to all who need it")
        silence = self.patience / 3  # seconds, after which a server that says nothing counts as gone
        pool = BlockingConnectionPool(
            max_connections=self._address.max_connections,
            timeout=self.patience,
            connection_class=self._address.connection,
            retry=Retry(NoBackoff(), 0),  # `patiently` does that, for all calls in the same way
            protocol=2,
            socket_connect_timeout=silence,
            socket_timeout=silence,
            **self._address.arguments,
        )
        self._client = Redis.from_pool(pool)
        try:
            await self._look()
            found = await self.patiently(lambda _: self.attempt(_OPEN, [_FORMAT_KEY]))
            self._check_format(str(found, "ascii", "replace") if isinstance(found, bytes) else str(found))
        except BaseException:
            await self.close()
            raise
        self._loop, self._idle = asyncio.get_running_loop(), asyncio.Event()

    def _check_format(self, found: str) -> None:
        if not found.isdecimal():
            raise StoreError(f"{self.name} has a key {_FORMAT_KEY} that is not of this kit: name another database")
        if int(found) > _FORMAT:
            raise StoreError(
                f"{self.name} is of a newer release: its keys have version {found}, and this release knows {_FORMAT}; "
                "install a newer cloudevents-kit"
            )

    async def _look(self) -> None:
        """Refuse a server that would forget, or that has not all keys."""
        try:
            told = await self.patiently(lambda _: self._client.execute_command("INFO"))
        except Unusable as error:
            if isinstance(error.__context__, NoPermissionError):
                return  # nothing can be seen; what is missing, a call will say
            raise
        if told.get("cluster_enabled"):
            raise StoreError(f"{self.name} {_CLUSTER.text}")
        if told.get("role") == "slave" and not told.get("slave_read_only", 1):
            raise StoreError(f"{self.name} is a replica that can be written, and forgets that: name its primary")
        policy = str(told.get("maxmemory_policy", "noeviction"))
        if told.get("maxmemory") and policy != "noeviction" and not self._address.may_evict:
            raise StoreError(
                f"{self.name} may forget claims and windows when its memory is full: set maxmemory-policy to "
                f"noeviction (it is {policy}), or add eviction=accept to the URL if it is a cache and nothing else"
            )

    def check_open(self) -> None:
        """Raise StoreError unless it is open, in this event loop."""
        if self._loop is None:
            raise StoreError(f"{self.name} is not open: use it within `async with store`")
        if self._loop is not asyncio.get_running_loop():
            raise StoreError(f"{self.name} is open in another event loop: open a store in each")

    def shut(self) -> None:
        """Let nobody in who is not in already."""
        self._loop = None

    async def close(self) -> None:
        """Wait for the calls that go on, and close all connections."""
        self.shut()
        try:
            if self._calls:
                self._idle.clear()
                await self._idle.wait()
        finally:
            client, self._client = self._client, None
            if client is not None:
                with suppress(RedisError, OSError):  # a server that is silent does not say good-bye
                    await client.aclose()

    # What is done there.

    async def run(self, script: Script, keys: Sequence[str | bytes], *arguments: str | bytes | float) -> Any:
        """Return what ``script`` returns; see `patiently`."""
        return await self._within(lambda _: self.attempt(script, keys, *arguments))

    async def attempt(self, script: Script, keys: Sequence[str | bytes], *arguments: str | bytes | float) -> Any:
        """Return what ``script`` returns, or raise what the server or the connection does."""
        call = self._connected().execute_command
        try:
            return await call("EVALSHA", script.sha, len(keys), *keys, *arguments)
        except NoScriptError:  # since its last start; this keeps it
            return await call("EVAL", script.text, len(keys), *keys, *arguments)

    async def command(self, *command: str | bytes | float) -> Any:
        """Return what ``command`` returns; see `patiently`."""
        return await self._within(lambda _: self._connected().execute_command(*command))

    async def _within(self, attempt: Callable[[int], Awaitable[T]]) -> T:
        self.check_open()
        self._calls += 1
        try:
            return await self.patiently(attempt)
        finally:
            self._calls -= 1
            if not self._calls:
                self._idle.set()

    async def commands(self, commands: Sequence[tuple[str | bytes | float, ...]]) -> list[Any]:
        """Return what each of ``commands`` returns, or StoreError, after one trip, without waiting for a server."""

        async def attempt(_: int) -> list[Any]:
            pipeline = self._connected().pipeline(transaction=False)
            for command in commands:
                pipeline.execute_command(*command)
            found: list[Any] = await pipeline.execute(raise_on_error=False)
            return found

        found = await self.patiently(attempt, patience=0.0)
        return [self._unusable(one) if isinstance(one, Exception) else one for one in found]

    def _connected(self) -> Any:
        if self._client is None:
            raise StoreError(f"{self.name} was closed before this was done")
        return self._client

    async def patiently(self, attempt: Callable[[int], Awaitable[T]], patience: float | None = None) -> T:
        """Return what ``attempt`` returns, called again while a trouble of the server may pass by itself.

        It is given its number, from 0. After ``patience``, or for a trouble that does not pass, raises StoreError.
        For lanes, which are drained before this is closed; the others come through `run` and `command`.
        """
        until = monotonic() + (self.patience if patience is None else patience)
        pause, number = 0.0, 0
        check_cancelled = _cancellations()
        while True:
            try:
                answer = await attempt(number)
                check_cancelled()
                return answer
            except (RedisError, OSError) as error:
                check_cancelled()
                trouble = trouble_of(error)
                if trouble.lost:
                    await self._drop_idle()
                if not trouble.passing or monotonic() + pause >= until:
                    # Servers repeat in their answers what they were asked.
                    raise self._unusable(error) from (None if isinstance(error, ResponseError) else error)
            await asyncio.sleep(pause)
            pause, number = min(max(0.01, 2 * pause), _LONGEST_PAUSE), number + 1

    async def _drop_idle(self) -> None:
        """Drop the connections that nobody uses, without a good-bye, for which TLS waits."""
        if self._client is not None:  # a driver without that list finds out one by one
            for connection in getattr(self._client.connection_pool, "_available_connections", ()):
                await connection.disconnect(nowait=True)  # which does not wait: the list stays as it is

    def _unusable(self, error: Exception) -> Unusable:
        return Unusable(f"{self.name} {trouble_of(error).text}")


def _cancellations() -> Callable[[], None]:
    """Return what raises CancelledError if this task has been cancelled since, and somebody has swallowed that.

    The driver calls `asyncio.wait_for`, which does so in Python 3.11.
    """
    task = asyncio.current_task()
    before = 0 if task is None else task.cancelling()

    def check() -> None:
        if task is not None and task.cancelling() > before:
            raise asyncio.CancelledError

    return check


def trouble_of(error: Exception) -> Trouble:
    """Return what ``error`` says of the server."""
    for kind, trouble in _BY_KIND:
        if isinstance(error, kind):
            return trouble
    text = str(error)
    for beginning, trouble in _BY_CODE.items():
        if text.startswith(beginning):
            return trouble
    if isinstance(error, ResponseError):
        code = text.partition(" ")[0]
        told = code[:20] if code.isupper() and code.isalpha() else "an error"
        return Trouble(f"answers with {told}: is it Redis 6, Valkey 7.2 or newer?")
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLError) and not isinstance(cause, ssl.SSLEOFError):
            return Trouble("cannot be reached by TLS: look at its certificate, and at ssl_ca_certs in the URL")
        cause = cause.__cause__ or cause.__context__
    if isinstance(error, ConnectionError) and "No connection available" in text:
        return Trouble("answers too slowly: all connections are in use")
    return _GONE
