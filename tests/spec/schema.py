"""A JSON Schema for the JSON event format, written from the rules of the specification, and a strategy of events."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

TEXT = {"type": "string", "minLength": 1, "pattern": "^[^\\u0000-\\u001f\\u007f-\\u009f]*$"}
INTEGER = {"type": "integer", "minimum": -(2**31), "maximum": 2**31 - 1}

SCHEMA: dict[str, Any] = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "required": ["id", "source", "specversion", "type"],
    "properties": {
        "id": TEXT,
        "source": {**TEXT, "format": "uri-reference"},
        "specversion": {"const": "1.0"},
        "type": TEXT,
        "subject": TEXT,
        "time": {**TEXT, "format": "date-time"},
        "datacontenttype": {**TEXT, "pattern": "^[^/ ]+/[^/ ]+"},
        "dataschema": {**TEXT, "format": "uri"},
        "data": True,
        "data_base64": {"type": "string", "contentEncoding": "base64", "pattern": "^[A-Za-z0-9+/]*={0,2}$"},
    },
    "propertyNames": {"pattern": "^([a-z0-9]+|data_base64)$"},
    "additionalProperties": {"anyOf": [{"type": "string"}, {"type": "boolean"}, INTEGER]},
    "not": {"required": ["data", "data_base64"]},
}


def _allowed(character: str) -> bool:
    code = ord(character)
    control = code < 0x20 or 0x7F <= code <= 0x9F
    return not (control or 0xFDD0 <= code <= 0xFDEF or code & 0xFFFE == 0xFFFE)


CHARACTERS = st.characters(exclude_categories=["Cs"]).filter(_allowed)
STRINGS = st.text(CHARACTERS, max_size=20)
NAMES = st.text("abcdefghijklmnopqrstuvwxyz0123456789", min_size=1, max_size=20).map("x".__add__)
VALUES = STRINGS | st.booleans() | st.integers(-(2**31), 2**31 - 1)
TIMES = st.datetimes(timezones=st.timezones()) | st.sampled_from(
    ["2018-04-05t17:31:00.10-00:00", "2018-04-05T17:31:00Z"]
)
LEAP_SECOND = st.just("2016-12-31T23:59:60Z")
NUMBERS = st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False, allow_infinity=False)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
JSON = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=10,
)


@st.composite
def arguments(draw: st.DrawFn, *, leap_seconds: bool = True) -> dict[str, Any]:
    """Draw the arguments of any valid event; few validators know of leap seconds."""
    found: dict[str, Any] = {
        "id": draw(STRINGS.filter(bool)),
        "source": draw(st.sampled_from(["/s", "urn:x:y", "https://e.x/a?b#c", "a%20b", "mailto:a@b"])),
        "type": draw(STRINGS.filter(bool)),
        "subject": draw(st.none() | STRINGS.filter(bool)),
        "time": draw(st.none() | TIMES | LEAP_SECOND if leap_seconds else st.none() | TIMES),
        "dataschema": draw(st.none() | st.just("https://e.x/s.json#/a")),
        **draw(st.dictionaries(NAMES, VALUES, max_size=4)),
    }
    kind = draw(st.sampled_from(["absent", "json", "text", "bytes"]))
    if kind == "json":
        found["datacontenttype"] = draw(st.sampled_from([None, "application/json", "Text/X+JSON; charset=UTF-8"]))
        found["data"] = draw(JSON)
    elif kind == "text":
        found["datacontenttype"] = draw(st.sampled_from(["text/plain", "application/xml", "text/css; charset=utf-16"]))
        found["data"] = draw(TEXTS)
    elif kind == "bytes":
        found["datacontenttype"] = draw(
            st.sampled_from([None, "application/octet-stream", "image/png", "application/json"])
        )
        found["data"] = draw(st.binary(max_size=20))
    return found
