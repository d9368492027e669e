"""The loop of virtual time that other tests rest on."""

import asyncio

import pytest

from tests.support.virtual import LoopClock, run_virtual, virtual


@virtual
async def test_hours_pass_at_once(clock: LoopClock) -> None:
    began = clock.monotonic()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(3600):
            await asyncio.sleep(7200)
    assert clock.monotonic() - began == pytest.approx(3600)


def test_a_task_that_is_left_over_fails_the_test() -> None:
    tasks: list[asyncio.Task[None]] = []

    async def leave_one() -> None:
        tasks.append(asyncio.create_task(asyncio.sleep(1)))

    with pytest.raises(AssertionError, match="tasks left running"):
        run_virtual(leave_one)


def test_waiting_for_nothing_fails_instead_of_hanging() -> None:
    async def wait_for_ever() -> None:
        await asyncio.Event().wait()

    with pytest.raises(AssertionError, match="everything waits"):
        run_virtual(wait_for_ever)
