"""Results: frozen values that are told apart by match, by predicates and by truth."""

from __future__ import annotations

import copy
import dataclasses
import pickle
from typing import Any, get_args

import pytest

from cloudevents_kit import Ack, Attempt, CloudEventsError, DeliveryError, Event, Nack, Result, Undelivered
from cloudevents_kit._result import Reason

REPLY = Event(type="t", source="/s", id="1", data={"password": "hunter2"})
TRIES = (Attempt(1, 503, None, 0.0, 0.1), Attempt(2, None, "timeout", 0.2, 10.0))
RESULTS: list[Result] = [
    Ack(),
    Nack(),
    Undelivered(),
    Ack(status=200, reply=REPLY, attempts=TRIES, elapsed=10.3),
    Ack(status=200, reply_error="the reply is no valid event"),
    Nack(status=503, reason="busy", retryable=True, retry_after=3.0, attempts=TRIES, elapsed=10.3),
    Undelivered(reason="timeout", error="no answer in time", possibly_delivered=True, attempts=TRIES, elapsed=10.3),
]
every = pytest.mark.parametrize("result", RESULTS, ids=lambda result: str(RESULTS.index(result)))


def test_a_result_without_arguments_can_be_shown() -> None:
    """K-C1: given a default-constructed result in user code, when str(), then no exception."""
    assert str(Ack()) == "Ack(status=204, reply=None, reply_error=None, attempts=(), elapsed=0.0)"
    assert str(Nack()) == (
        "Nack(status=500, reason='', retryable=False, retry_after=None, attempts=(), elapsed=0.0, dead_lettered=False)"
    )
    assert str(Undelivered()) == (
        "Undelivered(reason='unknown', error='', possibly_delivered=False, attempts=(), elapsed=0.0, "
        "dead_lettered=False)"
    )
    assert str(Attempt()) == "Attempt(number=1, status=None, error=None, wait=0.0, elapsed=0.0)"


@every
def test_exactly_one_predicate_is_true_and_the_outcome_says_the_same(result: Result) -> None:
    """K-C1."""
    predicates = {"ack": result.is_ack, "nack": result.is_nack, "undelivered": result.is_undelivered}
    assert [name for name, true in predicates.items() if true] == [result.outcome]
    assert result.outcome == type(result).__name__.lower()
    assert bool(result) is result.is_ack


@every
def test_every_result_has_a_status_and_a_reply_or_none(result: Result) -> None:
    """K-C1: status None without an answer."""
    status: int | None = result.status
    reply: Event | None = result.reply
    assert (status is None) == result.is_undelivered
    assert (reply is not None) == (isinstance(result, Ack) and status == 200 and result.reply_error is None)


@every
def test_a_result_is_told_apart_by_its_class_and_fields(result: Result) -> None:
    match result:
        case Ack(status=200, reply=Event(id=found)):
            assert found == "1"
        case Ack(reply=None, reply_error=str() as why):
            assert why == "the reply is no valid event"
        case Ack(status=status):
            assert status == 204
        case Nack(status=status, reason=reason, retryable=True, retry_after=seconds):
            assert (status, reason, seconds) == (503, "busy", 3.0)
        case Nack(retryable=False):
            assert result == Nack()
        case Undelivered(error=error, possibly_delivered=True):
            assert error == "no answer in time"
        case Undelivered():
            assert result == Undelivered()


def test_the_classes_cover_the_union() -> None:
    assert {type(result) for result in RESULTS} == {*get_args(Result)}


@every
def test_an_attempt_may_be_looked_at_by_position(result: Result) -> None:
    match result.attempts:
        case (Attempt(1, 503, None), Attempt(2, None, "timeout", wait)):
            assert wait == 0.2
        case found:
            assert found == ()


@every
def test_nothing_in_a_result_can_be_changed(result: Any) -> None:
    for name in (*[field.name for field in dataclasses.fields(result)], "colour"):
        with pytest.raises((AttributeError, TypeError)):
            setattr(result, name, None)
    with pytest.raises(AttributeError):
        del result.elapsed
    with pytest.raises((AttributeError, TypeError)):
        TRIES[0].wait = 1  # type: ignore[misc]
    assert not hasattr(result, "__dict__")


@every
def test_a_result_survives_copying_and_pickling(result: Result) -> None:
    for again in (copy.copy(result), copy.deepcopy(result), pickle.loads(pickle.dumps(result))):
        assert type(again) is type(result)
        assert again == result
        assert hash(again) == hash(result)
        assert str(again) == str(result)


def test_results_of_different_classes_are_never_equal() -> None:
    assert len({Ack(), Nack(), Undelivered(), Ack(status=200), Nack(status=503)}) == 5
    assert Ack(status=200) != Nack(status=200)


@every
def test_a_result_never_shows_the_data_of_a_reply(result: Result) -> None:
    assert "hunter2" not in f"{result} {result!r}"


@every
def test_whoever_prefers_exceptions_gets_one_for_everything_but_an_ack(result: Result) -> None:
    if isinstance(result, Ack):
        assert result.raise_for_outcome() is result
        return
    with pytest.raises(DeliveryError) as caught:
        result.raise_for_outcome()
    assert caught.value.result is result
    assert isinstance(caught.value, CloudEventsError)


@pytest.mark.parametrize(
    ("result", "text"),
    [
        (Nack(), "nack 500: no reason given"),
        (Nack(status=503, reason="busy"), "nack 503: busy"),
        (Undelivered(), "undelivered, unknown: no answer"),
        (Undelivered(reason="dns", error="no such host"), "undelivered, dns: no such host"),
        (
            Undelivered(reason="timeout", error="no answer in time", possibly_delivered=True),
            "undelivered, timeout: no answer in time (the event may have arrived)",
        ),
    ],
)
def test_the_exception_says_what_became_of_the_event(result: Nack | Undelivered, text: str) -> None:
    with pytest.raises(DeliveryError) as caught:
        result.raise_for_outcome()
    assert str(caught.value) == text


def test_every_reason_can_be_shown_and_branched_on() -> None:
    reasons: tuple[Any, ...] = get_args(Reason)
    assert len({*reasons}) == len(reasons)
    for reason in reasons:
        assert Undelivered(reason=reason).reason == Attempt(error=reason).error == reason
