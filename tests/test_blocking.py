"""The sender for code without a loop: threads, interruptions, forks, the end of the interpreter."""

import asyncio
import gc
import inspect
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
from cloudevents.core.v1.event import CloudEvent

from cloudevents_kit import Ack, Event, Nack, Receiver, RetryPolicy, Undelivered
from cloudevents_kit import Sender as AsyncSender
from cloudevents_kit.blocking import Sender
from tests.support.peer import SILENCE, Peer, Request, Step, answer, in_thread, unused_port

EVENT = Event(type="com.example.order.created", source="/orders", id="o-1", data={"id": 1})
QUICK = RetryPolicy(attempts=3, initial=0.01, jitter=False)


def new_events(count: int) -> list[Event]:
    return [Event(type="com.example.order.created", source="/orders", id=str(n)) for n in range(count)]


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "cloudevents-sender"]


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    yield
    assert threads() == []


@pytest.mark.parametrize("name", ["send", "request", "send_batch", "send_all"])
def test_the_methods_take_what_those_of_the_other_sender_take(name: str) -> None:
    def parameters(method: Any) -> list[tuple[str, Any, Any]]:
        return [(one.name, one.kind, one.default) for one in inspect.signature(method).parameters.values()]

    assert parameters(getattr(Sender, name)) == parameters(getattr(AsyncSender, name))


def test_it_sends_and_tells_the_truth() -> None:
    peer = Peer(answer(204), answer(422, (), b"no"), answer(503), answer(204))
    with in_thread(peer), Sender(peer.url, retry=QUICK) as sender:
        assert isinstance(sender.send(EVENT), Ack)
        refused = sender.send(EVENT, mode="structured", headers={"X-Call": "yes"})
        assert isinstance(refused, Nack)
        assert (refused.status, refused.reason) == (422, "no")
        assert len(sender.send(EVENT).attempts) == 2
    assert [request.values("X-Call") for request in peer.requests] == [[], ["yes"], [], []]
    assert peer.requests[1]["Content-Type"] == "application/cloudevents+json"


def test_a_peer_that_is_not_there() -> None:
    with Sender(f"http://127.0.0.1:{unused_port()}/", retry=RetryPolicy.none()) as sender:
        result = sender.send(EVENT)
    assert isinstance(result, Undelivered)
    assert result.reason == "refused"


def test_it_asks_for_replies() -> None:
    body = b'{"specversion":"1.0","id":"r","source":"/p","type":"t","correlationid":"o-1"}'
    peer = Peer(answer(200, [("Content-Type", "application/cloudevents+json")], body))
    with in_thread(peer), Sender(peer.url) as sender:
        result = sender.request(EVENT, strict=True)
    assert isinstance(result, Ack)
    assert result.reply is not None
    assert peer.requests[0]["Prefer"] == "reply"


def test_it_sends_batches() -> None:
    peer = Peer(answer(204))
    with in_thread(peer), Sender(peer.url, max_batch=4) as sender:
        assert all(sender.send_batch(event for event in new_events(10)))
    assert len(peer.requests) == 3


def test_it_takes_events_of_the_official_sdk_and_nothing_else() -> None:
    peer = Peer(answer(204))
    with in_thread(peer), Sender(peer.url) as sender:
        assert sender.send(CloudEvent({"id": "1", "source": "/orders", "type": "t"}))
        with pytest.raises(TypeError, match="an Event"):
            sender.send("no event")  # type: ignore[arg-type]


def test_an_async_headers_function_works_here_too() -> None:
    async def token() -> Mapping[str, str]:
        await asyncio.sleep(0)
        return {"Authorization": "Bearer x"}

    peer = Peer(answer(204))
    with in_thread(peer), Sender(peer.url, headers=token) as sender:
        assert sender.send(EVENT)
    assert peer.requests[0]["Authorization"] == "Bearer x"


def test_settings_are_checked_at_once() -> None:
    with pytest.raises(ValueError, match=r"^timeout: "):
        Sender("http://127.0.0.1/", timeout=0)
    with pytest.raises(TypeError, match="colour"):
        Sender("http://127.0.0.1/", colour="red")


async def test_what_a_plain_handler_sends_names_its_cause() -> None:
    """K-E4: a handler that runs in a thread has its context there."""
    async with Peer(answer(204)) as peer:
        sender = Sender(peer.url)

        def handle(event: Event) -> None:
            assert sender.send(Event(type="t", source="/shop"))

        async with Receiver(handle, port=0) as receiver, AsyncSender(receiver.url) as outside:
            assert await outside.send(EVENT)
        await asyncio.to_thread(sender.close)
        assert peer.requests[0]["ce-causationid"] == "o-1"


# Streams.


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


# Threads, opening and closing.


def test_many_threads_share_one() -> None:
    peer = Peer(answer(204))
    with in_thread(peer), Sender(peer.url) as sender, ThreadPoolExecutor(8) as pool:
        assert all(pool.map(sender.send, new_events(200)))
        assert len(threads()) == 1
    assert len(peer.requests) == 200


def test_the_first_use_opens_it_and_a_use_after_close_does_again() -> None:
    peer = Peer(answer(204))
    with in_thread(peer):
        sender = Sender(peer.url)
        assert threads() == []
        assert sender.send(EVENT)
        assert len(threads()) == 1
        sender.close()
        sender.close()
        assert threads() == []
        assert sender.send(EVENT)
        sender.close()


def test_closing_what_was_never_opened_does_no_harm() -> None:
    Sender("http://127.0.0.1:1/").close()


def test_closing_waits_for_the_calls_of_other_threads() -> None:
    """Nothing is lost: a send that is in backoff still ends with its result."""
    busy = threading.Event()

    def first_busy(request: Request) -> Step:
        busy.set()
        return answer(503) if len(peer.requests) == 1 else answer(204)

    peer = Peer(first_busy)
    with in_thread(peer), ThreadPoolExecutor(1) as pool:
        sender = Sender(peer.url, retry=replace(QUICK, initial=0.1))
        sending = pool.submit(sender.send, EVENT)
        assert busy.wait(5)
        sender.close()
        result = sending.result(5)
    assert isinstance(result, Ack)
    assert [attempt.status for attempt in result.attempts] == [503, 204]


def test_a_sender_that_nobody_holds_any_more_closes_itself() -> None:
    peer = Peer(answer(204))
    with in_thread(peer) as until:
        sender = Sender(peer.url)
        assert sender.send(EVENT)
        del sender
        gc.collect()
        assert threads() == []
        until(lambda peer: not peer.connected)


def test_a_sender_that_is_collected_in_its_own_thread_does_not_wait_for_itself() -> None:
    peer = Peer(answer(204))
    with in_thread(peer):
        sender = Sender(peer.url)
        assert sender.send(EVENT)
        (thread,) = threads()
        assert sender._running is not None
        assert sender._finalizer is not None
        sender._running._loop.call_soon_threadsafe(sender._finalizer)  # the collector may run in any thread
        thread.join(5)
        assert not thread.is_alive()


def test_an_interruption_cancels_the_send_and_leaves_the_sender_usable() -> None:
    """Ctrl-C while a silent peer is waited for."""

    def interrupt_first(request: Request) -> Step:
        if len(peer.requests) > 1:
            return answer(204)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
        return SILENCE

    peer = Peer(interrupt_first)
    with in_thread(peer) as until, Sender(peer.url) as sender:
        with pytest.raises(KeyboardInterrupt):
            sender.send(EVENT)
        until(lambda peer: not peer.connected)
        assert sender.send(EVENT)


# Processes.


def test_closing_in_a_forked_child_leaves_the_loop_of_the_parent_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    peer = Peer(answer(204))
    with in_thread(peer):
        sender = Sender(peer.url)
        assert sender.send(EVENT)
        parents = sender._running
        assert parents is not None
        with monkeypatch.context() as patch:
            patch.setattr("os.getpid", lambda: -1)  # as the child sees it
            sender.close()
            assert len(threads()) == 1
        parents.close()


def run(code: str, url: str) -> tuple[int, str, str]:
    """Run `code` in another interpreter, with `url` and the names that it needs; return how it ended."""
    head = f"""
import os, sys, threading, warnings
from cloudevents_kit import Event, RetryPolicy
from cloudevents_kit.blocking import Sender
warnings.simplefilter("error", ResourceWarning)
url = {url!r}
def new(id): return Event(type="t", source="/s", id=id)
"""
    done = subprocess.run([sys.executable, "-c", head + code], capture_output=True, text=True, timeout=30, check=False)
    return done.returncode, done.stdout, done.stderr


def test_leaving_without_close_ends_by_itself() -> None:
    code = """
print(bool(Sender(url).send(new("1"))))
sender = Sender(url)
print(bool(sender.send(new("2"))))
"""
    peer = Peer(answer(204))
    with in_thread(peer) as until:
        ended = run(code, peer.url)
        until(lambda peer: not peer.connected)
    assert ended == (0, "True\nTrue\n", "")


def test_leaving_without_close_loses_nothing() -> None:
    """What threads of the program are sending is sent, retries included, before the interpreter ends."""
    code = """
sender = Sender(url, retry=RetryPolicy(attempts=3, initial=0.05, jitter=False))
began = threading.Event()
async def headers():
    began.set()
    return {}
for number in "12":
    threading.Thread(target=sender.send, args=(new(number),), kwargs={"headers": headers}, daemon=number == "1").start()
began.wait()
"""
    counts: dict[str, int] = {}

    def busy_at_first(request: Request) -> Step:
        counts[request["ce-id"]] = counts.get(request["ce-id"], 0) + 1
        return answer(503) if counts[request["ce-id"]] < 3 else answer(204)

    peer = Peer(busy_at_first)
    with in_thread(peer):
        ended = run(code, peer.url)
    assert counts == {"1": 3, "2": 3}
    assert ended == (0, "", "")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_child_sends_over_connections_of_its_own() -> None:
    code = """
warnings.simplefilter("ignore", DeprecationWarning)  # of fork with threads: that is the point
sender = Sender(url)
assert sender.send(new("parent"))
child = os.fork()
if child == 0:
    assert sender.send(new("child"))
    sys.exit(7)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
assert sender.send(new("parent again"))
"""
    peer = Peer(answer(204))
    with in_thread(peer) as until:
        ended = run(code, peer.url)
        until(lambda peer: not peer.connected)
    assert ended == (0, "", "")
    assert [request["ce-id"] for request in peer.requests] == ["parent", "child", "parent%20again"]
    assert peer.connections == 2
