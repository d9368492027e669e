"""Handlers, sinks and stages to use as branches."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from cloudevents_kit import Ack, Event, Handler, Nack, Outcome, Result
from cloudevents_kit.stages import Stage, stage

SECRET = "secret of /etc/passwd"


class Seen(list[str]):
    """What happened, in order; makes the branches that say so."""

    def handler(self, name: str, outcome: Outcome = None) -> Handler:
        async def handle(event: Event) -> Outcome:
            self.append(name)
            return outcome

        handle.__name__ = name
        return handle

    def failing(self, name: str, error: Exception) -> Handler:
        async def fail(event: Event) -> Outcome:
            self.append(name)
            raise error

        fail.__name__ = name
        return fail

    def stage(self, name: str) -> Stage:
        async def go_on(event: Event, call_next: Handler) -> Outcome:
            self.append(name)
            return await call_next(event)

        return stage(go_on, name=name)

    def sink(self, name: str, result: Result | None = None) -> Scripted:
        return Scripted(self, name, Ack() if result is None else result)


class Scripted:
    """A sink that answers with what it was given."""

    def __init__(self, seen: Seen, name: str, result: Result) -> None:
        self._seen, self._name, self._result = seen, name, result

    async def send(self, event: Event, /) -> Result:
        self._seen.append(self._name)
        return self._result


DOWN = Nack(status=503, reason="down", retryable=True, retry_after=7.0)


class Slow:
    """A handler that takes ``seconds``, and tells how many events it has, and what became of each."""

    def __init__(self, seconds: float, error: Exception | None = None) -> None:
        self.seconds, self.error = seconds, error
        self.inside = self.most = 0
        self.begun: list[str] = []
        self.ended: list[tuple[str, str]] = []

    async def __call__(self, event: Event) -> None:
        self.begun.append(event.id)
        self.inside += 1
        self.most = max(self.most, self.inside)
        how = "done"
        try:
            await asyncio.sleep(self.seconds)
            if self.error is not None:
                how = "failed"
                raise self.error
        except asyncio.CancelledError:
            how = "cancelled"
            raise
        finally:
            self.inside -= 1
            self.ended.append((event.id, how))

    @property
    def ends(self) -> list[str]:
        return [how for _, how in self.ended]


def broken(*_: Any) -> Any:
    """A callable of a user that raises."""
    raise LookupError(SECRET)


async def broken_async(*_: Any) -> Any:
    raise LookupError(SECRET)


BROKEN: list[Callable[..., Any]] = [broken, broken_async]


def other_tasks() -> set[asyncio.Task[Any]]:
    """The tasks of the running loop, but for the one that asks."""
    return asyncio.all_tasks() - {asyncio.current_task()}
