"""The handler's end decides the answer (design.md, section 2): each row of the table on the wire, by both receivers."""

import asyncio
import json
import logging
import threading
from dataclasses import dataclass
from typing import Any, TypedDict

import msgspec
import pydantic
import pytest

from cloudevents_kit import ACCEPTED, Ack, Event, EventError, Reject, Retry, Router, current_event, current_headers
from cloudevents_kit._contract import as_handler
from tests.support.servers import (
    KINDS,
    SECRET,
    Kind,
    ask,
    assert_no_secret,
    binary,
    outcome,
    problem,
    raising,
    replying,
    returning,
    served,
    structured,
)

pytestmark = pytest.mark.parametrize("kind", KINDS)

# ------------------------------------------------------------------------------------------------ acknowledged


async def test_none_is_204_without_a_body(kind: Kind) -> None:
    """K-S2."""
    answer = await outcome(kind, returning(None))
    assert (answer.status, answer.body) == (204, b"")
    assert answer.header("content-type") is None
    assert answer.header("content-length") is None


async def test_accepted_is_202_without_a_body(kind: Kind) -> None:
    """K-S2: accepted, not processed."""
    answer = await outcome(kind, returning(ACCEPTED))
    assert (answer.status, answer.body) == (202, b"")
    assert answer.header("content-length") == "0"


async def test_an_event_is_200_in_binary_mode_for_a_binary_request(kind: Kind) -> None:
    """K-S2: event -> 200 with the event."""
    answer = await outcome(kind, replying)
    assert answer.status == 200
    assert json.loads(answer.body) == {"to": "1"}
    assert answer.header("content-type") == "application/json"
    assert {name: value for name, value in answer.headers if name.startswith("ce-")} == {
        "ce-specversion": "1.0",
        "ce-id": "2",
        "ce-source": "/answerer",
        "ce-type": "com.example.answered",
        "ce-correlationid": "1",
        "ce-causationid": "1",
    }


async def test_an_event_is_200_in_structured_mode_for_a_structured_request(kind: Kind) -> None:
    """K-S2, K-E2."""
    answer = await outcome(kind, replying, structured())
    assert answer.status == 200
    assert answer.header("content-type") == "application/cloudevents+json"
    assert not [name for name, _ in answer.headers if name.startswith("ce-")]
    assert json.loads(answer.body) == {
        "specversion": "1.0",
        "id": "2",
        "source": "/answerer",
        "type": "com.example.answered",
        "correlationid": "1",
        "causationid": "1",
        "datacontenttype": "application/json",
        "data": {"to": "1"},
    }


async def test_a_reply_that_binary_mode_cannot_carry_goes_structured(kind: Kind) -> None:
    nested = Event(
        type="com.example.wrapped",
        source="/s",
        datacontenttype="application/cloudevents+json",
        data={"specversion": "1.0"},
    )
    answer = await outcome(kind, returning(nested))
    assert (answer.status, answer.header("content-type")) == (200, "application/cloudevents+json")
    assert json.loads(answer.body)["datacontenttype"] == "application/cloudevents+json"


async def test_no_server_adds_a_content_type_to_a_reply(kind: Kind) -> None:
    """HB-19: it would be a datacontenttype. Data without one therefore travels structured."""
    image = await outcome(kind, returning(Event(type="t", source="/s", data=b"\x00", datacontenttype="image/png")))
    assert (image.body, image.header("content-type"), image.header("ce-type")) == (b"\x00", "image/png", "t")
    empty = await outcome(kind, returning(Event(type="t", source="/s")))
    assert (empty.status, empty.body, empty.header("ce-type"), empty.header("content-type")) == (200, b"", "t", None)
    bare = await outcome(kind, returning(Event(type="t", source="/s", data=b"\x00")))
    assert (bare.status, bare.header("content-type")) == (200, "application/cloudevents+json")
    assert json.loads(bare.body)["data_base64"] == "AA=="


# ----------------------------------------------------------------------------------------------------- refused


async def test_reject_is_its_4xx_with_the_reason(kind: Kind) -> None:
    """K-S2."""

    async def handler(event: Event) -> None:
        raise Reject("no such order", int(event.id))

    async with served(kind, handler) as port:
        for status in (400, 401, 410, 413, 415, 422, 451):
            answer = await ask(port, structured(id=str(status)))
            assert answer.status == status
            assert problem(answer)["detail"] == "no such order"
            assert answer.header("retry-after") is None


async def test_reject_is_422_by_default(kind: Kind) -> None:
    answer = await outcome(kind, raising(Reject()))
    assert (answer.status, problem(answer)["detail"]) == (422, "rejected")


@pytest.mark.parametrize(
    ("error", "status", "after"),
    [
        (Retry(after=3), 503, "3"),
        (Retry(after=0.2), 503, "1"),
        (Retry(after=0), 503, "0"),
        (Retry(), 503, None),
        (Retry(after=7, status=429), 429, "7"),
        (Retry(status=429), 429, "1"),  # a 429 must carry it (webhook specification, 2.2)
        (Retry(status=409, reason="in work"), 409, None),
        (Retry(status=500), 500, None),
    ],
)
async def test_retry_is_503_with_retry_after_in_whole_seconds(
    kind: Kind, error: Retry, status: int, after: str | None
) -> None:
    """K-S2."""
    answer = await outcome(kind, raising(error))
    assert (answer.status, answer.header("retry-after")) == (status, after)
    assert problem(answer)["detail"] == error.reason


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (Reject("no such order"), "422 no such order"),
        (Retry(after=3, reason="in work"), "503 in work"),
        (Retry(), "503 "),
        (Reject("no such\norder"), "422 no such"),
    ],
)
async def test_a_refusal_is_one_line_of_the_log(
    kind: Kind, error: Reject | Retry, told: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "cloudevents_kit")
    await outcome(kind, raising(error), binary("ce-subject: s"))
    (record,) = [one for one in caplog.records if "refused" in one.getMessage()]
    assert (record.name, record.levelno, record.exc_info) == ("cloudevents_kit", logging.INFO, None)
    said = record.getMessage()
    assert said.startswith("event refused by its handler: id='1' source=")
    assert f": {told}" in said
    assert len(said.splitlines()) == 1


async def test_a_reason_is_cut_to_one_short_printable_line(kind: Kind) -> None:
    answer = await outcome(kind, raising(Reject("first\tline\r\nsecond " + "x" * 5000)))
    assert problem(answer)["detail"] == "first line"
    answer = await outcome(kind, raising(Reject("x" * 5000)))
    assert problem(answer)["detail"] == "x" * 300


@dataclass
class Order:
    sku: str
    count: int


class OrderDict(TypedDict):
    sku: str
    count: int


class OrderStruct(msgspec.Struct):
    sku: str
    count: int


class OrderModel(pydantic.BaseModel):
    sku: str
    count: int


MISFITS: tuple[tuple[Any, str], ...] = (
    ({"sku": "A", "count": SECRET}, "count"),
    ({"sku": "A"}, "count"),
    ({"sku": ["A"], "count": 1}, "sku"),
    ([SECRET], "data"),
    (None, "data"),
)


@pytest.mark.parametrize("wanted", [Order, OrderDict, OrderStruct, OrderModel])
async def test_data_that_does_not_fit_is_422_and_names_the_field(
    kind: Kind, wanted: type[Any], caplog: pytest.LogCaptureFixture
) -> None:
    """K-E3, K-S2: a data validation error is 4xx, never 500; the process goes on."""
    router = Router()
    seen: list[Any] = []

    @router.on("com.example.tested")
    async def handle(event: Event, order: wanted) -> None:  # type: ignore[valid-type]
        seen.append(order)

    async with served(kind, router) as port:
        for data, named in MISFITS:
            answer = await ask(port, structured(data=data))
            assert answer.status == 422
            assert problem(answer)["detail"].startswith("data: ")
            assert named in problem(answer)["detail"]
            assert_no_secret(answer)
        assert not seen
        assert (await ask(port, structured(data={"sku": "A", "count": 2}))).status == 204
    (order,) = seen
    assert order == (wanted(sku="A", count=2) if wanted is not OrderDict else {"sku": "A", "count": 2})
    assert SECRET not in caplog.text


async def test_malformed_json_that_a_handler_asks_for_is_422(kind: Kind) -> None:
    async def read(event: Event) -> None:
        assert event.data

    answer = await outcome(kind, read, binary("Content-Type: application/json", body='{"a":'))
    assert (answer.status, problem(answer)["detail"]) == (422, "data: is not valid JSON")


async def test_absent_data_that_a_handler_asks_for_is_422(kind: Kind) -> None:
    async def read(event: Event) -> None:
        event.as_type(Order)

    answer = await outcome(kind, read)
    assert (answer.status, problem(answer)["detail"]) == (422, "data: is absent (Order was asked for)")


async def test_an_extension_that_is_not_the_number_asked_for_is_422(kind: Kind) -> None:
    async def read(event: Event) -> None:
        event.get_int("count")

    answer = await outcome(kind, read, binary("ce-count: many"))
    assert (answer.status, problem(answer)["detail"]) == (422, "count: is no Integer of 32 bits")


@pytest.mark.parametrize("how", ["build", "evolve", "read"])
async def test_an_error_in_an_event_of_the_handlers_own_is_500(kind: Kind, how: str) -> None:
    """The event received is not to blame, so its sender must not take it for broken for ever."""

    async def handler(event: Event) -> Event | None:
        if how == "build":
            return Event(type="", source="/s")
        if how == "evolve":
            return event.evolve(source="not a uri")
        other = Event(type="t", source="/other", data=b"{", datacontenttype="application/json")
        assert other.data
        return None

    answer = await outcome(kind, handler)
    assert (answer.status, problem(answer)["detail"]) == (500, "the handler failed")


# ------------------------------------------------------------------------------------------------------- failed


async def test_a_time_limit_of_the_handlers_own_is_503(kind: Kind, caplog: pytest.LogCaptureFixture) -> None:
    async def slow(event: Event) -> None:
        async with asyncio.timeout(0.01):
            await asyncio.Event().wait()

    answer = await outcome(kind, slow)
    assert (answer.status, problem(answer)["detail"]) == (503, "the handler ran out of time")
    assert "handler ran out of time: id='1'" in caplog.text


async def test_the_handler_timeout_cancels_the_handler_and_answers_503(kind: Kind) -> None:
    ended: list[str] = []

    async def endless(event: Event) -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            ended.append("cancelled")
            raise

    answer = await outcome(kind, endless, handler_timeout=0.05)
    assert (answer.status, problem(answer)["detail"]) == (503, "the handler ran out of time")
    assert ended == ["cancelled"]


async def test_a_handler_that_answers_although_its_time_is_over_is_heard(kind: Kind) -> None:
    async def stubborn(event: Event) -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            raise Reject("gave up") from None

    answer = await outcome(kind, stubborn, handler_timeout=0.05)
    assert (answer.status, problem(answer)["detail"]) == (422, "gave up")


async def test_anything_else_is_500_with_the_traceback_in_the_log_only(
    kind: Kind, caplog: pytest.LogCaptureFixture
) -> None:
    """K-S2, K-S3: a failed handler is a refusal, and the next request works."""
    calls: list[str] = []

    async def fragile(event: Event) -> None:
        calls.append(event.id)
        if len(calls) == 1:
            raise ValueError(f"cannot open {SECRET}")

    async with served(kind, fragile, path="/in-box") as port:
        data = binary(f"Authorization: Bearer {SECRET}", f"ce-subject: {SECRET}", body=SECRET).replace(
            b"POST / ", f"POST /in-box?token={SECRET} ".encode()
        )
        answer = await ask(port, data)
        assert answer.status == 500
        assert problem(answer) == {"title": "Internal Server Error", "status": 500, "detail": "the handler failed"}
        assert b"secret" not in answer.text
        assert b"Traceback" not in answer.text
        (record,) = [record for record in caplog.records if record.levelno >= logging.ERROR]
        assert record.name == "cloudevents_kit"
        assert record.getMessage() == "handler failed: id='1' source='/tests' type='com.example.tested'"
        assert record.exc_info
        assert str(record.exc_info[1]) == f"cannot open {SECRET}"
        assert (await ask(port, data)).status == 204


async def test_a_handler_that_returns_something_else_is_500(kind: Kind) -> None:
    """An answer that is no event would be taken for a failure by a broker, and the event itself would come again."""
    garbage: list[Any] = ["OK", {"status": "ok"}, 204, b"", False, (), [None], Ack()]

    async def handler(event: Event) -> Any:
        return event if event.subject else garbage.pop()

    async with served(kind, handler) as port:
        for data in [binary("ce-subject: me")] + [binary()] * len(garbage):
            answer = await ask(port, data)
            assert (answer.status, problem(answer)["detail"]) == (500, "the handler failed")
    assert not garbage


async def test_any_exception_is_500(kind: Kind) -> None:
    class Nasty(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no text")

    errors = [KeyError("k"), OSError("o"), EventError("id", "is odd"), ExceptionGroup("g", [OSError()]), Nasty()]

    async def handler(event: Event) -> None:
        raise errors.pop()

    async with served(kind, handler) as port:
        for _ in range(len(errors)):
            answer = await ask(port, binary())
            assert (answer.status, problem(answer)["detail"]) == (500, "the handler failed")
    assert not errors


async def test_a_handler_that_ends_as_if_cancelled_has_failed(kind: Kind, caplog: pytest.LogCaptureFixture) -> None:
    """Nobody cancelled the request: something that the handler awaited was cancelled."""
    answer = await outcome(kind, raising(asyncio.CancelledError()), binary())
    assert (answer.status, problem(answer)["detail"]) == (500, "the handler failed")
    assert "a handler ended as if it had been cancelled" in caplog.text


# ---------------------------------------------------------------------------------------------- sync handlers


async def test_a_plain_function_runs_in_a_thread_with_its_context(kind: Kind) -> None:
    seen: list[Any] = []

    def handler(event: Event) -> Event:
        seen.append((threading.current_thread() is threading.main_thread(), current_event() is event))
        seen.append(current_headers()["x-tenant"])
        return event.reply(type="com.example.answered", source="/answerer")

    answer = await outcome(kind, handler, binary("X-Tenant: blue"))
    assert (answer.status, seen) == (200, [(False, True), "blue"])


async def test_a_plain_function_that_raises_is_answered_like_a_coroutine(kind: Kind) -> None:
    def handler(event: Event) -> None:
        raise Retry(after=3) if event.subject else Reject("no")

    async with served(kind, handler) as port:
        assert (await ask(port, binary("ce-subject: s"))).header("retry-after") == "3"
        assert (await ask(port, binary())).status == 422


async def test_an_object_with_a_call_method_is_a_handler(kind: Kind) -> None:
    class Handler:
        async def __call__(self, event: Event) -> None:
            raise Reject(f"{threading.current_thread() is threading.main_thread()}")

    class SyncHandler:
        def __call__(self, event: Event) -> None:
            raise Reject(f"{threading.current_thread() is threading.main_thread()}")

    assert problem(await outcome(kind, Handler()))["detail"] == "True"
    assert problem(await outcome(kind, SyncHandler()))["detail"] == "False"


async def test_a_function_that_returns_a_coroutine_is_awaited_in_the_loop(kind: Kind) -> None:
    def handler(event: Event) -> Any:
        return raising(Reject("late"))(event)

    assert problem(await outcome(kind, handler))["detail"] == "late"


def test_what_cannot_be_called_is_no_handler(kind: Kind) -> None:
    with pytest.raises(TypeError, match="handler: must be callable, not str"):
        as_handler("handler")  # type: ignore[arg-type]
