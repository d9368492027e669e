"""Whatever is done to an event log, and in whatever order: it is what a plain list would be."""

from __future__ import annotations

import asyncio
import tempfile
from collections import defaultdict
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from cloudevents_kit import Event, Reject
from cloudevents_kit.event_log import Conflict, EventLog, Projection, Snapshot
from cloudevents_kit.stores import Store, open_store
from tests.support.events import new

STREAMS = st.sampled_from(["a", "b"])
IDS = st.lists(st.integers(0, 15), min_size=1, max_size=4, unique=True)
VERSIONS = st.none() | st.integers(0, 12)


def step(state: list[int], event: Event) -> list[int]:
    return [*state, event.data]


class Machine(RuleBasedStateMachine):
    """A log with an inline and a background projection, beside a list of (stream, id)."""

    url = "memory:"

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.runner = asyncio.Runner()
        url = self.url.format(folder=Path(self.folder.name))
        self.store: Store = self.runner.run(open_store(url).__aenter__())
        self.inline: list[tuple[int, int]] = []
        self.behind: list[int] = []
        self.broken = False

        async def inline(event: Event) -> None:
            if self.broken:
                raise OSError("broken")
            self.inline.append((event.data, len(self.inline)))

        async def behind(event: Event) -> None:
            self.behind.append(event.data)

        def emptied(view: list[Any]) -> Callable[[object], Awaitable[None]]:
            async def empty(_: object) -> None:
                view.clear()

            return empty

        self.log = EventLog(
            self.store.event_log,
            Projection("inline", inline, delivery="inline", reset=emptied(self.inline)),
            Projection("behind", behind, batch=3, reset=emptied(self.behind)),
        )
        self.model: list[tuple[str, int]] = []

    def do(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self.runner.run(work)

    def in_stream(self, stream: str) -> list[int]:
        return [id for one, id in self.model if one == stream]

    @rule(stream=STREAMS, ids=IDS, expected=VERSIONS, broken=st.booleans())
    def append(self, stream: str, ids: list[int], expected: int | None, *, broken: bool) -> None:
        there = self.in_stream(stream)
        events = [new(id=f"{id}", data=id) for id in ids]
        first = there.index(ids[0]) if ids[0] in there else None
        repeated = first is not None and there[first : first + len(ids)] == ids and expected in {None, first}
        wrong = not repeated and (expected not in {None, len(there)} or any(id in there for id in ids))
        self.broken = broken
        try:
            done, error = self.do(self.log.append(stream, events, expected=expected)), None
        except (Conflict, OSError) as raised:
            done, error = None, raised
        self.broken = False
        assert isinstance(error, Conflict) == wrong
        assert getattr(error, "actual", len(there)) == len(there)
        assert isinstance(error, OSError) == (broken and not wrong and not repeated)
        if done is not None:
            assert done.repeated == repeated
            if not repeated:
                self.model += [(stream, id) for id in ids]
                assert (done.version, done.position) == (len(there) + len(ids), len(self.model))

    @rule(stream=STREAMS, after=st.integers(0, 12))
    def read(self, stream: str, after: int) -> None:
        async def read() -> list[tuple[int, Any]]:
            return [(one.version, one.event.data) async for one in self.log.read(stream, after=after)]

        assert self.do(read()) == [*enumerate(self.in_stream(stream), 1)][after:]

    @rule(after=st.integers(0, 12), bad=st.sets(st.integers(0, 15), max_size=3), collect=st.booleans())
    def replay(self, after: int, bad: set[int], *, collect: bool) -> None:
        got: list[int] = []

        async def handler(event: Event) -> None:
            got.append(event.data)
            if event.data in bad:
                raise Reject

        report = self.do(self.log.replay(handler, after=after, on_error="collect" if collect else "stop"))
        wanted = [id for _, id in self.model[after:]]
        stop = next((at for at, id in enumerate(wanted) if id in bad and not collect), None)
        assert report.stopped == (stop is not None)
        assert got == (wanted if stop is None else wanted[: stop + 1])
        assert report.failed == len([id for id in got if id in bad])
        assert report.handled + report.failed == len(got)
        assert report.position == (max(after, len(self.model)) if stop is None else after + stop)

    @rule(stream=STREAMS, every=st.integers(1, 5))
    def fold(self, stream: str, every: int) -> None:
        found = self.do(self.log.fold(stream, step, list[int], snapshot=Snapshot("s", list[int], every=every)))
        assert found == (self.in_stream(stream), len(self.in_stream(stream)))

    @rule()
    def forget(self) -> None:
        self.do(self.log.forget_snapshots())

    @rule(rebuild=st.booleans())
    def catch_up(self, *, rebuild: bool) -> None:
        async def catch_up() -> None:
            async with self.log:
                if rebuild:
                    await self.log.rebuild("inline")
                    await self.log.rebuild("behind")
                await self.log.reached("behind")

        self.do(catch_up())
        assert self.behind == [id for _, id in self.model]

    @invariant()
    def is_what_the_model_is(self) -> None:
        async def read() -> list[tuple[str, int, int, int]]:
            return [(one.stream, one.event.data, one.version, one.position) async for one in self.log.read_all()]

        versions: defaultdict[str, int] = defaultdict(int)
        wanted = []
        for position, (stream, id) in enumerate(self.model, 1):
            versions[stream] += 1
            wanted.append((stream, id, versions[stream], position))
        assert self.do(read()) == wanted
        assert self.inline == [(id, at) for at, (_, id) in enumerate(self.model)]
        assert self.behind == [id for _, id in self.model[: len(self.behind)]]

    def teardown(self) -> None:
        self.runner.run(self.store.__aexit__(None, None, None))
        self.runner.close()
        self.folder.cleanup()


@pytest.mark.parametrize(
    ("url", "examples", "steps"),
    [("memory:", 60, 25), ("sqlite:///{folder}/log.db", 6, 15)],
    ids=["memory", "SQLite"],
)
def test_a_log_is_what_a_list_would_be(url: str, examples: int, steps: int) -> None:
    machine = type("One", (Machine,), {"url": url})
    run_state_machine_as_test(machine, settings=settings(max_examples=examples, stateful_step_count=steps))
