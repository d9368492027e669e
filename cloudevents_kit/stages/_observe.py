"""Learning what happens in a chain: a hook is told of every event that leaves a stage, and of its outcome in the end.

A hook of somebody else is called in a thread of its own, behind a bounded queue: whether it is slow or raises, no event
notices. What there is no room for is not told, and counted.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import suppress
from queue import Empty, SimpleQueue
from threading import Lock, Thread
from time import perf_counter
from typing import Any, Self

from cloudevents_kit._arguments import check_callable, check_count, check_not_negative
from cloudevents_kit._contract import Handler, Outcome, SyncHandler, acknowledge, as_handler, is_async, log
from cloudevents_kit._event import Event
from cloudevents_kit.stages._describe import stages_of
from cloudevents_kit.stages._stage import Fate, Hook, Record, Recorder, Stage, fate

_LINGER = 1.0
_Call = tuple[Stage | None, Event, str, float]


class Observed:
    """A handler of whose events hooks are told; an async context manager. See `observe`."""

    def __init__(
        self,
        handler: Handler,
        hooks: tuple[Recorder, ...],
        attached: Sequence[tuple[Stage, object, Record]],
        grace: float,
    ) -> None:
        """Use `observe`."""
        self.__wrapped__ = handler
        self._attached = attached
        self._is_attached = True
        self._records = [hook.recorder(None) for hook in hooks]
        self._threads = [hook for hook in hooks if isinstance(hook, _InThread)]
        self._grace = grace

    @property
    def counts(self) -> Mapping[str, int]:
        """How often hooks ``failed``, and how many calls of slow ones were ``lost``."""
        return {name: sum(getattr(hook, name) for hook in self._threads) for name in ("failed", "lost")}

    async def __call__(self, event: Event) -> Outcome:
        """Handle ``event`` and tell the hooks its one outcome."""
        ending = "cancelled"
        noted = Fate()
        outer = fate.get()
        fate.set(noted)
        began = perf_counter()
        try:
            outcome = await self.__wrapped__(event)
            if outcome is not None:
                acknowledge(outcome, event)  # raises for what is no outcome
            ending = noted[-1] if noted else "acked"
            return outcome
        except Exception:
            ending = "nacked"
            raise
        finally:
            seconds = perf_counter() - began
            fate.set(outer)
            if outer is not None:
                outer += noted
            for record in self._records:
                record(event, ending, seconds)

    async def __aenter__(self) -> Self:
        """Keep the threads of hooks, once they have begun."""
        if not self._is_attached:
            self._is_attached = True
            for stage, hook, told in self._attached:
                stage.resume(hook, told)
        for thread in self._threads:
            thread.linger = _LINGER
        return self

    async def __aexit__(self, *_: object) -> None:
        """Let hooks catch up with what has happened so far, within the grace period, and end their threads.

        Stages that other chains have, too, no longer tell them.
        """
        if self._is_attached:
            self._is_attached = False
            for stage, hook, _record in self._attached:
                stage.detach(hook)
        for thread in self._threads:
            thread.linger = 0.0
            await asyncio.to_thread(thread.close, self._grace)


def observe(
    handler: Handler | SyncHandler, *hooks: Hook | Recorder, queue: int = 10_000, grace: float = 5.0
) -> Observed:
    """Tell ``hooks`` of every event that leaves a stage of ``handler``, and of its outcome in the end.

    What this returns takes the place of ``handler``. An event that comes in by it ends in exactly one outcome:
    ``acked``, ``nacked``, ``cancelled``, or what a stage did with it instead of having it handled: ``dropped``,
    ``duplicate``, ``dead_lettered`` and so on.

    Args:
        handler: one with stages around it, as `cloudevents_kit.wrap` makes it.
        hooks: each is called in a thread of its own, so it may be slow and may raise; a `Recorder`, such as `Metrics`,
            is called at once.
        queue: calls that wait for a slow hook at most; further ones are lost, and counted.
        grace: seconds that a hook has for what waits when the chain is closed.
    """
    check_count("queue", queue)
    check_not_negative("grace", grace)
    inner = as_handler(handler)
    made = tuple(_as_recorder(hook, queue) for hook in hooks)
    attached = [
        (stage, hook, stage.attach(hook, recorder))
        for stage in stages_of(inner).values()
        for hook, recorder in zip(hooks, made, strict=True)
    ]
    return Observed(inner, made, attached, grace)


def _as_recorder(hook: Any, queue: int) -> Recorder:
    if hasattr(hook, "recorder") and not isinstance(hook, type):
        recorder: Recorder = hook
        return recorder
    check_callable("hooks", hook)
    if is_async(hook):
        raise TypeError("hooks: must be plain functions, not async ones (each is called in a thread of its own)")
    return _InThread(hook, queue)


class _InThread:
    """Calls a hook in a thread, which begins with the first call and ends when there was none for a while."""

    def __init__(self, hook: Hook, most: int) -> None:
        self.hook = hook
        self.linger = _LINGER
        self.failed = 0
        self.lost = 0
        self._most = most
        self._waiting: SimpleQueue[_Call | None] = SimpleQueue()
        self._thread: Thread | None = None
        self._changing = Lock()

    def recorder(self, stage: Stage | None, /) -> Record:
        return lambda event, ending, seconds: self._put((stage, event, ending, seconds))

    def _put(self, call: _Call) -> None:
        if self._waiting.qsize() >= self._most:
            self.lost += 1
            return
        self._waiting.put(call)
        if self._thread is None:
            self._start()

    def _start(self) -> None:
        with self._changing:
            if self._thread is None:
                # A daemon: a hook that never returns must not keep the process from ending.
                thread = Thread(target=self._work, name="cloudevents_kit hook", daemon=True)
                with suppress(RuntimeError):  # no more threads: the call waits for the next one that tries
                    thread.start()
                    self._thread = thread

    def close(self, grace: float) -> None:
        """Let the hook catch up, for ``grace`` seconds at most; what it then has not been told is lost."""
        with self._changing:
            thread = self._thread
        if thread is None:
            return
        self._waiting.put(None)
        thread.join(grace)
        if thread.is_alive():
            while not self._waiting.empty():
                self.lost += self._waiting.get() is not None
            self._waiting.put(None)

    def _work(self) -> None:
        while True:
            try:
                call = self._waiting.get(timeout=self.linger)
            except Empty:
                call = None
            if call is not None:
                self._call(call)
            elif self._ends():
                return

    def _ends(self) -> bool:
        """Stop being the thread, but for a call that came in meanwhile, from someone who may have seen a thread."""
        with self._changing:
            thread, self._thread = self._thread, None
            if self._waiting.empty():
                return True
            self._thread = thread
            return False

    def _call(self, call: _Call) -> None:
        try:
            self.hook(*call)
        except Exception as error:  # noqa: BLE001 - whatever it is, no event is harmed
            self.failed += 1
            if self.failed == 1:
                log.error("a hook failed; from now on its failures are only counted", exc_info=error)
