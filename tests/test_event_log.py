"""The event log: append, read, replay, fold."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import pytest
from pydantic import BaseModel

from cloudevents_kit import (
    Ack,
    CloudEventsError,
    Event,
    HandlerSink,
    Nack,
    Outcome,
    Reject,
    Result,
    Router,
    current_event,
    filters,
    stages,
)
from cloudevents_kit.event_log import (
    Conflict,
    EventLog,
    Projection,
    Recorded,
    Snapshot,
    current_connection,
    current_record,
)
from cloudevents_kit.stores import StoreError, open_store
from cloudevents_kit.stores.memory_event_log import MemoryEventLogStore
from tests.support.clock import ManualClock
from tests.support.events import new


@pytest.fixture
def store(clock: ManualClock) -> MemoryEventLogStore:
    return MemoryEventLogStore(clock=clock)


@pytest.fixture
def log(store: MemoryEventLogStore) -> EventLog:
    return EventLog(store)


async def fill(log: EventLog, count: int, *, stream: str = "s", **given: Any) -> None:
    """Append events whose ids and data are 1, 2, 3..."""
    await log.append(stream, [new(id=f"{number}", data=number, **given) for number in range(1, count + 1)])


# Append and read.


async def test_a_wrong_expected_version_is_a_conflict_and_nothing_is_written(log: EventLog) -> None:
    """K-D9.1: all or nothing, for several events."""
    first = await log.append("order-1", [new(id="1"), new(id="2")], expected=0)
    assert first == (2, 2, False)
    with pytest.raises(Conflict) as raised:
        await log.append("order-1", [new(id="3"), new(id="4")], expected=1)
    assert isinstance(raised.value, CloudEventsError)
    assert (raised.value.stream, raised.value.expected, raised.value.actual) == ("order-1", 1, 2)
    assert [one.event.id async for one in log.read_all()] == ["1", "2"]
    assert (await log.append("order-1", [new(id="3"), new(id="4")], expected=raised.value.actual)).version == 4


async def test_one_event_need_not_be_in_a_list(log: EventLog) -> None:
    assert await log.append("s", new()) == (1, 1, False)


async def test_reading_begins_behind_a_number_and_knows_no_pages(log: EventLog) -> None:
    await fill(log, 450)
    await fill(log, 3, stream="t")
    found = [one async for one in log.read("s", after=10)]
    assert [one.version for one in found] == [*range(11, 451)]
    assert [one.position async for one in log.read_all(after=199)] == [*range(200, 454)]
    assert [one.position async for one in log.read_all(after=100, until=301)] == [*range(101, 302)]
    assert [one.position async for one in log.read_all(after=100, until=100)] == []
    assert [(one.stream, one.version) async for one in log.read_all(after=450)] == [("t", 1), ("t", 2), ("t", 3)]
    assert [one async for one in log.read("none")] == []


@pytest.mark.parametrize(
    ("other", "is_told"),
    [({"data": 6}, True), ({"type": "u"}, True), ({"data": "5"}, True), ({}, False), ({"subject": "x"}, False)],
)
async def test_a_repeat_with_other_data_is_told(
    log: EventLog, caplog: pytest.LogCaptureFixture, other: dict[str, Any], is_told: bool
) -> None:
    """Attributes may differ: a handler that runs once more makes its events anew, with another time and trace."""
    events = [new(id=id, data=5) for id in "123"]
    await log.append("s", events)
    repeat = await log.append("s", [events[1], events[2].evolve(**other)])
    assert (repeat.version, repeat.repeated) == (3, True)
    told = f"stream s: id='3' source='/s' type='{other.get('type', 't')}' was appended before with another type or"
    assert [told in line for line in caplog.messages] == [True] * is_told
    assert [record.event async for record in log.read("s")] == events


async def test_what_a_handler_appends_names_its_cause(log: EventLog) -> None:
    """K-E4.1."""

    async def handler(event: Event) -> None:
        await log.append("s", new(id="2", source="/here"))

    await HandlerSink(handler).send(new(id="1"))
    [found] = [one async for one in log.read("s")]
    assert (found.event["correlationid"], found.event["causationid"]) == ("1", "1")


@pytest.mark.parametrize(
    ("stream", "events", "expected", "told"),
    [
        ("", new(), None, "stream: must be 1 to 256 printable characters"),
        ("s" * 257, new(), None, "stream: must be 1 to 256 printable characters"),
        ("a\nb", new(), None, "stream: must be 1 to 256 printable characters"),
        (5, new(), None, "stream: must be a str, not int"),
        ("s", [], None, "events: must be one or more, no two of the same source and id"),
        ("s", [new(), new(type="other")], None, "events: must be one or more, no two of the same source and id"),
        ("s", [new(), {}], None, "events: must be an Event, or several, not dict"),
        ("s", {"id": "1"}, None, "events: must be an Event, or several, not dict"),
        ("s", None, None, "events: must be an Event, or several, not NoneType"),
        ("s", new(), -1, "expected: must be 0 or more, not -1"),
        ("s", new(), True, "expected: must be a whole number, not bool"),
    ],
)
async def test_what_cannot_be_appended_is_said_before(
    log: EventLog, stream: Any, events: Any, expected: Any, told: str
) -> None:
    with pytest.raises((TypeError, ValueError), match=told):
        await log.append(stream, events, expected=expected)
    assert await log.find() == 0


# Old versions of events.


@dataclass
class Order:
    total: float
    currency: str


UPCAST = stages.upcast(
    ("order.v1", "order.v2", lambda event: {"total": event.data}),
    ("order.v2", "order.v3", lambda event: {**event.data, "currency": "EUR"}),
)


async def test_old_events_are_read_as_newer_code_wants_them_and_stay_as_they_are(store: MemoryEventLogStore) -> None:
    log = EventLog(store, upcast=UPCAST)
    await log.append("s", [new(id="1", type="order.v1", data=5), new(id="2", type="other")])
    first, second = [one async for one in log.read("s")]
    assert (first.event.type, first.event.as_type(Order)) == ("order.v3", Order(5.0, "EUR"))
    assert (first.version, first.event.id, second.event.type) == (1, "1", "other")
    assert [one.event.type async for one in EventLog(store).read("s")] == ["order.v1", "other"]
    folded = await log.fold("s", lambda types, event: [*types, event.type], list[str])
    assert folded == (["order.v3", "other"], 2)
    got: list[str] = []
    assert await log.replay(lambda event: got.append(event.type))
    assert got == ["order.v3", "other"]


async def test_an_upcast_that_fails_says_which_step(store: MemoryEventLogStore) -> None:
    log = EventLog(store, upcast=stages.upcast(("a", "b", lambda event: event.data["x"])))
    await log.append("s", new(type="a", data={}))
    with pytest.raises(stages.StageError, match="upcast > a to b"):
        [one async for one in log.read_all()]


async def test_a_stage_that_drops_events_is_no_upcast(store: MemoryEventLogStore) -> None:
    log = EventLog(store, upcast=stages.keep_if(lambda event: False))
    await log.append("s", new())
    with pytest.raises(TypeError, match="upcast: must pass on every event"):
        [one async for one in log.read_all()]


# Replay.


class Counted:
    """A sink that refuses some events."""

    def __init__(self, *bad: str) -> None:
        self.got: list[str] = []
        self.bad = bad

    async def send(self, event: Event) -> Result:
        self.got.append(event.id)
        return Nack(status=422, reason="no") if event.id in self.bad else Ack()


async def test_a_replay_from_a_position_stops_at_an_event_that_fails_and_goes_on_there(log: EventLog) -> None:
    """K-D9.2: the report says so."""
    await fill(log, 6)
    sink = Counted("4")
    report = await log.replay(sink, after=2)
    assert sink.got == ["3", "4"]
    assert (report.handled, report.failed, report.stopped, report.position) == (1, 1, True, 3)
    assert [(one.record.version, one.result.reason) for one in report.failures] == [(4, "no")]
    assert not report
    sink.bad = ()
    report = await log.replay(sink, after=report.position)
    assert sink.got == ["3", "4", "4", "5", "6"]
    assert (report.handled, report.failed, report.stopped, report.position) == (3, 0, False, 6)
    assert report


async def test_a_replay_can_collect_what_fails(log: EventLog) -> None:
    """K-D9.2: a failing one is collected."""
    await fill(log, 6)
    sink = Counted("2", "5")
    report = await log.replay(sink, on_error="collect")
    assert sink.got == ["1", "2", "3", "4", "5", "6"]
    assert (report.handled, report.failed, report.stopped, report.position) == (4, 2, False, 6)
    assert [one.record.event.id for one in report.failures] == ["2", "5"]


async def test_a_replay_tells_the_first_thousand_failures(log: EventLog) -> None:
    await fill(log, 1002)
    sink = Counted(*(f"{number}" for number in range(1003)))
    report = await log.replay(sink, on_error="collect")
    assert (report.failed, len(report.failures)) == (1002, 1000)


async def test_a_replay_is_of_a_time_or_up_to_a_position_filtered_and_limited(
    log: EventLog, clock: ManualClock
) -> None:
    began: datetime = clock.now()
    for number in range(1, 7):
        await log.append("s", new(id=f"{number}", type="even" if number % 2 == 0 else "odd"))
        await clock.sleep(60)
    minute = timedelta(minutes=1)
    for given, ids in (
        ({"since": began + 3 * minute}, "456"),
        ({"until": began + 3 * minute}, "123"),
        ({"since": began + minute, "until": 4}, "234"),
        ({"since": began, "after": 4}, "56"),
        ({"after": 9}, ""),
        ({"filter": filters.exact(type="even")}, "246"),
        ({"filter": lambda event: event.type == "odd", "limit": 2}, "13"),
    ):
        sink = Counted()
        report = await log.replay(sink, **given)
        assert "".join(sink.got) == ids
        assert report.handled == len(ids)
    report = await log.replay(Counted(), filter=filters.exact(type="odd"), limit=2)
    assert (report.left_out, report.position) == (1, 3)


async def test_a_dry_run_counts_and_calls_nobody(log: EventLog) -> None:
    await fill(log, 3)
    sink = Counted()
    report = await log.replay(sink, dry_run=True)
    assert (report.dry_run, report.handled, sink.got) == (True, 3, [])


async def test_a_replay_goes_to_a_router_with_typed_data_and_knows_where_it_is(log: EventLog) -> None:
    router, got = Router(), []

    @router.on("order")
    async def order(event: Event, data: Order) -> None:
        got.append((data.total, current_record().version, current_event() is event))
        with pytest.raises(RuntimeError, match="current_connection: there is none here"):
            current_connection()

    await log.append("s", new(type="order", data={"total": 1, "currency": "EUR"}))
    assert await log.replay(router)
    assert got == [(1.0, 1, True)]
    with pytest.raises(RuntimeError, match="current_record: no event of a log is being handled here"):
        current_record()


async def test_what_comes_while_a_replay_runs_is_not_for_it(log: EventLog) -> None:
    await fill(log, 2)

    async def grow(event: Event) -> None:
        await log.append("s", new(id=event.id * 2))

    assert (await log.replay(grow)).handled == 2
    assert await log.find() == 4


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"on_error": "ignore"}, "on_error: must be 'stop' or 'collect'"),
        ({"after": -1}, "after: must be 0 or more"),
        ({"since": datetime(2026, 1, 1)}, "since: must have a time zone"),  # noqa: DTZ001 - that is the point
        ({"since": "yesterday"}, "since: must be a datetime, not str"),
        ({"until": -1}, "until: must be 0 or more"),
        ({"until": "today"}, "until: must be a datetime, not str"),
        ({"limit": 0}, "limit: must be 1 or more"),
        ({"filter": "type"}, "filter: must be callable"),
        ({"dry_run": "no"}, "dry_run: must be True or False"),
    ],
)
async def test_a_replay_that_makes_no_sense_is_refused(log: EventLog, given: Any, told: str) -> None:
    with pytest.raises((TypeError, ValueError), match=told):
        await log.replay(Counted(), **given)


# Folds and snapshots.


@dataclass
class Total:
    sum: int = 0
    seen: list[str] = field(default_factory=list)


def add(total: Total, event: Event) -> Total:
    return Total(total.sum + event.data, [*total.seen, event.id])


class Model(BaseModel):
    sum: int = 0


async def test_a_fold_is_the_state_and_the_version_to_append_with(log: EventLog) -> None:
    assert await log.fold("s", add, Total) == (Total(), 0)
    await fill(log, 3)
    total = await log.fold("s", add, Total)
    assert total == (Total(6, ["1", "2", "3"]), 3)
    await log.append("s", new(id="4", data=4), expected=total.version)
    with pytest.raises(Conflict):
        await log.append("s", new(id="5", data=5), expected=total.version)


class Reads(MemoryEventLogStore):
    """Counts the events that are read."""

    events = 0

    async def read(self, stream: str | None, after: int, most: int, /) -> Any:
        page = await super().read(stream, after, most)
        self.events += len(page)
        return page


async def test_a_snapshot_saves_the_way_and_changes_nothing() -> None:
    store = Reads()
    log, snapshot = EventLog(store), Snapshot("total", Total, every=10)
    await fill(log, 9)
    assert (await log.fold("s", add, Total, snapshot=snapshot)).version == 9
    assert await store.snapshots.load("s", "total", 1) is None
    await log.append("s", new(id="10", data=10))
    whole = await log.fold("s", add, Total)
    assert await log.fold("s", add, Total, snapshot=snapshot) == whole
    kept = await store.snapshots.load("s", "total", 1)
    assert kept is not None
    assert kept[0] == 10
    store.events = 0
    assert await log.fold("s", add, Total, snapshot=snapshot) == whole
    assert store.events == 1  # to know that the stream has come so far
    await log.append("s", new(id="11", data=11))
    assert (await log.fold("s", add, Total, snapshot=snapshot)).state == Total(66, [f"{n}" for n in range(1, 12)])
    assert await log.forget_snapshots("total") == 1
    assert (await log.fold("s", add, Total, snapshot=snapshot)).state.sum == 66


async def test_another_schema_begins_anew(log: EventLog) -> None:
    await fill(log, 3)
    await log.fold("s", add, Total, snapshot=Snapshot("total", Total, every=1))

    def twice(total: Total, event: Event) -> Total:
        return Total(total.sum + 2 * event.data, [])

    assert (await log.fold("s", twice, Total, snapshot=Snapshot("total", Total, schema=2, every=1))).state.sum == 12
    assert (await log.fold("s", add, Total, snapshot=Snapshot("total", Total, every=1))).state.sum == 6


async def test_a_model_of_pydantic_and_plain_types_are_states_too(log: EventLog) -> None:
    await fill(log, 3)
    for _ in range(2):
        by_model = await log.fold(
            "s", lambda model, event: Model(sum=model.sum + event.data), Model, snapshot=Snapshot("m", Model, every=1)
        )
        by_int = await log.fold("s", lambda n, event: n + event.data, int, snapshot=Snapshot("i", int, every=1))
        assert (by_model.state, by_int.state) == (Model(sum=6), 6)


@pytest.mark.parametrize("kept", [b"{", b'{"sum":"x","seen":[]}', b"[]"])
async def test_a_snapshot_that_cannot_be_read_is_left_alone(
    store: MemoryEventLogStore, kept: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    log = EventLog(store)
    await fill(log, 3)
    await store.snapshots.save("s", "total", 1, 2, kept)
    assert (await log.fold("s", add, Total, snapshot=Snapshot("total", Total))).state.sum == 6
    assert "snapshot total of stream s cannot be used (count schema up)" in caplog.text


async def test_a_snapshot_of_another_log_is_left_alone(store: MemoryEventLogStore) -> None:
    log = EventLog(store)
    await fill(log, 3)
    await store.snapshots.save("s", "total", 1, 4, b'{"sum":99,"seen":[]}')
    assert (await log.fold("s", add, Total, snapshot=Snapshot("total", Total))).state.sum == 6


async def test_a_snapshot_that_cannot_be_kept_costs_nothing_but_time(
    store: MemoryEventLogStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def full(*_: object) -> None:
        raise StoreError("full")

    monkeypatch.setattr(store.snapshots, "save", full)
    log = EventLog(store)
    await fill(log, 3)
    assert (await log.fold("s", add, Total, snapshot=Snapshot("total", Total, every=1))).state.sum == 6
    assert "snapshot total of stream s could not be kept: full" in caplog.text


async def test_a_state_may_hold_models_of_pydantic(log: EventLog) -> None:
    await fill(log, 3)
    for kind, start in ((list[Model], [Model(sum=1)]), (dict[str, Model], {"a": Model(sum=2)})):
        snapshot: Any = Snapshot(str(kind), kind, every=1)
        for _ in range(2):
            assert await log.fold("s", lambda state, _: state, start.copy, snapshot=snapshot) == (start, 3)


async def test_a_state_that_is_no_json_is_told(log: EventLog) -> None:
    await fill(log, 1)
    with pytest.raises(TypeError, match="snapshot: the state of s cannot be kept as JSON: it holds a object"):
        await log.fold("s", lambda *_: [object()], list[Any], snapshot=Snapshot("s", list[Any], every=1))


async def test_a_snapshot_that_makes_no_sense_is_refused(log: EventLog) -> None:
    with pytest.raises(TypeError, match="Event is no dataclass"):
        Snapshot("s", asyncio.Event)
    with pytest.raises(TypeError, match="name: must be a str"):
        Snapshot(5, int)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="name: must be 1 to 200 printable characters"):
        Snapshot("a\0b", int)
    with pytest.raises(ValueError, match="every: must be 1 or more"):
        Snapshot("s", int, every=0)
    with pytest.raises(ValueError, match="name: must be 1 to 200 printable characters"):
        Snapshot("", int)
    with pytest.raises(TypeError, match="kind: must be a type that data can be read as"):
        Snapshot("s", 5)  # type: ignore[arg-type]


async def again(state: int, event: Event) -> int:
    return state


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"step": "sum"}, "step: must be callable"),
        ({"step": again}, "step: must be a plain function, not an async one"),
        ({"step": lambda _, event: asyncio.sleep(0)}, "step: must return a state, not something to be awaited"),
        ({"start": 5}, "start: must be a class or a function that makes the state, not int"),
        ({"start": again}, "start: must be a plain function, not an async one"),
        ({"snapshot": "s"}, "snapshot: must be a Snapshot, not str"),
    ],
)
@pytest.mark.filterwarnings("ignore:coroutine 'sleep' was never awaited")
async def test_a_fold_that_makes_no_sense_is_refused(log: EventLog, given: dict[str, Any], told: str) -> None:
    await fill(log, 1)
    whole: Any = {"step": lambda state, event: state + 1, "start": int, **given}
    with pytest.raises(TypeError, match=told):
        await log.fold("s", **whole)


def test_an_end_that_is_no_position_is_refused(log: EventLog) -> None:
    with pytest.raises(TypeError, match="until: must be a whole number, not str"):
        log.read_all(until="x")  # type: ignore[arg-type]


# Making one.


async def test_a_log_that_makes_no_sense_is_refused(store: MemoryEventLogStore) -> None:
    with pytest.raises(TypeError, match="store: must be an EventLogStore"):
        EventLog(open_store("memory:"))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="projections: must be a Projection"):
        EventLog(store, lambda event: None)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="projections: two have the same name"):
        EventLog(store, Projection("p"), Projection("p"))
    async with EventLog(store) as log:
        with pytest.raises(RuntimeError, match="this event log is open already"):
            await log.__aenter__()
    with pytest.raises(ValueError, match="no projection of this log is called 'p'"):
        await log.rebuild("p")


async def test_a_store_that_keeps_none_says_so() -> None:
    store = open_store("memory:")
    assert await store.event_log.find(None) == 0
    assert store.scoped("other").event_log is not store.event_log


async def test_a_handler_in_a_replay_may_refuse(log: EventLog) -> None:
    async def refuse(event: Event) -> Outcome:
        raise Reject("never", status=400)

    await fill(log, 1)
    [failure] = (await log.replay(refuse)).failures
    assert isinstance(failure.result, Nack)
    assert (failure.result.status, failure.result.reason) == (400, "never")
    assert isinstance(failure.record, Recorded)
