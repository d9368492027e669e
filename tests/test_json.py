"""What came as the body of an HTTP request, written as JSON: as what it claims to be if it is that, else as base64."""

from __future__ import annotations

import json
from typing import Any

import pytest

from cloudevents_kit import _json, from_http, from_json, to_json

HEADERS = {"ce-specversion": "1.0", "ce-id": "1", "ce-source": "/s", "ce-type": "t"}


@pytest.mark.parametrize(
    ("content_type", "body", "member"),
    [
        ("application/json", b' {"a": 1.0} ', {"data": {"a": 1.0}}),
        ("application/vnd.a+json", b'"text"', {"data": "text"}),
        ("application/json", b"null", {"data": None}),
        ("application/json", b'{"a":', {"data_base64": "eyJhIjo="}),
        ("application/json", b'"\xff"', {"data_base64": "Iv8i"}),
        ("text/plain", "é".encode(), {"data": "é"}),
        ("text/plain; charset=iso-8859-1", b"\xe9", {"data": "é"}),
        ("text/plain", b"\xff", {"data_base64": "/w=="}),
        ("text/plain; charset=nope", b"a", {"data_base64": "YQ=="}),
        ("text/plain; charset=utf-16", b"\xfe\xff\x00a", {"data_base64": "/v8AYQ=="}),  # back it would be \xff\xfea\x00
        ("image/png", b"a", {"data_base64": "YQ=="}),
        (None, b'{"a":1}', {"data_base64": "eyJhIjoxfQ=="}),
    ],
)
def test_a_body_is_written_as_what_it_claims_and_proves_to_be(
    content_type: str | None, body: bytes, member: dict[str, Any]
) -> None:
    headers = {**HEADERS, **({"content-type": content_type} if content_type else {})}
    [event] = from_http(headers, body)
    written = json.loads(to_json(event))
    assert {
        name: value for name, value in written.items() if name.startswith("data") and name != "datacontenttype"
    } == (member)
    back = from_json(to_json(event))
    assert back == event
    if "data_base64" in member or "text" in str(content_type):
        assert back.raw == body


def test_the_fast_path_learns_no_names_without_end() -> None:
    envelope = _json._Envelope()
    before = envelope.current
    envelope.learn({"x" * 65: "1"})
    assert envelope.current is before
    for number in range(2 * _json._LEARNED_NAMES):
        envelope.learn({f"name{number}": "1"})
    assert len(envelope._types) == _json._LEARNED_NAMES
