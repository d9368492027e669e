"""The blocking sender at the end of a process, and in forked ones: nothing is lost, nothing hangs, nothing is said."""

import os
import subprocess
import sys

import pytest

from tests.support.peer import Peer, Request, Step, answer, in_thread

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")


def run(code: str, url: str) -> tuple[int, str, str]:
    """Run `code` in another interpreter, with `url` and the names that it needs; return how it ended."""
    head = f"""
import asyncio, atexit, os, sys, threading, warnings
from concurrent.futures import ThreadPoolExecutor
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


@needs_fork
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


@pytest.mark.parametrize("daemon", [True, False])
def test_leaving_while_a_host_name_is_still_to_be_looked_up_loses_nothing(daemon: bool) -> None:
    """No pool of threads takes work any more by then."""
    code = f"""
sender = Sender(url.replace("127.0.0.1", "localhost"))
began = threading.Event()
async def headers():
    began.set()
    while not finishing():
        await asyncio.sleep(0.01)
    return {{}}
def finishing():
    try:
        ThreadPoolExecutor(1).submit(int).result()
    except RuntimeError:
        return True
threading.Thread(target=sender.send, args=(new("1"),), kwargs={{"headers": headers}}, daemon={daemon}).start()
began.wait()
"""
    peer = Peer(answer(204))
    with in_thread(peer):
        ended = run(code, peer.url)
    assert ended == (0, "", "")
    assert len(peer.requests) == 1


def test_leaving_a_stream_half_way_ends_by_itself() -> None:
    code = """
sender = Sender(url)
stream = sender.send_all(map(new, "123456789"), concurrency=3)
print(bool(next(stream)[1]))
"""
    peer = Peer(answer(204))
    with in_thread(peer) as until:
        ended = run(code, peer.url)
        until(lambda peer: not peer.connected)
    assert ended == (0, "True\n", "")
    assert 1 <= len(peer.requests) <= 4


def test_leaving_by_an_error_ends_by_itself() -> None:
    code = """
sender = Sender(url)
assert sender.send(new("1"))
raise SystemExit(3)
"""
    peer = Peer(answer(204))
    with in_thread(peer) as until:
        ended = run(code, peer.url)
        until(lambda peer: not peer.connected)
    assert ended == (3, "", "")


def test_a_function_that_runs_at_exit_may_send() -> None:
    code = """
sender = Sender(url)
assert sender.send(new("1"))
atexit.register(lambda: print(bool(sender.send(new("2")))))
"""
    peer = Peer(answer(204))
    with in_thread(peer):
        ended = run(code, peer.url)
    assert ended == (0, "True\n", "")
    assert len(peer.requests) == 2


@needs_fork
def test_a_fork_in_the_moment_of_opening_blocks_nobody() -> None:
    """Another thread of the parent is opening the sender: the child has the lock, and not the thread."""
    code = """
warnings.simplefilter("ignore", DeprecationWarning)
sender = Sender(url)
sender._lock.acquire()
thread = threading.Thread(target=sender.send, args=(new("parent"),))
thread.start()
child = os.fork()
if child == 0:
    assert sender.send(new("child"))
    os._exit(7)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
sender._lock.release()
thread.join()
"""
    peer = Peer(answer(204))
    with in_thread(peer):
        ended = run(code, peer.url)
    assert ended == (0, "", "")
    assert [request["ce-id"] for request in peer.requests] == ["child", "parent"]


@needs_fork
def test_a_fork_while_a_send_is_in_flight_sends_it_once() -> None:
    """It is the parent's; the child's end neither waits for it nor sends it again."""
    code = """
warnings.simplefilter("ignore", DeprecationWarning)
sender = Sender(url)
busy = threading.Event()
async def headers():
    busy.set()
    await asyncio.sleep(0.2)
    return {}
thread = threading.Thread(target=lambda: print(bool(sender.send(new("parent"), headers=headers))))
thread.start()
busy.wait()
child = os.fork()
if child == 0:
    sys.exit(7)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
thread.join()
"""
    peer = Peer(answer(204))
    with in_thread(peer):
        ended = run(code, peer.url)
    assert ended == (0, "True\n", "")
    assert len(peer.requests) == 1
