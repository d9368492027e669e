"""The senders under measure: each opens towards a URL and gives a coroutine function that sends once."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from itertools import cycle
from typing import Any, Final, Literal

import aiohttp

from . import samples
from .loops import HAS_OFFICIAL, HAS_UVLOOP
from .process import SubjectError

Send = Callable[[], Awaitable[None]]
Open = Callable[[str], AbstractAsyncContextManager[Send]]
_Message = tuple[dict[str, str], bytes]

_STRUCTURED_MARK: Final = b"content-type: application/cloudevents+json"
_BINARY_MARK: Final = b"ce-tenantid: acme-eu-1"
_BATCH_MARK: Final = b"content-type: application/cloudevents-batch+json"


@asynccontextmanager
async def _posting(url: str, message: Callable[[], _Message]) -> AsyncIterator[Send]:
    """A bare aiohttp session that posts what `message` gives and checks the status."""
    async with aiohttp.ClientSession() as session:

        async def send() -> None:
            headers, body = message()
            async with session.post(url, data=body, headers=headers) as response:
                if response.status != 204:
                    raise SubjectError(f"status {response.status}")

        yield send


def _prebuilt(build: Callable[[int], _Message]) -> Open:
    """Posts messages that were built before the clock started."""

    def opened(url: str) -> AbstractAsyncContextManager[Send]:
        messages = cycle([build(number) for number in range(samples.POOL_SIZE)])
        return _posting(url, lambda: next(messages))

    return opened


def _structured(number: int) -> _Message:
    return {"content-type": samples.STRUCTURED_TYPE}, samples.structured(number)


def _official(*, binary: bool) -> Open:
    """Encodes every event with the official SDK and posts it."""

    def opened(url: str) -> AbstractAsyncContextManager[Send]:
        from cloudevents.core.bindings.http import to_binary_event, to_structured_event

        from .official import build

        events = cycle([build(samples.small(number)) for number in range(samples.POOL_SIZE)])
        encode = to_binary_event if binary else to_structured_event

        def message() -> _Message:
            built = encode(next(events))
            return built.headers, built.body

        return _posting(url, message)

    return opened


def kit_event(sample: dict[str, Any]) -> Any:
    """An event of the kit from a JSON object."""
    from cloudevents_kit import Event

    return Event(**{name: value for name, value in sample.items() if name != "specversion"})


def _kit(mode: Literal["binary", "structured"]) -> Open:
    """Sends single events with the kit, retries armed."""

    @asynccontextmanager
    async def opened(url: str) -> AsyncIterator[Send]:
        from cloudevents_kit import Sender

        events = cycle([kit_event(samples.small(number)) for number in range(samples.POOL_SIZE)])
        async with Sender(url, mode=mode) as sender:

            async def send() -> None:
                result = await sender.send(next(events))
                if not result:
                    raise SubjectError(f"not acknowledged: {result!r}")

            yield send

    return opened


@asynccontextmanager
async def _kit_batch(url: str) -> AsyncIterator[Send]:
    """Sends batches of 100 with the kit, retries armed."""
    from cloudevents_kit import Sender

    events = [kit_event(samples.small(number)) for number in range(samples.BATCH_SIZE)]
    async with Sender(url, max_batch=samples.BATCH_SIZE) as sender:

        async def send() -> None:
            results = await sender.send_batch(events)
            if len(results) != samples.BATCH_SIZE or not all(results):
                raise SubjectError(f"not all of the batch was acknowledged: {results[:1]!r}")

        yield send


@dataclass(frozen=True)
class Client:
    """How a subject opens, on which loop it runs, and what its requests must contain."""

    open: Open
    mark: bytes
    loop: str = "asyncio"
    installed: bool = True
    events: int = 1


CLIENTS: Final = {
    "bare structured": Client(_prebuilt(_structured), _STRUCTURED_MARK),
    "bare binary": Client(_prebuilt(samples.binary), _BINARY_MARK),
    "bare structured, uvloop": Client(_prebuilt(_structured), _STRUCTURED_MARK, "uvloop", HAS_UVLOOP),
    "official structured": Client(_official(binary=False), _STRUCTURED_MARK, installed=HAS_OFFICIAL),
    "official binary": Client(_official(binary=True), _BINARY_MARK, installed=HAS_OFFICIAL),
    "kit structured": Client(_kit("structured"), _STRUCTURED_MARK),
    "kit binary": Client(_kit("binary"), _BINARY_MARK),
    "kit structured, uvloop": Client(_kit("structured"), _STRUCTURED_MARK, "uvloop", HAS_UVLOOP),
    "kit batch of 100": Client(_kit_batch, _BATCH_MARK, events=samples.BATCH_SIZE),
}
