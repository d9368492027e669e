"""A receiver as a process: what signals do, what the log says, what a sender learns when the process dies."""

import asyncio
import gc
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import pytest

from cloudevents_kit import Event, Receiver, RetryPolicy, Sender, Undelivered
from tests.support.children import child
from tests.support.parts import Part
from tests.support.peer import until, unused_port
from tests.support.raw import RawAnswer, RawConnection, exchange, request
from tests.support.servers import ask, binary, ignore, problem

T = TypeVar("T")

# ------------------------------------------------------------------------------------------ in a process of its own


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_lets_the_request_in_flight_end_and_then_the_process_with_0(number: signal.Signals) -> None:
    async with child() as process, RawConnection(process.port) as connection:
        port = process.port
        await connection.send(binary())
        await process.says("handling 1")
        process.signal(number)
        await process.says(f"stopping on {number.name}")
        with pytest.raises(ConnectionRefusedError):
            while True:  # the listener closes as soon as the loop gets to it
                await exchange(port, request(method="GET", path="/healthz"))
        process.signal(signal.SIGUSR1)
        answer = await connection.answer()
        assert answer is not None
        assert (answer.status, answer.header("connection")) == (204, "close")
        assert await process.end() == 0
    assert process.lines == [
        f"receiving at http://127.0.0.1:{port}/",
        "handling 1",
        f"stopping on {number.name}",
        "handled 1",
        "receiver stopped, 0 requests cut off",
        "after run",
    ]


async def test_a_second_signal_cuts_off_what_is_in_flight() -> None:
    async with child(grace=60) as process, RawConnection(process.port) as connection:
        await connection.send(binary())
        await process.says("handling 1")
        process.signal(signal.SIGTERM)
        await process.says("stopping on SIGTERM")
        process.signal(signal.SIGINT)
        answer = await connection.answer()
        assert answer is not None
        assert (answer.status, answer.header("retry-after")) == (503, "1")
        assert await process.end() == 0
    assert process.lines[-4:] == [
        "cancelled 1",
        "1 events cut off: the receiver is stopping",
        "receiver stopped, 1 requests cut off",
        "after run",
    ]


async def test_a_receiver_that_is_killed_while_it_handles_leaves_the_sender_in_doubt_and_says_so() -> None:
    """K-S3: no answer is no acknowledgement; the event may have been handled, or half of it."""
    async with child() as process, Sender(f"http://127.0.0.1:{process.port}/", retry=RetryPolicy.none()) as sender:
        sending = asyncio.ensure_future(sender.send(Event(type="t", source="/s", id="7")))
        await process.says("handling 7")
        process.signal(signal.SIGKILL)
        result = await sending
        assert await process.end() == -signal.SIGKILL
        again = await sender.send(Event(type="t", source="/s", id="8"))
    assert isinstance(result, Undelivered)
    assert (result.reason, result.possibly_delivered) == ("reset", True)
    assert isinstance(again, Undelivered)
    assert (again.reason, again.possibly_delivered) == ("refused", False)


# ---------------------------------------------------------------------------------------------- in this process


class Hold:
    """A handler that can be watched and let go from another thread."""

    def __init__(self) -> None:
        self.entered = threading.Event()
        self.leave = threading.Event()

    async def __call__(self, event: Event) -> None:
        self.entered.set()
        await until(self.leave.is_set)


def run_beside(receiver: Receiver, client: Callable[[], Awaitable[T]]) -> T:
    """Run ``receiver`` here, where signals arrive, and ``client`` in another thread; it has to send them."""
    ended = threading.Event()

    async def guarded() -> T:
        try:
            await until(lambda: receiver.ready)
            return await client()
        except BaseException:
            if not ended.is_set():
                interrupt(signal.SIGINT)
            raise

    with ThreadPoolExecutor(1) as pool:
        found = pool.submit(lambda: asyncio.run(guarded()))
        receiver.run()
        ended.set()
        return found.result(5)


def interrupt(number: signal.Signals) -> None:
    """Send a signal to this process."""
    os.kill(os.getpid(), number)


def test_run_serves_until_a_signal_and_answers_what_is_in_flight(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    hold = Hold()
    receiver = Receiver(hold, port=0)

    async def client() -> tuple[str, RawAnswer]:
        url = receiver.url
        answer = asyncio.ensure_future(ask(receiver.port, binary()))
        await until(hold.entered.is_set)
        interrupt(signal.SIGTERM)
        await until(lambda: not receiver.ready)
        hold.leave.set()
        return url, await answer

    url, answer = run_beside(receiver, client)
    assert (answer.status, answer.header("connection")) == (204, "close")
    said = [record.getMessage() for record in caplog.records if record.name == "cloudevents_kit"]
    assert said == [f"receiving at {url}", "stopping on SIGTERM", "receiver stopped, 0 requests cut off"]


@pytest.mark.parametrize("options", [{"grace": 60.0}, {"drain_delay": 60.0, "grace": 60.0}])
def test_a_second_signal_ends_the_drain_delay_and_the_grace(options: dict[str, float]) -> None:
    hold = Hold()
    receiver = Receiver(hold, port=0, **options)  # type: ignore[arg-type]

    async def client() -> RawAnswer:
        answer = asyncio.ensure_future(ask(receiver.port, binary()))
        await until(hold.entered.is_set)
        interrupt(signal.SIGTERM)
        await until(lambda: not receiver.ready)
        interrupt(signal.SIGTERM)
        return await answer

    answer = run_beside(receiver, client)
    assert answer.status == 503
    assert problem(answer)["detail"] == "the receiver is stopping"


class Opening(Part):
    """A part that is interrupted while it opens, and would never be done."""

    async def __aenter__(self) -> None:
        interrupt(signal.SIGTERM)
        await asyncio.Event().wait()


def test_a_signal_while_parts_are_opened_closes_those_that_are_open() -> None:
    diary: list[str] = []
    receiver = Receiver(ignore, resources=(Part("a", diary), Opening("b", diary)), port=0)
    receiver.run()
    assert diary == ["open a", "close a"]
    assert not receiver.ready


class Stubborn(Opening):
    """A part that fails when it is told to give up opening."""

    async def __aenter__(self) -> None:
        try:
            await super().__aenter__()
        except asyncio.CancelledError:
            raise OSError("the pool hangs") from None


def test_a_part_that_fails_while_a_signal_ends_the_start_is_told() -> None:
    diary: list[str] = []
    with pytest.raises(ExceptionGroup, match="a part of the receiver did not start") as raised:
        Receiver(ignore, resources=(Part("a", diary), Stubborn("b", diary)), port=0).run()
    assert [str(error) for error in raised.value.exceptions] == ["the pool hangs"]
    assert diary == ["open a", "close a"]


class Deaf(Opening):
    """A part that opens all the same."""

    async def __aenter__(self) -> None:
        try:
            await super().__aenter__()
        except asyncio.CancelledError:
            self.diary.append(f"open {self.name}")


def test_a_part_that_opens_although_a_signal_ended_the_start_is_closed() -> None:
    diary: list[str] = []
    receiver = Receiver(ignore, resources=(Part("a", diary), Deaf("b", diary)), port=0)
    receiver.run()
    assert diary == ["open a", "open b", "close b", "close a"]
    assert not receiver.ready


async def test_run_inside_a_running_loop_says_what_to_use_instead(recwarn: pytest.WarningsRecorder) -> None:
    diary: list[str] = []
    receiver = Receiver(ignore, resources=(Part("a", diary),), port=0)
    with pytest.raises(RuntimeError, match=r"^run\(\) has a loop of its own: .*use `async with receiver`$"):
        receiver.run()
    gc.collect()  # a coroutine that nobody awaited would be told now
    assert [str(one.message) for one in recwarn] == []
    async with receiver:
        assert diary == ["open a"]


def test_run_raises_when_the_port_is_taken() -> None:
    """K-S1."""
    diary: list[str] = []
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        receiver = Receiver(ignore, resources=(Part("a", diary),), port=taken.getsockname()[1])
        with pytest.raises(OSError, match="address already in use"):
            receiver.run()
    assert diary == ["open a", "close a"]


def test_run_works_without_uvloop_and_uses_it_when_it_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    loops: list[str] = []

    class Loop(Part):
        async def __aenter__(self) -> None:
            loops.append(type(asyncio.get_running_loop()).__module__.partition(".")[0])
            interrupt(signal.SIGINT)

    Receiver(ignore, resources=(Loop("loop", []),), port=0).run()
    monkeypatch.setitem(sys.modules, "uvloop", None)  # as if it were not installed
    Receiver(ignore, resources=(Loop("loop", []),), port=0).run()
    assert loops == ["uvloop", "asyncio"]


def test_run_can_be_called_again() -> None:
    port = unused_port()
    receiver = Receiver(ignore, port=port)

    async def client() -> int:
        status = (await ask(port, binary())).status
        interrupt(signal.SIGTERM)
        return status

    assert [run_beside(receiver, client) for _ in range(2)] == [204, 204]
    assert receiver.counts == {"ack": 2}
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
