"""Drives one saga, from its journal into its journal: before an act it stores that it begins, after it what came of it.

Whoever drives has a lease. A save that finds another version was overtaken: by an event for the saga, which is taken
over, or by somebody else with a lease, to whom the saga is left.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from time import perf_counter
from typing import Any

from cloudevents_kit._clock import Clock
from cloudevents_kit._contract import Outcome, log, name_of, settle, verdict
from cloudevents_kit._errors import Refusal, StageError
from cloudevents_kit._event import Event
from cloudevents_kit._hand_over import Taker, hand_over
from cloudevents_kit._result import Nack
from cloudevents_kit._retry import RetryPolicy, next_delay
from cloudevents_kit._tasks import is_cancelled
from cloudevents_kit.saga._journal import UNDO, Act, Journal, State, decode, encode, limit_of, plan, unpack
from cloudevents_kit.saga._steps import Context, InDoubt, SagaError, Step, Unanswered, Wait, leaves_doubt
from cloudevents_kit.saga._words import answer, errors, kept, told

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
    known: int
    """How many of the journal's events for it are known here."""
    event: Event = field(init=False)
    runs_on: bool = False
    """Whether a step runs in a thread, which nobody can cancel."""


@dataclass(slots=True, kw_only=True)
class Driver:
    """What all sagas of one name have in common."""

    name: str
    steps: dict[str, Step]
    journal: Journal
    retry: RetryPolicy
    lease: float
    retention: float
    dead_letter: Taker | None
    clock: Clock
    counts: Counter[str] = field(default_factory=Counter)
    draining: bool = False
    """Whether nothing is to be begun any more."""
    rested: Callable[[str, float | None], None] = field(default=lambda _id, _due: None)
    """Called with the id of a saga that nobody drives any more, and in how many seconds it is due again."""

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
            if not held.runs_on:  # what others do meanwhile may be to take it back: they wait for the end of the lease
                with suppress(Exception):
                    async with asyncio.timeout(_LAST_WORDS):
                        await self._rest(held)
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
        steps = {name: step.compensate is not None for name, step in self.steps.items()}
        while (name := plan(steps, state, self.now())) is not None:
            act = state.acts.setdefault(name, Act(began=self.now(), seen=len(state.events)))
            waits = act.status == "waiting"
            woken = waits and act.until > self.now()
            unanswered = waits and act.asked and not woken
            if unanswered and self._delay(name, act, _NO_ANSWER) is None:
                act.status, act.error = "failed", _NO_ANSWER.reason
                continue
            if self.draining:
                await self._rest(held)
                return
            if act.status == "pausing" and act.until > self.now():  # an event for the saga has woken it too early
                await self._rest(held, _due(state, name, act))
                return
            if waits and not act.asked:
                act.waited += self.now() - act.until
            act.status, act.attempts = "begun", act.attempts + (unanswered or not waits)
            began = self.clock.monotonic()
            await self._save(held, due=self.lease, token=held.token)
            await self._attempt(held, name, act, woken=woken, limit=0.9 * self.lease + began - self.clock.monotonic())
            if act.status in {"pausing", "waiting"}:
                await self._rest(held, _due(state, name, act))
                return
        await self._end(held)

    async def _attempt(self, held: Held, name: str, act: Act, *, woken: bool, limit: float) -> None:
        """Run a step or a compensation once, and note what came of it."""
        if limit <= 0:  # the save took too long: somebody else may have taken it back already
            raise _Overtaken
        state, step = held.state, self.steps[name.removesuffix(UNDO)]
        forward, cut = not name.endswith(UNDO), f"nine tenths of the lease of {self.lease:g} s"
        if forward and state.deadline is not None and not step.is_plain:  # which would run on, beside what undoes it
            left = max(0.0, state.deadline - self.now())
            cut, limit = (limit_of(state), left) if left < limit else (cut, limit)
        context = self._context(held, name, act, woken=woken)
        raised: list[Exception] = []

        async def attempt(_: Event) -> Outcome:
            began = perf_counter()
            work: Any = step.run if forward else step.compensate
            try:
                async with timeout:
                    result = await work(context)
                    act.result = kept(name, result) if forward else act.result
            except asyncio.CancelledError as error:
                if is_cancelled():
                    raise
                raised.append(InDoubt("it ended as if it had been cancelled"))
                raise self._failure(name, held.event, began) from error
            except Exception as error:
                raised.append(error)
                if isinstance(error, Refusal):
                    return None  # which is told below, or no failure at all
                raise self._failure(name, held.event, began) from error
            return None

        timeout = asyncio.timeout(limit)
        held.runs_on = forward and step.is_plain
        await settle(attempt, held.event)  # which logs, and lets events that are sent inherit from this one
        held.runs_on = False
        if not raised:
            act.status, act.error = "done", ""
        elif isinstance(raised[0], Wait):
            self._wait(act, raised[0], woken=woken)
        else:
            act.seen = len(context.events)
            self._note(held, name, act, raised[0], cut if timeout.expired() else "")

    def _wait(self, act: Act, wait: Wait, *, woken: bool) -> None:
        asked, asks = act.asked, isinstance(wait, Unanswered)
        act.status, act.asked, act.in_doubt = "waiting", asks, act.in_doubt or wait.in_doubt
        if not (woken and asked and asks):  # any other event leaves a question the time that it had
            act.until = self.now() + wait.seconds
        if not asks:
            act.waited += wait.seconds

    def _note(self, held: Held, name: str, act: Act, error: Exception, cut: str) -> None:
        nack: Any = verdict(error, held.event)
        act.in_doubt = nack.retryable and (act.in_doubt or bool(cut) or leaves_doubt(error))
        act.error, act.answer = told(error, cut), answer(error)
        delay = self._delay(name, act, nack)
        if delay is None:
            act.status = "failed"
            log.warning("saga %s: %s failed for good: %s: %s", self.name, name, held.id, act.error)
        else:
            self.counts["retried"] += 1
            act.status, act.until = "pausing", self.now() + delay
            log.info("saga %s: %s is tried again in %.3g s: %s: %s", self.name, name, delay, held.id, act.error)

    def _delay(self, name: str, act: Act, nack: Nack) -> float | None:
        policy = self.steps[name.removesuffix(UNDO)].retry or self.retry
        elapsed = max(0.0, self.now() - act.began - act.waited)
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
            seen=act.seen,
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
            new = decode(found[4]).events[held.known :]  # the only thing that others change
            held.state.events += new
            held.known += len(new)
            if new and token != held.token:
                if held.state.status == "parked":
                    due, expires = due or self.retention, None
                elif due is not None:
                    due = 0.0
        held.version += 1

    async def _rest(self, held: Held, until: float = 0.0) -> None:
        for act in held.state.acts.values():  # if it was cancelled
            if act.status == "begun":
                act.status, act.until, act.in_doubt = "pausing", 0.0, True
        due = max(0.0, until - self.now())
        await self._save(held, due=due, token="")
        self.rested(held.id, due)

    async def _end(self, held: Held) -> None:
        state = held.state
        if state.status == "stuck" and not state.handed_over and self.dead_letter is not None:
            error = SagaError(f"saga {self.name}: {held.id} is stuck: {errors(state)}")
            state.handed_over = await self._hand_over(held.event, error)
            if not state.handed_over:
                await self._rest(held, self.now() + _DEAD_LETTER_AGAIN)
                return
        state.ended = self.now()
        stays = state.status == "stuck"  # until somebody resumes it
        await self._save(held, due=None, token="", expires=None if stays else self.retention)
        self.counts[state.status] += 1
        if stays:
            log.error("saga %s: stuck: %s: %s", self.name, held.id, errors(state))
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
        await self._save(held, due=None, token="", expires=None if state.events else 0.0)

    async def _hand_over(self, event: Event, error: Exception) -> bool:
        try:
            await hand_over(self.dead_letter, event, error, self.lease * 0.9)
        except Exception:  # noqa: BLE001 - whatever it raises, it is called again
            self.counts["dead_letter_failed"] += 1
            log.exception("saga %s: could not be handed over: %s", self.name, name_of(event))
            return False
        return True


_NO_ANSWER = Nack(status=503, reason="no answer came", retryable=True)


def _due(state: State, name: str, act: Act) -> float:
    return act.until if state.deadline is None or name.endswith(UNDO) else min(act.until, state.deadline)
