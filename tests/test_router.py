"""The router: which handler gets an event, and what becomes of an event that none wants."""

from __future__ import annotations

import asyncio
import itertools
import logging
from functools import partial
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudevents_kit import (
    Ack,
    Event,
    Handler,
    HandlerSink,
    Nack,
    Reject,
    Router,
    Sender,
    on,
)
from cloudevents_kit.router import Pattern
from tests.support.servers import KINDS, Kind, served

UNWANTED = Nack(status=422, reason="no handler for this event type")


def event(type: str = "com.x.a", source: str = "/s", subject: str | None = None) -> Event:
    return Event(type=type, source=source, subject=subject)


class Told:
    """Registers handlers that tell who ran."""

    def __init__(self, **options: Any) -> None:
        self.router = Router(**options)
        self.ran: list[str] = []

    def handler(self, name: str) -> Handler:
        async def handle(event: Event) -> None:
            self.ran.append(name)

        return handle

    def on(self, pattern: str, **narrowing: str) -> None:
        name = " ".join([pattern, *narrowing.values()])
        self.router.on(pattern, **narrowing)(self.handler(name))

    async def who(self, event: Event) -> str:
        """Return the name of the only handler that ran."""
        self.ran.clear()
        assert await HandlerSink(self.router).send(event) == Ack(status=204)
        (name,) = self.ran
        return name


# ------------------------------------------------------------------------------------------------------ patterns


async def test_one_handler_runs_and_it_is_the_most_specific() -> None:
    """K-S5: the documented set is exactly one handler."""
    patterns = ["*", "com.*", "com.x.*", "com.x.a.*", "com.x.a"]
    for order in itertools.permutations(patterns):  # whatever the order of registration
        told = Told()
        for pattern in order:
            told.on(pattern)
        found = [await told.who(event(name)) for name in ("com.x.a", "com.x.a.b", "com.x.b", "com.y", "org")]
        assert found == ["com.x.a", "com.x.a.*", "com.x.*", "com.*", "*"]


@pytest.mark.parametrize(
    ("pattern", "taken", "left"),
    [
        ("com.example", ["com.example"], ["com.example.a", "com.exampl", "com.Example", "com.example."]),
        ("com.example.*", ["com.example.a", "com.example.a.b", "com.example."], ["com.example", "com.examplea", "com"]),
        ("*", ["a", "com.example.a", "*"], []),
    ],
)
async def test_a_prefix_takes_what_is_below_it_and_not_itself(pattern: str, taken: list[str], left: list[str]) -> None:
    told = Told()
    told.on(pattern)
    for name in taken:
        assert await told.who(event(name)) == pattern
    for name in left:
        assert await HandlerSink(told.router).send(event(name)) == UNWANTED


async def test_source_and_subject_narrow_a_pattern() -> None:
    told = Told()
    told.on("com.x.a")
    told.on("com.x.a", source="/shops/*")
    told.on("com.x.a", source="/shops/1")
    told.on("com.x.a", subject="s*")
    told.on("com.x.a", source="/shops/1", subject="*")
    assert await told.who(event(source="/elsewhere")) == "com.x.a"
    assert await told.who(event(source="/shops/2")) == "com.x.a /shops/*"
    assert await told.who(event(source="/shops/1")) == "com.x.a /shops/1"
    assert await told.who(event(source="/shops/1", subject="any")) == "com.x.a /shops/1 *"
    assert await told.who(event(source="/elsewhere", subject="sub")) == "com.x.a s*"
    assert await told.who(event(source="/elsewhere", subject="other")) == "com.x.a"


async def test_the_type_decides_before_source_and_source_before_subject() -> None:
    told = Told()
    told.on("com.x.*", source="/s", subject="s")
    told.on("com.x.a", subject="s")
    told.on("com.x.a", source="*")
    assert await told.who(event(subject="s")) == "com.x.a *"
    told.on("com.x.b")
    assert await told.who(event("com.x.b", subject="s")) == "com.x.b"
    assert await told.who(event("com.x.c", subject="s")) == "com.x.* /s s"


async def test_a_narrowed_pattern_does_not_want_an_event_without_the_attribute() -> None:
    told = Told()
    told.on("com.x.a", subject="*")
    assert await HandlerSink(told.router).send(event()) == UNWANTED
    assert await told.who(event(subject="s")) == "com.x.a *"


PARTS = st.lists(st.sampled_from("ab"), min_size=1, max_size=3).map(".".join)
TYPE_PATTERNS = PARTS | PARTS.map("{}.*".format) | st.just("*")
TEXTS = st.none() | st.text("ab", min_size=1, max_size=2) | st.text("ab", max_size=1).map("{}*".format)


@given(
    st.lists(st.tuples(TYPE_PATTERNS, TEXTS, TEXTS), unique=True, max_size=8),
    st.lists(st.tuples(PARTS, st.text("ab", min_size=1, max_size=3), st.none() | st.just("ab")), max_size=4),
)
def test_the_handler_found_is_the_first_that_matches_in_order_of_rank(
    patterns: list[tuple[str, str | None, str | None]], seen: list[tuple[str, str, str | None]]
) -> None:
    """Also for a type that was routed before, whose handler may be remembered."""
    router = Router(unhandled="ack")
    ran: list[Pattern] = []
    for type_, source, subject in patterns:
        router.on(type_, source=source, subject=subject)(partial(note, ran, Pattern(type_, source, subject)))

    async def route() -> None:
        for type_, source, subject in seen * 2:
            ran.clear()
            one = event(type_, source, subject)
            await router(one)
            matching = [pattern for pattern in (Pattern(*given) for given in patterns) if pattern.matches(one)]
            assert ran == sorted(matching, key=lambda pattern: pattern.rank)[:1]

    asyncio.run(route())


async def note(ran: list[Pattern], pattern: Pattern, event: Event) -> None:
    ran.append(pattern)


@pytest.mark.parametrize("pattern", ["", "com.example*", "*.created", "com.*.created", "**", "com.**", ".*.*"])
def test_a_pattern_that_is_none_is_refused(pattern: str) -> None:
    with pytest.raises(ValueError, match=r'^pattern: must be a type, a prefix such as "com.example.\*", or "\*", not '):
        Router().on(pattern)
    with pytest.raises(ValueError, match="pattern"):
        on(pattern)


@pytest.mark.parametrize("name", ["source", "subject"])
@pytest.mark.parametrize("text", ["", "*a", "a*b", "**"])
def test_a_narrowing_that_never_fits_is_refused(name: str, text: str) -> None:
    with pytest.raises(ValueError, match=rf"^{name}: must be a text, or a prefix that ends in \*"):
        Router().on("com.x.a", **{name: text})


def test_a_pattern_is_a_str() -> None:
    router: Any = Router()
    with pytest.raises(TypeError, match=r"^pattern: must be a str.*, not function"):
        router.on(lambda event: None)  # @router.on without a pattern
    with pytest.raises(TypeError, match=r"^source: must be a str.*, not int"):
        router.on("com.x.a", source=5)
    with pytest.raises(TypeError, match="positional"):
        router.on("com.x.a", "/s")


def test_a_pattern_has_one_handler() -> None:
    """K-S5: the error names the pattern; the same type, narrowed, is another one."""
    told = Told()
    told.on("com.x.a")
    told.on("com.x.a", source="/s")
    with pytest.raises(ValueError, match=r"^com\.x\.a: there is a handler for this pattern already"):
        told.on("com.x.a")
    with pytest.raises(ValueError, match=r"^com\.x\.a, source=/s: there is a handler for this pattern already"):
        told.on("com.x.a", source="/s")


def test_the_decorator_gives_the_function_back_and_may_be_stacked() -> None:
    router = Router()

    async def handle(event: Event) -> None: ...

    assert router.on("com.x.a")(router.on("com.x.b")(handle)) is handle


async def test_a_handler_may_be_registered_after_the_first_event() -> None:
    told = Told(unhandled="ack")
    assert await HandlerSink(told.router).send(event())
    told.on("com.x.*")
    assert await told.who(event()) == "com.x.*"
    told.on("com.x.a")
    assert await told.who(event()) == "com.x.a"


async def test_what_a_router_remembers_is_bounded() -> None:
    told = Told(unhandled="ack")
    told.on("com.x.*")
    for number in range(3000):
        await told.router(event(f"com.{'x' if number % 2 else 'y'}.{number}"))
    assert len(told.ran) == 1500
    assert told.router.unhandled_count == 1500
    assert len(told.router._found) <= 1024


async def test_a_router_does_not_remember_long_types() -> None:
    told = Told(unhandled="ack")
    told.on("com.x.*")
    for number in range(100):
        await told.router(event(f"com.{'x' if number % 2 else 'y'}.{'a' * 600}{number}"))
    assert len(told.ran) == told.router.unhandled_count == 50
    assert told.router._found == {}


# ----------------------------------------------------------------------------------------------------- unhandled


async def test_an_event_that_nobody_wants_is_refused_logged_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    """K-S5: 422, not to be retried, never silence; the same for an event of a type that others are wanted of."""
    told = Told()
    told.on("com.x.a", source="/wanted")
    sink = HandlerSink(told.router)
    assert await sink.send(Event(type="com.x.a", source="/s", id="7")) == UNWANTED
    assert await sink.send(event("org.y")) == UNWANTED
    assert told.router.unhandled_count == 2
    first, _ = caplog.records
    assert (first.levelno, first.getMessage()) == (
        logging.WARNING,
        "no handler for event: id='7' source='/s' type='com.x.a'",
    )


async def test_a_line_of_the_log_does_not_grow_with_the_event(caplog: pytest.LogCaptureFixture) -> None:
    """Whether nobody wants it or its handler fails."""

    async def fail(event: Event) -> None:
        raise Reject("no")

    caplog.set_level(logging.INFO)
    large = Event(type="t" * 10_000, source="/" + "s" * 10_000, id="i" * 10_000)
    for handler in (Router(), fail):
        await HandlerSink(handler).send(large)
    named = f"id='{'i' * 200}...' source='/{'s' * 199}...' type='{'t' * 200}...'"
    assert f"no handler for event: {named}" in caplog.messages
    assert f"event refused by its handler: {named}: 422 no" in caplog.messages
    assert max(map(len, caplog.messages)) < 1000


async def test_an_event_that_nobody_wants_may_be_taken_but_not_in_silence(caplog: pytest.LogCaptureFixture) -> None:
    """K-S5."""
    router = Router(unhandled="ack")
    assert await HandlerSink(router).send(event()) == Ack(status=204)
    assert router.unhandled_count == 1
    assert "no handler for event" in caplog.text


@pytest.mark.parametrize("kind", KINDS)
async def test_an_event_that_nobody_wants_is_not_sent_again(kind: Kind) -> None:
    """K-S5, on the wire."""
    router = Router()
    async with served(kind, router) as port, Sender(f"http://127.0.0.1:{port}/") as sender:
        result = await sender.send(event())
    assert isinstance(result, Nack)
    assert (result.status, result.reason, result.retryable) == (422, UNWANTED.reason, False)
    assert len(result.attempts) == router.unhandled_count == 1


@pytest.mark.parametrize("policy", ["reject", "ack"])
async def test_the_default_handler_takes_the_rest(policy: str) -> None:
    told = Told(unhandled=policy, default=None)
    other = Told(unhandled=policy, default=told.handler("default"))
    other.router.on("com.x.a")(told.handler("a"))
    for name in ("com.x.a", "com.x.b", "com.x.b"):
        assert await HandlerSink(other.router).send(event(name))
    assert told.ran == ["a", "default", "default"]
    assert other.router.unhandled_count == 0


async def test_the_default_handler_gets_its_data_decoded_and_may_refuse() -> None:
    def refuse(event: Event, data: list[int]) -> None:
        raise Reject(f"{sum(data)}")

    sink = HandlerSink(Router(default=refuse))
    assert await sink.send(Event(type="t", source="/s", data=[1, 2])) == Nack(status=422, reason="3")


@pytest.mark.parametrize("policy", ["drop", None, True, ""])
def test_another_policy_is_refused(policy: Any) -> None:
    with pytest.raises(ValueError, match=r"^unhandled: must be 'reject' or 'ack'"):
        Router(unhandled=policy)


async def test_a_router_is_a_handler_of_a_router() -> None:
    """The inner one decides what becomes of what it does not know."""
    outer, inner = Told(), Told()
    outer.router.on("com.x.*")(inner.router)
    outer.on("com.x.a")
    inner.on("com.x.b")
    sink = HandlerSink(outer.router)
    assert await sink.send(event("com.x.a"))
    assert await sink.send(event("com.x.b"))
    assert (outer.ran, inner.ran) == (["com.x.a"], ["com.x.b"])
    assert await sink.send(event("com.x.c")) == UNWANTED
    assert (outer.router.unhandled_count, inner.router.unhandled_count) == (0, 1)
    fallback = HandlerSink(Router(default=inner.router))
    assert await fallback.send(event("com.x.b"))
    assert inner.ran == ["com.x.b"] * 2
