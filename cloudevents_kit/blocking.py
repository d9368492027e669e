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
from collections.abc import Callable, Coroutine, Iterable, Iterator
from concurrent.futures import Future
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, Self, TypeVar

from cloudevents_kit import sender as _sender

if TYPE_CHECKING:
    from cloudevents.core.base import BaseCloudEvent

    from cloudevents_kit._event import Event
    from cloudevents_kit._http import Mode
    from cloudevents_kit._outbound import HeaderSource
    from cloudevents_kit._result import Result

T = TypeVar("T")
R = TypeVar("R")


class _Loop:
    """An event loop in a thread, with one open sender on it."""

    def __init__(self, url: str, settings: dict[str, Any]) -> None:
        self.pid = os.getpid()
        self._loop = asyncio.new_event_loop()
        self._closing = asyncio.Event()
        opened: Future[_sender.Sender] = Future()
        self._thread = threading.Thread(
            target=self._run, args=(url, settings, opened), name="cloudevents-sender", daemon=True
        )
        self._thread.start()
        self.sender = opened.result()

    def _run(self, url: str, settings: dict[str, Any], opened: Future[_sender.Sender]) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._serve(url, settings, opened))

    async def _serve(self, url: str, settings: dict[str, Any], opened: Future[_sender.Sender]) -> None:
        """Keep a sender open until `close`, and then until the calls of other threads have their results."""
        async with _sender.Sender(url, **settings) as sender:
            opened.set_result(sender)
            await self._closing.wait()
            while calls := asyncio.all_tasks() - {asyncio.current_task()}:
                await asyncio.wait(calls)

    def submit(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        """Start ``work`` on the loop."""
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def close(self) -> None:
        """End the calls that run, then the loop and the thread. Harmless in a forked child."""
        if self.pid != os.getpid():
            return
        self._loop.call_soon_threadsafe(self._closing.set)
        if threading.current_thread() is not self._thread:  # it is, when the garbage collector found us there
            self._thread.join()


class Sender:
    """Delivers events to one URL, blocking. Takes the arguments of `cloudevents_kit.Sender`.

    Opened by ``with``, or by the first use; closed by leaving the block, by `close`, or when the interpreter exits.
    """

    def __init__(self, url: str, **settings: Any) -> None:
        """Check the settings; raises TypeError or ValueError naming the wrong one."""
        self._concurrency = _sender.Sender(url, **settings).concurrency
        self._url = url
        self._settings = settings
        self._lock = threading.Lock()
        self._running: _Loop | None = None
        self._finalizer: weakref.finalize[..., Any] | None = None

    def _submit(self, work: Callable[[_sender.Sender], Coroutine[Any, Any, T]]) -> Future[T]:
        with self._lock:  # `close` waits for what was submitted before it
            if self._running is None or self._running.pid != os.getpid():
                self._running = _Loop(self._url, self._settings)
                self._finalizer = weakref.finalize(self, self._running.close)
            return self._running.submit(work(self._running.sender))

    def _call(self, work: Callable[[_sender.Sender], Coroutine[Any, Any, T]]) -> T:
        future = self._submit(work)
        try:
            return future.result()
        except BaseException:  # an interruption here cancels the work there
            future.cancel()
            raise

    def __enter__(self) -> Self:
        """Open the pool."""
        self._call(_nothing)
        return self

    def __exit__(self, *_: object) -> None:
        """Close the pool."""
        self.close()

    def close(self) -> None:
        """Wait for the calls of other threads, close the pool and end the thread; the next use opens them again."""
        with self._lock:
            finalizer, self._finalizer, self._running = self._finalizer, None, None
        if finalizer is not None:
            finalizer()

    def send(
        self, event: Event | BaseCloudEvent, /, *, mode: Mode | None = None, headers: HeaderSource | None = None
    ) -> Result:
        """Deliver one event; see `cloudevents_kit.Sender.send`."""
        return self._call(lambda sender: sender.send(event, mode=mode, headers=headers))

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
        return self._call(lambda sender: sender.request(event, mode=mode, headers=headers, strict=strict))

    def send_batch(
        self, events: Iterable[Event | BaseCloudEvent], /, *, headers: HeaderSource | None = None
    ) -> list[Result]:
        """Deliver events in batches; see `cloudevents_kit.Sender.send_batch`."""
        taken = list(events)  # in this thread
        return self._call(lambda sender: sender.send_batch(taken, headers=headers))

    def send_all(
        self,
        events: Iterable[Event | BaseCloudEvent],
        /,
        *,
        concurrency: int | None = None,
        mode: Mode | None = None,
        headers: HeaderSource | None = None,
    ) -> Iterator[tuple[Event | BaseCloudEvent, Result]]:
        """Deliver a stream of events; see `cloudevents_kit.Sender.send_all`.

        Events are taken in the caller's thread, so a database cursor or a Django queryset may be their source.
        """
        limit = self._concurrency if concurrency is None else _sender.check_count("concurrency", concurrency)
        return self._stream(events, limit, lambda event: lambda sender: sender.send(event, mode=mode, headers=headers))

    def _stream(
        self, events: Iterable[T], limit: int, send: Callable[[T], Callable[[_sender.Sender], Coroutine[Any, Any, R]]]
    ) -> Iterator[tuple[T, R]]:
        running: dict[Future[R], T] = {}
        ended: SimpleQueue[Future[R]] = SimpleQueue()
        try:
            for event in events:
                future = self._submit(send(event))
                running[future] = event
                future.add_done_callback(ended.put)
                while len(running) >= limit or not ended.empty():
                    done = ended.get()
                    yield running.pop(done), done.result()
            while running:
                done = ended.get()
                yield running.pop(done), done.result()
        finally:
            for future in running:
                future.cancel()


async def _nothing(_: object) -> None:
    pass
