"""Constructors that are given something wrong: they raise at once and name the argument, the rule and what came."""

from __future__ import annotations

import re
import ssl
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import aiohttp
import pytest

from cloudevents_kit import (
    Event,
    HandlerSink,
    Receiver,
    Reject,
    Retry,
    RetryPolicy,
    Router,
    Sender,
    SystemClock,
    blocking,
    forward,
    from_json,
    on,
    to_json,
    wrap,
)
from cloudevents_kit.asgi import asgi_app
from cloudevents_kit.request_reply import Requests

NAN, INF = float("nan"), float("inf")
UNHASHABLE: list[str] = []


async def handle(event: Event) -> None:
    pass


async def pass_on(event: Event, call_next: Any) -> Any:
    return await call_next(event)


class Nowhere:
    async def send(self, event: Event, /) -> Any:
        return None


def sender(**given: Any) -> object:
    return Sender(given.pop("url", "http://127.0.0.1:1/"), **given)


def blocking_sender(**given: Any) -> object:
    return blocking.Sender("http://127.0.0.1:1/", **given)


def receiver(**given: Any) -> object:
    return Receiver(given.pop("handler", handle), *given.pop("stages", ()), **given)


def app(**given: Any) -> object:
    return asgi_app(given.pop("handler", handle), *given.pop("stages", ()), **given)


def requests(**given: Any) -> object:
    return Requests(given.pop("sink", Nowhere()), **given)


def pattern(**given: Any) -> object:
    return Router().on(given.pop("pattern", "t"), **given)


def mark(**given: Any) -> object:
    return on(given.pop("pattern", "t"), **given)


#: For each argument: values that are refused, and what the error says after the argument's name.
Table = dict[str, list[tuple[object, str]]]

SECONDS: list[tuple[object, str]] = [
    ("2", "must be a number, not str (give an int or a float)"),
    (None, "must be a number, not NoneType (give an int or a float)"),
    (True, "must be a number, not bool (give an int or a float)"),
    (timedelta(seconds=2), "must be a number, not timedelta (call its total_seconds())"),
]
ABOVE_0 = [*SECONDS, *[(value, f"must be above 0 and finite, not {value}") for value in (0, 0.0, -1, NAN, INF)]]
FROM_0 = [*SECONDS, *[(value, f"must be finite and not negative, not {value}") for value in (-1, -0.1, NAN, INF)]]
WHOLE: list[tuple[object, str]] = [
    ("2", "must be a whole number, not str (give an int)"),
    (True, "must be a whole number, not bool (give an int)"),
    (1.5, "must be a whole number, not float (give an int)"),
]
FROM_1 = [*WHOLE, (0, "must be 1 or more, not 0"), (-1, "must be 1 or more, not -1")]
FLAG: list[tuple[object, str]] = [
    ("false", "must be True or False, not str"),
    (0, "must be True or False, not int"),
    (None, "must be True or False, not NoneType"),
]
LIMIT: list[tuple[object, str]] = [
    (1.5, "must be a whole number, not float (give an int)"),
    ("2", "must be a number, not str (give an int or a float)"),
    (True, "must be a number, not bool (give an int or a float)"),
    (0, "must be above 0 and finite, not 0"),
    (INF, "must be above 0 and finite, not inf"),
]
LIMITS: Table = {
    "max_body": LIMIT,
    "max_in_flight": LIMIT,
    "batch_concurrency": FROM_1,
    "max_batch": [*WHOLE, (-1, "must be 0 or more, not -1")],
    "body_timeout": ABOVE_0,
    "handler_timeout": ABOVE_0,
    "resources": [
        (5, "must be a tuple of async context managers, not int"),
        ((Nowhere(),), "must be async context managers, not Nowhere (it needs __aenter__, __aexit__)"),
    ],
}
MODES: list[tuple[object, str]] = [
    (value, f"must be 'binary' or 'structured', not {value!r}") for value in ("batch", "BINARY", None, 5, UNHASHABLE)
]
CALLABLE: list[tuple[object, str]] = [
    (None, "must be callable, not NoneType"),
    ("x", "must be callable, not str"),
    (Router, "must be an object, not the class Router (did you forget the parentheses?)"),
]
PATH: list[tuple[object, str]] = [
    (5, 'must be a str such as "/events", not int'),
    ("events", "must begin with /, not 'events'"),
    ("", "must begin with /, not ''"),
    ("/a?b=c", "must be a path alone, not '/a?b=c' (requests match whatever their query is)"),
    ("/a#b", "must be a path alone, not '/a#b' (requests match whatever their query is)"),
]
SINK: list[tuple[object, str]] = [
    (None, "must be a Sink, not NoneType (it needs send)"),
    ("http://x/", "must be a Sink, not str (it needs send)"),
    (Sender, "must be an object, not the class Sender (did you forget the parentheses?)"),
]
PATTERN: Table = {
    "pattern": [
        (5, 'must be a str such as "com.example.*", not int'),
        *[
            (text, f'must be a type, a prefix such as "com.example.*", or "*", not {text!r}')
            for text in ("", "com.*.x", "com*")
        ],
    ],
    "source": [
        (5, "must be a str, or None, not int"),
        ("", "must be a text, or a prefix that ends in *, not ''"),
        ("*/x", "must be a text, or a prefix that ends in *, not '*/x'"),
    ],
    "subject": [(b"x", "must be a str, or None, not bytes")],
}
TABLES: list[tuple[Callable[..., object], Table]] = [
    (
        sender,
        {
            "url": [(5, "must be a str, not int"), (None, "must be a str, not NoneType")],
            "mode": MODES,
            "headers": [
                (5, "must be a mapping or a function, not int"),
                ([("a", "b")], "must be a mapping or a function, not list"),
                ({"a": 5}, "names and values must be str"),
                ({"ce-id": "1"}, "ce-id is set by the sender itself"),
            ],
            "retry": [
                (value, f"must be a RetryPolicy, for example RetryPolicy(attempts=3), not {type(value).__name__}")
                for value in (5, 0, False, UNHASHABLE)
            ],
            "timeout": ABOVE_0,
            "connect_timeout": ABOVE_0,
            "concurrency": FROM_1,
            "gzip_over": [*WHOLE, (-1, "must be 0 or more, not -1")],
            "max_batch": FROM_1,
            "max_batch_bytes": FROM_1,
            "max_reply": FROM_1,
            "ssl": [
                (value, f"must be an SSLContext, for example ssl.create_default_context(), not {type(value).__name__}")
                for value in (True, False, "cert.pem")
            ],
            "session": [(5, "must be an aiohttp.ClientSession, not int")],
            "inherit": FLAG,
            "clock": [
                (0, "must be a Clock, not int (it needs monotonic, now, sleep)"),
                (SystemClock, "must be an object, not the class SystemClock (did you forget the parentheses?)"),
            ],
        },
    ),
    (blocking_sender, {"timeout": ABOVE_0, "mode": MODES}),
    (
        receiver,
        {
            **LIMITS,
            "handler": CALLABLE,
            "path": PATH,
            "host": [(None, 'must be a str such as "127.0.0.1", not NoneType')],
            "port": [*WHOLE, (-1, "must be 0 or more, not -1"), (65536, "must be 65535 or less, not 65536")],
            "ssl": [(True, "must be an SSLContext, made for the server's side, not bool")],
            "idle_timeout": ABOVE_0,
            "drain_delay": FROM_0,
            "grace": FROM_0,
        },
    ),
    (app, {**LIMITS, "handler": CALLABLE, "path": PATH}),
    (
        RetryPolicy,
        {
            "attempts": FROM_1,
            "factor": [*ABOVE_0, (0.5, "must be 1 or more, not 0.5")],
            "initial": FROM_0,
            "max_delay": FROM_0,
            "max_retry_after": FROM_0,
            "deadline": [case for case in ABOVE_0 if case[0] is not None],
            "jitter": FLAG,
            "retry_possibly_delivered": FLAG,
            "statuses": [
                (None, "must be a set of ints, for example frozenset({408, 429}), not NoneType"),
                ([408], "must be a set of ints, for example frozenset({408, 429}), not list"),
                ({"408"}, "must be a whole number, not str (give an int)"),
            ],
            "seed": [("x", "must be an int, or None, not str")],
        },
    ),
    (
        Router,
        {"unhandled": [(value, f"must be 'reject' or 'ack', not {value!r}") for value in ("drop", None, UNHASHABLE)]},
    ),
    (pattern, PATTERN),
    (mark, PATTERN),
    (requests, {"sink": SINK, "timeout": ABOVE_0, "limit": FROM_1}),
    (
        Reject,
        {
            "reason": [(ValueError("x"), "must be a str, one line for the peer, not ValueError")],
            "status": [
                ("422", "must be a whole number, not str (give an int)"),
                (500, "Reject takes a final 4xx status, not 500 (raise Retry for one that is to be sent again)"),
                (429, "Reject takes a final 4xx status, not 429 (raise Retry for one that is to be sent again)"),
            ],
        },
    ),
    (
        Retry,
        {
            "after": [case for case in FROM_0 if case[0] is not None],
            "reason": [(5, "must be a str, one line for the peer, not int")],
            "status": [
                (None, "must be a whole number, not NoneType (give an int)"),
                (422, "Retry takes 404, 408, 409, 425, 429 or 5xx, not 422 (raise Reject for a final answer)"),
            ],
        },
    ),
]
#: Rules that tell the type of what was given; all others tell its value.
WRONG_TYPE = re.compile(
    r", not (?:str|int|float|bool|bytes|list|dict|NoneType|timedelta|ValueError)\b|class|be str$|it needs"
).search
CASES = [
    pytest.param(build, name, value, rule, id=f"{build.__name__}-{name}-{number}")
    for build, table in TABLES
    for name, values in table.items()
    for number, (value, rule) in enumerate(values)
]


@pytest.mark.parametrize(("build", "name", "value", "rule"), CASES)
def test_a_wrong_argument_is_named_with_its_rule(
    build: Callable[..., object], name: str, value: object, rule: str
) -> None:
    with pytest.raises((TypeError, ValueError)) as caught:
        build(**{name: value})
    assert str(caught.value) == f"{name}: {rule}"
    assert type(caught.value) is (TypeError if WRONG_TYPE(rule) else ValueError)


@pytest.mark.parametrize(
    "build", [sender, blocking_sender, receiver, app, requests, RetryPolicy, Router, pattern, Reject, Retry]
)
def test_an_unknown_keyword_is_pythons_own_error(build: Callable[..., object]) -> None:
    with pytest.raises(TypeError, match="unexpected keyword argument 'colour'"):
        build(colour="blue")


@pytest.mark.parametrize("build", [receiver, app, lambda stages: HandlerSink(handle, *stages)])
@pytest.mark.parametrize("stage", [None, 5, "retry"])
def test_a_stage_that_cannot_be_called_is_refused_where_it_is_given(
    build: Callable[..., object], stage: object
) -> None:
    with pytest.raises(TypeError, match=f"^stage: must be callable, not {type(stage).__name__}$"):
        build(stages=(pass_on, stage))


@pytest.mark.parametrize(("value", "rule"), SINK)
def test_only_a_sink_can_be_forwarded_to(value: Any, rule: str) -> None:
    with pytest.raises(TypeError, match=f"^sink: {re.escape(rule)}$"):
        forward(value)


@pytest.mark.parametrize(("value", "rule"), CALLABLE)
def test_only_a_callable_can_be_a_handler_or_a_stage(value: Any, rule: str) -> None:
    for build in (HandlerSink, Router().on("t"), lambda value: Router(default=value) if value else HandlerSink(value)):
        with pytest.raises(TypeError, match=f"^handler: {re.escape(rule)}$"):
            build(value)
    with pytest.raises(TypeError, match=f"^stage: {re.escape(rule)}$"):
        wrap(handle, value)


@pytest.mark.parametrize("thing", [5, None, "event", {"type": "t"}])
def test_only_an_event_is_written(thing: Any) -> None:
    with pytest.raises(TypeError) as caught:
        to_json(thing)
    way_out = "Event.of takes those of the official SDK"
    assert str(caught.value) == f"event: must be an Event, not {type(thing).__name__} ({way_out})"


@pytest.mark.parametrize("body", ["{}", 5, None, ["{}"]])
def test_only_bytes_are_read(body: Any) -> None:
    with pytest.raises(TypeError, match=f"^body: must be bytes, not {type(body).__name__}$"):
        from_json(body)


@pytest.mark.parametrize("kind", [bytearray, memoryview])
def test_any_kind_of_bytes_is_read(kind: Callable[[bytes], Any]) -> None:
    event = Event(type="t", source="/s", data={"a": 1})
    body = kind(to_json(event))
    read = from_json(body)
    assert read == event
    assert type(read.raw) is bytes


async def test_what_is_right_is_taken() -> None:
    """Else the tests above could be about checks that refuse everything."""
    context = ssl.create_default_context()
    async with aiohttp.ClientSession() as session:
        policy = RetryPolicy(attempts=1, initial=0, factor=1, max_delay=0, deadline=None, statuses=frozenset(), seed=0)
        for given in (
            {"mode": "structured", "retry": policy, "timeout": 1, "concurrency": 1, "gzip_over": 0, "max_batch": 1},
            {"ssl": context, "inherit": False, "clock": SystemClock(), "retry": None, "max_reply": 1},
            {"session": session, "headers": {"Authorization": "x"}, "connect_timeout": 0.5},
        ):
            assert sender(**given)
    assert receiver(path="/é/x", port=65535, max_batch=0, drain_delay=0, grace=0, stages=(pass_on,))
    assert app(path=None)
    assert app(path="/events")
    assert requests(timeout=0.1, limit=1)
    assert Retry(after=0).after == 0


def test_a_policy_keeps_its_own_copy_of_the_statuses() -> None:
    statuses = {418}
    policy = RetryPolicy(statuses=statuses)
    statuses.add(404)
    assert policy.retryable(418)
    assert not policy.retryable(404)
    assert hash(policy) == hash(RetryPolicy(statuses=frozenset({418})))
