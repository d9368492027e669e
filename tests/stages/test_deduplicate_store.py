"""A store that is away, slow, or cut off in the middle of a call; only one that is not in this process can be."""

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import pytest

from cloudevents_kit import Ack, Event, Nack, settle, stages, wrap
from cloudevents_kit.stages import Stage
from tests.support.dedupe import Handler, OverNetwork
from tests.support.events import new
from tests.support.sending import turns
from tests.support.virtual import LoopClock, virtual

CLOCK = LoopClock()


def remote(**given: Any) -> tuple[OverNetwork, Handler, Stage, Any]:
    store, handler = OverNetwork(clock=CLOCK), Handler()
    stage = stages.deduplicate(store, clock=CLOCK, **given)
    return store, handler, stage, wrap(handler.handle, stage)


BROKEN = pytest.mark.parametrize("how", ["raises", "hangs"])


@BROKEN
def test_without_its_store_it_refuses(how: str, caplog: pytest.LogCaptureFixture) -> None:
    """K-D1: fail closed is a NACK 503."""

    @virtual
    async def test() -> None:
        store, handler, stage, chain = remote()
        store.broken["claim"] = how
        for _ in range(3):
            assert isinstance(result := await settle(chain, new()), Nack)
            assert (result.status, result.retryable, handler.calls) == (503, True, 0)
        assert asyncio.get_running_loop().time() == pytest.approx(6 if how == "hangs" else 0, abs=0.1)
        assert stage.counts == {"refused": 3, "store_errors": 3}
        assert [record.message for record in caplog.records if record.levelno >= logging.WARNING] == [
            "stage deduplicate: the store failed"
        ]
        await asyncio.sleep(60)
        await settle(chain, new())
        assert caplog.records[-1].message.endswith("failed (and 2 times since the last such line)")
        store.broken.clear()
        assert await settle(chain, new()) == Ack(status=204)

    test()


@BROKEN
def test_without_its_store_it_processes_unguarded_if_told_to(how: str) -> None:
    """K-D1: fail open is processed, and counted."""

    @virtual
    async def test() -> None:
        store, handler, stage, chain = remote(on_store_error="process")
        store.broken["claim"] = how
        async with stages.running(chain):
            assert [await settle(chain, new()) for _ in range(2)] == [Ack(status=204)] * 2
        assert (handler.calls, stage.counts) == (2, {"unguarded": 2, "store_errors": 2})

    test()


class Seen:
    """A hook that is told how each event leaves the stage."""

    def __init__(self, seen: list[str]) -> None:
        self.seen = seen

    def recorder(self, stage: Stage | None) -> Callable[[Event, str, float], None]:
        return lambda event, ending, seconds: self.seen.append(ending)


@BROKEN
@pytest.mark.parametrize("policy", ["refuse", "process"])
def test_a_commit_that_fails_is_never_silent(how: str, policy: Any, caplog: pytest.LogCaptureFixture) -> None:
    """K-D1: hook and metric; the sender sends again, and the handler may run twice."""
    seen: list[str] = []

    @virtual
    async def test() -> None:
        store, handler, stage, chain = remote(on_store_error=policy)
        stage.attach(seen, Seen(seen))
        store.broken["commit"] = how
        result = await settle(chain, new())
        assert result.status == (503 if policy == "refuse" else 204)
        assert result.is_ack is (policy == "process")
        assert stage.counts["uncommitted"] == 1
        assert "stage deduplicate: handled, but not kept as such: id='1' source='/s' type='t'" in caplog.messages
        store.broken.clear()
        assert await settle(chain, new()) == Ack(status=204)
        assert (handler.calls, handler.most) == (2, 1)

    test()
    assert seen == ["refused" if policy == "refuse" else "done", "done"]


@BROKEN
def test_a_release_that_fails_leaves_the_claim_to_its_lease(how: str) -> None:
    @virtual
    async def test() -> None:
        store, handler, stage, chain = remote(lease=30)
        handler.ends = [ValueError()]
        store.broken["release"] = how
        assert (await settle(chain, new())).status == 500
        assert (await settle(chain, new())).status == 409
        await asyncio.sleep(30)
        assert await settle(chain, new()) == Ack(status=204)
        assert stage.counts == {"unreleased": 1, "conflict": 1}

    test()


@pytest.mark.parametrize("policy", ["refuse", "process"])
def test_a_claim_whose_answer_is_lost_is_released(policy: Any) -> None:
    @virtual
    async def test() -> None:
        store, _, stage, chain = remote(on_store_error=policy, store_timeout=0.5)
        store.slow["claim"] = "after"
        assert (await settle(chain, new())).is_ack is (policy == "process")
        await turns()
        assert await settle(chain, new()) == Ack(status=204)
        assert stage.counts["conflict"] == 0

    test()


def test_a_handler_keeps_its_claim_while_other_chains_come_and_go() -> None:
    @virtual
    async def test() -> None:
        _, handler, stage, chain = remote(lease=30, store_timeout=1)
        async with stages.running(chain):
            async with stages.running(wrap(handler.handle, stage)):
                handler.gate.clear()
                first = asyncio.create_task(settle(chain, new()))
                await asyncio.sleep(15)  # the claim has been extended once
            await asyncio.sleep(100)
            assert (await settle(chain, new())).status == 409
            handler.gate.set()
            assert await first == Ack(status=204)
        assert stage.counts == {"conflict": 1}

    test()


def test_a_handler_that_ends_while_its_claim_is_extended_disturbs_nothing() -> None:
    @virtual
    async def test() -> None:
        store, handler, stage, chain = remote(lease=30)
        handler.gate.clear()
        first = asyncio.create_task(settle(chain, new()))
        await asyncio.sleep(1)
        store.slow["claim"] = "before"
        await asyncio.sleep(9.5)
        handler.gate.set()
        assert await first == Ack(status=204)
        assert await store.kept.claim("2:/s1", "other", 1) == b""
        assert not stage.counts

    test()


def test_a_stage_that_is_opened_while_it_closes_keeps_its_new_claims() -> None:
    @virtual
    async def test() -> None:
        store, handler, stage, chain = remote(lease=30, store_timeout=1)
        handler.ends = [ValueError()]
        store.slow["release"] = "before"
        await stage.__aenter__()  # type: ignore[attr-defined]
        gone = asyncio.create_task(settle(chain, new()))
        await asyncio.sleep(0.1)
        closing = asyncio.create_task(stage.__aexit__())  # type: ignore[attr-defined]
        await turns(2)
        async with stages.running(chain):
            handler.gate.clear()
            first = asyncio.create_task(settle(chain, new(id="2")))
            await closing
            await asyncio.sleep(100)
            assert (await settle(chain, new(id="2"))).status == 409
            handler.gate.set()
            assert await first == Ack(status=204)
            await gone

    test()


@pytest.mark.parametrize("how", ["raises", "cancelled", "hangs", ""])
@pytest.mark.parametrize("fails", [False, True])
def test_a_lease_that_runs_out_is_counted_and_logged(how: str, fails: bool, caplog: pytest.LogCaptureFixture) -> None:
    """K-D1: whoever took the event over is not disturbed."""

    @virtual
    async def test() -> None:
        store, handler, stage, chain = remote(lease=30)
        handler.gate.clear()
        handler.ends = [ValueError()] if fails else []
        first = asyncio.create_task(settle(chain, new()))
        await asyncio.sleep(1)
        if how:
            store.broken["claim"] = how
            await asyncio.sleep(40)
        else:
            store.kept._running.clear()
        assert await store.kept.claim("2:/s1", "other", 1000) is None
        store.broken.clear()
        await asyncio.sleep(15)  # enough for the next extension, which finds out
        assert (stage.counts["lapsed"], stage.counts["store_errors"] > 0) == (1, bool(how))
        assert "stage deduplicate: the lease ran out, others handle it too: id='1' source='/s' type='t'" in (
            caplog.messages
        )
        await asyncio.sleep(100)
        handler.gate.set()
        assert (await first).is_ack is not fails
        assert stage.counts["lapsed"] == 1
        assert await store.kept.commit("2:/s1", "other", b"", 1000) is True

    test()


def test_a_lease_found_out_at_the_commit_is_counted_too() -> None:
    @virtual
    async def test() -> None:
        store, handler, stage, chain = remote()
        handler.gate.clear()
        first = asyncio.create_task(settle(chain, new()))
        await turns()
        store.kept._running.clear()
        await store.kept.claim("2:/s1", "other", 1000)
        handler.gate.set()
        assert await first == Ack(status=204)
        assert stage.counts == {"lapsed": 1}

    test()


# Cancelled while it talks to the store.


@pytest.mark.parametrize("again", [False, True], ids=["once", "twice"])
@pytest.mark.parametrize(("method", "kept"), [("claim", None), ("commit", b""), ("release", None)])
@pytest.mark.parametrize("lost", ["before", "after"])
def test_a_cancellation_in_a_call_of_the_store_leaves_nothing_claimed(
    method: str, kept: bytes | None, lost: str, again: bool
) -> None:
    """K-D1: what was done is kept as done, what was not is free; the cancellation always passes."""

    @virtual
    async def test() -> None:
        store, handler, stage, chain = remote()
        handler.ends = [ValueError()] if method == "release" else []
        store.slow[method] = lost
        async with stages.running(stage):
            task = asyncio.create_task(settle(chain, new()))
            await asyncio.sleep(0.5)
            assert not task.done()
            task.cancel()
            if again:
                await turns(3)
                task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        assert await store.kept.claim("2:/s1", "other", 1) == kept
        assert not {"lapsed", "uncommitted", "unreleased"} & stage.counts.keys()

    test()


def test_a_late_commit_that_fails_is_counted() -> None:
    @virtual
    async def test() -> None:
        store, _, stage, chain = remote()
        store.slow["commit"] = "before"
        task = asyncio.create_task(settle(chain, new()))
        await asyncio.sleep(0.5)
        store.broken["commit"] = "raises"
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert stage.counts["uncommitted"] == 1
        assert await store.kept.claim("2:/s1", "other", 1) is None

    test()
