"""Section 1 of the checklist: the attributes of an event."""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime
from functools import partial
from types import MappingProxyType
from typing import Any

import pytest

from cloudevents_kit import Event, EventError, Receiver, Retry, RetryPolicy, Sender, Undelivered, forward
from cloudevents_kit._errors import UnsupportedVersion
from tests.spec.wire import (
    HEADERS,
    MEMBERS,
    MODES,
    again,
    batch,
    binary,
    headers_of,
    members_of,
    new,
    parse,
    plus,
    read,
    refused,
    structured,
)
from tests.support.clock import ManualClock
from tests.support.raw import exchange, request

REQUIRED = ("id", "source", "specversion", "type")


@pytest.mark.parametrize("name", REQUIRED)
def test_a_required_attribute_is_there_and_not_empty(name: str) -> None:
    """EM-01."""
    assert refused(lambda: structured(drop=name), attribute=name) == 400
    assert refused(lambda: structured({name: ""}), attribute=name) == 400
    assert refused(lambda: binary({f"ce-{name}": ""}), attribute=name) == 400
    refused(lambda: new(**{name: ""}), attribute=name)


@pytest.mark.parametrize("name", REQUIRED)
def test_a_required_attribute_is_never_invented_on_receipt(name: str) -> None:
    """EM-02."""
    assert refused(lambda: binary(drop=f"ce-{name}"), attribute=name) == 400
    assert refused(lambda: structured(drop=name), attribute=name) == 400
    assert refused(lambda: batch(json.dumps([{k: v for k, v in MEMBERS.items() if k != name}]))) == 400


@pytest.mark.parametrize("mode", MODES)
def test_an_optional_attribute_is_never_invented_on_receipt(mode: Any) -> None:
    """EM-03."""
    for event in (structured(), binary()):
        assert event.attributes == MEMBERS
        assert again(event, mode).attributes == MEMBERS


@pytest.mark.parametrize("version", ["1", "1.0.2", "1.1", "2.0", " 1.0", "1.0 ", "v1.0", 1.0, 1, True], ids=repr)
def test_any_specversion_but_one_is_refused(version: object) -> None:
    """EM-04."""
    assert refused(lambda: structured(specversion=version), attribute="specversion") == 400
    with pytest.raises(EventError):
        new(specversion=version)
    if isinstance(version, str) and version == version.strip():
        with pytest.raises(UnsupportedVersion):
            binary({"ce-specversion": version})


def test_the_version_of_2018_is_refused_as_unsupported() -> None:
    """EM-05: version 0.3 was superseded in 2019; it is told apart from a broken event."""
    old = {**MEMBERS, "specversion": "0.3", "datacontentencoding": "base64", "data": "aGk="}
    for read_it in (lambda: structured(old), lambda: binary({"ce-specversion": "0.3"})):
        with pytest.raises(UnsupportedVersion, match="superseded in 2019"):
            read_it()


@pytest.mark.parametrize("name", ["MyExt", "my_ext", "my-ext", "", "é", "ext\n", "ext ", "٣", "İ"])
def test_an_attribute_name_has_only_lower_case_letters_and_digits(name: str) -> None:
    """EM-06."""
    with pytest.raises(EventError, match="a-z and 0-9"):
        new(**{name: "x"})
    assert refused(lambda: structured({name: "x"})) == 400
    if name != "MyExt":  # header names have no case
        assert refused(lambda: binary({f"ce-{name}": "x"})) == 400


def test_data_is_the_name_of_no_attribute() -> None:
    """EM-07."""
    assert refused(lambda: binary({"ce-data": "x"}), attribute="data") == 400

    class Foreign:
        def get_attributes(self) -> dict[str, str]:
            return {**MEMBERS, "data": "x"}

        def get_data(self) -> None:
            return None

    refused(lambda: Event.of(Foreign()), attribute="data")


@pytest.mark.parametrize("name", ["a" * 21, "a" * 100, "1abc", "123"])
def test_long_names_and_names_that_begin_with_a_digit_are_legal(name: str) -> None:
    """EM-08."""
    for event in (new(**{name: "x"}), structured({name: "x"}), binary({f"ce-{name}": "x"})):
        assert event[name] == "x"
        for mode in MODES:
            assert again(event, mode) == event


@pytest.mark.parametrize(
    "text",
    [
        '"id":"2"',
        '"id":"1"',
        '"\\u0069d":"2"',
        '"id":null',
        '"subject":"a","subject":"a"',
        '"subject":null,"subject":"a"',
        '"subject":"a","subject":null',
        '"n":1,"n":1',
        '"flag":true,"flag":false',
        '"comexample":"a","comexample":"b"',
        '"data":1,"data":1',
        '"data":"a","data":"a"',
        '"data":{"a":"b"},"subject":"s","data":{}',
        '"data_base64":"YQ==","data_base64":"YQ=="',
        '"data_base64":null,"data_base64":null',
    ],
)
def test_an_attribute_occurs_once(text: str) -> None:
    """EM-09, JF-19."""
    assert refused(lambda: plus(text)) == 400
    whole = json.dumps(MEMBERS)[:-1] + f",{text}}}"
    assert refused(lambda: batch(f"[{json.dumps(MEMBERS)},{whole}]")) == 400
    assert refused(lambda: parse("{" + text + "," + json.dumps(MEMBERS)[1:])) == 400


def test_a_member_of_the_data_may_occur_twice() -> None:
    """JF-19: what is inside the data is the business of those who share its schema."""
    assert plus('"data":{"a":1,"a":2}').raw == b'{"a":1,"a":2}'


@pytest.mark.parametrize("second", ["ce-id", "CE-ID", "Ce-Id"])
@pytest.mark.parametrize("value", ["1", "2", ""])
def test_a_header_occurs_once(second: str, value: str) -> None:
    """EM-09, HB-21."""
    assert refused(lambda: read([*HEADERS.items(), (second, value)]), attribute="id") == 400


GOOD_SOURCES = [
    "/s", "1-555-123-4567", "urn:uuid:6e8bc430-9c3a-11d9-9669-0800200c9a66", "mailto:a@b", "https://e.x/a?b=c#d", "?q",
    "#f", "a/b:c", "./1:foo", "//host/p", "http://[::1]:80/", "http://user@e.x/", "a%20b", "tag:e.x,2026:a", ".", "a:",
]  # fmt: skip
BAD_SOURCES = [
    "has space", "http://[bad", "a\nb", "http://x/€", "1:foo", "http://x/%zz", "a%2", "a\\b", "a|b", "<a>", "^",
    "a#b#c", "//a b/", "http://[::1", "é", "{id}", '"', " ", ":foo", "http://e.x:port/",
]  # fmt: skip


@pytest.mark.parametrize("source", GOOD_SOURCES)
def test_a_source_is_a_uri_reference(source: str) -> None:
    """EM-10."""
    for event in (new(source=source), structured(source=source), binary({"ce-source": source.replace("%", "%25")})):
        assert event.source == source


@pytest.mark.parametrize("source", BAD_SOURCES)
def test_a_source_that_is_no_uri_reference_is_refused(source: str) -> None:
    """EM-10."""
    refused(lambda: new(source=source), attribute="source")
    assert refused(lambda: structured(source=source), attribute="source") == 400
    assert refused(lambda: binary({"ce-source": source})) == 400


def test_a_dataschema_is_an_absolute_uri() -> None:
    """EM-11, decision 0.15: a fragment is accepted."""
    for schema in ("https://e.x/s.json", "urn:x:y", "https://e.x/s.json#/definitions/a"):
        for event in (new(dataschema=schema), structured(dataschema=schema), binary({"ce-dataschema": schema})):
            assert event.dataschema == schema
    for schema in ("/rel", "not absolute", "", "s.json", "//e.x/s", "https://e.x/a b"):
        assert refused(partial(structured, dataschema=schema), attribute="dataschema") == 400
        refused(partial(new, dataschema=schema), attribute="dataschema")


def test_a_subject_is_no_empty_text() -> None:
    """EM-12."""
    for make in (new, structured):
        refused(partial(make, subject=""), attribute="subject")
        assert "subject" not in make(subject=None)
    refused(lambda: binary({"ce-subject": ""}), attribute="subject")


MEDIA_TYPES = ['text/plain; charset="utf-8"', "Application/JSON", "image/svg+xml;q=1 ; b=2", "a/b", 'x/y; a="b;c\\"d"']


@pytest.mark.parametrize("media", MEDIA_TYPES)
def test_a_datacontenttype_stays_byte_for_byte(media: str) -> None:
    """EM-13."""
    for event in (new(datacontenttype=media), structured(datacontenttype=media), binary({"Content-Type": media})):
        assert event.datacontenttype == media
        for mode in MODES:
            assert again(event, mode).datacontenttype == media


@pytest.mark.parametrize(
    "media", ["garbage", "text/", "/plain", "text/plain\r\nX: y", "text/pl ain", "a/b, c/d", "é/a"]
)
def test_a_datacontenttype_that_is_no_media_type_is_refused(media: str) -> None:
    """EM-13."""
    refused(lambda: new(datacontenttype=media), attribute="datacontenttype")
    assert refused(lambda: structured(datacontenttype=media), attribute="datacontenttype") == 400
    assert refused(lambda: binary({"Content-Type": media})) == 400


@pytest.mark.parametrize("media", ["Application/JSON", "APPLICATION/VND.X+JSON; Charset=UTF-8", "text/JSON"])
def test_the_case_of_a_media_type_does_not_matter(media: str) -> None:
    """EM-14."""
    assert binary({"content-TYPE": media}, '{"a":1}').data == {"a": 1}
    assert new(datacontenttype=media, data={"a": 1}).raw == b'{"a":1}'
    assert binary({"Content-Type": "TEXT/PLAIN; CHARSET=ISO-8859-1"}, b"\xe9").data == "é"


@pytest.mark.parametrize("mode", MODES)
def test_a_datacontenttype_needs_no_data(mode: Any) -> None:
    """EM-15."""
    for event in (structured(datacontenttype="text/plain"), new(datacontenttype="application/json")):
        back = again(event, mode)
        assert back == event
        assert not back.has_data


def test_a_time_is_set_from_a_text_and_read_as_a_datetime() -> None:
    """EM-16."""
    moment = datetime(2018, 4, 5, 17, 31, tzinfo=UTC)
    for event in (new(time="2018-04-05T17:31:00Z"), new(time=moment), structured(time="2018-04-05T17:31:00Z")):
        assert event.time == moment
        assert event.time_text == "2018-04-05T17:31:00Z"
    refused(lambda: new(time=datetime(2018, 4, 5)), attribute="time")  # noqa: DTZ001


async def test_a_retry_keeps_the_identity_and_two_events_never_share_one(clock: ManualClock) -> None:
    """EM-17."""
    seen: list[Event] = []

    async def handler(event: Event) -> None:
        seen.append(event)
        if len(seen) < 4:
            raise Retry

    async with (
        Receiver(handler, port=0) as receiver,
        Sender(receiver.url, retry=RetryPolicy(attempts=4), clock=clock) as sender,
    ):
        for _ in range(2):
            assert await sender.send(Event(type="t", source="/s"))
    assert len({event.key for event in seen[:4]}) == 1
    assert seen[4].key != seen[3].key
    assert seen[4].source == seen[3].source


async def test_the_identity_is_the_pair_of_source_and_id() -> None:
    """EM-18."""
    assert new(source="a", id="b:c").key != new(source="a:b", id="c").key
    assert hash(new().key) == hash(new(type="other").key)
    seen = []

    async def handler(event: Event) -> None:
        seen.append(event.source)

    async with Receiver(handler, port=0) as receiver, Sender(receiver.url) as sender:
        for source in ("/a", "/b"):
            assert await sender.send(new(source=source))
    assert seen == ["/a", "/b"]


async def test_an_event_cannot_turn_invalid_and_a_foreign_one_is_checked_before_it_is_sent() -> None:
    """EM-19."""
    event = new(subject="s")
    for name in ("type", "id", "subject", "data"):
        with pytest.raises(AttributeError):
            setattr(event, name, "")
    assert type(event.attributes) is type(event.extensions) is MappingProxyType
    with pytest.raises(EventError):
        event.evolve(type="")

    class Foreign:
        def get_attributes(self) -> dict[str, str]:
            return {**MEMBERS, "type": ""}

        def get_data(self) -> None:
            return None

    async def handler(event: Event) -> None:
        raise AssertionError("nothing may be sent")

    async with Receiver(handler, port=0) as receiver, Sender(receiver.url) as sender:
        foreign: Any = Foreign()
        result = await sender.send(foreign)
        assert not receiver.counts
    assert result == Undelivered(
        reason="invalid-event", error="type: must not be empty (for example com.example.order.created)"
    )


def test_building_an_event_leaves_the_callers_values_alone() -> None:
    """EM-20."""
    template: dict[str, Any] = {"type": "t", "source": "/s", "data": {"a": [1]}}
    first, second = Event(**template), Event(**template)
    assert template == {"type": "t", "source": "/s", "data": {"a": [1]}}
    assert first.id != second.id
    template["data"]["a"].append(2)
    first.data["a"].append(3)
    assert first.data == {"a": [1]}


def test_unknown_extensions_survive_every_change_of_mode() -> None:
    """EM-21."""
    event = structured(comexampleextension1="v", n=5, flag=True)
    there = again(event, "binary")
    back = again(there, "structured")
    assert event["comexampleextension1"] == there["comexampleextension1"] == back["comexampleextension1"] == "v"
    assert back.extensions == {"comexampleextension1": "v", "n": "5", "flag": "true"}


@pytest.mark.parametrize("mode", MODES)
async def test_an_intermediary_forwards_everything_untouched(mode: Any) -> None:
    """EM-22, EX-05, EX-06: optional attributes, unknown and documented extensions, and the bytes of the data."""
    seen: list[Event] = []

    async def handler(event: Event) -> None:
        seen.append(event)

    given = {
        "subject": "a b%c€",
        "time": "2018-04-05T17:31:00.123456789+02:00",
        "datacontenttype": "application/json; v=1",
        "dataschema": "https://e.x/s",
        "comexample": "x",
        "expirytime": "2018-04-05T17:32:00Z",
        "recordedtime": "2018-04-05T17:31:01.10z",
        "data": '{"b": 1,  "a": 2}',
    }
    event = new(**{**given, "data": given["data"].encode()})
    async with (
        Receiver(handler, port=0) as last,
        Sender(last.url, mode=mode) as onward,
        Receiver(forward(onward), port=0) as middle,
        Sender(middle.url, mode="binary") as sender,
    ):
        assert await sender.send(event)
    assert seen[0].attributes == event.attributes
    assert seen[0].data == {"b": 1, "a": 2}
    assert seen[0].raw == event.raw


@pytest.mark.parametrize("mode", MODES)
async def test_events_of_64_kib_pass_with_default_limits(mode: Any, caplog: pytest.LogCaptureFixture) -> None:
    """EM-23: the publisher is not warned, as there are receivers that take more."""
    seen: list[Event] = []

    async def handler(event: Event) -> None:
        seen.append(event)

    async with (
        Receiver(handler, port=0) as last,
        Sender(last.url, mode=mode) as onward,
        Receiver(forward(onward), port=0) as middle,
    ):
        text = json.dumps({**MEMBERS, "data": ""})
        text = json.dumps({**MEMBERS, "data": "x" * (65_536 - len(text))})
        assert len(text) == 65_536
        answer = await exchange(middle.port, request("Content-Type: application/cloudevents+json", body=text))
        assert answer is not None
        assert answer.status == 204
    assert len(seen[0].data) > 65_000
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


@pytest.mark.parametrize("media", ["application/cloudevents+json", "Application/CloudEvents-Batch+JSON; a=b"])
async def test_a_nested_event_is_not_taken_for_its_envelope(media: str) -> None:
    """EM-24."""
    outer = new(datacontenttype=media, data=MEMBERS)
    refused(lambda: headers_of(outer), attribute="datacontenttype")
    assert members_of(outer)["data"] == MEMBERS
    async with Sender("http://127.0.0.1:9/") as sender:
        result = await sender.send(outer)
    assert isinstance(result, Undelivered)
    assert result.reason == "invalid-event"


async def test_the_log_names_an_event_and_neither_its_data_nor_a_token(caplog: pytest.LogCaptureFixture) -> None:
    """EM-25."""

    async def handler(event: Event) -> None:
        raise RuntimeError("broken")

    caplog.set_level(logging.DEBUG, logger="cloudevents_kit")
    async with (
        Receiver(handler, port=0) as receiver,
        Sender(receiver.url, headers={"Authorization": "Bearer secret"}, retry=RetryPolicy.none()) as sender,
    ):
        assert not await sender.send(new(data="secret", token="secret", id="id-1"))
    assert "id='id-1' source='/s' type='t'" in caplog.text
    assert "secret" not in caplog.text
    assert "secret" not in repr(new(data="secret", token="secret"))
