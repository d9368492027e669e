"""The sender for code without a loop: threads, interruptions, forks, the end of the interpreter."""

import asyncio
import gc
import inspect
import signal
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import aiohttp
import pytest
from cloudevents.core.v1.event import CloudEvent

from cloudevents_kit import Ack, Event, Nack, Receiver, RetryPolicy, Undelivered
from cloudevents_kit import Sender as AsyncSender
from cloudevents_kit.blocking import Sender, _Helpers, _renew_locks
from tests.support.clock import ManualClock
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


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Let Ctrl-C interrupt, also where the tests run in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def parameters(method: Any) -> list[tuple[str, Any, Any]]:
    return [(one.name, one.kind, one.default) for one in inspect.signature(method).parameters.values()]


def public(kind: type) -> set[str]:
    return {name for name in dir(kind) if not name.startswith("_")}


def test_the_two_senders_have_the_same_methods() -> None:
    assert public(Sender) == {"close", "request", "send", "send_all", "send_batch", "url"}
    assert public(AsyncSender) - public(Sender) == {"is_open"}  # the blocking one opens by itself
    assert Sender("http://127.0.0.1:1/").url == AsyncSender("http://127.0.0.1:1/").url == "http://127.0.0.1:1/"


@pytest.mark.parametrize("name", sorted(public(Sender) - {"url"}))
def test_the_methods_take_and_give_what_those_of_the_other_sender_do(name: str) -> None:
    ours, theirs = getattr(Sender, name), getattr(AsyncSender, name)
    if name != "send_all":  # its source is read in the caller's thread, so it cannot be asynchronous
        assert ours.__annotations__ == theirs.__annotations__
    assert parameters(ours) == parameters(theirs)
    assert not inspect.iscoroutinefunction(ours)


@pytest.mark.parametrize("name", [name for name, *_ in parameters(AsyncSender) if name not in {"url", "session"}])
def test_the_settings_are_those_of_the_other_sender(name: str) -> None:
    setting: Any = {name: inspect.signature(AsyncSender).parameters[name].default}
    Sender("http://127.0.0.1:1/", **setting)


async def test_a_session_belongs_to_another_loop_and_is_refused() -> None:
    async with aiohttp.ClientSession() as session:
        with pytest.raises(TypeError, match=r"^session: belongs to another loop"):
            Sender("http://127.0.0.1:1/", session=session)


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


def test_a_plain_headers_function_is_asked_again_for_every_attempt() -> None:
    tokens = iter("abc")
    peer = Peer(answer(503), answer(503), answer(204))
    with in_thread(peer), Sender(peer.url, headers=lambda: {"Authorization": next(tokens)}, retry=QUICK) as sender:
        assert sender.send(EVENT)
    assert [request["Authorization"] for request in peer.requests] == ["a", "b", "c"]


def test_headers_are_copied_when_the_sender_is_made() -> None:
    """Not when it opens, which may be much later, and again after a fork."""
    own = {"X-Tenant": "blue"}
    peer = Peer(answer(204))
    with in_thread(peer):
        sender = Sender(peer.url, headers=own)
        own.clear()
        own["ce-id"] = "not allowed"
        with sender:
            assert sender.send(EVENT)
    assert peer.requests[0]["X-Tenant"] == "blue"


def test_a_sender_that_fails_to_open_says_why_and_can_be_tried_again(clock: ManualClock) -> None:
    """No caller waits for ever, neither for the thread nor for the lock."""
    peer = Peer(answer(204))
    with in_thread(peer):
        sender = Sender(peer.url, clock=clock)
        clock.sleep = None  # type: ignore[assignment,method-assign]  # settings were checked, but change
        for _ in range(2):
            with pytest.raises(TypeError, match="clock: must be a Clock"):
                sender.send(EVENT)
            assert threads() == []
        with pytest.raises(TypeError, match="clock: must be a Clock"), sender:
            raise AssertionError("not reached")
        sender.close()
        del clock.sleep
        assert sender.send(EVENT)
        sender.close()


def test_one_event_is_not_many() -> None:
    sender = Sender("http://127.0.0.1:1/", max_batch=2)
    wrong: Any = EVENT
    for method in (sender.send_batch, sender.send_all):
        with pytest.raises(TypeError, match="events: must be an iterable of events, not one Event"):
            method(wrong)


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


def test_inside_a_running_loop_it_blocks_the_loop_and_works() -> None:
    """A notebook, or a plain function deep inside an application: allowed, for those who know what they do."""
    peer = Peer(answer(204))

    async def inside() -> None:
        with Sender(peer.url, max_batch=2) as sender:
            assert sender.send(EVENT)
            assert all(sender.send_batch(new_events(4)))
            assert all(result for _, result in sender.send_all(new_events(4)))

    with in_thread(peer):
        asyncio.run(inside())


def test_a_headers_function_that_uses_the_sender_that_calls_it_is_told_so(caplog: pytest.LogCaptureFixture) -> None:
    """Each would wait for the other, for ever."""

    async def token() -> Mapping[str, str]:
        sender.send(EVENT)
        raise AssertionError("not reached")

    with Sender("http://127.0.0.1:1/", headers=token, retry=RetryPolicy.none()) as sender:
        result = sender.send(EVENT)
    assert isinstance(result, Undelivered)
    assert result.reason == "headers"
    assert "cannot use the sender that calls it" in caplog.text


def test_a_host_name_is_looked_up() -> None:
    peer = Peer(answer(204))
    with in_thread(peer), Sender(peer.url.replace("127.0.0.1", "localhost")) as sender:
        assert sender.send(EVENT)


def test_helpers_that_take_no_work_any_more_leave_it_to_the_caller() -> None:
    """As at the end of the interpreter."""
    helpers = _Helpers(max_workers=1)
    assert helpers.submit(threading.get_ident).result() != threading.get_ident()
    helpers.shutdown()
    assert helpers.submit(threading.get_ident).result() == threading.get_ident()
    assert helpers.submit(int, "3f", base=16).result() == 0x3F
    assert isinstance(helpers.submit(int, "no number").exception(), ValueError)


# Threads, opening and closing.


def test_many_threads_share_one() -> None:
    peer = Peer(answer(204))
    with in_thread(peer), Sender(peer.url) as sender, ThreadPoolExecutor(8) as pool:
        assert all(pool.map(sender.send, new_events(200)))
        assert len(threads()) == 1
    assert len(peer.requests) == 200


def test_threads_may_do_different_things_with_one() -> None:
    peer = Peer(answer(204))
    with in_thread(peer), Sender(peer.url, max_batch=7) as sender, ThreadPoolExecutor(6) as pool:
        streams = [pool.submit(lambda: [one for _, one in sender.send_all(new_events(30))]) for _ in range(2)]
        batches = [pool.submit(sender.send_batch, new_events(30)) for _ in range(2)]
        requests = [pool.submit(lambda: [sender.request(one) for one in new_events(30)]) for _ in range(2)]
        for work in [*streams, *batches, *requests]:
            results = work.result(10)
            assert (len(results), all(results)) == (30, True)
    assert len(peer.requests) == 2 * (30 + 5 + 30)


def test_closing_while_threads_send_loses_nothing() -> None:
    """What comes after it opens the sender again."""
    peer = Peer(answer(204))
    with in_thread(peer), ThreadPoolExecutor(4) as pool:
        sender = Sender(peer.url)
        sending = [pool.submit(sender.send, one) for one in new_events(100)]
        for _ in range(5):
            sender.close()
        assert all(one.result(10) for one in sending)
        sender.close()
    assert sorted(int(request["ce-id"]) for request in peer.requests) == [*range(100)]


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


@pytest.mark.usefixtures("interruptible")
def test_an_interruption_cancels_the_send_and_leaves_the_sender_usable() -> None:
    """Ctrl-C while a silent peer is waited for."""

    def interrupt_first(request: Request) -> Step:
        if len(peer.requests) > 1:
            return answer(204)
        # By then the main thread waits for the result.
        asyncio.get_running_loop().call_later(0.1, signal.pthread_kill, main, signal.SIGINT)
        return SILENCE

    main = threading.main_thread().ident or 0
    peer = Peer(interrupt_first)
    with in_thread(peer) as until, Sender(peer.url) as sender:
        with pytest.raises(KeyboardInterrupt):
            sender.send(EVENT)
        until(lambda peer: not peer.connected)
        assert sender.send(EVENT)


@pytest.mark.usefixtures("interruptible")
def test_an_interruption_in_backoff_ends_it_without_another_request() -> None:
    """K-C2: for code without a loop."""

    def busy(request: Request) -> Step:
        timer.start()
        return answer(503)

    timer = threading.Timer(0.1, signal.pthread_kill, (threading.main_thread().ident, signal.SIGINT))
    peer = Peer(busy)
    with in_thread(peer), Sender(peer.url, retry=replace(QUICK, initial=30)) as sender:
        with pytest.raises(KeyboardInterrupt):
            sender.send(EVENT)
        assert len(peer.requests) == 1


# As a forked child sees it; what a child does is in test_blocking_processes.py.


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


def test_a_forked_child_does_not_wait_for_a_lock_that_nobody_will_release() -> None:
    """A thread of the parent held it at the moment of the fork."""
    peer = Peer(answer(204))
    with in_thread(peer):
        sender = Sender(peer.url)
        with sender._lock:
            _renew_locks()
            assert sender.send(EVENT)
        sender.close()
