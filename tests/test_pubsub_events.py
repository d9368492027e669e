"""`FanOut`: what events, contexts and stages see of it; and what cannot work is said at once."""

from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

import pytest

from cloudevents_kit import (
    Event,
    Handler,
    HandlerSink,
    current_event,
    forward,
    settle,
    stages,
    wrap,
)
from cloudevents_kit.pubsub import FanOut, Published, Subscription, quorum
from tests.support.branches import Seen
from tests.support.events import new
from tests.support.outcomes import ScriptedSink
from tests.support.pubsub import three

# The events.


async def test_what_is_published_in_a_handler_belongs_to_the_event_that_is_handled_there() -> None:
    """K-E4: and the outer context is as before."""
    seen: list[Event | None] = []

    async def inner(event: Event) -> None:
        seen.append(current_event())

    def run(**settings: Any) -> Handler:
        fan_out = FanOut([Subscription("a", inner), Subscription("b", inner)], **settings)

        async def outer(event: Event) -> None:
            await fan_out.send(new(id="2"))
            assert current_event() is event

        return outer

    assert await settle(run(), new(id="1", correlationid="c"))
    assert [(event["correlationid"], event["causationid"]) for event in seen if event] == [("c", "1")] * 2
    seen.clear()
    assert await settle(run(inherit=False), new(id="1", correlationid="c"))
    assert seen == [new(id="2")] * 2


async def test_the_fate_of_an_event_at_a_subscriber_is_not_that_of_the_event_that_caused_it() -> None:
    inner = wrap(Seen().handler("x"), stages.keep_if(lambda _: False))
    fan_out = FanOut([Subscription("a", inner)])
    metrics = stages.Metrics()

    async def outer(event: Event) -> None:
        await fan_out.send(new(id="2"))
        await fan_out.publish_soon(new(id="3"))

    async with fan_out:
        assert await settle(stages.observe(outer, metrics), new())
    assert metrics.snapshot()["outcomes"] == {"acked": 1}


async def test_a_report_that_fails_harms_nobody(caplog: pytest.LogCaptureFixture) -> None:
    def report(event: Event, published: Published) -> None:
        raise OSError

    fan_out = FanOut(three(Seen()), report=report)
    assert await fan_out.send(new())
    assert fan_out.counts == {"report_failed": 1}


async def test_its_handlers_can_be_walked_so_that_their_stages_are_opened() -> None:
    queue = stages.queue()
    fan_out = FanOut(
        [Subscription("a", wrap(Seen().handler("a"), queue)), Subscription("b", HandlerSink(Seen().handler("b")))]
    )
    assert not await fan_out.send(new())
    async with stages.running(forward(fan_out)):
        assert await fan_out.send(new())
    assert "queue" in str(stages.describe(forward(fan_out)))


user: ContextVar[str] = ContextVar("user", default="nobody")


async def test_a_user_s_context_is_known_to_subscribers() -> None:
    found: list[str] = []

    async def look(event: Event) -> None:
        found.append(user.get())

    user.set("somebody")
    await FanOut([Subscription("a", look), Subscription("b", look)]).send(new())
    assert found == ["somebody"] * 2


# What cannot work is said at once.


async def asking(event: Event) -> Any:
    return True


WRONG: list[tuple[Callable[[], object], type[Exception], str]] = [
    (lambda: Subscription(5, asking), TypeError, "name"),  # type: ignore[arg-type]
    (lambda: Subscription("", asking), ValueError, "name"),
    (lambda: Subscription("a", "url"), TypeError, "handler"),  # type: ignore[arg-type]
    (lambda: Subscription("a", ScriptedSink), TypeError, "sink"),  # type: ignore[arg-type]
    (lambda: Subscription("a", lambda: None), TypeError, "handler takes"),
    (lambda: Subscription("a", stages.tap(print)), TypeError, "call_next"),
    (lambda: Subscription("a", asking, asking), TypeError, "filter: must return at once"),  # type: ignore[arg-type]
    (lambda: Subscription("a", asking, "x"), TypeError, "filter"),  # type: ignore[arg-type]
    (lambda: Subscription("a", asking, key=asking), TypeError, "key: must return at once"),  # type: ignore[arg-type]
    (lambda: Subscription("a", asking, retry=3), TypeError, "retry"),  # type: ignore[arg-type]
    (lambda: Subscription("a", asking, dead_letter=3), TypeError, "dead_letter"),  # type: ignore[arg-type]
    (lambda: Subscription("a", asking, order="x"), TypeError, "order"),  # type: ignore[arg-type]
    (lambda: Subscription("a", asking, concurrency=0), ValueError, "concurrency"),
    (lambda: Subscription("a", asking, capacity=-1), ValueError, "capacity"),
    (lambda: Subscription("a", asking, on_full="drop"), ValueError, "on_full"),  # type: ignore[arg-type]
    (lambda: FanOut([asking]), TypeError, "subscription"),  # type: ignore[list-item]
    (lambda: FanOut(policy="some"), ValueError, "policy"),  # type: ignore[arg-type]
    (lambda: FanOut(policy=quorum(0)), ValueError, "count"),
    (lambda: FanOut(limit=0), ValueError, "limit"),
    (lambda: FanOut(timeout=0), ValueError, "timeout"),
    (lambda: FanOut(unhandled="drop"), ValueError, "unhandled"),  # type: ignore[arg-type]
    (lambda: FanOut(grace=-1), ValueError, "grace"),
    (lambda: FanOut(inherit=1), TypeError, "inherit"),  # type: ignore[arg-type]
    (lambda: FanOut(report=1), TypeError, "report"),  # type: ignore[arg-type]
    (lambda: FanOut(clock=1), TypeError, "clock"),  # type: ignore[arg-type]
    (lambda: FanOut(name=1), TypeError, "name"),  # type: ignore[arg-type]
]


@pytest.mark.parametrize("number", range(len(WRONG)))
def test_what_cannot_work_is_refused_by_name(number: int) -> None:
    make, error, text = WRONG[number]
    with pytest.raises(error, match=text):
        make()
