"""Streams of events from code without a loop: read in the caller's thread, bounded, and given up without a trace."""

import asyncio
import signal
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from cloudevents_kit import Event
from cloudevents_kit.blocking import Sender
from tests.support.peer import SILENCE, Peer, Request, Step, answer, in_thread

EVENT = Event(type="com.example.order.created", source="/orders", id="o-1", data={"id": 1})


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Let Ctrl-C interrupt, also where the tests run in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def new_events(count: int) -> list[Event]:
    return [Event(type="com.example.order.created", source="/orders", id=str(n)) for n in range(count)]


def test_a_stream_takes_events_in_the_callers_thread() -> None:
    """A cursor of SQLite, or a queryset of Django, must not be read in another one."""

    def source() -> Iterator[Event]:
        for event in new_events(50):
            assert threading.current_thread() is threading.main_thread()
            yield event

    peer = Peer(answer(204))
    with in_thread(peer), Sender(peer.url) as sender:
        pairs = list(sender.send_all(source(), concurrency=4))
    assert sorted(int(event.get_id()) for event, _ in pairs) == [*range(50)]
    assert all(result for _, result in pairs)
    assert 1 <= peer.most_active <= 4


def test_a_stream_takes_no_more_than_is_in_flight() -> None:
    """RT-08: and yields what is known before it takes the next."""
    taken = 0

    def source() -> Iterator[Event]:
        nonlocal taken
        for event in new_events(9):
            taken += 1
            yield event

    peer = Peer(answer(204))
    with in_thread(peer), Sender(peer.url, concurrency=3) as sender:
        for count, _ in enumerate(sender.send_all(source()), start=1):
            assert taken <= count + 2
    assert taken == count == 9


def test_leaving_a_stream_early_cancels_what_is_in_flight() -> None:
    def answer_first(request: Request) -> Step:
        return answer(204) if request["ce-id"] == "0" else SILENCE

    peer = Peer(answer_first)
    with in_thread(peer) as until, Sender(peer.url) as sender:
        for event, result in sender.send_all(new_events(9), concurrency=3):
            assert (event.get_id(), bool(result)) == ("0", True)
            until(lambda peer: len(peer.requests) == 3)
            break
        until(lambda peer: not peer.active)


def test_a_source_that_fails_cancels_what_is_in_flight() -> None:
    def source() -> Iterator[Event]:
        yield EVENT
        until(lambda peer: len(peer.requests) == 1)
        raise LookupError

    peer = Peer(SILENCE)
    with in_thread(peer) as until, Sender(peer.url) as sender:
        with pytest.raises(LookupError):
            list(sender.send_all(source()))
        until(lambda peer: not peer.active)


def test_a_stream_of_no_events_at_a_time_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^concurrency: "):
        Sender("http://127.0.0.1:1/").send_all([EVENT], concurrency=0)


def test_a_stream_that_is_given_up_half_way_cancels_what_is_in_flight() -> None:
    """Nobody reads on, nobody breaks off: the generator is just let go."""

    def answer_first(request: Request) -> Step:
        return answer(204) if request["ce-id"] == "0" else SILENCE

    peer = Peer(answer_first)
    with in_thread(peer) as until, Sender(peer.url) as sender:
        stream = sender.send_all(new_events(9), concurrency=3)
        assert next(stream)[1]
        until(lambda peer: len(peer.requests) == 3)
        del stream
        until(lambda peer: not peer.active)
        assert len(peer.requests) == 3


def test_a_stream_that_is_never_read_takes_and_sends_nothing() -> None:
    source = iter(new_events(2))
    Sender("http://127.0.0.1:1/").send_all(source)
    assert len(list(source)) == 2


@pytest.mark.usefixtures("interruptible")
def test_an_interruption_ends_a_stream_and_cancels_what_is_in_flight() -> None:
    def interrupt(request: Request) -> Step:
        if len(peer.requests) == 3:
            # By then the main thread waits for results.
            asyncio.get_running_loop().call_later(0.1, signal.pthread_kill, main, signal.SIGINT)
        return SILENCE

    main = threading.main_thread().ident or 0
    peer = Peer(interrupt)
    with in_thread(peer) as until, Sender(peer.url) as sender:
        with pytest.raises(KeyboardInterrupt):
            list(sender.send_all(new_events(9), concurrency=3))
        until(lambda peer: not peer.connected)
    assert len(peer.requests) == 3


def test_what_is_no_event_ends_a_stream() -> None:
    peer = Peer(SILENCE)
    events: list[Any] = [EVENT, "no event"]
    with in_thread(peer) as until, Sender(peer.url) as sender:
        with pytest.raises(TypeError, match="an Event"):
            list(sender.send_all(events))
        until(lambda peer: not peer.connected)
