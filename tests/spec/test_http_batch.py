"""Section 6 of the checklist: the batched content mode."""

from __future__ import annotations

import json
from typing import Any

import pytest

from cloudevents_kit import Event, Receiver, Sender, _http
from cloudevents_kit._errors import BindingError
from tests.spec.wire import BATCH, MEMBERS, batch, new, pairs, refused
from tests.support.raw import Capture, exchange, request

ONE = json.dumps(MEMBERS)
TYPE = f"Content-Type: {BATCH}"


def split(sent: bytes) -> tuple[bytes, list[Any]]:
    """Return the head of a captured request and the array it holds."""
    head, _, body = sent.partition(b"\r\n\r\n")
    return head, json.loads(body)


async def test_a_batch_is_an_array_of_events_with_a_media_type_of_its_own() -> None:
    """BA-01."""
    events = [new(id=str(number), data=number, source=f"/{number}") for number in range(3)]
    message = _http.encode_batch(events)
    assert message.headers == {"Content-Type": "application/cloudevents-batch+json"}
    assert json.loads(message.body) == [
        {**MEMBERS, "id": str(n), "source": f"/{n}", "datacontenttype": "application/json", "data": n} for n in range(3)
    ]
    assert batch(message.body) == events
    async with Capture() as capture, Sender(capture.url, max_batch=10) as sender:
        await sender.send_batch(events)
    head, members = split(capture.requests[0])
    assert b"application/cloudevents-batch+json" in head
    assert b"ce-" not in head.lower()
    assert [member["id"] for member in members] == ["0", "1", "2"]


@pytest.mark.parametrize("body", ["[]", " [ ] ", "[\n]"])
async def test_an_empty_batch_is_valid(body: str) -> None:
    """BA-02."""
    seen = []

    async def handler(event: Event) -> None:
        seen.append(event)

    async with Receiver(handler, port=0) as receiver:
        answer = await exchange(receiver.port, request(TYPE, body=body))
    assert answer is not None
    assert answer.status == 204
    assert seen == []
    assert _http.encode_batch([]).body == b"[]"
    kind, events = _http.decode(pairs({"content-type": BATCH}), body.encode())
    assert (kind, events) == ("batch", [])


def test_all_events_of_a_batch_have_one_version() -> None:
    """BA-03."""
    old = json.dumps({**MEMBERS, "specversion": "0.3"})
    assert refused(lambda: batch(f"[{ONE},{old}]")) == 400
    assert refused(lambda: batch(f"[{old},{old}]")) == 400
    other = json.dumps({"specversion": "1.0", "id": "2", "source": "/b", "type": "u", "ext": 5, "data_base64": "YQ=="})
    first, second = batch(f"[{ONE},{other}]")
    assert (first.source, second.source, second["ext"], second.data) == ("/s", "/b", 5, b"a")


async def test_a_batch_is_sent_only_to_a_destination_that_asked_for_batches() -> None:
    """BA-04: ``max_batch`` says that it did."""
    async with Capture() as capture, Sender(capture.url) as sender:
        with pytest.raises(ValueError, match="max_batch"):
            await sender.send_batch([new()])
    assert capture.requests == []


async def test_a_batch_over_the_limit_is_refused_before_any_handler_runs() -> None:
    """BA-05."""
    seen = []

    async def handler(event: Event) -> None:
        seen.append(event)

    async with Receiver(handler, port=0, max_batch=2) as receiver:
        for count, status in ((3, 413), (2, 204)):
            answer = await exchange(receiver.port, request(TYPE, body=f"[{','.join([ONE] * count)}]"))
            assert answer is not None
            assert answer.status == status
            assert len(seen) == (2 if status == 204 else 0)


BROKEN = [
    '{"specversion":"1.0","id":"1","source":"/s"}',
    ONE.replace('"/s"', '"has space"'),
    ONE[:-1] + ',"n":1.5}',
    ONE[:-1] + ',"id":"1"}',
    ONE[:-1] + ',"data":1,"data_base64":"YQ=="}',
    ONE[:-1] + ',"Bad":"x"}',
]


@pytest.mark.parametrize("member", BROKEN)
async def test_a_broken_member_refuses_the_whole_batch_with_its_index(member: str) -> None:
    """BA-06."""
    seen = []

    async def handler(event: Event) -> None:
        seen.append(event)

    async with Receiver(handler, port=0) as receiver:
        for index in range(3):
            members = [ONE, ONE]
            members.insert(index, member)
            answer = await exchange(receiver.port, request(TYPE, body=f"[{','.join(members)}]"))
            assert answer is not None
            assert answer.status == 400
            assert json.loads(answer.body)["detail"].startswith(f"event {index}: ")
    assert seen == []


@pytest.mark.parametrize(
    "body", [ONE, "{}", "null", "5", '"x"', "", "[", f"[{ONE}", f"[{ONE}]]", f"[{ONE},]", f"[{ONE} {ONE}]"]
)
def test_the_body_of_a_batch_is_one_array(body: str) -> None:
    """BA-07."""
    assert refused(lambda: batch(body)) == 400


async def test_batches_are_split_by_count_and_by_size() -> None:
    """BA-08."""
    events = [new(id=str(number), data="x" * 100) for number in range(10)]
    async with Capture() as capture, Sender(capture.url, max_batch=4) as sender:
        assert all(await sender.send_batch(events))
    assert sorted(len(split(sent)[1]) for sent in capture.requests) == [2, 4, 4]
    async with Capture() as capture, Sender(capture.url, max_batch=100, max_batch_bytes=600) as sender:
        assert all(await sender.send_batch(events))
    bodies = [sent.partition(b"\r\n\r\n")[2] for sent in capture.requests]
    assert max(map(len, bodies)) <= 600
    assert len(bodies) < 10
    assert sorted(member["id"] for body in bodies for member in json.loads(body)) == [str(n) for n in range(10)]


async def test_an_event_larger_than_a_batch_may_be_travels_alone() -> None:
    """BA-08."""
    events = [new(id="small"), new(id="large", data="x" * 1000), new(id="last")]
    async with Capture() as capture, Sender(capture.url, max_batch=100, max_batch_bytes=500) as sender:
        assert all(await sender.send_batch(events))
    found = sorted([member["id"] for member in split(sent)[1]] for sent in capture.requests)
    assert found == [["large"], ["last"], ["small"]]


@pytest.mark.parametrize("member", ["1", "null", '"x"', "[]", "true", f"[{ONE}]"])
def test_a_member_that_is_no_object_is_refused_with_its_index(member: str) -> None:
    """BA-09."""
    with pytest.raises(BindingError, match=r"^event 1: ") as caught:
        batch(f"[{ONE},{member},{ONE}]")
    assert caught.value.status == 400
