"""What type checkers see: read by mypy in strict mode, never run. A line that must be an error says which one."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, assert_never, assert_type

from cloudevents.core.base import BaseCloudEvent

from cloudevents_kit import (
    ACCEPTED,
    Ack,
    Clock,
    Event,
    Handler,
    HandlerSink,
    Middleware,
    Nack,
    Outcome,
    Receiver,
    Result,
    RetryPolicy,
    Router,
    Sender,
    Sink,
    SystemClock,
    Undelivered,
    blocking,
    cesql,
    current_event,
    filters,
    forward,
    from_http,
    from_json,
    on,
    settle,
    stages,
    to_http,
    wrap,
)
from cloudevents_kit.asgi import asgi_app
from cloudevents_kit.pubsub import FanOut, PartialAck, Published, Queued, Subscription, Unsent, quorum
from cloudevents_kit.request_reply import Requests
from cloudevents_kit.stores.memory import MemoryDedupeStore, MemoryWindowStore


@dataclass
class Order:
    id: int


# Results.


def every_outcome(result: Result) -> str:
    match result:
        case Ack(status=status, reply=reply):
            assert_type(status, int)
            assert_type(reply, Event | None)
            return "ack"
        case Nack(reason=reason, retry_after=seconds):
            assert_type(reason, str)
            assert_type(seconds, float | None)
            return "nack"
        case Undelivered(possibly_delivered=maybe):
            assert_type(maybe, bool)
            return "undelivered"
        case _:
            assert_never(result)


def an_outcome_is_missing(result: Result) -> None:
    match result:
        case Ack() | Nack():
            pass
        case _:
            assert_never(result)  # type: ignore[arg-type]


def told_apart_by_class(result: Result) -> Event | None:
    assert_type(result.raise_for_outcome(), Ack)
    return result.reply if isinstance(result, Ack) else None


def a_nack_has_no_reply(result: Nack) -> None:
    assert_type(result.reply, None)
    result.status = 1  # type: ignore[misc]


# Sinks.


async def a_sender(event: Event, sdk: BaseCloudEvent) -> None:
    async with Sender("http://x", retry=RetryPolicy(statuses={409}), headers={"a": "b"}, clock=SystemClock()) as sender:
        assert_type(sender, Sender)
        assert_type(await sender.send(event), Ack | Nack | Undelivered)
        assert_type((await sender.send(event)).status, int | None)
        assert_type((await sender.send(event)).reply, Event | None)
        assert_type(await sender.request(sdk, strict=True), Ack | Nack | Undelivered)
        assert_type(await sender.send_batch([event, sdk]), list[Ack | Nack | Undelivered])
        async for sent, result in sender.send_all(source(), concurrency=3):
            assert_type(sent, Event)
            assert_type(result, Ack | Nack | Undelivered)
        await sender.send("event")  # type: ignore[arg-type]
        await sender.send(event, mode="batch")  # type: ignore[arg-type]
    Sender("http://x/", tries=3)  # type: ignore[call-arg]


async def fresh_headers() -> Mapping[str, str]:
    return {}


async def source() -> AsyncIterator[Event]:
    yield Event(type="t", source="/s")


def a_blocking_sender(event: Event, sdk: BaseCloudEvent) -> None:
    with blocking.Sender("http://x/", headers=fresh_headers) as sender:
        assert_type(sender, blocking.Sender)
        assert_type(sender.send(event), Ack | Nack | Undelivered)
        assert_type(sender.send_batch([event, sdk]), list[Ack | Nack | Undelivered])
        assert_type(sender.send_all([event]), Iterator[tuple[Event, Ack | Nack | Undelivered]])
        forward(sender)  # type: ignore[arg-type]


class Store:
    async def send(self, event: Event, /) -> Result:
        return Ack() if event.has_data else Nack(status=422)


class Forgetful:
    async def send(self, event: Event, /) -> None: ...


def sinks() -> list[Sink]:
    wrong: Sink = Forgetful()  # type: ignore[assignment]
    return [Sender("http://x/"), HandlerSink(handle), HandlerSink(plain), Store(), wrong]


# Handlers and stages.


async def handle(event: Event) -> Event | None:
    assert_type(event.id, str)
    assert_type(event.get_int("sequence"), int)
    assert_type(event.as_type(Order), Order)
    return event.reply(type="t", source="/s")


async def store(event: Event) -> Outcome:
    return ACCEPTED


def plain(event: Event) -> None:
    assert_type(current_event(), Event | None)


async def stage(event: Event, call_next: Handler) -> Outcome:
    return await call_next(event)


class Requesting:
    async def __call__(self, event: Event, call_next: Handler) -> Event | None:
        return None


async def wrong_handler(event: Event) -> bool:
    return True


async def handlers(event: Event) -> tuple[list[Handler], list[Middleware]]:
    assert_type(await settle(handle, event), Ack | Nack | Undelivered)
    wrong: Handler = wrong_handler  # type: ignore[assignment]
    also_wrong: Middleware = handle  # type: ignore[assignment]
    return (
        [handle, store, Router(), forward(Store()), wrap(handle, stage, Requesting()), wrong],
        [stage, Requesting(), Requests(Store()), also_wrong],
    )


async def receivers() -> None:
    async with Receiver(Router(), stage, Requesting(), port=0) as receiver:
        assert_type(receiver, Receiver)
        assert_type(receiver.url, str)
        assert_type(receiver.port, int)
    Receiver(plain)
    Receiver(wrong_handler)  # type: ignore[arg-type]
    asgi_app(handle, stage)


router = Router()


@router.on("com.example.order.created")
async def created(event: Event, order: Order) -> Event | None:
    return None


@router.on("com.example.order.*", source="/orders")
def in_a_thread(event: Event) -> None: ...


class Orders:
    @on("com.example.order.cancelled")
    async def cancelled(self, event: Event, order: Order) -> None: ...


async def a_decorated_handler_is_what_it_was(event: Event) -> None:
    assert_type(await created(event, Order(1)), Event | None)
    await Orders().cancelled(event, Order(1))
    router.include(Orders())


# Events on and off the wire.


def events(headers: Mapping[str, str], body: bytes) -> None:
    event = Event(type="t", source="/s", data={"id": 1}, partitionkey="k", sampledrate=3)
    Event("t", "/s")  # type: ignore[call-arg]
    Event(type="t")  # type: ignore[call-arg]
    event.type = "u"  # type: ignore[misc]
    assert_type(event.evolve(type="u"), Event)
    assert_type(event.key, tuple[str, str])
    assert_type(from_json(body), Event)
    assert_type(Event.of(event), Event)
    message = to_http(event, "structured")
    assert_type(message.body, bytes)
    from_http(headers, body)


clock: Clock = SystemClock()


# Stages that guard.


async def keep(event: Event, error: Exception) -> None: ...


def guard_stages() -> list[Middleware]:
    assert_type(
        stages.circuit_breaker(key=lambda event: event.source).state("/s"), Literal["closed", "open", "half_open"]
    )
    assert_type(stages.bulkhead(10, max_waiting=5), stages.Bulkhead)
    stages.circuit_breaker(is_failure=lambda error: isinstance(error, OSError))
    stages.rate_limit(10, mode="drop")  # type: ignore[arg-type]
    stages.rate_limit(10, key=keep)  # type: ignore[arg-type]
    stages.retry(3)  # type: ignore[arg-type]
    stages.timeout(handle)  # type: ignore[arg-type]
    stages.on_error(keep, only=OSError)
    stages.on_error(keep, only=(OSError, ValueError))
    stages.on_error("ack", only=lambda error: True)
    stages.on_error("drop")  # type: ignore[arg-type]
    stages.on_error(handle)  # type: ignore[arg-type]
    wrong: Handler = stages.retry(RetryPolicy())  # type: ignore[assignment]
    assert_type(stages.batch(lambda events: None), stages.Batch)
    assert_type(stages.order(on_failure=lambda event, error: None), stages.Order)
    assert_type(stages.queue(key=stages.order_key), stages.Queue)
    stages.batch(handle)  # type: ignore[arg-type]
    stages.order(on_failure="stop")  # type: ignore[arg-type]
    stages.queue(store=Store())  # type: ignore[arg-type]
    guards = [stages.retry(), stages.timeout(1), stages.bulkhead(1), stages.circuit_breaker(), stages.rate_limit(1)]
    return [*guards, wrong]  # type: ignore[list-item]


# Stages that hand events on.


def flow_stages() -> list[Middleware]:
    branches: dict[str, stages.Branch] = {
        "a": handle,
        "b": plain,
        "c": Store(),
        "d": stages.stage(stage),
        "e": Router(),
    }
    assert_type(stages.fan_out(branches, policy=stages.quorum(2)), stages.Stage)
    stages.fan_out({"a": handle, "b": Sender("http://x/"), "c": stages.chain(stage)}, policy="best_effort")
    stages.fan_out({"a": stage})  # type: ignore[dict-item]
    stages.fan_out({"a": handle}, policy="some")  # type: ignore[arg-type]
    stages.route("type", {"a": handle, None: Store()}, default=stages.PASS)
    stages.route(kind_of, {1: handle}, default=stages.REJECT)
    stages.route("type", {"a": handle})  # type: ignore[call-arg]
    stages.route("type", {"a": wrong_handler}, default=handle)  # type: ignore[dict-item]
    stages.route("type", {"a": stage}, default=stage)  # type: ignore[dict-item, arg-type]
    stages.when(lambda event: event.has_data, handle, stages.tap(plain))
    stages.when(lambda event: True, stage)  # type: ignore[arg-type]
    stages.first_of(handle, Store(), stages.PASS, only=(OSError, TimeoutError))
    stages.first_of(handle, stage)  # type: ignore[arg-type]
    stages.race(handle, store, accept=lambda outcome: outcome is ACCEPTED)
    stages.race(handle, stage)  # type: ignore[arg-type]
    stages.background(handle, on_full="refuse")
    stages.background(stage)  # type: ignore[arg-type]
    stages.background(Forgetful())  # type: ignore[arg-type]
    stages.chain(stage, stages.PASS, handle)  # type: ignore[arg-type]
    stages.stage(handle)  # type: ignore[arg-type]
    wrap(stages.Replaceable(handle, stage), stages.background(Store()), handle)  # type: ignore[arg-type]
    Receiver(stages.Replaceable(plain))
    return [stages.race(handle), stages.Replaceable(handle)]  # type: ignore[list-item]


async def kind_of(event: Event) -> int | None:
    return len(event.type)


async def a_chain_is_replaced() -> None:
    async with stages.Replaceable(handle, stage) as live:
        assert_type(live, stages.Replaceable)
        await live.replace(wrap(handle, stage), Requesting())
        await live.replace(handle, handle)  # type: ignore[arg-type]


# Stages of functions, and what is told of a chain.


def function_stages(event: Event) -> list[Middleware]:
    stages.transform(lambda event: event.evolve(subject="x"))
    stages.transform(plain)  # type: ignore[arg-type]
    stages.tap(store)
    stages.tap(stage)  # type: ignore[arg-type]
    stages.keep_if(wrong_handler, otherwise="reject")
    stages.keep_if(lambda event: event.has_data, otherwise="nack")  # type: ignore[arg-type]
    stages.validate(Order, status=400)
    stages.validate(kind_of)  # type: ignore[arg-type]
    stages.enrich(handle, mark="enriched", on_error="fail")
    stages.enrich(kind_of)  # type: ignore[arg-type]
    stages.upcast(("a.v1", "a.v2", lambda event: event.data), ("a.v2", "a.v3", handle))
    stages.upcast(("a.v1", "a.v2"))  # type: ignore[arg-type]
    assert_type(stages.version_of(event.type), int | None)
    wrap(handle, stages.tap)  # type: ignore[arg-type]
    wrap(stages.tap(plain), stage)  # type: ignore[arg-type]
    Receiver(handle, handle)  # type: ignore[arg-type]
    Receiver(stages.lint_types())  # type: ignore[arg-type]
    return [stages.lint_types(), stages.upcast(), plain]  # type: ignore[list-item]


def rule_stages(event: Event) -> list[Middleware]:
    high = stages.Condition("level", "gt", 3, missing=True)
    rule = stages.Rule(name="a", action="block", when=[high, {"any": [high]}])
    found = stages.rule_filter([rule, {"name": "b", "action": "allow"}], on_error="nack", destinations=["vip"])
    assert_type(found, stages.RuleFilter)
    found.replace(Path("rules.toml"))
    assert_type(found.rules, tuple[stages.Rule, ...])
    assert_type(found.statistics, Mapping[str, Mapping[str, int]])
    assert_type(stages.load_rules("[]", format="json"), tuple[stages.Rule, ...])
    assert_type(stages.route_hints(event), tuple[str, ...])
    stages.route(stages.hinted("vip"), {"vip": handle}, default=stages.PASS)
    stages.rule_filter("rules.toml")  # type: ignore[arg-type]
    stages.rule_filter([], on_error="block")  # type: ignore[arg-type]
    stages.rule_filter([stages.keep_if(wrong_handler)])  # type: ignore[list-item]
    stages.Rule(name="c", action="drop")  # type: ignore[arg-type]
    stages.Rule(name="c", action="transform", function=plain)  # type: ignore[arg-type]
    stages.Condition("level", "like", 3)  # type: ignore[arg-type]
    wrong: Handler = found  # type: ignore[assignment]
    return [found, wrong]  # type: ignore[list-item]


def filters_and_expressions(event: Event) -> list[Middleware]:
    urgent = cesql.parse("priority = 'high'")
    assert_type(urgent, cesql.Expression)
    assert_type(urgent.matches(event), bool)
    stages.keep_if(urgent.matches)
    wanted = filters.all_of(filters.prefix(type="com."), filters.not_(filters.sql("total > 3")))
    assert_type(wanted, filters.Filter)
    assert_type(wanted(event), bool)
    stages.when(wanted, handle)
    filters.all_of(urgent)  # type: ignore[arg-type]
    cesql.parse(b"TRUE")  # type: ignore[arg-type]
    wrap(handle, wanted)  # type: ignore[arg-type]
    return [stages.keep_if(wanted), urgent]  # type: ignore[list-item]


def quiet(stage: stages.Stage | None, event: Event, ending: str, seconds: float) -> None: ...


def an_observed_chain() -> None:
    metrics = stages.Metrics(types=["a"])
    observed = stages.observe(wrap(handle, stage), metrics, quiet)
    assert_type(observed, stages.Observed)
    stages.observe(stage, metrics)  # type: ignore[arg-type]
    stages.observe(handle, handle)  # type: ignore[arg-type]
    assert_type(stages.describe(observed), stages.Description)
    Receiver(observed, stage, endpoints=stages.endpoints(observed, metrics=metrics))
    asgi_app(observed, path="/", endpoints={"/shown": lambda query: query["a"]})
    Receiver(observed, endpoints={"/shown": lambda: None})  # type: ignore[dict-item, misc]


# Stages with a memory.


async def customer(key: str) -> Order | None:
    return None


def stateful_stages() -> list[Middleware]:
    assert_type(stages.Cached(customer), stages.Cached[str, Order])
    stages.Cached(handle, ttl="5")  # type: ignore[arg-type]
    store: stages.DedupeStore = MemoryDedupeStore()
    stages.deduplicate(Store())  # type: ignore[arg-type]
    stages.deduplicate(key=lambda event: event.id, ttl={"com.example.*": 60})
    stages.deduplicate(key=lambda event: event.key)  # type: ignore[arg-type, return-value]
    stages.deduplicate(when_running="queue")  # type: ignore[arg-type]
    wrong: Handler = stages.deduplicate()  # type: ignore[assignment]
    return [stages.deduplicate(store), wrong]  # type: ignore[list-item]


async def aggregates(totals: stages.Totals) -> list[Middleware]:
    reducers = {"sum": stages.sum_of("data.a"), "own": stages.fold(0, lambda state, value: state + 1)}
    sales = stages.aggregate(reducers, by=lambda event: event.source, on_close=aggregates, store=MemoryWindowStore())
    assert_type(sales, stages.Aggregate)
    assert_type(await sales.query("a"), stages.Totals | None)
    assert_type(totals["count"], int)
    stages.aggregate({"sum": "data.a"})  # type: ignore[dict-item]
    stages.aggregate(on_close=handle)  # type: ignore[arg-type]
    stages.aggregate(store=MemoryDedupeStore())  # type: ignore[arg-type]
    stages.aggregate(at_stop="drop")  # type: ignore[arg-type]
    wrong: Handler = sales  # type: ignore[assignment]
    return [sales, wrong]  # type: ignore[list-item]


# Publish and subscribe.


async def typed_handler(event: Event, order: Order) -> None: ...


async def publishing(event: Event, sender: Sender) -> Sink:
    events = FanOut([Subscription("a", sender), Subscription("b", typed_handler, key=stages.order_key)])
    events.subscribe(Subscription("c", plain, filters.exact(type="a"), retry=RetryPolicy(), dead_letter=sender))
    events.subscribe(Subscription("d", kind_of))  # type: ignore[arg-type]
    events.subscribe(Subscription("e", plain, "com.example.*"))  # type: ignore[arg-type]
    events.subscribe(handle)  # type: ignore[arg-type]
    kept: Callable[[Event], None] = events.on("com.example.*", order=1)(plain)
    kept(event)
    events.on("com.example.*", ordre=1)  # type: ignore[call-arg]
    events.on("com.example.*", on_full="drop")  # type: ignore[arg-type]
    FanOut(policy=quorum(2))
    FanOut(policy="most")  # type: ignore[arg-type]
    published = await events.publish(event, timeout=5)
    assert_type(published, Published)
    assert_type(published["a"], Result)
    assert_type(published.failed, Mapping[str, Nack | Undelivered])
    match published.result:
        case PartialAck(failed=failed):
            assert_type(failed, Mapping[str, Nack | Undelivered])
        case Ack() | Nack() | Undelivered():
            pass
    assert_type(await events.publish_soon(event), Queued)
    assert_type(await events.close(), tuple[Unsent, ...])
    return events
