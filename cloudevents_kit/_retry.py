"""When to send an event again, and the engine that does it.

`next_delay` decides and is pure. `run` obeys it: the first attempt costs nothing, tenacity drives the waits of what
follows and stays out of every signature. Knows results and clocks, nothing of HTTP libraries.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from cloudevents_kit._arguments import check_count, check_flag, check_kind, check_not_negative, check_positive
from cloudevents_kit._errors import RETRYABLE_4XX
from cloudevents_kit._result import Ack, Nack, Result, Undelivered

if TYPE_CHECKING:
    from cloudevents_kit._clock import Clock

_NEVER = frozenset({410})
_PERMANENT_ERRORS = frozenset({"invalid-event", "invalid-url", "gone", "overload", "closed"})


@dataclass(frozen=True, kw_only=True)
class RetryPolicy:
    """How often and when an event is sent again. All durations are in seconds."""

    attempts: int = 5
    """Tries in all, the first one included; 1 means no retry."""
    initial: float = 0.2
    """Upper bound of the first wait."""
    factor: float = 2.0
    """Growth of that bound from wait to wait."""
    max_delay: float = 30.0
    """The bound grows no further than this."""
    deadline: float | None = 60.0
    """Over everything: no wait begins that would not end before it, and it cuts an attempt short. None: no limit."""
    jitter: bool = True
    """True: each wait is drawn evenly from 0 to its bound ("full jitter"). False: it is the bound."""
    statuses: AbstractSet[int] = RETRYABLE_4XX
    """Statuses below 500 to retry. 5xx and statuses outside HTTP's range are retried, 410 never is."""
    max_retry_after: float = 300.0
    """A longer Retry-After counts as this long."""
    retry_possibly_delivered: bool = True
    """Whether to send again when the event may have arrived: at least once (True) or at most once (False)."""
    seed: int | None = None
    """Makes the jitter repeatable."""

    def __post_init__(self) -> None:
        """Raise TypeError or ValueError for a policy that makes no sense."""
        check_count("attempts", self.attempts)
        check_positive("factor", self.factor)
        if self.factor < 1:
            raise ValueError(f"factor: must be 1 or more, not {self.factor}")
        for name in ("initial", "max_delay", "max_retry_after"):
            check_not_negative(name, getattr(self, name))
        if self.deadline is not None:
            check_positive("deadline", self.deadline)
        for name in ("jitter", "retry_possibly_delivered"):
            check_flag(name, getattr(self, name))
        check_kind("statuses", self.statuses, AbstractSet, "a set of ints, for example frozenset({408, 429})")
        for status in self.statuses:
            check_count("statuses", status)
        object.__setattr__(self, "statuses", frozenset(self.statuses))  # the caller's set may change
        if self.seed is not None:
            check_kind("seed", self.seed, int, "an int, or None")

    @classmethod
    def none(cls) -> RetryPolicy:
        """Return the policy of a single attempt."""
        return cls(attempts=1)

    @cached_property
    def chance(self) -> Callable[[], float]:
        """Draws from [0, 1) for the jitter."""
        return random.Random(self.seed).random  # noqa: S311 - spreads load, guards nothing

    def retryable(self, status: int) -> bool:
        """Tell whether an answer with ``status`` may change when the event is sent again."""
        if 100 <= status < 500:
            return status in self.statuses and status not in _NEVER
        return True


def next_delay(
    policy: RetryPolicy, attempt: int, result: Result, *, elapsed: float = 0.0, chance: float = 1.0
) -> float | None:
    """Return the seconds to wait after the failed ``attempt`` (from 1), or None to give up with ``result``.

    Args:
        policy: the rules.
        attempt: the number of attempts made so far.
        result: how the last of them ended.
        elapsed: seconds since the first attempt began.
        chance: a number from 0 to 1 that places the wait between nothing and its bound, if the policy has jitter.
    """
    if attempt >= policy.attempts or not _may_help(policy, result):
        return None
    delay = _backoff(policy, attempt) * (chance if policy.jitter else 1.0)
    if isinstance(result, Nack) and result.retry_after is not None:
        delay = max(delay, min(result.retry_after, policy.max_retry_after))
    return None if policy.deadline is not None and elapsed + delay >= policy.deadline else delay


def _may_help(policy: RetryPolicy, result: Result) -> bool:
    if isinstance(result, Nack):
        return result.retryable
    if isinstance(result, Undelivered):
        again = policy.retry_possibly_delivered or not result.possibly_delivered
        return again and result.reason not in _PERMANENT_ERRORS
    return False


def _backoff(policy: RetryPolicy, attempt: int) -> float:
    try:
        return min(policy.initial * policy.factor ** (attempt - 1), policy.max_delay)
    except OverflowError:
        return policy.max_delay


async def run(
    policy: RetryPolicy,
    attempt: Callable[[int, float], Awaitable[Result]],
    clock: Clock,
    began: float | None = None,
) -> Result:
    """Call ``attempt(number, wait)`` until it succeeds or ``policy`` gives up; return its last result.

    Cancellation passes through at once, also out of a wait. ``began`` is when, on ``clock``, the deadline began to
    run, if not now.
    """
    began = clock.monotonic() if began is None else began
    result = await attempt(1, 0.0)
    if isinstance(result, Ack) or policy.attempts == 1:
        return result
    return await _run_on(policy, attempt, clock, began, result)


async def _run_on(
    policy: RetryPolicy,
    attempt: Callable[[int, float], Awaitable[Result]],
    clock: Clock,
    began: float,
    first: Result,
) -> Result:
    """Go on after a failed ``first`` attempt."""
    import tenacity

    delay: float | None = None

    async def try_again() -> Result:
        number = engine.statistics["attempt_number"]
        return first if number == 1 else await attempt(number, delay or 0.0)

    def wait(state: tenacity.RetryCallState) -> float:
        nonlocal delay
        result: Any = state.outcome.result() if state.outcome else first
        elapsed = clock.monotonic() - began
        delay = next_delay(policy, state.attempt_number, result, elapsed=elapsed, chance=policy.chance())
        return delay or 0.0

    engine = tenacity.AsyncRetrying(
        sleep=clock.sleep,
        wait=wait,
        stop=lambda _: delay is None,
        retry=tenacity.retry_if_result(lambda result: not isinstance(result, Ack)),
        retry_error_callback=lambda state: state.outcome.result() if state.outcome else first,
    )
    return await engine(try_again)
