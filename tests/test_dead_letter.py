"""What a dead letter tells, and the stage that keeps events whose handler failed."""

import asyncio
import json
import logging
from collections.abc import Callable
from datetime import timedelta
from time import perf_counter
from typing import Any

import pytest

from cloudevents_kit import (
    Ack,
    Attempt,
    DeliveryError,
    Event,
    HandlerSink,
    Nack,
    Reject,
    Result,
    Retry,
    RetryPolicy,
    Router,
    Undelivered,
    from_http,
    settle,
    stages,
    to_http,
    wrap,
)
from cloudevents_kit._letters import letter_of, pack, unpack
from cloudevents_kit._secrets import text_without_secrets, without_secrets
from cloudevents_kit.dead_letter import (
    DeadLetterSink,
    Forwarder,
    dead_letters,
    forwarded,
    keeper,
    letters,
    purge,
    redrive,
)
from cloudevents_kit.stages import StageError
from cloudevents_kit.stores import open_store
from cloudevents_kit.stores.memory_dead_letters import MemoryDeadLetterStore
from cloudevents_kit.testing._dead_letters import AT, letter, stored
from cloudevents_kit.testing._events import EVENTS, exact
from tests.support.clock import START, ManualClock
from tests.support.events import new
from tests.support.virtual import LoopClock, virtual


def failing(*errors: Exception) -> Any:
    left = list(errors)

    async def handler(event: Event) -> None:
        if left:
            raise left.pop(0) if len(left) > 1 else left[0]

    return handler


class Broken:
    """A store that takes no letter."""

    def __init__(self, how: Exception | str) -> None:
        self.how = how

    async def add(self, letter: object, /) -> bool:
        if isinstance(self.how, Exception):
            raise self.how
        if self.how == "hangs":
            await asyncio.sleep(1e6)
        return False


# The record.


@pytest.mark.parametrize("event", EVENTS.values(), ids=EVENTS)
def test_a_letter_keeps_its_event_byte_for_byte(event: Event) -> None:
    """K-D2: data, spelling of the content type, extensions and their types."""
    found = unpack(pack(letter(event)), position=3, redrives=2)
    assert exact(found.event) == exact(event)
    assert to_http(found.event) == to_http(event)
    assert (found.position, found.redrives) == (3, 2)


@pytest.mark.parametrize("packed", [b"", b"{}", b"null", b"\xff", b'{"event":{"attributes":{},"data":"?","form":0}}'])
def test_what_is_no_letter_is_refused(packed: bytes) -> None:
    with pytest.raises(ValueError, match="the dead letter at position 7 cannot be read"):
        unpack(packed, position=7, redrives=0)


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("orders", "orders"),
        ("orders?x=1", "orders?x=1"),
        ("https://sink.example/a/b", "https://sink.example/a/b"),
        ("https://user:hunter2@sink.example:8443/a", "https://sink.example:8443/a"),
        ("https://hunter2@sink.example/", "https://sink.example/"),
        ("https://s.example/?queue=orders&access_token=hunter2", "https://s.example/?queue=orders&access_token=***"),
        ("https://s.example/?Code=hunter2&x=", "https://s.example/?Code=***&x="),
        ("https://s.example/?api%5Fkey=hunter2&sv=2&sig=hunter2", "https://s.example/?api%5Fkey=***&sv=2&sig=***"),
        ("https://s.example/?X-Amz-Signature=hunter2", "https://s.example/?X-Amz-Signature=***"),
        ("https://s.example/?hunter2", "https://s.example/?***"),
        ("https://s.example/?blob=hunter2hunter2hunter2hunter2hunt", "https://s.example/?blob=***"),
        ("https://s.example/?a=1&&token=#hunter2", "https://s.example/?a=1&&token="),
        ("https://s.example/?a=1;token=hunter2;hunter2", "https://s.example/?a=1;token=***;***"),
        ("http://u:hunter2@[::1/?token=hunter2#hunter2", "http://[::1/"),
        ("amqp://u:hunter2@host/\ud800\n", "amqp://host/__"),
        ("x" * 5000, "x" * 2000),
    ],
)
def test_a_destination_tells_no_secret(given: str, shown: str) -> None:
    """DL-05."""
    assert without_secrets(given) == shown
    assert without_secrets(shown) == shown


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("no answer of amqp://u:hunter2@host:5672/v, tried 3 times", "no answer of amqp://host:5672/v, tried 3 times"),
        ("401, url='https://s.example/a?token=hunter2&b=1'", "401, url='https://s.example/a?token=***&b=1'"),
        ("both http://u:hunter2@a/ and <http://b/?hunter2>", "both http://a/ and <http://b/?***>"),
        ("Authorization: Bearer hunter2.hunter2.hunter2 is over", "Authorization: Bearer *** is over"),
        ("cannot connect: host=db password=hunter2 user=x", "cannot connect: host=db password=*** user=x"),
        ("signed with client_secret='hunter2', bearer of news", "signed with client_secret='***', bearer of news"),
        ('password="hunter2" x', 'password="***" x'),
        ("password: hunter2", "password: ***"),
        ("DB_PASSWORD => hunter2 x", "DB_PASSWORD => *** x"),
        ('{"password": "hunter2", "a": 1}', '{"password": "***", "a": 1}'),
        ("{'api_key': 'hunter2'}", "{'api_key': '***'}"),
        (r"{\"token\": \"hunter2", r"{\"token\": \"***"),
        (r"password='hun\'ter2' x", "password='***' x"),
        ("error: AWS_SECRET_ACCESS_KEY=hunter2", "error: AWS_SECRET_ACCESS_KEY=***"),
        ("AccountKey=hunter2==;a=b", "AccountKey=***;a=b"),
        ("X-Api-Key: hunter2", "X-Api-Key: ***"),
        ("Cookie: session=hunter2; b=hunter2\nnext", "Cookie: ***\nnext"),
        ("{'Set-Cookie': 'a=hunter2', 'x': 1}", "{'Set-Cookie': '***', 'x': 1}"),
        ("bearer hunter2", "bearer ***"),
        ("{'Authorization': 'Basic secret'}", "{'Authorization': 'Basic ***'}"),
        ("max_tokens=5, TokenError: no, basic training", "max_tokens=5, TokenError: no, basic training"),
        ("a:b // c://", "a:b // c://"),
        ("x" * 1990 + " http://user:hunter2@host/", "x" * 1990 + " http://ho"),
        ("a" * 50_000, "a" * 2000),
    ],
)
def test_a_reason_tells_no_secret_of_a_url(given: str, shown: str) -> None:
    """And nothing else that is plainly one; what is not, nobody can tell."""
    for error in (OSError(given), Reject(given), DeliveryError(Nack(reason=given), "")):
        direction: Any = "outbound" if isinstance(error, DeliveryError) else "inbound"
        assert letter_of(new(), error, direction=direction, destination="d", began=AT, ended=AT).reason == shown


def test_whatever_a_result_or_an_error_says_can_be_stored() -> None:
    """Of other people's sinks and stages."""
    odd: Any = "\ud800\x00" + "x" * 5000
    results = (Undelivered(reason=odd, error=odd), Undelivered(error=odd, attempts=(Attempt(1, None, odd),)))
    stage = StageError((odd,), ("/s", "1"), elapsed=0)
    for error in (*(DeliveryError(result, odd) for result in results), stage):
        found = letter_of(new(), error, direction="outbound", destination=odd, began=AT, ended=AT)
        assert unpack(pack(found), position=0, redrives=0) == found
        assert len(pack(found)) < 15_000


def test_every_try_counts_however_its_sink_numbers_it() -> None:
    """A subscriber's are those of a sender that was called several times."""
    nack = Nack(status=503, attempts=tuple(Attempt(1, 503) for _ in range(60)))
    found = letter_of(new(), DeliveryError(nack, ""), direction="outbound", destination="d", began=AT, ended=AT)
    assert (found.attempts, len(found.tries)) == (60, 50)


class Unspeakable(Exception):
    def __str__(self) -> str:
        raise OSError


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (ValueError("broken\nbadly"), (500, "ValueError", "broken\nbadly")),
        (Reject("not you", 403), (403, "Reject", "not you")),
        (TimeoutError(), (503, "TimeoutError", "")),
        (
            ExceptionGroup("both", [ValueError("a"), KeyError("b")]),
            (500, "ExceptionGroup", "ValueError: a; KeyError: 'b'"),
        ),
        (ValueError("\ud800\x00"), (500, "ValueError", "?\ufffd")),
        (ValueError("x" * 9999), (500, "ValueError", "x" * 2000)),
        (Unspeakable(), (500, f"{__name__}.Unspeakable", "")),
    ],
)
def test_a_letter_says_what_went_wrong(error: Exception, told: tuple[int, str, str]) -> None:
    """And it can be stored, whatever the exception says."""
    found = letter_of(new(), error, direction="inbound", destination="d", began=AT, ended=AT + timedelta(seconds=2))
    assert (found.status, found.error, found.reason) == told
    assert unpack(pack(found), position=0, redrives=0) == found
    [only] = found.tries
    assert (only.at, only.status, only.elapsed) == (AT, found.status, 2)


def test_a_stage_error_without_a_cause_is_told_itself() -> None:
    error = StageError(("a", "b"), ("/s", "1"), elapsed=1, kind="timeout", attempts=3)
    found = letter_of(new(), error, direction="inbound", destination="d", began=AT, ended=AT)
    assert (found.path, found.attempts, found.reason) == (("a", "b"), 3, str(error))


# What is forwarded.


def test_what_is_forwarded_has_the_extensions_of_knative_and_is_the_same_event() -> None:
    """DL-01, DL-06, DL-07: the event is not changed, but for them; it is not the original object that is."""
    event = new(data={"a": 1}, number=5, knativeerrordest="https://old.example/", knativeerrordata="b2xk")
    given = letter(event, destination="https://sink.example/", status=422, reason="boom")
    found = forwarded(given)
    assert {**found.attributes} == {
        **event.attributes,
        "knativeerrordest": "https://sink.example/",
        "knativeerrorcode": 422,
        "knativeerrordata": "Ym9vbQ==",
    }
    assert (found.raw, found.key) == (event.raw, event.key)
    assert event["knativeerrordest"] == "https://old.example/"


def test_the_code_is_an_integer_in_json_and_text_in_a_header() -> None:
    """DL-02."""
    found = forwarded(letter(status=422))
    assert json.loads(to_http(found, "structured").body)["knativeerrorcode"] == 422
    message = to_http(found)
    assert message.headers["ce-knativeerrorcode"] == "422"
    [back] = from_http(message.headers, message.body)
    assert back.raw == found.raw


@pytest.mark.parametrize(
    ("reason", "length"), [("x" * 768, 1024), ("x" * 769, 1024), ("\u20ac" * 2000, 1024), ("x", 4)]
)
def test_the_data_is_cut_after_1024_characters_of_base64(reason: str, length: int) -> None:
    """DL-03, decision 0.14."""
    assert len(forwarded(letter(reason=reason))["knativeerrordata"]) == length  # type: ignore[arg-type]


def test_what_there_is_not_is_left_out() -> None:
    """DL-03, DL-07: also if the event had it from an earlier time."""
    event = new(knativeerrordata="b2xk", knativeerrordest="x")
    assert forwarded(letter(event, reason="", destination="")).extensions == {"knativeerrorcode": 500}


def test_no_answer_is_told_as_500_with_the_error() -> None:
    """DL-04."""
    found = forwarded(letter(status=None, reason="no answer in time", error="timeout"))
    assert found["knativeerrorcode"] == 500
    assert found["knativeerrordata"] == "ZGlzcGF0Y2ggZXJyb3I6IG5vIGFuc3dlciBpbiB0aW1l"
    assert forwarded(letter(status=None, reason="", error="dns"))["knativeerrordata"] == "ZGlzcGF0Y2ggZXJyb3I6IGRucw=="


# The stage.


async def test_what_succeeds_is_left_alone() -> None:
    store = MemoryDeadLetterStore()
    guard = dead_letters(store)
    assert await settle(wrap(failing(), guard), new()) == Ack(status=204)
    assert (len(store), dict(guard.counts)) == (0, {})


async def test_an_event_whose_retries_are_used_up_is_one_letter_and_acknowledged(
    clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    """K-D2: the record tells the event, reason, exception, path, attempts, first and last time and destination."""
    store = MemoryDeadLetterStore()
    guard = dead_letters(store, destination="orders", clock=clock)
    policy = RetryPolicy(attempts=3, initial=2, jitter=False)
    inner = stages.chain(stages.retry(policy, clock=clock), name="inner")
    event = new(data=b"\x00", number=5)
    assert await settle(wrap(failing(OSError("gone")), guard, inner), event) == Ack(status=204)
    [found] = await stored(store)
    assert exact(found.event) == exact(event)
    assert (found.direction, found.destination, found.path) == ("inbound", "orders", ("inner", "retry"))
    assert (found.status, found.reason, found.error, found.attempts) == (500, "gone", "OSError", 3)
    assert (found.first_at, found.last_at) == (START, START + timedelta(seconds=6))
    assert (found.times, found.redrives, found.quarantined, found.possibly_delivered) == (1, 0, False, False)
    assert guard.counts == {"dead_lettered": 1}
    [record] = caplog.records
    assert record.getMessage() == "dead letter of orders: id='1' source='/s' type='t': 500 OSError gone"
    assert (record.levelno, record.exc_info is not None) == (logging.ERROR, True)


async def test_what_is_final_is_not_repeated_before_it_is_a_letter(clock: ManualClock) -> None:
    """K-D2: Reject."""
    store, calls = MemoryDeadLetterStore(), []

    async def handler(event: Event) -> None:
        calls.append(event)
        raise Reject("never", 410)

    assert await settle(wrap(handler, dead_letters(store), stages.retry(clock=clock)), new())
    assert (len(calls), clock.waits) == (1, [])
    [found] = await stored(store)
    assert (found.status, found.reason, found.path, found.attempts) == (410, "never", (), 1)


EXHAUSTED = stages.retry(RetryPolicy(attempts=2, initial=0))


@pytest.mark.parametrize(
    ("on", "kept"),
    [
        ("failed", {"bug", "rejected", "out of time", "busy, repeated", "bug, repeated"}),
        ("exhausted", {"rejected", "busy, repeated", "bug, repeated"}),
        ("all", {"bug", "rejected", "busy", "out of time", "busy, repeated", "bug, repeated"}),
        (ValueError, {"bug", "bug, repeated"}),
        ((TimeoutError, Reject), {"rejected", "out of time"}),
        (lambda error: isinstance(error, Retry), {"busy"}),
    ],
)
async def test_which_errors_make_letters(on: Any, kept: set[str]) -> None:
    store = MemoryDeadLetterStore()
    guard = dead_letters(store, on=on)
    cases: dict[str, tuple[Exception, list[Any]]] = {
        "bug": (ValueError(), []),
        "rejected": (Reject(), []),
        "busy": (Retry(5), []),
        "out of time": (TimeoutError(), []),
        "busy, repeated": (Retry(0), [EXHAUSTED]),
        "bug, repeated": (ValueError(), [EXHAUSTED]),
    }
    results = {
        name: await settle(wrap(failing(error), guard, *inner), new(id=name)) for name, (error, inner) in cases.items()
    }
    assert {name for name, result in results.items() if result} == kept
    assert {found.event.id for found in await stored(store)} == kept
    assert guard.counts == {"dead_lettered": len(kept), "propagated": len(cases) - len(kept)} or len(kept) == len(cases)


@virtual
async def test_an_event_that_ran_out_of_time_is_stored_in_a_time_of_its_own(clock: LoopClock) -> None:
    """K-P10, K-D2: the limit is over, and the store is slow, all the same."""

    class Slow(MemoryDeadLetterStore):
        async def add(self, *given: Any) -> bool:
            await asyncio.sleep(3)
            return await super().add(*given)

    async def sleepy(event: Event) -> None:
        await asyncio.sleep(60)

    store = Slow()
    chain = wrap(sleepy, dead_letters(store), stages.timeout(1))
    assert await settle(chain, new()) == Ack(status=204)
    assert clock.monotonic() == pytest.approx(4)
    with pytest.raises(TimeoutError):  # cut off while it is stored: it is, and is not acknowledged
        async with asyncio.timeout(2):
            await chain(new(id="2"))
    assert clock.monotonic() == pytest.approx(8)
    assert [found.event.id for found in await stored(store)] == ["1", "2"]
    assert (await stored(store))[0].path == ("timeout",)


@virtual
async def test_a_cancelled_event_is_no_letter() -> None:
    async def sleepy(event: Event) -> None:
        await asyncio.sleep(60)

    store = MemoryDeadLetterStore()
    task = asyncio.create_task(settle(wrap(sleepy, dead_letters(store, on="all")), new()))
    await asyncio.sleep(1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert len(store) == 0


@pytest.mark.parametrize("error", [ValueError("first"), Reject("first"), Retry(reason="first")], ids=repr)
@pytest.mark.parametrize("how", [OSError("second"), "full", "hangs", Reject("second")], ids=repr)
def test_a_store_that_fails_makes_the_event_come_again_and_both_errors_are_reported(
    error: Exception, how: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """K-D2, K-P10: never a silent loss, not of a final error either."""

    @virtual
    async def run() -> None:
        guard = dead_letters(Broken(how), on="all")
        chain = wrap(failing(error), guard)
        result = await settle(chain, new())
        assert isinstance(result, Nack)
        assert result.retryable
        with pytest.raises(StageError) as caught:
            await chain(new())
        both = caught.value.__cause__
        assert isinstance(both, ExceptionGroup)
        assert both.exceptions[0] is error
        assert len(both.exceptions) == 2
        assert guard.counts == {"dead_letter_failed": 2}

    run()
    [record] = caplog.records
    assert (record.levelno, bool(record.exc_info)) == (logging.ERROR, True)
    assert "id='1' source='/s' type='t'" in record.getMessage()


async def test_a_store_that_is_full_says_so() -> None:
    """K-D2."""
    with pytest.raises(StageError) as caught:
        await wrap(failing(ValueError()), dead_letters(MemoryDeadLetterStore(capacity=1), destination="a"))(new())
        await wrap(failing(ValueError()), dead_letters(Broken("full")))(new())
    assert "the dead-letter store is full" in str(caught.value.__cause__.exceptions[1])  # type: ignore[union-attr]


async def test_the_destination_is_the_name_of_the_handler() -> None:
    store = MemoryDeadLetterStore()

    async def create_order(event: Event) -> None:
        raise ValueError

    router = Router()
    router.on("t")(create_order)
    for handler in (create_order, wrap(router, stages.tap(print, name="x")), failing(ValueError())):
        assert await settle(wrap(handler, dead_letters(store)), new())
    assert [found.destination for found in await stored(store)] == ["create_order", "Router", "handler"]


async def test_the_same_failure_again_adds_to_the_letter(clock: ManualClock) -> None:
    """K-D2: exactly one record, also if the sender did not get the acknowledgement."""
    store = MemoryDeadLetterStore()
    chain = wrap(failing(ValueError("first"), ValueError("second")), dead_letters(store, clock=clock))
    assert await settle(chain, new())
    await clock.sleep(60)
    assert await settle(chain, new())
    [found] = await stored(store)
    assert (found.times, found.attempts, found.reason) == (2, 2, "second")
    assert [tried.at for tried in found.tries] == [START, START + timedelta(minutes=1)]
    assert (found.first_at, found.last_at) == (START, START + timedelta(minutes=1))


async def test_the_fate_of_the_event_is_dead_lettered() -> None:
    metrics = stages.Metrics()
    observed = stages.observe(wrap(failing(ValueError()), dead_letters(MemoryDeadLetterStore())), metrics)
    async with stages.running(observed):
        assert await settle(observed, new())
    assert metrics.snapshot()["outcomes"] == {"dead_lettered": 1}


def test_it_describes_itself() -> None:
    guard = dead_letters(MemoryDeadLetterStore(), destination="orders", name="letters")
    found = str(stages.describe(wrap(failing(), guard)))
    expected = "1. dead_letters letters (store=MemoryDeadLetterStore, on=failed, timeout=10.0, destination=orders)"
    assert found.splitlines()[0] == expected
    assert "destination" not in dead_letters(MemoryDeadLetterStore()).parameters
    secret = dead_letters(MemoryDeadLetterStore(), destination="http://u:hunter2@host/?token=hunter2")
    assert secret.parameters["destination"] == "http://host/?token=***"


def test_what_makes_no_sense_is_refused() -> None:
    broken: Any = Broken("full")
    wrong: list[tuple[Callable[[], object], type[Exception], str]] = [
        (lambda: dead_letters(object()), TypeError, "store: must be a DeadLetterStore"),  # type: ignore[arg-type]
        (lambda: dead_letters(MemoryDeadLetterStore), TypeError, "store: .*parentheses"),  # type: ignore[arg-type]
        (lambda: dead_letters(broken, on="some"), ValueError, "on: must be one of failed, exhausted, all"),  # type: ignore[arg-type]
        (lambda: dead_letters(broken, on=5), TypeError, "on: must be callable"),  # type: ignore[arg-type]
        (lambda: dead_letters(broken, on=broken.add), TypeError, "on: must be a plain function"),
        (lambda: dead_letters(broken, timeout=0), ValueError, "timeout: must be above 0"),
        (lambda: dead_letters(broken, destination=5), TypeError, "destination: must be a str"),  # type: ignore[arg-type]
        (lambda: keeper(broken, 5), TypeError, "destination: must be a str"),  # type: ignore[arg-type]
        (lambda: keeper(object(), ""), TypeError, "store: must be a DeadLetterStore"),  # type: ignore[arg-type]
        (lambda: Forwarder(object()), TypeError, "sink: must be a Sink"),  # type: ignore[arg-type]
    ]
    for make, error, text in wrong:
        with pytest.raises(error, match=text):
            make()


# Hooks of others, and other takers.


async def test_a_keeper_is_what_other_parts_hand_events_to(clock: ManualClock) -> None:
    store = MemoryDeadLetterStore()
    keep = keeper(store, "queue", clock=clock)
    await keep(new(), ValueError("broken"))
    [found] = await stored(store)
    assert (found.destination, found.reason, found.first_at, found.last_at) == ("queue", "broken", START, START)
    with pytest.raises(RuntimeError, match="full"):
        await keeper(Broken("full"), "queue")(new(), ValueError())


async def test_a_keeper_tells_of_a_delivery_what_its_result_does(clock: ManualClock) -> None:
    store = MemoryDeadLetterStore()
    nack = Nack(status=503, reason="busy", attempts=(Attempt(1, 503, None, 0.0, 1.0), Attempt(2, 503)), elapsed=3.0)
    await keeper(store, "billing", clock=clock)(new(), DeliveryError(nack, "nack 503"))
    [found] = await stored(store)
    assert (found.direction, found.destination, found.status, found.reason) == ("outbound", "billing", 503, "busy")
    assert (found.attempts, found.first_at, found.last_at) == (2, START - timedelta(seconds=3), START)


async def test_a_reply_that_cannot_be_passed_on_makes_a_letter_of_the_event_with_where_the_reply_should_go() -> None:
    """DL-08: the event that was replied to is kept, not the reply."""
    store = MemoryDeadLetterStore()

    class Replies(HandlerSink):
        url = "https://replies.example/?token=hunter2"

        async def send(self, event: Event, /) -> Result:
            return Nack(status=503, reason="busy", attempts=(Attempt(1, 503),))

    replies = Replies(failing())

    async def handler(event: Event) -> None:
        (await replies.send(event.reply(type="done", source="/h"))).raise_for_outcome()

    guard = stages.on_error(keeper(store, replies.url))
    assert await settle(wrap(handler, guard, stages.chain(EXHAUSTED, name="inner")), new())
    [found] = await stored(store)
    assert found.event == new()
    assert (found.direction, found.status, found.reason, found.attempts) == ("outbound", 503, "busy", 2)
    assert found.path == ("inner", "retry")
    assert forwarded(found).extensions == {
        "knativeerrordest": "https://replies.example/?token=***",
        "knativeerrorcode": 503,
        "knativeerrordata": "YnVzeQ==",
    }


async def test_letters_can_be_forwarded_to_another_sink_instead() -> None:
    """DL-07: one that does not take them makes the event fail."""
    results: list[Result] = [Ack(), Nack(status=503, reason="busy"), Undelivered(reason="refused")]
    got: list[Event] = []

    async def handler(event: Event) -> None:
        got.append(event)

    class Sink(HandlerSink):
        async def send(self, event: Event, /) -> Result:
            await super().send(event)
            return results.pop(0)

    chain = wrap(failing(Reject("boom")), dead_letters(Forwarder(Sink(handler)), destination="orders"))
    assert [(await settle(chain, new())).is_ack for _ in range(3)] == [True, False, False]
    assert got[0].extensions == {
        "knativeerrordest": "orders",
        "knativeerrorcode": 422,
        "knativeerrordata": "Ym9vbQ==",
    }


@pytest.mark.parametrize("unit", ["=", "\\", 'password="', "bearer ", "cookie: '", "A-"])
def test_secrets_are_looked_for_in_a_time_that_grows_with_the_text(unit: str) -> None:
    """Whatever a peer or an exception has put into it."""
    began = perf_counter()
    for start in ("", 'basic authorization: "'):
        text_without_secrets(start + unit * (1_000_000 // len(unit)))
    assert perf_counter() - began < 8  # it takes a tenth of that


@pytest.mark.parametrize("name", ["letters", "purge", "redrive", "dead_letters", "keeper", "sink"])
async def test_a_whole_store_is_not_where_letters_are(name: str) -> None:
    store: Any = open_store("memory:")
    calls: dict[str, Callable[[Any], Any]] = {
        "letters": lambda store: anext(letters(store)),
        "purge": lambda store: purge(store, keep=0),
        "redrive": redrive,
        "dead_letters": dead_letters,
        "keeper": lambda store: keeper(store, "d"),
        "sink": lambda store: DeadLetterSink(HandlerSink(failing()), store, destination="d"),
    }
    for wrong, told in (
        (store, r"not MemoryStore \(use store.dead_letters\)"),
        (object(), r"not object \(it needs add"),
    ):
        with pytest.raises(TypeError, match=rf"^store: must be a DeadLetterStore, {told}"):
            await calls[name](wrong)
