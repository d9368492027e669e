"""What every `EventLogStore` must do."""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from cloudevents_kit._event import Event
from cloudevents_kit.event_log import Conflict, EventLogStore, Recorded
from cloudevents_kit.testing._events import EVENTS, exact, new
from cloudevents_kit.testing._ticks import Timed


async def add(store: EventLogStore, stream: str, *ids: str, expected: int | None = None) -> tuple[int, int, bool]:
    """Append small events in one call."""
    return await store.append(stream, [new(id=id) for id in ids], expected, {})


async def ids(store: EventLogStore, stream: str | None = None, after: int = 0) -> list[str]:
    """Return the ids of what is there."""
    return [one.event.id for one in await store.read(stream, after, 1000)]


@pytest.mark.asyncio
class EventLogStoreConformance(Timed):
    """What every `EventLogStore` must do.

    A subclass gives the fixture ``store``: an empty one for each test, opened.
    """

    async def test_an_event_comes_out_as_it_was_to_the_last_byte(self, store: EventLogStore) -> None:
        for form, event in EVENTS.items():
            await store.append(form, [event], None, {})
        for form, event in EVENTS.items():
            [found] = await store.read(form, 0, 5)
            assert (form, exact(found.event)) == (form, exact(event))

    async def test_versions_are_of_the_stream_and_positions_of_the_log_without_gaps(self, store: EventLogStore) -> None:
        assert await add(store, "a", "1", "2") == (2, 2, False)
        assert await add(store, "b", "1") == (1, 3, False)
        assert await add(store, "a", "3") == (3, 4, False)
        found = await store.read(None, 0, 10)
        assert [(one.stream, one.version, one.position, one.event.id) for one in found] == [
            ("a", 1, 1, "1"),
            ("a", 2, 2, "2"),
            ("b", 1, 3, "1"),
            ("a", 3, 4, "3"),
        ]
        times = [one.at for one in found]
        assert times == sorted(times)
        assert {at.tzinfo for at in times} == {UTC}
        assert [one.version for one in await store.read("a", 0, 10)] == [1, 2, 3]

    async def test_a_read_begins_behind_a_number_and_ends_when_it_has_enough(self, store: EventLogStore) -> None:
        await add(store, "a", *"123")
        await add(store, "b", *"45")
        assert [one.event.id for one in await store.read(None, 1, 3)] == ["2", "3", "4"]
        assert [one.event.id for one in await store.read("a", 1, 1)] == ["2"]
        assert await store.read("a", 3, 10) == []
        assert await store.read("none", 0, 10) == []
        assert await store.read(None, 5, 10) == []

    async def test_another_version_than_expected_is_a_conflict_and_nothing_is_appended(
        self, store: EventLogStore
    ) -> None:
        with pytest.raises(Conflict) as first:
            await add(store, "a", "1", "2", expected=1)
        assert (first.value.stream, first.value.expected, first.value.actual) == ("a", 1, 0)
        assert await add(store, "a", "1", "2", expected=0) == (2, 2, False)
        with pytest.raises(Conflict, match="stream a: version 0 was expected, and it is at version 2") as second:
            await add(store, "a", "3", "4", expected=0)
        assert second.value.actual == 2
        assert await ids(store) == ["1", "2"]
        assert await add(store, "a", "3", expected=2) == (3, 3, False)

    async def test_an_append_that_is_repeated_appends_nothing(self, store: EventLogStore) -> None:
        await add(store, "a", "1")
        assert await add(store, "a", "2", "3", expected=1) == (3, 3, False)
        await add(store, "a", "4")
        assert await add(store, "a", "2", "3", expected=1) == (3, 3, True)
        assert await add(store, "a", "2", "3") == (3, 3, True)
        assert await ids(store) == ["1", "2", "3", "4"]

    @pytest.mark.parametrize(
        ("again", "expected"), [(["3", "2"], None), (["2", "4"], None), (["2", "3"], 2), (["1", "3"], None)]
    )
    async def test_what_is_there_but_not_so_is_a_conflict(
        self, store: EventLogStore, again: list[str], expected: int | None
    ) -> None:
        await add(store, "a", "1", "2", "3")
        with pytest.raises(Conflict) as raised:
            await add(store, "a", *again, expected=expected)
        assert raised.value.actual == 3
        assert await ids(store) == ["1", "2", "3"]

    async def test_the_same_event_may_be_in_two_streams_and_an_id_have_two_sources(self, store: EventLogStore) -> None:
        await add(store, "a", "1")
        assert await add(store, "b", "1") == (1, 2, False)
        assert await store.append("a", [new(id="1", source="/other")], 1, {}) == (2, 3, False)

    async def test_of_many_at_once_for_one_version_one_wins(self, store: EventLogStore) -> None:
        found = await asyncio.gather(
            *(add(store, "a", str(number), expected=0) for number in range(20)), return_exceptions=True
        )
        conflicts = [one for one in found if isinstance(one, Conflict)]
        assert len(conflicts) == 19
        assert {one.actual for one in conflicts} == {1}
        assert len(await ids(store)) == 1

    async def test_many_appends_at_once_to_many_streams_are_all_there(self, store: EventLogStore) -> None:
        await asyncio.gather(*(add(store, f"s{number % 150}", f"{number}") for number in range(300)))
        found = await store.read(None, 0, 1000)
        assert [one.position for one in found] == [*range(1, 301)]
        assert {one.event.id for one in found} == {str(number) for number in range(300)}
        for stream in ("s0", "s149"):
            assert [one.version for one in await store.read(stream, 0, 10)] == [1, 2]

    async def test_a_position_is_found_by_time(self, store: EventLogStore) -> None:
        assert await store.find(None) == 0
        assert await store.find(datetime.now(UTC) + timedelta(days=2)) == 0
        for id in "123":
            await add(store, "a", id)
            await self.passes(1)
        found = await store.read(None, 0, 10)
        assert await store.find(None) == 3
        assert await store.find(found[0].at) == 0
        assert await store.find(found[1].at) == 1
        assert await store.find(found[2].at + timedelta(microseconds=1)) == 3

    # Inline.

    async def test_what_goes_along_gets_every_event_once_and_in_order(self, store: EventLogStore) -> None:
        got: list[int] = []

        async def work(records: Sequence[Recorded], _: Any) -> None:
            got.extend(one.position for one in records)

        await add(store, "a", "1", "2")
        await store.append("a", [new(id="3")], None, {"view": work})
        assert got == [1, 2, 3]
        await store.append("a", [new(id="3")], None, {"view": work})
        await add(store, "a", "4")
        await asyncio.gather(*(store.append("b", [new(id=f"{n}")], None, {"view": work}) for n in range(5, 9)))
        assert got == [1, 2, 3, 4, 5, 6, 7, 8]
        assert [one[:3] for one in await store.checkpoints.read(["view"])] == [("view", 8, 0)]

    async def test_if_what_goes_along_fails_nothing_is_appended_but_what_others_append_is(
        self, store: EventLogStore
    ) -> None:
        async def work(records: Sequence[Recorded], _: Any) -> None:
            if any(one.event.id == "bad" for one in records):
                raise OSError("bad")

        found = await asyncio.gather(
            *(store.append("a", [new(id=id)], None, {"view": work}) for id in ("1", "bad", "2")),
            return_exceptions=True,
        )
        assert [isinstance(one, OSError) for one in found] == [False, True, False]
        assert str(found[1]) == "bad"
        assert await ids(store) == ["1", "2"]
        assert (await store.checkpoints.read(["view"]))[0].position == 2

    # Checkpoints.

    async def test_a_lease_is_held_by_one_until_it_ends_or_is_given_back(self, store: EventLogStore) -> None:
        marks = store.checkpoints
        assert await marks.lease("p", "one", 10 * self.tick) == 0
        assert await marks.lease("p", "two", 10 * self.tick) is None
        assert await marks.lease("other", "two", 10 * self.tick) == 0
        await self.passes(6)
        assert await marks.lease("p", "one", 10 * self.tick) == 0
        await self.passes(6)
        assert await marks.lease("p", "two", 10 * self.tick) is None
        await self.passes(6)
        assert await marks.lease("p", "two", 10 * self.tick) == 0
        await marks.lease("p", "two", 0.0)
        assert await marks.lease("p", "one", 10 * self.tick) == 0

    async def test_a_checkpoint_moves_from_where_it_is_by_whoever_has_the_lease(self, store: EventLogStore) -> None:
        marks = store.checkpoints
        await marks.lease("p", "one", 10 * self.tick)
        assert await marks.advance("p", "one", 0, 3, None)
        assert not await marks.advance("p", "one", 0, 4, None)
        assert not await marks.advance("p", "two", 3, 4, None)
        await self.passes(11)
        assert await marks.advance("p", "one", 3, 4, None)  # nobody else has taken it
        assert await marks.lease("p", "two", 10 * self.tick) == 4
        assert not await marks.advance("p", "one", 4, 5, None)
        assert await marks.advance("p", None, 4, 6, None)
        assert not await marks.advance("p", None, 4, 7, None)
        assert await marks.advance("new", None, 0, 2, None)

    async def test_what_is_done_with_a_move_is_done_if_it_moves_and_stops_it_if_it_fails(
        self, store: EventLogStore
    ) -> None:
        done: list[str] = []

        async def work(_: Any) -> None:
            done.append("done")

        async def fail(_: Any) -> None:
            raise OSError("failed")

        marks = store.checkpoints
        await marks.lease("p", "one", 10 * self.tick)
        assert not await marks.advance("p", "one", 1, 2, work)
        with pytest.raises(OSError, match="failed"):
            await marks.advance("p", "one", 0, 2, fail)
        assert done == []
        assert await marks.advance("p", "one", 0, 2, work)
        assert done == ["done"]

    async def test_a_reset_begins_again_and_ends_the_lease(self, store: EventLogStore) -> None:
        done: list[str] = []

        async def work(_: Any) -> None:
            done.append("reset")

        async def fail(_: Any) -> None:
            raise OSError("failed")

        marks = store.checkpoints
        await marks.lease("p", "one", 10 * self.tick)
        await marks.advance("p", "one", 0, 3, None)
        with pytest.raises(OSError, match="failed"):
            await marks.reset("p", fail)
        assert (await marks.read(["p"]))[0].position == 3
        await marks.reset("p", work)
        assert done == ["reset"]
        assert not await marks.advance("p", "one", 3, 4, None)
        assert not await marks.advance("p", "one", 0, 4, None)
        assert await marks.lease("p", "two", 10 * self.tick) == 0
        await marks.reset("new", None)

    async def test_checkpoints_tell_how_far_they_are_behind(self, store: EventLogStore) -> None:
        assert await store.checkpoints.read(["p"]) == [("p", 0, 0, 0.0)]
        await add(store, "a", "1", "2")
        await self.passes(2)
        await add(store, "a", "3")
        await store.checkpoints.advance("q", None, 0, 2, None)
        await store.checkpoints.advance("r", None, 0, 3, None)
        p, q, r = await store.checkpoints.read(["p", "q", "r"])
        assert (p[:3], q[:3], r) == (("p", 0, 3), ("q", 2, 1), ("r", 3, 0, 0.0))
        assert 60 * self.tick > p.oldest >= 2 * self.tick
        assert q.oldest < p.oldest

    # Snapshots.

    async def test_a_snapshot_is_the_latest_of_its_stream_name_and_schema(self, store: EventLogStore) -> None:
        kept = store.snapshots
        assert await kept.load("s", "n", 1) is None
        await kept.save("s", "n", 1, 5, b"five")
        await kept.save("s", "n", 1, 4, b"four")
        assert await kept.load("s", "n", 1) == (5, b"five")
        await kept.save("s", "n", 1, 6, b"\x00six")
        await kept.save("s", "n", 2, 1, b"new")
        await kept.save("s", "m", 1, 2, b"other")
        assert await kept.load("s", "n", 1) == (6, b"\x00six")
        assert await kept.load("t", "n", 1) is None
        assert await kept.forget("n") == 2
        assert await kept.load("s", "m", 1) == (2, b"other")
        assert await kept.forget(None) == 1

    async def test_events_of_any_number_and_size_are_taken(self, store: EventLogStore) -> None:
        events = [Event(type="t", source="/s", id=f"{number}", data="x" * 1000) for number in range(6000)]
        assert await store.append("a", events, 0, {}) == (6000, 6000, False)
        assert await store.append("a", events, 0, {}) == (6000, 6000, True)
        assert (await store.read("a", 5998, 5))[1].event == events[-1]
