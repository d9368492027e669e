"""Drives one saga, from its journal into its journal: before an act it stores that it begins, after it what came of it.

Whoever drives has a lease. A save that finds another version was overtaken: by an event for the saga, which is taken
over, or by somebody else with a lease, to whom the saga is left.
"""

from __future__ import annotations

import asyncio
import inspect
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from time import perf_counter
from typing import Any

import msgspec

from cloudevents_kit._clock import Clock
from cloudevents_kit._contract import Outcome, log, settle, verdict
from cloudevents_kit._errors import Refusal, StageError
from cloudevents_kit._event import Event
from cloudevents_kit._result import Nack
from cloudevents_kit._retry import RetryPolicy, next_delay
from cloudevents_kit.saga._journal import UNDO, Act, Journal, State, decode, encode, plan, unpack
from cloudevents_kit.saga._steps import Context, InDoubt, SagaError, Step, Wait

DeadLetter = Callable[[Event, Exception], Awaitable[object] | object]
_MOST_LOST = 20
_LAST_WORDS = 5.0
_DEAD_LETTER_AGAIN = 60.0


class _Overtaken(Exception):
    """Somebody else drives it now."""


@dataclass(slots=True)
class Held:
    """A saga that is being driven."""

    id: str
    version: int
    token: str
    state: State
    event: Event = field(init=False)


@dataclass(slots=True, kw_only=True)
class Driver:
    """What all sagas of one name have in common."""

    name: str
    steps: dict[str, Step]
    journal: Journal
    retry: RetryPolicy
    lease: float
    retention: float
    dead_letter: DeadLetter | None
    clock: Clock
    counts: Counter[str] = field(default_factory=Counter)
    draining: bool = False
    """Whether nothing is to be begun any more."""
    rested: Callable[[str, float | None], None] = field(default=lambda _id, _due: None)
    """Called with the id of a saga that nobody drives any more, and when it is due again."""

    def now(self) -> float:
        """Return the seconds of the epoch."""
        return self.clock.now().timestamp()

    async def drive(self, held: Held) -> None:
        """Go on until the saga is over, has to wait, or somebody else has it."""
        try:
            await self._take_over(held)
        except _Overtaken:
            self.counts["overtaken"] += 1
            log.warning("saga %s: somebody else goes on with %s: the lease ran out", self.name, held.id)
        except asyncio.CancelledError:
            with suppress(Exception):  # else the lease ends by itself
                async with asyncio.timeout(_LAST_WORDS):
                    await self._rest(held, self.now())
            raise

    async def _take_over(self, held: Held) -> None:
        if not held.state.started:
            await self._end_parked(held)
            return
        for act in held.state.acts.values():
            if act.status == "begun":  # and nobody has told how it ended
                act.status, act.until, act.in_doubt, act.lost = "pausing", 0.0, True, act.lost + 1
                if act.lost > _MOST_LOST:
                    act.status, act.error = "failed", "every attempt ended with its process"
        held.event = unpack(held.state.event)
        await self._go_on(held)

    async def _go_on(self, held: Held) -> None:
        state = held.state
        names = [(step.name, step.compensate is not None) for step in self.steps.values()]
        while (name := plan(names, state, self.now())) is not None:
            act = state.acts.setdefault(name, Act(began=self.now()))
            woken = act.status == "waiting" and act.until > self.now()
            if act.status == "waiting" and not woken and self._delay(name, act, _NO_ANSWER) is None:
                act.status, act.error = "failed", _NO_ANSWER.reason
                continue
            if self.draining:
                await self._rest(held, self.now())
                return
            if act.status == "pausing" and act.until > self.now():  # an event for the saga has woken it too early
                await self._rest(held, _due(state, name, act))
                return
            act.status, act.attempts = "begun", act.attempts + (not woken)
            until = self.now() + self.lease
            await self._save(held, due=until, token=held.token)
            await self._attempt(held, name, act, woken=woken, limit=until - self.lease / 10 - self.now())
            if act.status in {"pausing", "waiting"}:
                await self._rest(held, _due(state, name, act))
                return
        await self._end(held)

    async def _attempt(self, held: Held, name: str, act: Act, *, woken: bool, limit: float) -> None:
        """Run a step or a compensation once, and note what came of it."""
        if limit <= 0:  # the save took too long: somebody else may have taken it back already
            raise _Overtaken
        state, step = held.state, self.steps[name.removesuffix(UNDO)]
        forward = not name.endswith(UNDO)
        if forward and state.deadline is not None:
            limit = min(limit, max(0.0, state.deadline - self.now()))
        context = self._context(held, name, act, woken=woken)
        raised: list[Exception] = []

        async def attempt(_: Event) -> Outcome:
            began = perf_counter()
            work: Any = step.run if forward else step.compensate
            try:
                async with asyncio.timeout(limit):
                    act.result = _kept(await work(context))
            except Wait as wait:
                raised.append(wait)
            except asyncio.CancelledError as error:
                if _is_cancelled():
                    raise
                raised.append(InDoubt("it ended as if it had been cancelled"))
                raise self._failure(name, held.event, began) from error
            except Refusal as error:
                raised.append(error)
                raise
            except Exception as error:
                raised.append(error)
                raise self._failure(name, held.event, began) from error
            return None

        await settle(attempt, held.event)  # which logs, and lets events that are sent inherit from this one
        if raised:
            self._note(held, name, act, raised[0], woken=woken)
        else:
            act.status, act.error = "done", ""

    def _note(self, held: Held, name: str, act: Act, error: Exception, *, woken: bool) -> None:
        if isinstance(error, Wait):
            act.status, act.in_doubt = "waiting", True
            act.until = act.until if woken else self.now() + error.seconds
            return
        nack: Any = verdict(error, held.event)
        cause = error.__cause__ if isinstance(error, StageError) else error
        act.in_doubt = nack.retryable and (act.in_doubt or isinstance(cause, TimeoutError | InDoubt))
        act.error = f"{type(error).__name__}: {error}"[:500]
        delay = self._delay(name, act, nack)
        if delay is None:
            act.status = "failed"
            log.warning("saga %s: %s failed for good: %s: %s", self.name, name, held.id, act.error)
        else:
            self.counts["retried"] += 1
            act.status, act.until = "pausing", self.now() + delay

    def _delay(self, name: str, act: Act, nack: Nack) -> float | None:
        policy = self.steps[name.removesuffix(UNDO)].retry or self.retry
        elapsed = max(0.0, self.now() - act.began)
        return next_delay(policy, act.attempts, nack, elapsed=elapsed, chance=policy.chance())

    def _context(self, held: Held, name: str, act: Act, *, woken: bool) -> Context:
        state = held.state
        subject = state.acts[name.removesuffix(UNDO)]
        return Context(
            event=held.event,
            key=self.key(held.id, name),
            results=state.results(),
            attempt=act.attempts,
            in_doubt=act.in_doubt if subject is act else subject.status != "done",
            woken=woken,
            events=tuple(map(unpack, state.events)),
            began=datetime.fromtimestamp(act.began, UTC),
        )

    def key(self, id: str, name: str) -> str:
        """Return the key of a step, or of its compensation."""
        return f"{self.name}/{id}/{name}"

    def _failure(self, name: str, event: Event, began: float) -> StageError:
        return StageError((self.name, name), event.key, elapsed=perf_counter() - began)

    # The journal.

    async def _save(self, held: Held, *, due: float | None, token: str, expires: float | None = None) -> None:
        while not await self.journal.save(
            self.name, held.id, encode(held.state), version=held.version, due=due, lease=token, expires=expires
        ):
            self.counts["conflicts"] += 1
            found = await self.journal.load(self.name, held.id)
            if found is None or found[3] != held.token:
                raise _Overtaken
            held.version = found[1]
            events = decode(found[4]).events
            if len(events) > len(held.state.events):  # the only thing that others change
                held.state.events = events
                due = self.now() if due is not None and token != held.token else due
        held.version += 1

    async def _rest(self, held: Held, due: float) -> None:
        for act in held.state.acts.values():  # if it was cancelled
            if act.status == "begun":
                act.status, act.until, act.in_doubt = "pausing", 0.0, True
        await self._save(held, due=due, token="")
        self.rested(held.id, due)

    async def _end(self, held: Held) -> None:
        state = held.state
        if state.status == "stuck" and not state.handed_over and self.dead_letter is not None:
            error = SagaError(f"saga {self.name} is stuck: {_errors(state)}")
            state.handed_over = await self._hand_over(held.event, error)
            if not state.handed_over:
                await self._rest(held, self.now() + _DEAD_LETTER_AGAIN)
                return
        state.ended = self.now()
        stays = state.status == "stuck"  # until somebody resumes it
        await self._save(held, due=None, token="", expires=None if stays else state.ended + self.retention)
        self.counts[state.status] += 1
        if stays:
            log.error("saga %s: stuck: %s: %s", self.name, held.id, _errors(state))
        self.rested(held.id, None)

    async def _end_parked(self, held: Held) -> None:
        """Let go of events for a saga that nobody has started."""
        state = held.state
        error = SagaError(f"saga {self.name}: {held.id} was never started")
        while state.events:
            if self.dead_letter is None:
                log.error("saga %s: %d events stay parked: %s", self.name, len(state.events), error)
                break
            if not await self._hand_over(unpack(state.events[0]), error):
                await self._rest(held, self.now() + _DEAD_LETTER_AGAIN)
                return
            del state.events[0]
        expires = None if state.events else self.now()
        await self._save(held, due=None, token="", expires=expires)

    async def _hand_over(self, event: Event, error: Exception) -> bool:
        try:
            async with asyncio.timeout(self.lease * 0.9):
                taken = self.dead_letter(event, error)  # type: ignore[misc]  # there is one
                taken = await taken if inspect.isawaitable(taken) else taken
            if hasattr(taken, "raise_for_outcome"):  # of a sink, which does not raise
                taken.raise_for_outcome()
        except Exception:  # noqa: BLE001 - whatever the hook raises, it is called again
            self.counts["not_handed_over"] += 1
            log.exception("saga %s: %s could not be handed over", self.name, event)
            return False
        return True


_NO_ANSWER = Nack(status=503, reason="no answer came", retryable=True)


def _due(state: State, name: str, act: Act) -> float:
    return act.until if state.deadline is None or name.endswith(UNDO) else min(act.until, state.deadline)


def _kept(result: object) -> msgspec.Raw:
    try:
        return msgspec.Raw(encode(result))
    except Exception as error:  # it was done, and the next step would not know what came of it
        raise InDoubt(f"returned what is no JSON: {type(result).__name__}") from error


def _is_cancelled() -> bool:
    task: Any = asyncio.current_task()
    return bool(task.cancelling())


def _errors(state: State) -> str:
    found = [f"{name}: {act.error}" for name, act in state.acts.items() if act.status == "failed"]
    return "; ".join(found) or state.reason
