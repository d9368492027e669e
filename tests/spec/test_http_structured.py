"""Section 5 of the checklist: the structured content mode, and how the modes are told apart."""

from __future__ import annotations

import json
from functools import partial
from typing import Any

import pytest

from cloudevents_kit import Event, Receiver, Sender, _http
from tests.spec.wire import (
    BATCH,
    HEADERS,
    MEMBERS,
    MODES,
    STRUCTURED,
    again,
    batch,
    new,
    pairs,
    parse,
    read,
    refused,
    structured,
)
from tests.support.raw import Capture, exchange, request

ONE = json.dumps(MEMBERS)


@pytest.mark.parametrize(
    ("media", "kind"),
    [
        (STRUCTURED, "structured"),
        (STRUCTURED.upper(), "structured"),
        (f"{STRUCTURED};charset=utf-8", "structured"),
        (BATCH, "batch"),
        (BATCH.title(), "batch"),
        ("application/json", "binary"),
        ("application/cloudevent+json", "binary"),
        ("text/plain; application/cloudevents+json", "binary"),
        ("x-application/cloudevents+json", "binary"),
    ],
)
def test_content_type_alone_decides_the_mode(media: str, kind: str) -> None:
    """HS-01."""
    body = f"[{ONE}]" if kind == "batch" else ONE
    if "; application" in media:  # what stands there is no parameter, so it is no media type
        assert refused(lambda: read({**HEADERS, "Content-Type": media}, body), attribute="datacontenttype") == 400
        return
    found, events = _http.decode(pairs({**HEADERS, "Content-Type": media}), body.encode())
    assert found == kind
    assert [event.id for event in events] == ["1"]
    assert (events[0].datacontenttype is None) == (kind != "binary")


def test_a_structured_body_wins_over_headers() -> None:
    """HS-02."""
    event = read({**HEADERS, "ce-id": "HDR", "Content-Type": STRUCTURED}, json.dumps({**MEMBERS, "id": "BODY"}))
    assert event.id == "BODY"
    assert read({"ce-traceid": "x", "Content-Type": STRUCTURED}, ONE).attributes == MEMBERS
    assert read({"ce-id": b"\xff", "ce-Bad_Name": "%00", "Content-Type": STRUCTURED}, ONE).attributes == MEMBERS
    _, events = _http.decode(pairs({"ce-id": "x", "Content-Type": BATCH}), f"[{ONE}]".encode())
    assert events[0].id == "1"


@pytest.mark.parametrize(
    "parameters", ["; charset=UTF-8", ';charset="utf-8"', " ; charset=utf-8 ; x=y", ";", "; xcharset=utf-16"]
)
def test_the_structured_media_type_may_have_parameters(parameters: str) -> None:
    """HS-03."""
    assert parse(ONE, STRUCTURED + parameters).attributes == MEMBERS


@pytest.mark.parametrize(
    "suffix", ["+avro", "+xml", "+protobuf", "", "+jsonx", "+json-seq", "-batch", "-batch+avro", "s+json"]
)
def test_another_event_format_is_not_understood(suffix: str) -> None:
    """HS-04."""
    media = f"application/cloudevents{suffix}"
    assert refused(lambda: read({**HEADERS, "Content-Type": media}, ONE)) == 415


def test_everything_is_in_the_payload() -> None:
    """HS-05."""
    event = new(subject="s", flag=True, datacontenttype="text/plain", data="x")
    message = _http.encode(event, "structured")
    assert message.headers == {"Content-Type": "application/cloudevents+json"}
    assert json.loads(message.body) == {
        **MEMBERS,
        "subject": "s",
        "flag": True,
        "datacontenttype": "text/plain",
        "data": "x",
    }


@pytest.mark.parametrize("headers", [{}, {"Content-Type": "application/json"}, {"Content-Type": "text/plain"}])
def test_a_body_that_only_looks_like_an_event_is_none(headers: dict[str, str]) -> None:
    """HS-06."""
    assert refused(lambda: read(headers, ONE)) == 415


@pytest.mark.parametrize("mode", MODES)
async def test_sender_and_receiver_speak_both_modes(mode: Any) -> None:
    """HS-07."""
    seen = []

    async def handler(event: Event) -> None:
        seen.append(event)

    event = new(subject="é %", flag="true", data={"a": [1]})
    assert again(event, mode) == event
    async with Receiver(handler, port=0) as receiver, Sender(receiver.url) as sender:
        assert await sender.send(event, mode=mode)
    assert seen == [event]
    async with Capture() as capture, Sender(capture.url, mode=mode) as sender:
        assert await sender.send(event)
    assert (b"application/cloudevents+json" in capture.requests[0]) == (mode == "structured")
    assert (b"\r\nce-id: 1\r\n" in capture.requests[0]) == (mode == "binary")


async def test_content_type_occurs_once_and_is_no_list() -> None:
    """HS-08."""
    for second in (STRUCTURED, "text/plain"):
        assert refused(partial(read, [("Content-Type", STRUCTURED), ("content-type", second)], ONE)) == 400
    for media, status in (
        (f"{STRUCTURED}, text/plain", 415),
        (f"{STRUCTURED},{STRUCTURED}", 415),
        (f"text/plain, {STRUCTURED}", 400),
    ):
        assert refused(partial(read, {**HEADERS, "Content-Type": media}, ONE)) == status


async def test_events_come_by_post_to_the_path_of_the_receiver() -> None:
    """HS-09: as webhooks ask; any path may be the receiver's, with any query."""
    seen = []

    async def handler(event: Event) -> None:
        seen.append(event.id)

    async with Receiver(handler, port=0, path="/any/where") as receiver:
        for method, path, status in (
            ("POST", "/any/where", 204),
            ("POST", "/any/where?a=b", 204),
            ("PUT", "/any/where", 405),
            ("POST", "/", 404),
            ("POST", "/any/where/", 404),
        ):
            line = f"Content-Type: {STRUCTURED}"
            answer = await exchange(receiver.port, request(line, method=method, path=path, body=ONE))
            assert answer is not None
            assert answer.status == status
    assert seen == ["1", "1"]


def test_a_single_event_and_a_batch_are_never_mixed_up() -> None:
    """HS-01, BA-07."""
    assert refused(lambda: parse(f"[{ONE}]")) == 400
    assert refused(lambda: batch(ONE)) == 400
    assert batch(f"[{ONE}]") == [structured()]
