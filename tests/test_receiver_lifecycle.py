"""Starting, draining and stopping a receiver: nothing is lost, nothing is left, whatever fails on the way."""

import asyncio
import logging
import socket
from typing import Any

import pytest

from cloudevents_kit import Event, Receiver, Sender
from tests.support.parts import Gate, HandlerPart, Part, StagePart
from tests.support.raw import RawConnection, exchange, request
from tests.support.servers import ask, binary, ignore, problem, replying

READY = request(method="GET", path="/readyz")
HEALTH = request(method="GET", path="/healthz")


async def refuses(port: int) -> bool:
    """Tell whether nobody listens."""
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except ConnectionError:
        return True
    writer.close()
    return False


async def in_flight(receiver: Receiver, gate: Gate, count: int = 1) -> "list[asyncio.Task[Any]]":
    """Send ``count`` events and wait until all are being handled."""
    tasks = [asyncio.ensure_future(exchange(receiver.port, binary())) for _ in range(count)]
    await gate.wait(count)
    return tasks


# -------------------------------------------------------------------------------------------------- start and stop


async def test_port_0_takes_a_free_port_and_the_first_send_succeeds_at_once() -> None:
    """K-S1."""
    async with Receiver(ignore, port=0) as receiver, Sender(receiver.url) as sender:
        assert receiver.ready
        assert (await sender.send(Event(type="t", source="/s"))).is_ack


async def test_a_taken_port_raises_oserror_and_leaves_nothing_open() -> None:
    """K-S1, K-O6."""
    diary: list[str] = []
    async with Receiver(ignore, port=0) as first:
        second = Receiver(ignore, StagePart("stage", diary), port=first.port)
        with pytest.raises(OSError, match="address already in use"):
            await second.start()
        assert not second.ready
        assert diary == ["open stage", "close stage"]
        assert await second.stop() == 0
        assert (await ask(first.port, binary())).status == 204


async def test_a_start_and_a_stop_at_once_both_return_and_nothing_listens() -> None:
    """K-S1: start directly followed by stop."""
    receiver = Receiver(ignore, port=0)
    async with asyncio.timeout(1):
        await asyncio.gather(receiver.start(), receiver.stop())
    assert not receiver.ready
    with pytest.raises(RuntimeError, match="the receiver is not started"):
        print(receiver.port)  # noqa: T201 - it must raise


async def test_a_stop_twice_at_once_and_before_a_start_is_harmless() -> None:
    """K-S1."""
    receiver = Receiver(ignore, port=0)
    assert await receiver.stop() == 0
    await receiver.start()
    assert await asyncio.gather(receiver.stop(), receiver.stop()) == [0, 0]
    assert await receiver.stop() == 0


async def test_a_second_stop_waits_until_the_first_is_done() -> None:
    gate = Gate()
    receiver = Receiver(gate, port=0)
    await receiver.start()
    (request_,) = await in_flight(receiver, gate)
    first, second = asyncio.ensure_future(receiver.stop()), asyncio.ensure_future(receiver.stop())
    await asyncio.wait({second}, timeout=0.05)
    assert not first.done()
    assert not second.done()
    gate.leave.set()
    assert await asyncio.gather(first, second) == [0, 0]
    assert (await request_).status == 204


async def test_a_receiver_is_started_once_at_a_time() -> None:
    receiver = Receiver(ignore, port=0)
    ends = await asyncio.gather(receiver.start(), receiver.start(), return_exceptions=True)
    assert [type(end) for end in ends] == [type(None), RuntimeError]
    with pytest.raises(RuntimeError, match="the receiver is started already"):
        await receiver.start()
    assert (await ask(receiver.port, binary())).status == 204
    await receiver.stop()


async def test_a_receiver_can_be_started_again() -> None:
    diary: list[str] = []
    receiver = Receiver(HandlerPart("handler", diary), port=0, handler_timeout=0.5)
    for _ in range(2):
        async with receiver:
            assert receiver.ready
            assert (await ask(receiver.port, READY)).status == 200
            assert (await ask(receiver.port, binary())).status == 204
        assert not receiver.ready
    assert diary == ["open handler", "handler runs", "close handler"] * 2
    assert receiver.counts == {"ack": 2}


def test_a_receiver_can_be_started_again_in_another_loop() -> None:
    receiver = Receiver(ignore, port=0)

    async def once() -> int:
        async with receiver:
            return (await ask(receiver.port, binary())).status

    assert [asyncio.run(once()) for _ in range(2)] == [204, 204]


async def test_another_handler_is_another_receiver_on_the_same_port() -> None:
    """K-S1 asks that the new handler answers after stop and start; here the chain is fixed, so it is a new object."""
    async with Receiver(ignore, port=0) as old:
        port = old.port
        assert (await ask(port, binary())).status == 204
    async with Receiver(replying, port=port):
        assert (await ask(port, binary())).status == 200


# ----------------------------------------------------------------------------------------------------------- drain


async def test_a_stop_refuses_new_connections_and_answers_what_is_in_flight_before_closing_stages() -> None:
    """K-S4."""
    diary: list[str] = []
    gate = Gate()
    receiver = Receiver(gate, StagePart("a", diary), StagePart("b", diary), port=0)
    await receiver.start()
    port = receiver.port
    requests = await in_flight(receiver, gate, 5)
    stopping = asyncio.ensure_future(receiver.stop())
    while not await refuses(port):
        pass
    assert not receiver.ready
    assert "close b" not in diary
    gate.leave.set()
    assert await stopping == 0
    answers = [await request_ for request_ in requests]
    assert [answer.status for answer in answers] == [204] * 5
    assert [answer.header("connection") for answer in answers] == ["close"] * 5
    assert gate.ended == ["done"] * 5
    assert diary[-2:] == ["close a", "close b"]
    assert diary.count("a out") == diary.count("b out") == 5


async def test_a_handler_that_does_not_end_is_cut_off_after_the_grace_and_the_stop_says_so(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """K-S4."""
    gate = Gate()
    receiver = Receiver(gate, port=0, grace=0.05)
    await receiver.start()
    requests = await in_flight(receiver, gate, 2)
    with caplog.at_level(logging.INFO):
        async with asyncio.timeout(1):
            assert await receiver.stop() == 2
    assert gate.ended == ["cancelled"] * 2
    for request_ in requests:
        answer = await request_
        assert (answer.status, answer.header("retry-after")) == (503, "1")
        assert problem(answer)["detail"] == "the receiver is stopping"
    assert "receiver stopped, 2 requests cut off" in caplog.text


async def test_the_grace_can_be_given_to_stop_and_then_there_is_no_drain_delay() -> None:
    gate = Gate()
    receiver = Receiver(gate, port=0, grace=30, drain_delay=30)
    await receiver.start()
    (request_,) = await in_flight(receiver, gate)
    async with asyncio.timeout(1):
        assert await receiver.stop(grace=0) == 1
    assert (await request_).status == 503


async def test_a_body_that_never_comes_does_not_hold_up_a_stop() -> None:
    receiver = Receiver(ignore, port=0, grace=0.05)
    await receiver.start()
    async with RawConnection(receiver.port) as connection:
        await connection.send(binary(body="12345")[:-3])
        await ask(receiver.port, HEALTH)  # by now the half request was read, for this one came later
        async with asyncio.timeout(1):
            assert await receiver.stop() == 1
        answer = await connection.answer() or pytest.fail("no answer")
        assert (answer.status, answer.header("retry-after")) == (503, "1")
        assert problem(answer)["detail"] == "the receiver is stopping"
        assert await connection.ended()


async def test_a_stop_keeps_serving_for_the_drain_delay_with_readiness_red() -> None:
    """Load balancers look first and then stop sending."""
    receiver = Receiver(ignore, port=0, drain_delay=0.2)
    await receiver.start()
    port = receiver.port
    assert (await ask(port, READY)).status == 200
    async with RawConnection(port) as kept:
        await kept.send(binary())
        assert (await kept.answer() or pytest.fail("no answer")).header("connection") is None
        stopping = asyncio.ensure_future(receiver.stop())
        await asyncio.sleep(0)
        assert not receiver.ready
        red = await ask(port, READY)
        assert (red.status, problem(red)["detail"]) == (503, "not ready")
        assert (await ask(port, HEALTH)).status == 200
        assert (await ask(port, binary())).status == 204
        await kept.send(binary())
        assert (await kept.answer() or pytest.fail("no answer")).header("connection") == "close"
        assert not stopping.done()
    assert await stopping == 0
    assert await refuses(port)


async def test_an_idle_connection_does_not_hold_up_a_stop() -> None:
    async with Receiver(ignore, port=0) as receiver, RawConnection(receiver.port) as idle:
        await idle.send(binary())
        assert await idle.answer()
        async with asyncio.timeout(0.5):
            await receiver.stop()
        assert await idle.ended()


@pytest.mark.parametrize("options", [{"drain_delay": 30.0}, {"grace": 30.0}])
async def test_a_stop_that_is_cancelled_closes_everything_all_the_same(options: dict[str, float]) -> None:
    diary: list[str] = []
    gate = Gate()
    receiver = Receiver(gate, StagePart("stage", diary), port=0, **options)  # type: ignore[arg-type]
    await receiver.start()
    port = receiver.port
    (request_,) = await in_flight(receiver, gate)
    stopping = asyncio.ensure_future(receiver.stop())
    await asyncio.sleep(0.02)
    stopping.cancel()
    gate.leave.set()
    with pytest.raises(asyncio.CancelledError):
        await stopping
    assert (await request_).status == 204
    assert diary[-1] == "close stage"
    assert await refuses(port)
    await receiver.start()
    assert (await ask(receiver.port, binary())).status == 204
    assert await receiver.stop(grace=0) == 0


# ------------------------------------------------------------------------------------------------- parts, K-O6


async def test_what_an_event_reaches_last_opens_first_and_closes_last() -> None:
    """K-O6: resources, then the handler, then the stages around it; each is open while events are handled."""
    diary: list[str] = []
    receiver = Receiver(
        HandlerPart("handler", diary),
        StagePart("stage a", diary),
        StagePart("stage b", diary),
        resources=(Part("pool", diary),),
        port=0,
    )
    async with receiver:
        await ask(receiver.port, binary())
    assert diary == [
        *("open pool", "open handler", "open stage b", "open stage a"),
        *("stage a in", "stage b in", "handler runs", "stage b out", "stage a out"),
        *("close stage a", "close stage b", "close handler", "close pool"),
    ]


async def test_a_part_that_does_not_open_closes_those_before_it_and_all_errors_are_told() -> None:
    """K-O6."""
    diary: list[str] = []
    receiver = Receiver(
        HandlerPart("handler", diary),
        resources=(
            Part("a", diary, closing=OSError("a is stuck")),
            Part("b", diary),
            Part("c", diary, opening=ValueError("no c")),
        ),
        port=0,
    )
    with pytest.raises(ExceptionGroup, match="a part of the receiver did not start") as raised:
        await receiver.start()
    assert [str(error) for error in raised.value.exceptions] == ["no c", "a is stuck"]
    assert diary == ["open a", "open b", "close b", "close a"]
    assert not receiver.ready
    assert await receiver.stop() == 0


async def test_parts_that_do_not_close_keep_no_other_from_closing_and_all_errors_are_told() -> None:
    """K-O6."""
    diary: list[str] = []
    receiver = Receiver(
        HandlerPart("handler", diary, closing=ValueError("1")),
        StagePart("stage", diary),
        resources=(Part("pool", diary, closing=OSError("2")),),
        port=0,
    )
    await receiver.start()
    port = receiver.port
    with pytest.raises(ExceptionGroup, match="parts of the receiver did not stop cleanly") as raised:
        await receiver.stop()
    assert [str(error) for error in raised.value.exceptions] == ["1", "2"]
    assert diary[-3:] == ["close stage", "close handler", "close pool"]
    assert await refuses(port)
    assert await receiver.stop() == 0


async def test_a_taken_port_and_a_part_that_does_not_close_are_told_together() -> None:
    """K-O6: all errors in one group."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        part = Part("pool", [], closing=ValueError("stuck"))
        receiver = Receiver(ignore, resources=(part,), port=taken.getsockname()[1])
        with pytest.raises(ExceptionGroup) as raised:
            await receiver.start()
    assert [type(error) for error in raised.value.exceptions] == [OSError, ValueError]


class Hanging(Part):
    """A part that takes for ever to open or close."""

    def __init__(self, name: str, diary: list[str], *, when: str) -> None:
        super().__init__(name, diary)
        self.when = when
        self.reached = asyncio.Event()

    async def _hang(self) -> None:
        self.reached.set()
        await asyncio.Event().wait()

    async def __aenter__(self) -> None:
        if self.when == "open":
            await self._hang()
        await super().__aenter__()

    async def __aexit__(self, *_: object) -> None:
        await super().__aexit__()
        await self._hang()


async def test_a_start_that_is_cancelled_closes_what_it_had_opened() -> None:
    diary: list[str] = []
    hanging = Hanging("b", diary, when="open")
    receiver = Receiver(ignore, resources=(Part("a", diary), hanging), port=0)
    starting = asyncio.ensure_future(receiver.start())
    await hanging.reached.wait()
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert diary == ["open a", "close a"]
    assert await receiver.stop() == 0


async def test_a_stop_that_is_cancelled_while_a_part_closes_still_closes_the_rest() -> None:
    diary: list[str] = []
    hanging = Hanging("b", diary, when="close")
    receiver = Receiver(ignore, resources=(Part("a", diary), hanging), port=0)
    await receiver.start()
    stopping = asyncio.ensure_future(receiver.stop())
    await hanging.reached.wait()
    stopping.cancel()
    with pytest.raises(asyncio.CancelledError):
        await stopping
    assert diary == ["open a", "open b", "close b", "close a"]


async def test_leaving_the_block_with_an_error_stops_the_receiver_and_keeps_the_error() -> None:
    receiver = Receiver(ignore, port=0)
    with pytest.raises(LookupError):
        async with receiver:
            port = receiver.port
            raise LookupError
    assert await refuses(port)
