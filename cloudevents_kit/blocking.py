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
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, Self, TypeVar

from cloudevents_kit import sender as _sender
from cloudevents_kit._arguments import check_count
from cloudevents_kit._batching import check_many

if TYPE_CHECKING:
    from cloudevents.core.base import BaseCloudEvent

    from cloudevents_kit._event import Event
    from cloudevents_kit._http import Mode
    from cloudevents_kit._outbound import HeaderSource
    from cloudevents_kit._result import Result

E = TypeVar("E", bound="Event | BaseCloudEvent")
T = TypeVar("T")
R = TypeVar("R")


class _Helpers(ThreadPoolExecutor):
    """Threads that look up host names. While the interpreter ends nobody gives them work: then the caller does it."""

    def submit(self, work: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        try:
            return super().submit(work, *args, **kwargs)
        except RuntimeError:
            done: Future[T] = Future()
            try:
                done.set_result(work(*args, **kwargs))
            except Exception as error:  # noqa: BLE001 - told by the future, as by that of a thread
                done.set_exception(error)
            return done


class _Loop:
    """An event loop in a thread, with one open sender on it."""

    def __init__(self, url: str, settings: dict[str, Any]) -> None:
        self.pid = os.getpid()
        self._loop = asyncio.new_event_loop()
        self._loop.set_default_executor(_Helpers(thread_name_prefix="cloudevents-names"))
        self._closing = asyncio.Event()
        opened: Future[_sender.Sender] = Future()
        self._thread = threading.Thread(
            target=self._run, args=(url, settings, opened), name="cloudevents-sender", daemon=True
        )
        self._thread.start()
        error = opened.exception()
        if error is not None:
            self._thread.join()
            raise error
        self.sender = opened.result()

    def _run(self, url: str, settings: dict[str, Any], opened: Future[_sender.Sender]) -> None:
        try:
            self._loop.run_until_complete(self._serve(url, settings, opened))
        except BaseException as error:
            if opened.done():
                raise
            opened.set_exception(error)  # its caller waits for it, and holds the lock
        finally:
            self._loop.close()  # asyncio.Runner would start a thread for it, which an interpreter that ends refuses

    async def _serve(self, url: str, settings: dict[str, Any], opened: Future[_sender.Sender]) -> None:
        """Keep a sender open until `close`, and then until the calls of other threads have their results."""
        async with _sender.Sender(url, **settings) as sender:
            opened.set_result(sender)
            await self._closing.wait()
            while calls := asyncio.all_tasks() - {asyncio.current_task()}:
                await asyncio.wait(calls)

    @property
    def is_here(self) -> bool:
        """Tell whether the current thread is the loop's."""
        return threading.current_thread() is self._thread

    def submit(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        """Start ``work`` on the loop."""
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def close(self) -> None:
        """End the calls that run, then the loop and the thread. Harmless in a forked child."""
        if self.pid != os.getpid():
            return
        self._loop.call_soon_threadsafe(self._closing.set)
        if not self.is_here:  # it is, when the garbage collector found us there
            self._thread.join()


class Sender:
    """Delivers events to one URL, blocking. Takes the arguments of `cloudevents_kit.Sender`, but for ``session``.

    Opened by ``with``, or by the first use; closed by leaving the block, by `close`, or when the interpreter exits.
    """

    def __init__(self, url: str, **settings: Any) -> None:
        """Check the settings; raises TypeError or ValueError naming the wrong one."""
        if settings.get("session") is not None:
            raise TypeError("session: belongs to another loop; a blocking sender has a pool of its own")
        headers = settings.get("headers")
        if isinstance(headers, Mapping):
            settings["headers"] = dict(headers)  # the caller's may change before the sender opens
        self._concurrency = _sender.Sender(url, **settings).concurrency
        self._url = url
        self._settings = settings
        self._lock = threading.Lock()
        self._running: _Loop | None = None
        self._finalizer: weakref.finalize[..., Any] | None = None
        _senders.add(self)

    def _submit(self, work: Callable[[_sender.Sender], Coroutine[Any, Any, T]]) -> Future[T]:
        with self._lock:  # `close` waits for what was submitted before it
            if self._running is None or self._running.pid != os.getpid():
                self._running = _Loop(self._url, self._settings)
                self._finalizer = weakref.finalize(self, self._running.close)
            if self._running.is_here:
                raise RuntimeError("a headers function cannot use the sender that calls it: each would await the other")
            return self._running.submit(work(self._running.sender))

    def _call(self, work: Callable[[_sender.Sender], Coroutine[Any, Any, T]]) -> T:
        future = self._submit(work)
        try:
            return future.result()
        except BaseException:  # an interruption here cancels the work there
            future.cancel()
            raise

    @property
    def url(self) -> str:
        """Where events go, as it was given: it may hold secrets."""
        return self._url

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
        check_many(events)
        taken = list(events)  # in this thread
        return self._call(lambda sender: sender.send_batch(taken, headers=headers))

    def send_all(
        self,
        events: Iterable[E],
        /,
        *,
        concurrency: int | None = None,
        mode: Mode | None = None,
        headers: HeaderSource | None = None,
    ) -> Iterator[tuple[E, Result]]:
        """Deliver a stream of events; see `cloudevents_kit.Sender.send_all`.

        Events are taken in the caller's thread, so a database cursor or a Django queryset may be their source.
        """
        check_many(events)
        limit = self._concurrency if concurrency is None else check_count("concurrency", concurrency)
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


_senders: weakref.WeakSet[Sender] = weakref.WeakSet()


def _renew_locks() -> None:
    """Let a forked child use the senders even if a thread that it does not have held a lock."""
    for sender in _senders:
        sender._lock = threading.Lock()  # noqa: SLF001 - our own class


if hasattr(os, "register_at_fork"):  # pragma: no branch - not on Windows
    os.register_at_fork(after_in_child=_renew_locks)
