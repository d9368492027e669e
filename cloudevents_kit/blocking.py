"""The sender for code without a loop: Django and Flask views, Celery tasks, scripts.

    with Sender("https://sink.example/") as sender:
        result = sender.send(Event(type="com.example.order.created", source="/orders"))

The same names as `cloudevents_kit.Sender`, and the same sender behind them, on a loop in a private thread. One object
may be shared by threads. After a fork, the child gets a loop of its own at the first use.
"""

from __future__ import annotations

import asyncio
import os
import threading
import weakref
from collections.abc import Coroutine, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Self, TypeVar

from cloudevents_kit import sender as _sender

if TYPE_CHECKING:
    from cloudevents.core.base import BaseCloudEvent

    from cloudevents_kit._event import Event
    from cloudevents_kit._http import Mode
    from cloudevents_kit._outbound import HeaderSource
    from cloudevents_kit._result import Result

T = TypeVar("T")


class _Loop:
    """An event loop in a thread, with one open sender on it."""

    def __init__(self, url: str, settings: dict[str, Any]) -> None:
        self.pid = os.getpid()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="cloudevents-sender", daemon=True)
        self._thread.start()
        self.sender = self.call(self._open(url, settings))

    async def _open(self, url: str, settings: dict[str, Any]) -> _sender.Sender:
        return await _sender.Sender(url, **settings).__aenter__()

    def call(self, work: Coroutine[Any, Any, T]) -> T:
        """Run ``work`` on the loop and wait for it; an interruption here cancels it there."""
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def close(self) -> None:
        """Close the sender, then the loop and the thread. Harmless when closed, and in a forked child."""
        if self.pid != os.getpid() or self._loop.is_closed():
            return
        self.call(self.sender.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


class Sender:
    """Delivers events to one URL, blocking. Takes the arguments of `cloudevents_kit.Sender`.

    Opened by ``with``, or by the first use; closed by leaving the block, by `close`, or when the interpreter exits.
    """

    def __init__(self, url: str, **settings: Any) -> None:
        """Check the settings; raises TypeError or ValueError naming the wrong one."""
        _sender.Sender(url, **settings)
        self._url = url
        self._settings = settings
        self._lock = threading.Lock()
        self._running: _Loop | None = None
        self._finalizer: weakref.finalize[..., Any] | None = None

    def _loop(self) -> _Loop:
        with self._lock:
            if self._running is None or self._running.pid != os.getpid():
                self._running = _Loop(self._url, self._settings)
                self._finalizer = weakref.finalize(self, self._running.close)
            return self._running

    def __enter__(self) -> Self:
        """Open the pool."""
        self._loop()
        return self

    def __exit__(self, *_: object) -> None:
        """Close the pool."""
        self.close()

    def close(self) -> None:
        """Close the pool and end the thread; the next use would open them again."""
        with self._lock:
            if self._finalizer is not None:
                self._finalizer()
            self._running = None

    def send(
        self, event: Event | BaseCloudEvent, /, *, mode: Mode | None = None, headers: HeaderSource | None = None
    ) -> Result:
        """Deliver one event; see `cloudevents_kit.Sender.send`."""
        loop = self._loop()
        return loop.call(loop.sender.send(event, mode=mode, headers=headers))

    def request(
        self,
        event: Event | BaseCloudEvent,
        /,
        *,
        mode: Mode | None = None,
        headers: HeaderSource | None = None,
        strict: bool = False,
    ) -> Result:
        """Deliver one event and ask for a reply; see `cloudevents_kit.Sender.request`."""
        loop = self._loop()
        return loop.call(loop.sender.request(event, mode=mode, headers=headers, strict=strict))

    def send_batch(
        self, events: Iterable[Event | BaseCloudEvent], /, *, headers: HeaderSource | None = None
    ) -> list[Result]:
        """Deliver events in batches; see `cloudevents_kit.Sender.send_batch`."""
        loop = self._loop()
        return loop.call(loop.sender.send_batch(events, headers=headers))

    def send_all(
        self,
        events: Iterable[Event | BaseCloudEvent],
        /,
        *,
        concurrency: int | None = None,
        mode: Mode | None = None,
        headers: HeaderSource | None = None,
    ) -> Iterator[tuple[Event | BaseCloudEvent, Result]]:
        """Deliver a stream of events; see `cloudevents_kit.Sender.send_all`. Events are taken on the loop's thread."""
        loop = self._loop()
        pairs = loop.sender.send_all(events, concurrency=concurrency, mode=mode, headers=headers)
        try:
            while (pair := loop.call(_next(pairs))) is not None:
                yield pair
        finally:
            loop.call(_close(pairs))


async def _next(pairs: Any) -> Any:
    return await anext(pairs, None)


async def _close(pairs: Any) -> None:
    await pairs.aclose()
