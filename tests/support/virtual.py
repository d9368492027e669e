"""An event loop whose time passes only when nothing is left to do: time-outs and delays of hours end at once.

    @virtual
    async def test_something(clock: LoopClock) -> None: ...     # runs on such a loop; the clock is that of the loop

Production code runs as it is, its timers included. Nothing real may be waited for: no sockets, no threads.
"""

import asyncio
import functools
import inspect
import selectors
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from typing import Any

from tests.support.clock import START


class _Selector(selectors.SelectSelector):
    """Polls, and lets virtual time pass instead of waiting."""

    passed = 0.0

    def select(self, timeout: float | None = None) -> Any:
        ready = super().select(0)
        if ready or timeout == 0:
            return ready
        if timeout is None:
            raise AssertionError("everything waits, and for nothing that time could bring")
        self.passed += timeout
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    """Virtual time, in seconds since the loop was made."""

    def __init__(self) -> None:
        self._virtual = _Selector()
        super().__init__(self._virtual)

    def time(self) -> float:
        return self._virtual.passed


class LoopClock:
    """A `Clock` that shows the time of the running loop."""

    def monotonic(self) -> float:
        return asyncio.get_running_loop().time()

    def now(self) -> datetime:
        return START + timedelta(seconds=self.monotonic())

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


def virtual(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """Run an async test on a `VirtualLoop`; a parameter ``clock`` gets a `LoopClock`. Fails if a task is left over."""
    parameters = inspect.signature(test).parameters

    @functools.wraps(test)
    def run(**given: Any) -> None:
        if "clock" in parameters:
            given["clock"] = LoopClock()
        run_virtual(lambda: test(**given))

    del run.__wrapped__  # else it would be taken for async
    signature: Any = run
    signature.__signature__ = inspect.Signature(
        [parameter for name, parameter in parameters.items() if name != "clock"]
    )
    return run


def run_virtual(main: Callable[[], Awaitable[None]]) -> None:
    """Run ``main()`` on a loop of its own with virtual time."""

    async def watched() -> None:
        await main()
        await asyncio.sleep(0)
        left = asyncio.all_tasks() - {asyncio.current_task()}
        assert not left, f"tasks left running: {left}"

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(watched())
