"""What every test gets: a check that nothing is lost or left behind in asyncio, Hypothesis settings, a clock."""

import asyncio
import gc
import logging
import os
import sys
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from hypothesis import settings

from tests.support.clock import ManualClock

settings.register_profile("ci", deadline=None, derandomize=os.environ.get("CI") == "true", print_blob=True)
settings.load_profile("ci")

LOST = pytest.StashKey[list[str]]()


class LoopErrors(logging.Handler):
    """Collects what any event loop, in any thread, hands to its default exception handler."""

    def __init__(self, lost: list[str]) -> None:
        super().__init__(logging.ERROR)
        self.lost = lost

    def emit(self, record: logging.LogRecord) -> None:
        self.lost.append(self.format(record))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[Any]:
    """Watch the loops from before the first fixture until after the last."""
    watch = LoopErrors(item.stash.setdefault(LOST, []))
    logger = logging.getLogger("asyncio")
    logger.addHandler(watch)
    try:
        return (yield)
    finally:
        logger.removeHandler(watch)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item) -> Iterator[None]:
    """Fail the test for lost task exceptions and for sockets, transports and sessions that were never closed."""
    yield
    if isinstance(item, pytest.Function):
        item.funcargs.clear()  # else pytest keeps the values of the fixtures alive until after this check
    lost = item.stash[LOST]
    report, sys.unraisablehook = sys.unraisablehook, lambda raised: lost.append(f"{raised.exc_value!r}")
    try:
        gc.collect()
        gc.freeze()  # what is left is not of this test, and looking through it again after each one takes long
    finally:
        sys.unraisablehook = report
    if lost:
        pytest.fail("lost by asyncio or left open:\n" + "\n".join(lost), pytrace=False)


def pytest_collection_finish() -> None:
    """Take everything imported so far out of the reach of `gc.collect`, which keeps the collection per test cheap."""
    gc.collect()
    gc.freeze()


def pytest_configure(config: pytest.Config) -> None:
    """Lift the coverage floor when only a part of the tests is asked for."""
    coverage = config.pluginmanager.get_plugin("_cov")
    whole = config.args_source is config.ArgsSource.TESTPATHS and not config.option.keyword
    if coverage is not None and not whole:
        coverage.options.cov_fail_under = 0


@pytest.fixture(autouse=True)
def no_tasks_left(request: pytest.FixtureRequest) -> None:
    """Fail an async test that leaves tasks running."""
    if request.node.get_closest_marker("asyncio"):
        request.getfixturevalue("_tasks_of_the_loop")


@pytest.fixture
async def _tasks_of_the_loop() -> AsyncIterator[None]:
    yield
    left = asyncio.all_tasks() - {asyncio.current_task()}
    if left:
        _, left = await asyncio.wait(left, timeout=0.05)  # a closing connection may need some turns of the loop
    if left:
        pytest.fail("tasks left running:\n" + "\n".join(map(repr, left)), pytrace=False)


@pytest.fixture
def loop_errors(request: pytest.FixtureRequest) -> list[str]:
    """The errors that fail this test at its end; a test that provokes one on purpose looks at it and clears it."""
    item: pytest.Item = request.node
    return item.stash[LOST]


@pytest.fixture
def clock() -> ManualClock:
    """A clock on which waiting takes no time."""
    return ManualClock()
