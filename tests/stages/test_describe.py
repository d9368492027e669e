"""What a chain is made of, as JSON and as a tree."""

import functools
import json
from collections.abc import Mapping
from typing import Any

import pytest

from cloudevents_kit import Event, Handler, HandlerSink, Outcome, Router, Sender, forward, stages, wrap
from cloudevents_kit.stages import Description, Stage, describe
from cloudevents_kit.stages._describe import stages_of

SECRET = "hunter2"


async def created(event: Event) -> None: ...


def deleted(event: Event) -> None: ...


def wanted(event: Event) -> bool:
    return True


async def audit(event: Event, call_next: Handler) -> Outcome:
    return await call_next(event)


class Fork(Stage):
    kind = "fork"

    def __init__(self, parameters: Mapping[str, object] | None = None, **branches: object) -> None:
        super().__init__()
        self._parameters = parameters or {}
        self._branches: dict[str, object] = branches

    @property
    def parameters(self) -> Mapping[str, object]:
        return self._parameters

    @property
    def branches(self) -> Mapping[str, object]:
        return self._branches

    def bind(self, call_next: Handler) -> Handler:
        return call_next


def nested() -> Handler:
    router = Router()
    router.on("com.example.order.created")(created)
    router.on("com.example.order.*")(deleted)
    fork = Fork(
        {"by": created, "limit": float("inf"), "kinds": {"b", "a"}, "of": (1, None, Event), "each": {"a": 1.5}},
        first=wrap(created, stages.tap(deleted)),
        second=stages.chain(stages.tap(lambda event: None), audit),
        third=Sender(f"https://user:{SECRET}@sink.example/?token={SECRET}", headers={"authorization": SECRET}),
        fourth=forward(HandlerSink(deleted)),
    )
    return wrap(
        router, stages.validate(dict, name="order"), stages.keep_if(wanted), fork, audit, stages.stage(audit, name="a")
    )


TREE = """\
1. validate order (status=422)
2. keep_if wanted (otherwise=drop)
3. fork (by=created, limit=inf, kinds=['a', 'b'], of=[1, None, 'Event'], each={'a': 1.5})
  first:
    1. tap deleted
    2. handler created
  second:
    1. tap
    2. middleware audit
  third: sink Sender
  fourth: sink HandlerSink
    handler: handler deleted
4. middleware audit
5. stage a
  middleware: middleware audit
6. handler Router
  com.example.order.created: handler created
  com.example.order.*: handler deleted"""


def test_a_description_is_a_tree_to_read() -> None:
    """K-P11: nested, adapters told apart."""
    assert str(describe(nested())) == TREE


def test_a_description_is_json_in_a_stable_order() -> None:
    """K-P11: kind, name, parameters, children."""
    found = json.dumps(describe(nested()))
    assert found == json.dumps(describe(nested()))
    parts: list[dict[str, Any]] = [json.loads(found)]
    for part in parts:
        assert [*part] == ["kind", "name", "parameters", "children"]
        parts += part["children"].values()
    top = parts[0]
    assert (top["kind"], [*top["children"]]) == ("chain", ["1", "2", "3", "4", "5", "6"])
    assert [*top["children"]["3"]["children"]] == ["first", "second", "third", "fourth"]
    assert SECRET not in found


@pytest.mark.parametrize(
    ("make", "kind"),
    [
        (stages.transform, "transform"),
        (stages.tap, "tap"),
        (stages.keep_if, "keep_if"),
        (stages.validate, "validate"),
        (stages.enrich, "enrich"),
        (stages.stage, "stage"),
        (stages.chain, "chain"),
    ],
)
def test_adapters_are_told_apart(make: Any, kind: str) -> None:
    """K-P11: by kind, and by the name of the function."""
    function = audit if kind in {"stage", "chain"} else created
    found = describe(wrap(created, make(function)))["children"]["1"]
    assert found["kind"] == kind
    assert found["name"] == ("chain" if kind == "chain" else function.__name__)


class Orders:
    async def created(self, event: Event) -> None: ...

    async def __call__(self, event: Event) -> None: ...


@pytest.mark.parametrize(
    ("handler", "name"),
    [
        (created, "created"),
        (deleted, "deleted"),
        (Orders().created, "Orders.created"),
        (Orders(), "Orders"),
        (functools.partial(functools.partial(created)), "created"),
        (lambda event: None, "<lambda>"),
        (functools.wraps(created)(lambda event: None), "created"),
    ],
    ids=range(7),
)
def test_a_handler_is_told_by_its_name(handler: Any, name: str) -> None:
    expected = Description(kind="handler", name=name, parameters={}, children={})
    assert describe(handler) == expected
    assert str(describe(handler)) == f"handler {name}"
    assert describe(wrap(handler, audit))["children"]["2"] == expected


def test_a_circle_is_cut_and_a_part_that_is_shared_is_described_once() -> None:
    shared = Fork(end=created)
    fork = Fork(a=shared, b=shared, c=created, d=created)
    fork._branches["self"] = fork
    assert str(describe(fork)).splitlines() == [
        "fork",
        "  a: fork",
        "    end: handler created",
        "  b: fork (see above)",
        "  c: handler created",
        "  d: handler created",
        "  self: fork (see above)",
    ]
    assert describe(fork)["children"]["b"]["repeated"] is True


def test_a_handler_that_wraps_itself_is_cut_too() -> None:
    async def strange(event: Event) -> None: ...

    strange.__wrapped__ = strange  # type: ignore[attr-defined]
    assert describe(strange)["kind"] == "handler"


def test_a_stage_that_does_nothing_leaves_no_trace_in_the_handler() -> None:
    router = Router()
    router.on("t")(created)
    handler = wrap(router, stages.route("subject", {"a": deleted}, default=stages.PASS))
    assert wrap(router, stages.PASS) is router
    assert not hasattr(router, "call_next")
    assert str(describe(handler)).splitlines() == [
        "1. route (by=subject, default=pass)",
        "  a: handler deleted",
        "2. handler Router",
        "  t: handler created",
    ]


def test_stages_get_names_that_differ() -> None:
    first, second, third = (stages.tap(lambda event: None) for _ in range(3))
    handler = wrap(created, first, Fork(a=second), stages.chain(third, first))
    found = stages_of(handler)
    assert [*found] == ["tap", "fork", "tap 2", "chain", "tap 3"]
    assert [found[name] for name in ("tap", "tap 2", "tap 3")] == [first, second, third]
