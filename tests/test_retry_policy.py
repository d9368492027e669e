"""When an event is sent again: the pure rules, and the engine that follows them."""

import asyncio
import itertools
import subprocess
import sys
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudevents_kit import Ack, Nack, Result, RetryPolicy, Undelivered
from cloudevents_kit._retry import next_delay, run
from tests.support.clock import ManualClock

BUSY = Nack(status=503, retryable=True)
LOST = Undelivered(reason="timeout", possibly_delivered=True)

results = st.one_of(
    st.builds(Ack),
    st.builds(Nack, status=st.integers(100, 999), retryable=st.booleans(), retry_after=st.none() | st.floats(0, 1e9)),
    st.builds(Undelivered, reason=st.sampled_from(["timeout", "refused", "closed"]), possibly_delivered=st.booleans()),
)
policies = st.builds(
    RetryPolicy,
    attempts=st.integers(1, 2000),
    initial=st.floats(0, 1e3),
    factor=st.floats(1, 1e300),
    max_delay=st.floats(0, 1e3),
    deadline=st.none() | st.floats(0.001, 1e4),
    jitter=st.booleans(),
    max_retry_after=st.floats(0, 1e3),
)


def test_the_defaults_are_finite_and_documented() -> None:
    policy = RetryPolicy()
    assert (policy.attempts, policy.initial, policy.factor, policy.max_delay) == (5, 0.2, 2.0, 30.0)
    assert (policy.deadline, policy.max_retry_after) == (60.0, 300.0)
    assert (policy.jitter, policy.retry_possibly_delivered, policy.seed) == (True, True, None)
    assert policy.statuses == {404, 408, 409, 425, 429}


def test_none_is_a_single_attempt() -> None:
    assert RetryPolicy.none().attempts == 1
    assert next_delay(RetryPolicy.none(), 1, BUSY) is None


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({"attempts": 0}, "attempts"),
        ({"attempts": -1}, "attempts"),
        ({"factor": 0.9}, "factor"),
        ({"initial": -0.1}, "initial"),
        ({"max_delay": -1}, "max_delay"),
        ({"max_delay": float("inf")}, "max_delay"),
        ({"initial": float("nan")}, "initial"),
        ({"deadline": -1}, "deadline"),
        ({"deadline": 0}, "deadline"),
        ({"max_retry_after": -1}, "max_retry_after"),
    ],
)
def test_a_policy_that_makes_no_sense_is_refused_by_name(settings: dict[str, Any], field: str) -> None:
    """K-C3: attempts below 1 and factor below 1 are ValueErrors."""
    with pytest.raises(ValueError, match=f"^{field}: "):
        RetryPolicy(**settings)


def test_these_statuses_are_retried_and_no_others() -> None:
    """RT-01: never 1xx, 3xx and most of 4xx; always 5xx and what is outside HTTP's range."""
    retried = {status for status in range(-1, 1000) if RetryPolicy().retryable(status) and not 200 <= status < 300}
    assert retried == {404, 408, 409, 425, 429} | {*range(-1, 100)} | {*range(500, 1000)}


def test_410_is_never_retried_whatever_the_policy_says() -> None:
    """RT-01."""
    assert not RetryPolicy(statuses=frozenset({410, 418})).retryable(410)
    assert RetryPolicy(statuses=frozenset({410, 418})).retryable(418)


@pytest.mark.parametrize(
    ("backoff", "after", "longest", "wait"),
    [
        (1.0, 5.0, 300.0, 5.0),
        (4.0, 1.0, 300.0, 4.0),
        (4.0, 5.0, 3.0, 4.0),
        (1.0, 5.0, 3.0, 3.0),
        (1.0, 0.0, 300.0, 1.0),
    ],
)
def test_the_wait_is_the_longer_of_backoff_and_retry_after(
    backoff: float, after: float, longest: float, wait: float
) -> None:
    """RT-03."""
    policy = RetryPolicy(initial=backoff, jitter=False, max_retry_after=longest)
    assert next_delay(policy, 1, Nack(status=429, retryable=True, retry_after=after)) == wait


def test_waits_double_up_to_the_longest() -> None:
    """RT-02, K-C3."""
    policy = RetryPolicy(attempts=7, initial=0.2, factor=2, max_delay=3, jitter=False)
    assert [next_delay(policy, n, BUSY) for n in range(1, 8)] == pytest.approx([0.2, 0.4, 0.8, 1.6, 3, 3, None])


def test_a_growth_beyond_all_numbers_is_the_longest_wait() -> None:
    policy = RetryPolicy(attempts=10**6, factor=1e300, max_delay=7, deadline=None, jitter=False)
    assert next_delay(policy, 10**5, BUSY) == 7


def test_no_attempt_begins_at_or_after_the_deadline() -> None:
    """K-C2, RT-07."""
    policy = RetryPolicy(initial=1, jitter=False, deadline=10)
    assert next_delay(policy, 1, BUSY, elapsed=8.5) == 1
    assert next_delay(policy, 1, BUSY, elapsed=9) is None
    assert next_delay(policy, 1, Nack(status=503, retryable=True, retry_after=10.0)) is None
    assert next_delay(RetryPolicy(initial=1, jitter=False, deadline=None), 1, BUSY, elapsed=1e9) == 1


@pytest.mark.parametrize("reason", ["invalid-event", "invalid-url", "gone", "overload", "closed"])
def test_what_no_retry_can_mend_is_not_retried(reason: Any) -> None:
    assert next_delay(RetryPolicy(), 1, Undelivered(reason=reason)) is None


@pytest.mark.parametrize("reason", ["dns", "refused", "tls", "connect-timeout", "network", "headers", "unknown"])
def test_what_never_left_is_retried(reason: Any) -> None:
    """RT-01: the last row of the table."""
    assert next_delay(RetryPolicy(retry_possibly_delivered=False), 1, Undelivered(reason=reason)) is not None


def test_what_may_have_arrived_is_sent_again_unless_at_most_once_is_asked_for() -> None:
    """K-C3, RT-01."""
    assert next_delay(RetryPolicy(), 1, LOST) is not None
    assert next_delay(RetryPolicy(retry_possibly_delivered=False), 1, LOST) is None


def test_an_ack_is_never_retried() -> None:
    assert next_delay(RetryPolicy(), 1, Ack(status=200)) is None


@given(policies, st.integers(1, 2000), results, st.floats(0, 1e5), st.floats(0, 1))
def test_a_wait_stays_within_its_bounds(
    policy: RetryPolicy, attempt: int, result: Result, elapsed: float, chance: float
) -> None:
    """RT-02, K-C3: within [0, cap], whatever the numbers."""
    delay = next_delay(policy, attempt, result, elapsed=elapsed, chance=chance)
    if delay is None:
        return
    assert attempt < policy.attempts
    after = result.retry_after if isinstance(result, Nack) else None
    assert 0 <= delay <= max(policy.max_delay, min(after or 0, policy.max_retry_after))
    assert policy.deadline is None or elapsed + delay < policy.deadline


def test_the_jitter_is_full() -> None:
    """RT-02, K-C3: evenly from nothing to the bound."""
    policy = RetryPolicy(initial=1, factor=1)
    assert [next_delay(policy, 1, BUSY, chance=chance) for chance in (0, 0.25, 1)] == [0, 0.25, 1]
    drawn = [RetryPolicy().chance() for _ in range(100)]
    assert all(0 <= one < 1 for one in drawn)
    assert len(set(drawn)) > 90


def test_a_seed_makes_the_jitter_repeatable() -> None:
    """K-C3."""

    def drawn(seed: int) -> list[float]:
        policy = RetryPolicy(seed=seed)
        return [policy.chance() for _ in range(5)]

    assert drawn(1) == drawn(1) != drawn(2)


# The engine.


def scripted(*outcomes: Result) -> tuple[list[tuple[int, float]], Callable[[int, float], Coroutine[Any, Any, Result]]]:
    calls: list[tuple[int, float]] = []

    async def attempt(number: int, wait: float) -> Result:
        calls.append((number, wait))
        return outcomes[min(number, len(outcomes)) - 1]

    return calls, attempt


async def test_the_first_success_ends_it(clock: ManualClock) -> None:
    calls, attempt = scripted(Ack(status=200))
    assert await run(RetryPolicy(), attempt, clock) == Ack(status=200)
    assert calls == [(1, 0.0)]
    assert clock.waits == []


async def test_it_waits_between_attempts_and_not_after_the_last(clock: ManualClock) -> None:
    """K-C3."""
    calls, attempt = scripted(BUSY)
    policy = RetryPolicy(attempts=4, initial=0.1, factor=2, max_delay=0.3, jitter=False)
    assert await run(policy, attempt, clock) == BUSY
    assert calls == [(1, 0.0), (2, 0.1), (3, 0.2), (4, 0.3)]
    assert clock.waits == [0.1, 0.2, 0.3]


async def test_the_last_result_counts(clock: ManualClock) -> None:
    _, attempt = scripted(BUSY, LOST, Nack(status=400))
    assert await run(RetryPolicy(), attempt, clock) == Nack(status=400)


async def test_it_stops_when_the_deadline_would_pass(clock: ManualClock) -> None:
    """RT-07."""
    calls, attempt = scripted(BUSY)
    await run(RetryPolicy(attempts=99, initial=1, factor=1, jitter=False, deadline=3.5), attempt, clock)
    assert len(calls) == 4
    assert clock.monotonic() == 3


async def test_the_jitter_of_a_seeded_policy_decides_the_waits(clock: ManualClock) -> None:
    _, attempt = scripted(BUSY)
    await run(RetryPolicy(attempts=3, initial=8, factor=1, seed=5), attempt, clock)
    chance = RetryPolicy(seed=5).chance
    assert clock.waits == [8 * chance(), 8 * chance()]


async def test_an_error_of_the_attempt_passes_through(clock: ManualClock) -> None:
    """It is a bug, not a failed delivery."""
    numbers = itertools.count(1)

    async def attempt(number: int, wait: float) -> Result:
        if next(numbers) == 2:
            raise LookupError("bug")
        return BUSY

    with pytest.raises(LookupError, match="bug"):
        await run(RetryPolicy(), attempt, clock)


@pytest.mark.parametrize("when", [1, 2])
async def test_cancellation_passes_through(when: int, clock: ManualClock) -> None:
    """RT-07."""

    async def attempt(number: int, wait: float) -> Result:
        if number == when:
            raise asyncio.CancelledError
        return BUSY

    with pytest.raises(asyncio.CancelledError):
        await run(RetryPolicy(), attempt, clock)


def test_the_engine_is_not_even_loaded_when_the_first_attempt_succeeds() -> None:
    code = """
import asyncio, sys
from cloudevents_kit import Ack, Nack, RetryPolicy, SystemClock
from cloudevents_kit._retry import run
async def first(number, wait):
    return Ack()
async def second(number, wait):
    return Ack() if number == 2 else Nack(retryable=True)
asyncio.run(run(RetryPolicy(), first, SystemClock()))
assert "tenacity" not in sys.modules
asyncio.run(run(RetryPolicy(initial=0), second, SystemClock()))
assert "tenacity" in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=20)
