"""Hypothesis strategies for events: all of what the CloudEvents type system and JSON allow, and no more."""

from __future__ import annotations

import string
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from typing import Any
from urllib.parse import quote

from hypothesis import strategies as st

from cloudevents_kit import Event

CORE = frozenset({"specversion", "id", "source", "type", "subject", "time", "datacontenttype", "dataschema", "data"})
DOCUMENTED = frozenset(
    {
        "authclaims", "authid", "authtype", "causationid", "correlationid", "dataclassification", "dataref",
        "deprecated", "deprecationfrom", "deprecationmigration", "deprecationsunset", "expirytime", "partitionkey",
        "recordedtime", "sampledrate", "sequence", "severitynumber", "severitytext", "traceparent", "tracestate",
    }
)  # fmt: skip
NONCHARACTERS = "".join(chr(plane << 16 | low) for plane in range(17) for low in (0xFFFE, 0xFFFF)) + "".join(
    map(chr, range(0xFDD0, 0xFDF0))
)

_allowed = st.characters(exclude_categories=("Cs", "Cc"), exclude_characters=NONCHARACTERS)


def texts(*, min_size: int = 0) -> st.SearchStrategy[str]:
    """Every String: all of Unicode but control characters, surrogates and noncharacters."""
    return st.text(_allowed, min_size=min_size, max_size=30)


def sources() -> st.SearchStrategy[str]:
    """URI-references, relative and absolute."""
    escaped = texts(min_size=1).map(lambda text: quote(text, safe=""))
    return st.one_of(
        st.sampled_from(
            ["/s", "urn:uuid:6e8bc430-9c3a-11d9-9669-0800200c9a66", "mailto:a@b", "1-555-123-4567", "//h/p"]
        ),
        escaped.map(lambda text: f"/{text}"),
        escaped.map(lambda text: f"https://example.com/{text}?q={text}#{text}"),
    )


def schemas() -> st.SearchStrategy[str]:
    """Absolute URIs."""
    return texts().map(lambda text: f"https://example.com/{quote(text, safe='')}.json")


def extension_names() -> st.SearchStrategy[str]:
    """Names of extension attributes for which no document has rules."""
    return st.text(string.ascii_lowercase + string.digits, min_size=1, max_size=22).map(
        lambda name: f"{name}x" if name in CORE or name in DOCUMENTED else name
    )


def extension_values() -> st.SearchStrategy[str | int | bool]:
    """Strings, Integers and Booleans."""
    return st.one_of(texts(), st.integers(-(2**31), 2**31 - 1), st.booleans())


def extensions(*, max_size: int = 4) -> st.SearchStrategy[dict[str, str | int | bool]]:
    """Extension attributes by name."""
    return st.dictionaries(extension_names(), extension_values(), max_size=max_size)


def times() -> st.SearchStrategy[str | datetime]:
    """Moments: aware datetimes, and RFC 3339 texts with any number of digits and either case."""
    zones = st.integers(-23 * 60, 23 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes)))
    digits = st.text(string.digits, max_size=12).map(lambda text: f".{text}" if text else "")
    offsets = st.sampled_from(["Z", "z", "+05:30", "-00:00", "+23:59"])
    texts_ = st.builds(
        "2018-04-05{}17:31:{}{}{}".format, st.sampled_from("Tt"), st.sampled_from(["00", "60"]), digits, offsets
    )
    return st.one_of(st.datetimes(timezones=zones), texts_)


def json_values() -> st.SearchStrategy[Any]:
    """Every JSON value that Python holds; strings with control characters, too."""
    strings = st.text(st.characters(codec="utf-8"), max_size=20)
    scalars = st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), strings
    )
    return st.recursive(
        scalars,
        lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(strings, inner, max_size=4)),
        max_leaves=8,
    )


JSON_TYPES = (
    "application/json", "Application/JSON", "application/json ; x=y", "text/json", "application/vnd.a+json;v=1",
    "image/svg+json", "application/json; charset=utf-8",
)  # fmt: skip
CHARSETS: dict[str, Callable[[str], bool]] = {
    "text/plain": lambda _: True,
    "text/html; charset=UTF-8": lambda _: True,
    "application/xml": lambda _: True,
    'text/plain; charset="utf-16"': lambda _: True,
    "text/plain; charset=iso-8859-1": lambda char: ord(char) < 0x100,
    "text/csv;charset=us-ascii": str.isascii,
    "application/x-thing; charset=windows-1252": lambda char: _fits(char, "cp1252"),
}
BINARY_TYPES = (
    None,
    "application/octet-stream",
    "image/png",
    "text/plain",
    "application/json",
    "text/plain; charset=nope",
)


def _fits(char: str, charset: str) -> bool:
    try:
        char.encode(charset)
    except UnicodeEncodeError:
        return False
    return True


def _text_data(content_type: str) -> st.SearchStrategy[dict[str, Any]]:
    fits = CHARSETS[content_type]
    text = st.text(st.characters(codec="utf-8"), max_size=30).map(
        lambda found: "".join(char for char in found if fits(char))
    )
    return st.fixed_dictionaries({"data": text, "datacontenttype": st.just(content_type)})


def payloads() -> st.SearchStrategy[dict[str, Any]]:
    """Keywords ``data`` and ``datacontenttype``: no data, JSON, text in several charsets, bytes."""
    types = st.sampled_from(JSON_TYPES)
    return st.one_of(
        st.just({}),
        st.fixed_dictionaries({"datacontenttype": st.sampled_from([*JSON_TYPES, *CHARSETS, "image/png"])}),
        st.fixed_dictionaries({"data": json_values()}, optional={"datacontenttype": types}),
        st.sampled_from([*CHARSETS]).flatmap(_text_data),
        st.fixed_dictionaries({"data": st.binary(max_size=40), "datacontenttype": st.sampled_from(BINARY_TYPES)}),
    )


def keywords(*, max_extensions: int = 4) -> st.SearchStrategy[dict[str, Any]]:
    """Arguments of `Event`."""
    fields: dict[str, st.SearchStrategy[Any]] = {
        "type": texts(min_size=1),
        "source": sources(),
        "id": texts(min_size=1),
    }
    optional: dict[str, st.SearchStrategy[Any]] = {
        "subject": texts(min_size=1), "time": st.one_of(times(), st.none()), "dataschema": schemas()
    }  # fmt: skip
    return st.builds(
        lambda core, data, more: {**more, **core, **data},
        st.fixed_dictionaries(fields, optional=optional),
        payloads(),
        extensions(max_size=max_extensions),
    )


def events() -> st.SearchStrategy[Event]:
    """Every kind of event that can be built."""
    return keywords().map(lambda given: Event(**given))
