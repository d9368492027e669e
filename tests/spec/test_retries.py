"""Section 9 of the checklist, as far as it is pure: which answers are sent again, and when."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from cloudevents_kit import Ack, Nack, RetryPolicy, Undelivered
from cloudevents_kit._answer import parse_retry_after
from cloudevents_kit._result import Reason
from cloudevents_kit._retry import next_delay

POLICY = RetryPolicy(attempts=10, initial=0.2, factor=2, max_delay=30, deadline=None, jitter=False)
NOW = datetime(1999, 12, 31, 23, 59, 0, tzinfo=UTC)

AGAIN = [404, 408, 409, 425, 429, *range(500, 512), 599, 600, 999, -1, 0, 99]
FINAL = [100, 102, 103, 200, 202, 204, 299, 300, 301, 302, 303, 304, 307, 308, 400, 401, 402, 403, 405, 406, 410, 411,
         412, 413, 414, 415, 416, 417, 418, 421, 422, 423, 424, 426, 428, 431, 451, 499]  # fmt: skip


@pytest.mark.parametrize("status", AGAIN)
def test_a_status_that_may_change_is_retried(status: int) -> None:
    """RT-01, decision 0.3."""
    assert POLICY.retryable(status)


@pytest.mark.parametrize("status", FINAL)
def test_a_final_status_is_not(status: int) -> None:
    """RT-01."""
    assert not POLICY.retryable(status)


def test_which_statuses_are_retried_is_a_setting_but_for_410() -> None:
    """RT-01, decision 0.3."""
    policy = RetryPolicy(statuses=frozenset({403, 410}))
    assert [policy.retryable(status) for status in (403, 404, 410, 500)] == [True, False, False, True]


REASONS: dict[Reason, bool] = {
    "dns": True, "refused": True, "tls": True, "connect-timeout": True, "timeout": True, "reset": True,
    "protocol": True, "network": True, "invalid-event": False, "invalid-url": False, "closed": False,
}  # fmt: skip


@pytest.mark.parametrize(("reason", "again"), REASONS.items())
def test_no_answer_is_retried_unless_it_would_never_help(reason: Reason, again: bool) -> None:
    """RT-01."""
    assert (next_delay(POLICY, 1, Undelivered(reason=reason)) is not None) == again


def test_an_ack_and_a_final_nack_end_it() -> None:
    """RT-01."""
    assert next_delay(POLICY, 1, Ack()) is None
    assert next_delay(POLICY, 1, Nack(status=400)) is None
    assert next_delay(POLICY, 1, Nack(status=400, retry_after=1.0)) is None


def test_waits_grow_by_the_factor_up_to_the_cap() -> None:
    """RT-02."""
    nack = Nack(status=503, retryable=True)
    waits = [next_delay(POLICY, attempt, nack) for attempt in range(1, 11)]
    assert waits == pytest.approx([0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 30.0, None])
    many = RetryPolicy(attempts=10**6, deadline=None, jitter=False)
    assert next_delay(many, 10**5, nack) == 30


def test_jitter_spreads_a_wait_between_nothing_and_its_bound() -> None:
    """RT-02."""
    policy = RetryPolicy(attempts=10, initial=0.2, jitter=True)
    nack = Nack(status=503, retryable=True)
    assert [next_delay(policy, 2, nack, chance=chance) for chance in (0.0, 0.5, 1.0)] == [0.0, 0.2, 0.4]
    drawn = RetryPolicy(seed=1)
    assert len({drawn.chance() for _ in range(100)}) == 100
    assert RetryPolicy(seed=1).chance() == RetryPolicy(seed=1).chance()


def test_the_deadline_counts_the_wait_that_would_follow() -> None:
    """RT-02, RT-07."""
    policy = RetryPolicy(attempts=10, initial=1, jitter=False, deadline=10)
    nack = Nack(status=503, retryable=True)
    assert next_delay(policy, 1, nack, elapsed=8.9) == 1
    assert next_delay(policy, 1, nack, elapsed=9.1) is None
    assert next_delay(policy, 1, Nack(status=503, retryable=True, retry_after=60.0)) is None


@pytest.mark.parametrize(
    ("backoff", "header", "most", "wait"),
    [(1, 5, 300, 5), (4, 1, 300, 4), (4, 5, 3, 4), (1, 5, 3, 3), (1, 10**9, 300, 300), (1, 0, 300, 1)],
)
def test_the_longer_one_of_backoff_and_retry_after_counts(
    backoff: float, header: float, most: float, wait: float
) -> None:
    """RT-03."""
    policy = RetryPolicy(initial=backoff, jitter=False, max_retry_after=most, deadline=None)
    for status in (409, 429, 503):
        assert next_delay(policy, 1, Nack(status=status, retryable=True, retry_after=float(header))) == wait


def test_jitter_never_undercuts_retry_after() -> None:
    """RT-03."""
    nack = Nack(status=429, retryable=True, retry_after=5.0)
    assert next_delay(RetryPolicy(initial=1), 1, nack, chance=0.0) == 5


FORMS = ["Fri, 31 Dec 1999 23:59:59 GMT", "Friday, 31-Dec-99 23:59:59 GMT", "Fri Dec 31 23:59:59 1999"]


@pytest.mark.parametrize("text", FORMS)
def test_all_three_forms_of_a_date_are_read(text: str) -> None:
    """RT-04, RT-05: by the local clock, which is given."""
    assert parse_retry_after([text], NOW) == 59
    assert parse_retry_after([text], NOW.astimezone(None)) == 59
    assert parse_retry_after([text], NOW + timedelta(days=1)) == 0
    assert parse_retry_after([text], NOW - timedelta(days=36_500)) == pytest.approx(36_500 * 86_400 + 59)


@pytest.mark.parametrize(("text", "seconds"), [("120", 120), ("0", 0), (" 7 ", 7), ("007", 7)])
def test_seconds_are_read(text: str, seconds: int) -> None:
    """RT-04."""
    assert parse_retry_after([text], NOW) == seconds


IGNORED = [
    "-5", "+5", "1.5", "1_0", "٣", "", " ", "5s", "0x5", "1e3", "soon", "Fri, 31 Dec 1999 23:59:59", "31 Dec 1999",
    "Fri, 31 Dec 1999 23:59:59 +0100", "Fri, 32 Dec 1999 23:59:59 GMT", "Fri, 31 Dez 1999 23:59:59 GMT", "5, 6", "²",
    "Fri, 31 Dec 1999 25:59:59 GMT", "1999-12-31T23:59:59Z",
]  # fmt: skip


@pytest.mark.parametrize("text", IGNORED)
def test_anything_else_says_nothing(text: str) -> None:
    """RT-04."""
    assert parse_retry_after([text], NOW) is None


def test_fields_that_differ_say_nothing_and_fields_that_agree_do() -> None:
    """RT-04."""
    assert parse_retry_after(["5", "6"], NOW) is None
    assert parse_retry_after(["5", "5"], NOW) == 5
    assert parse_retry_after([], NOW) is None


@pytest.mark.parametrize("text", ["99999999999999999999", "9" * 400])
def test_an_absurd_wait_is_cut_to_the_most(text: str) -> None:
    """RT-04, 18.1-b."""
    seconds = parse_retry_after([text], NOW)
    assert seconds is not None
    assert 10**8 < seconds < float("inf")
    policy = RetryPolicy(max_retry_after=300, deadline=None, jitter=False)
    assert next_delay(policy, 1, Nack(status=429, retryable=True, retry_after=seconds)) == 300


def test_an_absurd_date_is_cut_to_the_most() -> None:
    """RT-05."""
    seconds = parse_retry_after(["Fri, 31 Dec 9999 23:59:59 GMT"], NOW)
    policy = RetryPolicy(max_retry_after=300, deadline=None)
    assert next_delay(policy, 1, Nack(status=503, retryable=True, retry_after=seconds), chance=0.0) == 300
