"""What a receiver shows beside its events, in general and of its stages; `kind` says which of the receivers."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web

from cloudevents_kit import Event, Handler, Outcome, Receiver, Reject, Retry, settle, stages, wrap
from cloudevents_kit._endpoints import Endpoints
from cloudevents_kit.asgi import asgi_app
from cloudevents_kit.stages import Metrics, Stage, endpoints, observe
from tests.support import asgi
from tests.support.clock import ManualClock
from tests.support.events import new
from tests.support.raw import RawAnswer, request
from tests.support.servers import HEAD, SECRET, ask, assert_no_secret, ignore, problem, running, served

ALL = pytest.mark.parametrize("kind", ["aiohttp", "asgi", "mounted in aiohttp", "mounted in asgi"])


def fail(query: Mapping[str, str]) -> object:
    raise KeyError(SECRET)


async def fail_later(query: Mapping[str, str]) -> object:
    await asyncio.sleep(0)
    raise KeyError(SECRET)


async def for_ever(query: Mapping[str, str]) -> object:
    return await asyncio.Event().wait()


def echo(query: Mapping[str, str]) -> object:
    return query


async def echo_later(query: Mapping[str, str]) -> object:
    await asyncio.sleep(0)
    return query


def refuse(query: Mapping[str, str]) -> object:
    raise Reject("there is no such order", 410)


ENDPOINTS: Endpoints = {
    "/shown/echo": echo,
    "/shown/later": echo_later,
    "/shown/fail": fail,
    "/shown/fail-later": fail_later,
    "/shown/for-ever": for_ever,
    "/shown/refuse": refuse,
    "/shown/busy": lambda query: (_ for _ in ()).throw(Retry(7, reason="not yet")),
    "/shown/odd": lambda query: object(),
}


@asynccontextmanager
async def serving(
    kind: str, shown: Endpoints, handler: Handler = ignore, **options: Any
) -> AsyncIterator[tuple[int, str]]:
    """Yield the port and the prefix of the paths."""
    if kind in {"aiohttp", "asgi"}:
        async with served(kind, handler, path="/events", endpoints=shown, **options) as port:  # type: ignore[arg-type]
            yield port, ""
    elif kind == "mounted in asgi":
        from starlette.applications import Starlette
        from starlette.routing import Mount

        inner = asgi_app(handler, path="/events", endpoints=shown, **options)
        async with running(Starlette(routes=[Mount("/shop", inner)])) as server:
            yield server.port, "/shop"
    else:
        outer = web.Application()
        outer.add_subapp("/shop", Receiver(handler, path="/events", endpoints=shown, **options).app)
        runner = web.AppRunner(outer)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        try:
            yield runner.addresses[0][1], "/shop"
        finally:
            await runner.cleanup()


def get(path: str, method: str = "GET") -> bytes:
    return request(method=method, path=path)


# In general.


@ALL
async def test_an_endpoint_is_read_with_get_and_head(kind: str) -> None:
    async with serving(kind, ENDPOINTS) as (port, prefix):
        for path in ("/shown/echo", "/shown/later"):
            answer = await ask(port, get(f"{prefix}{path}?b=%26&a=1+2&c=&%C3%A9=%C3%A9"))
            assert (answer.status, answer.header("content-type")) == (200, "application/json")
            assert json.loads(answer.body) == {"b": "&", "a": "1 2", "c": "", "é": "é"}
            assert json.loads((await ask(port, get(f"{prefix}{path}"))).body) == {}
            head = await ask(port, get(f"{prefix}{path}?a=1", "HEAD"))
            assert (head.status, head.header("content-type"), head.body) == (200, "application/json", b"")
            for method in ("POST", "PUT", "DELETE", "OPTIONS"):
                answer = await ask(port, get(f"{prefix}{path}", method))
                assert (answer.status, answer.header("allow")) == (405, "GET, HEAD")
        for path in ("/events", "/healthz"):
            answer = await ask(port, request(*HEAD, path=prefix + path, method="POST" if path == "/events" else "GET"))
            assert answer.status == (204 if path == "/events" else 200)
        assert (await ask(port, get(f"{prefix}/shown"))).status == 404
        assert (await ask(port, get(f"{prefix}/echo"))).status == 404


@ALL
async def test_an_endpoint_that_fails_says_so_in_a_line(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    """K-P9: the peer's text holds nothing of the error, the log its traceback."""
    async with serving(kind, ENDPOINTS) as (port, prefix):
        for path in ("/shown/fail", "/shown/fail-later", "/shown/odd"):
            caplog.clear()
            answer = await ask(port, get(prefix + path))
            assert_no_secret(answer)
            assert problem(answer)["detail"] == "the endpoint failed"
            assert answer.status == 500
            assert [record.message for record in caplog.records if record.exc_info] == ["an endpoint failed"]
            assert (await ask(port, get(f"{prefix}/shown/echo"))).status == 200


@ALL
async def test_an_endpoint_may_refuse(kind: str) -> None:
    async with serving(kind, ENDPOINTS) as (port, prefix):
        for path, status, reason in (
            ("/shown/refuse", 410, "there is no such order"),
            ("/shown/busy", 503, "not yet"),
            ("/shown/echo?a=1&a=2", 400, "the query has a parameter twice"),
            ("/shown/echo?a=%FF", 400, "the query cannot be read"),
            ("/shown/echo?" + "&".join(f"a{number}=1" for number in range(21)), 400, "the query cannot be read"),
        ):
            answer = await ask(port, get(prefix + path))
            assert (answer.status, problem(answer)["detail"]) == (status, reason)
            assert answer.header("retry-after") == ("7" if path == "/shown/busy" else None)


@ALL
async def test_an_endpoint_that_never_ends_is_given_up(kind: str) -> None:
    async with serving(kind, ENDPOINTS, handler_timeout=0.05) as (port, prefix):
        answer = await ask(port, get(f"{prefix}/shown/for-ever"))
        assert (answer.status, problem(answer)["detail"]) == (503, "the endpoint ran out of time")


@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        ([ignore], TypeError, "endpoints: must be a dict of functions by path, not list"),
        ({"shown": dict}, ValueError, "endpoints: must begin with /"),
        ({"/shown?a": dict}, ValueError, "endpoints: must be a path alone"),
        ({1: ignore}, TypeError, "endpoints: must be a str"),
        ({"/shown": None}, TypeError, "endpoints: must be callable"),
        ({"/healthz": ignore}, ValueError, "endpoints: /healthz: there is something else at this path"),
        ({"/shown/{id}": ignore}, ValueError, "endpoints: /shown/{id}: a path has no variable parts"),
        ({"/in": ignore}, ValueError, "endpoints: /in: there is something else at this path"),
    ],
)
def test_what_cannot_be_shown_is_refused_at_once(wrong: Any, error: type[Exception], message: str) -> None:
    for make in (Receiver, asgi_app):
        with pytest.raises(error, match=message):
            make(ignore, path="/in", endpoints=wrong)


def test_an_application_that_takes_every_path_has_none_left_for_endpoints() -> None:
    with pytest.raises(ValueError, match="endpoints: need the path of the events"):
        asgi_app(ignore, endpoints={"/shown": lambda query: None})
    asgi_app(ignore, endpoints={})


async def test_a_server_that_tells_no_query_is_fine() -> None:
    """ASGI has it optional."""
    scope = asgi.http(path="/shown/echo", method="GET")
    scope.pop("query_string", None)
    answer = await asgi.ask(asgi_app(ignore, path="/in", endpoints=ENDPOINTS), scope)
    assert (answer.status, answer.body) == (200, b"{}\n")


# Of stages.


class Aggregate(Stage):
    """Answers questions."""

    kind = "aggregate"

    async def query(self, key: str) -> object:
        return {"key": key, "count": 3} if key == "berlin" else None

    async def run(self, event: Event, call_next: Handler) -> Outcome:
        return await call_next(event)

    @property
    def status(self) -> Mapping[str, object]:
        return {"keys": 1, "state": "open", **self.counts}


class Customers:
    def __init__(self) -> None:
        self.counts = {"hits": 2, "misses": 1}


def pipeline() -> Handler:
    async def handle(event: Event) -> None:
        if event.type == "broken":
            raise RuntimeError(SECRET)

    return wrap(
        handle,
        stages.keep_if(lambda event: event.type != "unwanted", name="wanted"),
        stages.enrich(lambda event: None, name="customer"),
        Aggregate("per_city"),
    )


async def read(shown: Endpoints, path: str, **query: str) -> Any:
    found: Any = shown[path](query)
    return await found if asyncio.iscoroutine(found) else found


async def send(handler: Handler) -> None:
    for event_type in ("a", "a", "unwanted", "broken"):
        await settle(handler, new(type=event_type))


async def test_the_five_paths(clock: ManualClock) -> None:
    metrics = Metrics(clock=clock)
    handler = observe(pipeline(), metrics)
    shown = endpoints(handler, metrics=metrics, lookups={"customers": Customers()}, clock=clock)
    await send(handler)
    assert [*shown] == [
        "/metrics/processor",
        "/processor/status",
        "/processor/enrichment",
        "/processor/filters",
        "/processor/aggregation",
    ]
    found = await read(shown, "/metrics/processor")
    assert found == metrics.snapshot()
    assert found["outcomes"] == {"acked": 2, "dropped": 1, "nacked": 1}
    per_city = {"kind": "aggregate", "keys": 1, "state": "open"}
    customer = {"kind": "enrich", "unchanged": 3}
    wanted = {"kind": "keep_if", "dropped": 1}
    status = await read(shown, "/processor/status")
    assert status == {
        "since": clock.now().isoformat(),
        "stages": {"wanted": wanted, "customer": customer, "per_city": per_city},
        "description": stages.describe(handler),
    }
    assert await read(shown, "/processor/enrichment") == {
        "stages": {"customer": customer},
        "lookups": {"customers": {"hits": 2, "misses": 1}},
    }
    assert await read(shown, "/processor/filters") == {"stages": {"wanted": wanted}}
    found = await read(shown, "/processor/aggregation", aggregator="per_city", key="berlin")
    assert found == {"key": "berlin", "count": 3}


async def test_without_metrics_the_counts_are_shown() -> None:
    handler = pipeline()
    shown = endpoints(handler)
    await send(handler)
    found = await read(shown, "/metrics/processor")
    assert found["stages"] == (await read(shown, "/processor/status"))["stages"]
    assert found["stages"]["wanted"] == {"kind": "keep_if", "dropped": 1}


@ALL
async def test_the_paths_are_served_beside_the_events(kind: str) -> None:
    """K-P9: and what is asked for wrongly is refused in a line."""
    metrics = Metrics()
    handler = observe(pipeline(), metrics)
    async with serving(kind, endpoints(handler, metrics=metrics), handler) as (port, prefix):
        for _ in range(12):
            assert (await ask(port, request(*HEAD, path=f"{prefix}/events"))).status == 204
        found = await shown_at(port, f"{prefix}/metrics/processor")
        assert (found["events"], found["outcomes"]) == (12, {"acked": 12})
        assert found["stages"]["customer"]["endings"] == {"done": 12}
        assert (await shown_at(port, f"{prefix}/processor/status"))["description"]["kind"] == "chain"
        assert "customer" in (await shown_at(port, f"{prefix}/processor/enrichment"))["stages"]
        assert "wanted" in (await shown_at(port, f"{prefix}/processor/filters"))["stages"]
        aggregation = f"{prefix}/processor/aggregation"
        assert await shown_at(port, f"{aggregation}?key=berlin&aggregator=per_city") == {"key": "berlin", "count": 3}
        for query, status, reason in (
            ("", 400, "this path takes the parameters aggregator and key"),
            ("?aggregator=per_city", 400, "this path takes the parameters aggregator and key"),
            ("?aggregator=per_city&key=berlin&more=1", 400, "this path takes the parameters aggregator and key"),
            ("?aggregator=other&key=berlin", 404, "there is no such aggregator"),
            ("?aggregator=customer&key=berlin", 404, "there is no such aggregator"),
            ("?aggregator=per_city&key=paris", 404, "there is nothing for this key"),
        ):
            answer = await ask(port, get(aggregation + query))
            assert (answer.status, problem(answer)["detail"]) == (status, reason)
        for path in ("/metrics/processor", "/processor/status", "/processor/enrichment", "/processor/filters"):
            answer = await ask(port, get(f"{prefix}{path}?a=1"))
            assert (answer.status, problem(answer)["detail"]) == (400, "this path takes no parameters")


async def shown_at(port: int, path: str) -> Any:
    answer: RawAnswer = await ask(port, get(path))
    assert answer.status == 200
    return json.loads(answer.body)


def test_wrong_arguments_are_refused_at_once() -> None:
    with pytest.raises(TypeError, match="metrics: must be a Metrics object"):
        endpoints(ignore, metrics=Metrics)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="lookups: must be a dict"):
        endpoints(ignore, lookups=[Customers()])  # type: ignore[arg-type]
