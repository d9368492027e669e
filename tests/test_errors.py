"""The exceptions: one tree, readable texts, and copies that survive the way to another process."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import msgspec
import pytest

import cloudevents_kit
from cloudevents_kit import (
    CloudEventsError,
    DataError,
    DeliveryError,
    EventError,
    Nack,
    Reject,
    Retry,
    Undelivered,
    _errors,
)
from cloudevents_kit._errors import RETRYABLE_4XX, BindingError, Refusal, UnsupportedVersion, kind_of
from cloudevents_kit.saga import SagaError


def blamed() -> EventError:
    error = DataError("does not fit the handler's type", hint="Expected `int`, got `str` - at `$.count`")
    error.key = ("/s", "1")
    error.add_note("seen on a Monday")
    return error


ERRORS: list[Exception] = [
    CloudEventsError("broken"),
    EventError("time", "must carry an offset"),
    EventError("ext", "must be str", hint="write it as a string", value_type=float),
    UnsupportedVersion("specversion", 'must be "1.0"'),
    blamed(),
    BindingError(413, "the body is too large"),
    DeliveryError(Nack(status=503, reason="busy"), "nack 503: busy"),
    DeliveryError(Undelivered(reason="dns"), "undelivered, dns: no answer"),
    Refusal("gone", 502, retryable=True, after=1.5),
    Reject(),
    Reject("no such product", 410),
    Retry(),
    Retry(3, "busy", 429),
]


def test_the_tree_is_the_one_that_the_module_draws() -> None:
    assert issubclass(EventError, CloudEventsError)
    assert issubclass(EventError, ValueError)
    assert issubclass(UnsupportedVersion, EventError)
    assert issubclass(DataError, EventError)
    assert issubclass(BindingError, CloudEventsError)
    assert issubclass(DeliveryError, CloudEventsError)
    assert issubclass(Reject, Refusal)
    assert issubclass(Retry, Refusal)
    assert not issubclass(Refusal, CloudEventsError)
    drawn = (_errors.__doc__ or "").split()
    for name, found in vars(_errors).items():
        if isinstance(found, type) and found.__module__ == _errors.__name__ and not name.startswith("_"):
            assert name in drawn


def test_everything_that_is_raised_about_events_has_the_one_exported_root() -> None:
    for name in ("EventError", "DataError", "DeliveryError"):
        assert issubclass(getattr(cloudevents_kit, name), cloudevents_kit.CloudEventsError)


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (EventError("id", "is required"), "id: is required"),
        (EventError("id", "is required", hint="for example a UUID"), "id: is required (for example a UUID)"),
        (EventError("id", "must be a string", value_type=int), "id: must be a string, not int"),
        (EventError("id", "must be a string", hint="h", value_type=int), "id: must be a string, not int (h)"),
        (DataError("is not valid JSON"), "data: is not valid JSON"),
        (BindingError(415, "batches are not taken here"), "batches are not taken here"),
        (Reject("no"), "no"),
        (Retry(3), "try again later"),
    ],
)
def test_an_error_is_one_line(error: Exception, text: str) -> None:
    assert str(error) == text


@pytest.mark.parametrize(
    ("error", "name"),
    [
        (SagaError("is stuck"), "SagaError"),
        (OSError(), "OSError"),
        (Refusal("no money", 422, retryable=False), "Reject"),
        (Refusal("busy", 503, retryable=True), "Retry"),
        (Reject("no"), "Reject"),
        (msgspec.DecodeError(), "msgspec.DecodeError"),
    ],
    ids=repr,
)
def test_a_report_names_errors_as_users_know_them(error: Exception, name: str) -> None:
    assert kind_of(error) == name


def duplicates(error: Exception) -> Iterator[Any]:
    yield copy.copy(error)
    yield copy.deepcopy(error)
    for protocol in range(6):
        yield pickle.loads(pickle.dumps(error, protocol))


@pytest.mark.parametrize("error", ERRORS, ids=repr)
def test_an_error_survives_copying_and_pickling(error: Exception) -> None:
    for again in duplicates(error):
        assert type(again) is type(error)
        assert (str(again), again.args) == (str(error), error.args)
        assert vars(again) == vars(error)


def build_something_broken() -> None:
    cloudevents_kit.Event(type="t", source="has space")


def test_an_error_gets_from_one_process_to_another() -> None:
    with ProcessPoolExecutor(1) as pool, pytest.raises(EventError, match=r"^source: must be a URI") as caught:
        pool.submit(build_something_broken).result()
    assert caught.value.attribute == "source"


@pytest.mark.parametrize("status", [400, 401, 403, 410, 422, 499])
def test_a_rejection_has_a_final_status(status: int) -> None:
    error = Reject("no", status)
    assert (error.status, error.retryable, error.after, error.reason) == (status, False, None, "no")


@pytest.mark.parametrize("status", [200, 302, 399, 500, 503, *RETRYABLE_4XX])
def test_a_rejection_with_a_status_that_is_sent_again_is_refused(status: int) -> None:
    with pytest.raises(ValueError, match=f"^status: .* not {status} .raise Retry"):
        Reject("no", status)


@pytest.mark.parametrize("status", [500, 503, 599, *RETRYABLE_4XX])
def test_a_retry_has_a_status_that_is_sent_again(status: int) -> None:
    error = Retry(0.5, "busy", status)
    assert (error.status, error.retryable, error.after, error.reason) == (status, True, 0.5, "busy")


@pytest.mark.parametrize("status", [200, 302, 400, 410, 422, 499, 600])
def test_a_retry_with_a_final_status_is_refused(status: int) -> None:
    with pytest.raises(ValueError, match=f"^status: .* not {status} .raise Reject"):
        Retry(status=status)


def test_the_classes_themselves_can_be_raised() -> None:
    with pytest.raises(Retry) as again:
        raise Retry
    assert (again.value.status, again.value.after) == (503, None)
    with pytest.raises(Reject) as never:
        raise Reject
    assert (never.value.status, str(never.value)) == (422, "rejected")
