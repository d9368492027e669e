"""A stage that hands an event to several branches at once and takes the first success."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from time import perf_counter
from typing import Any

from cloudevents_kit._arguments import check_callable
from cloudevents_kit._contract import Handler, Outcome, log, name_of
from cloudevents_kit._event import Event
from cloudevents_kit.stages._adapt import Branch, as_branch, name_branches, name_of_branch
from cloudevents_kit.stages._calls import called
from cloudevents_kit.stages._stage import Stage, fate

_Task = asyncio.Task[tuple[Outcome, list[str]]]


class _Race(Stage):
    kind = "race"

    def __init__(self, branches: tuple[Branch, ...], accept: Callable[[Outcome], Any] | None, name: str | None) -> None:
        if not branches:
            raise ValueError("branches: there must be at least one")
        for number, branch in enumerate(branches, 1):
            as_branch(branch, name=f"branch {number}")
        if accept is not None:
            check_callable("accept", accept)
        super().__init__(name)
        self._named = name_branches((name_of_branch(branch), branch) for branch in branches)
        self._accept = accept

    @property
    def branches(self) -> Mapping[str, object]:
        return self._named

    def bind(self, call_next: Handler) -> Handler:
        handlers = [as_branch(branch, call_next) for branch in self._named.values()]

        async def raced(event: Event) -> Outcome:
            began = perf_counter()
            errors: list[Exception] = []
            running = [asyncio.create_task(self._run(handler, event)) for handler in handlers]
            try:
                winner = await _first(running, errors)
            finally:
                await self._dismiss(running, event)
            if winner is None:
                self.counts["failed"] += 1
                group = ExceptionGroup(f"every branch of {self.name} failed", errors)
                raise self.failure(group, event, began) from group
            if errors:
                group = ExceptionGroup("branches failed", errors)
                log.warning("stage %s: not every branch did well: %s", self.name, name_of(event), exc_info=group)
            outcome, notes = winner.result()
            noted = fate.get()
            if noted is not None:
                noted.extend(notes)
            return outcome

        return raced

    async def _run(self, handler: Handler, event: Event) -> tuple[Outcome, list[str]]:
        """Return the outcome, and what became of the event here, which counts only for the branch that wins."""
        notes: list[str] = []
        fate.set(notes)
        outcome = await handler(event)
        if self._accept is not None and not await called(self._accept, outcome):
            raise ValueError("the outcome was not accepted")
        return outcome, notes

    async def _dismiss(self, running: list[_Task], event: Event) -> None:
        """Cancel and await the branches that are still running."""
        for task in running:
            task.cancel()
        for end in await asyncio.gather(*running, return_exceptions=True):
            if isinstance(end, Exception):
                log.warning("stage %s: a branch failed as it ended: %s", self.name, name_of(event), exc_info=end)


async def _first(running: list[_Task], errors: list[Exception]) -> _Task | None:
    """Return the first task to succeed, None if none does; take those that ended from ``running``."""
    while running:
        done, _ = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
        for task in [task for task in running if task in done]:
            running.remove(task)
            error = _error_of(task)
            if error is None:
                return task
            errors.append(error)
    return None


def _error_of(task: _Task) -> Exception | None:
    if task.cancelled():  # nobody did that from here
        return RuntimeError("the branch was cancelled")
    error = task.exception()
    return error if error is None or isinstance(error, Exception) else RuntimeError(repr(error))


def race(
    *branches: Branch,
    accept: Callable[[Outcome], Awaitable[bool] | bool] | None = None,
    name: str | None = None,
) -> Stage:
    """Hand each event to all ``branches`` at once and take the outcome of the first that succeeds.

    The others are cancelled, and have ended before the event goes on; what they did until then is done. If none
    succeeds, a `StageError` is raised from an ``ExceptionGroup`` of what all have raised; what single ones raised where
    another won is logged.

    Args:
        branches: handlers, sinks, and stages, which are in the race together with what follows them.
        accept: tells whether an outcome is a success; else the branch counts as failed.
        name: of this stage.
    """
    return _Race(branches, accept, name)
