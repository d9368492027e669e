"""When a destination or a store counts as down, and how long it is left alone."""

from __future__ import annotations

import pytest

from cloudevents_kit import Ack, Nack, Result, RetryPolicy, Undelivered
from cloudevents_kit._errors import StoreError
from cloudevents_kit._outage import Outage, Trouble

AWAY = Nack(status=503, retryable=True)
FAILED = Nack(status=500, retryable=True)
POLICY = RetryPolicy(attempts=3, initial=10, max_delay=60, jitter=False)


def after(*results: Result, policy: RetryPolicy = POLICY) -> Outage:
    outage = Outage("shop", policy)
    for result in results:
        outage.learn(result)
    return outage


def test_ten_failures_in_a_row_are_an_outage_and_nothing_less() -> None:
    assert not after(*[AWAY] * 9).is_on
    assert after(*[AWAY] * 10).is_on
    assert not after(*[AWAY] * 9, Ack(), *[AWAY] * 9).is_on
    assert not after(*[AWAY] * 9, Nack(status=422), *[AWAY] * 9).is_on
    assert after(*[AWAY, FAILED] * 5).is_on


@pytest.mark.parametrize("result", [Ack(), Nack(status=422), Undelivered(reason="invalid-event")])
def test_a_success_ends_it_at_once_and_so_does_what_is_the_fault_of_the_event(
    result: Result, caplog: pytest.LogCaptureFixture
) -> None:
    outage = after(*[AWAY] * 9)
    assert [outage.learn(AWAY), outage.learn(AWAY)] == [True, False]
    assert outage.left > 9
    assert [outage.learn(result), outage.learn(result)] == [True, False]
    assert (outage.is_on, outage.left) == (False, 0.0)
    assert [record.message for record in caplog.records] == [
        "shop: 10 failures in a row: one event at a time from now on",
        "shop: the destination answers again",
    ]


def test_the_pause_grows_with_each_probe_as_the_policy_says_however_many_attempts_it_allows() -> None:
    outage = after(*[AWAY] * 30)  # many were on their way at once, and count as one
    pauses = [round(outage.left)]
    for _ in range(5):
        outage._until = 0.0  # it has passed
        outage.probe()
        outage.learn(AWAY)
        pauses.append(round(outage.left))
    assert pauses == [10, 20, 40, 60, 60, 60]
    outage.learn(Ack())
    assert round(after(*[AWAY] * 10).left) == 10


@pytest.mark.parametrize(
    ("result", "pause"),
    [
        (Undelivered(reason="refused"), 10),
        (Undelivered(reason="timeout", possibly_delivered=True), 10),
        (Nack(status=429, retryable=True), 10),
        (Nack(status=504, retryable=True), 10),
        (Nack(status=500, retryable=True, retry_after=30), 30),
        (Nack(status=503, retryable=True, retry_after=5), 10),
        (FAILED, 0),
        (Nack(status=404, retryable=True), 0),
    ],
)
def test_what_may_be_due_to_the_events_pauses_for_a_moment_only(result: Result, pause: float) -> None:
    """So that a thousand bad ones in a row do not keep those behind them waiting for hours."""
    outage = after(*[result] * 10, policy=RetryPolicy(initial=10, jitter=False, retry_possibly_delivered=False))
    assert outage.is_on
    assert round(outage.left) == pause


def test_what_fails_for_hundreds_of_events_fills_no_log() -> None:
    assert [round(after(*[FAILED] * count).left, 2) for count in (99, 100, 300, 9999)] == [0.02, 0.04, 0.16, 1.28]
    quick = RetryPolicy(initial=0.03, max_delay=0.03, jitter=False)
    assert round(after(*[FAILED] * 999, policy=quick).left, 2) == 0.03


def trouble(pause: float = 1.0, longest: float = 15.0) -> tuple[Trouble, dict[str, int]]:
    counts = {"store_failed": 0}
    return Trouble("shop", pause, longest, counts), counts


@pytest.mark.parametrize(("pause", "pauses"), [(1, [1, 2, 4, 8, 15, 15]), (15, [15] * 6)])
def test_a_store_that_fails_is_left_alone_for_longer_and_longer_and_the_log_stays_small(
    pause: float, pauses: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    """The text of the error each time, and its traceback the first time."""
    store, counts = trouble(pause)
    store.worked()
    assert [store.failed("nothing can be leased", StoreError("the disk is full")) for _ in range(6)] == pauses
    assert counts == {"store_failed": 6}
    assert {record.message for record in caplog.records} == {"shop: nothing can be leased: the disk is full"}
    assert [record.exc_info is not None for record in caplog.records] == [True, *[False] * 5]


def test_once_the_store_works_again_all_begins_anew(caplog: pytest.LogCaptureFixture) -> None:
    store, _ = trouble()
    store.failed("lost", StoreError("is locked"))
    store.failed("lost", OSError("one line\nand more"))
    store.worked()
    store.worked()
    assert store.failed("lost", StoreError("is locked")) == 1
    assert [(record.message, record.exc_info is not None) for record in caplog.records] == [
        ("shop: lost: is locked", True),
        ("shop: lost: OSError: one line", False),
        ("shop: the store works again", False),
        ("shop: lost: is locked", True),
    ]
