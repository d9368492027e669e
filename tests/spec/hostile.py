"""Hostile and malformed requests, as bytes, and the answer that each of them must get.

Every value that a peer chose says "canary", so that an answer that repeats input gives itself away.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.support.raw import Line, request, without

#: Bytes that the receiver under test takes at most.
MAX_BODY = 262_144
MAX_BATCH = 3

HEADERS = ("ce-specversion: 1.0", "ce-id: canary-1", "ce-source: /canary", "ce-type: canary.type")
MEMBERS = {"specversion": "1.0", "id": "canary-1", "source": "/canary", "type": "canary.type"}
STRUCTURED = "Content-Type: application/cloudevents+json"
BATCH = "Content-Type: application/cloudevents-batch+json"
JSON = "Content-Type: application/json"
ONE = json.dumps(MEMBERS)


@dataclass(frozen=True, kw_only=True)
class Case:
    """One request and what becomes of it."""

    number: str
    what: str
    data: bytes
    status: int
    calls: int
    """How often the handler runs."""
    seen: Mapping[str, object]
    """Attributes that the handler finds in the event; None for those that must not be set."""
    names: str
    """What the answer's detail must mention."""
    headers: Mapping[str, str] = field(default_factory=dict)
    """Headers of the answer."""
    code: str | None = None
    """Member ``code`` of the answer."""

    @property
    def name(self) -> str:
        """The parameter id; it begins with the number of the checklist's row."""
        return f"18-{self.number} {self.what}"


def binary(*lines: Line, drop: tuple[str, ...] = (), body: Line = b"", **options: Any) -> bytes:
    return request(*without(HEADERS, *drop), *lines, body=body, **options)


def structured(body: Line, *lines: Line, content_type: str = STRUCTURED) -> bytes:
    return request(content_type, *lines, body=body)


def members(text: str) -> bytes:
    """Write a structured request whose valid members are followed by ``text``; a member in it replaces its namesake."""
    kept = {name: value for name, value in MEMBERS.items() if not text.startswith(f'"{name}"')}
    return structured(json.dumps(kept)[:-1] + f",{text}}}")


def chunked(*lines: Line, drop: tuple[str, ...] = (), body: Line = b"0\r\n\r\n") -> bytes:
    return binary("Transfer-Encoding: chunked", *lines, drop=drop, body=body, length=False)


def ok(number: int, what: str, data: bytes, *, calls: int = 1, **seen: object) -> Case:
    return Case(number=str(number), what=what, data=data, status=204, calls=calls, seen=seen, names="")


def no(number: int, what: str, data: bytes, status: int = 400, names: str = "", **more: Any) -> Case:
    return Case(number=str(number), what=what, data=data, status=status, calls=0, seen={}, names=names, **more)


def headers_of_events() -> Iterator[Case]:
    yield no(1, "no ce-id", binary(drop=("ce-id",)), names="id: is required")
    yield no(2, "no ce-specversion", binary(drop=("ce-specversion",)), names="specversion: is required")
    yield no(3, "no ce-source", binary(drop=("ce-source",)), names="source: is required")
    yield no(3, "no ce-type", binary(drop=("ce-type",)), names="type: is required")
    yield no(4, "no ce- headers", request(JSON, body='{"canary": 1}'), 415, names="no CloudEvent")
    yield no(5, "an event without Content-Type", request(body=ONE), 415, names="no CloudEvent")
    yield no(6, "ce-id of spaces", binary("ce-id:   ", drop=("ce-id",)), names="id: must not be empty")
    yield no(6, "empty ce-id", binary("ce-id:", drop=("ce-id",)), names="id: must not be empty")
    yield no(7, "ce-id twice", binary("ce-id: canary-2"), names="id: is repeated")
    yield no(7, "ce-id twice, the same", binary("ce-id: canary-1"), names="id: is repeated")
    yield no(8, "ce-id and CE-ID", binary("CE-ID: canary-1"), names="id: is repeated")
    for version in ("2.0", "1", "banana", "0.3"):
        refused = binary(f"ce-specversion: {version}", drop=("ce-specversion",))
        number = 10 if version == "0.3" else 9
        yield no(number, f"specversion {version}", refused, names="specversion", code="unsupported-version")
    yield no(11, "hyphen in a name", binary("ce-my-ext: canary"), names="a-z and 0-9")
    yield no(11, "underscore in a name", binary("ce-my_ext: canary"), names="a-z and 0-9")
    yield no(11, "empty name", binary("ce-: canary"), names="a-z and 0-9")
    yield no(12, "ce-data", binary("ce-data: canary"), names="data: is not an attribute")
    both = ("Content-Type: text/canary", "ce-datacontenttype: text/canary")
    yield no(13, "ce-datacontenttype after Content-Type", binary(*both), names="datacontenttype")
    yield no(13, "ce-datacontenttype before Content-Type", binary(*both[::-1]), names="datacontenttype")
    yield no(13, "ce-datacontenttype alone", binary(both[1]), names="datacontenttype")


def values_of_headers() -> Iterator[Case]:
    yield no(14, "overlong UTF-8", binary("ce-subject: canary%C0%A0"), names="subject: is not UTF-8")
    yield no(15, "percent-encoded byte FF", binary("ce-subject: canary%FFb"), names="subject: is not UTF-8")
    yield no(15, "percent-encoded surrogate", binary("ce-subject: canary%ED%A0%80"), names="subject: is not UTF-8")
    yield no(16, "percent-encoded CRLF", binary("ce-subject: canary%0D%0AX-Evil:%201"), names="subject")
    yield no(17, "percent-encoded NUL", binary("ce-id: canary%00", drop=("ce-id",)), names="id: holds")
    yield no(18, "noncharacter", binary("ce-subject: canary%EF%BF%BE"), names="subject: holds")
    yield ok(19, "quoted string", binary('ce-subject: "hello world"'), subject="hello world")
    yield no(20, "unterminated quoted string", binary('ce-subject: "canary'), names="subject: is an unterminated")
    yield ok(21, "percent sign at the end", binary("ce-subject: 100%"), subject="100%")
    yield ok(21, "percent sign before no digits", binary("ce-subject: %zz"), subject="%zz")
    yield ok(22, "raw UTF-8", binary(b"ce-subject: caf\xc3\xa9"), subject="café")
    yield no(23, "raw bytes that are no UTF-8", binary(b"ce-subject: canary\xff\xfe"), names="subject: is not UTF-8")
    yield no(24, "tab in a value", binary("ce-subject: canary\tb"), names="subject: holds")


def broken_http() -> Iterator[Case]:
    for number, what, line in (
        (25, "NUL in a header", b"ce-subject: canary\x00b"),
        (25, "byte 01 in a header", b"ce-subject: canary\x01b"),
        (25, "DEL in a header", b"ce-subject: canary\x7fb"),
        (26, "bare CR in a header", b"ce-subject: canary\rb"),
        (26, "bare LF in a header", b"ce-subject: canary\nb"),
        (27, "continuation line", b"ce-subject: canary\r\n canary"),
        (28, "space before the colon", b"ce-subject : canary"),
        (29, "parenthesis in a name", b"ce-(canary): a"),
        (29, "name that is no ASCII", b"ce-canary\xff: a"),
        (29, "header without a name", b": canary"),
        (30, "Content-Length and Transfer-Encoding", b"Transfer-Encoding: chunked"),
        (31, "two Content-Length", b"Content-Length: 7"),
        (35, "two Host", b"Host: canary"),
        (36, "two Content-Type", b"Content-Type: text/a\r\nContent-Type: text/canary"),
        (37, "long header line", b"ce-subject: " + b"canary" * 2000),
        (38, "many header lines", b"\r\n".join(b"X-Canary-%d: canary" % i for i in range(130))),
    ):
        yield no(number, what, binary(line, body="{}"))
    yield no(32, "negative Content-Length", binary("Content-Length: -1", length=False))
    yield no(32, "Content-Length with a sign", binary("Content-Length: +2", length=False, body="{}"))
    yield no(33, "bad chunk size", chunked(body="canary\r\n{}\r\n0\r\n\r\n"))
    yield no(34, "Transfer-Encoding: identity", binary("Transfer-Encoding: identity", length=False))
    yield no(34, "chunked twice", chunked("Transfer-Encoding: chunked"))
    yield no(34, "chunked twice in one line", binary("Transfer-Encoding: chunked, chunked", length=False))
    yield no(35, "no Host", binary(host=False))
    yield no(39, "long request target", binary(path="/?" + "canary" * 2000))
    yield no(48, "unknown expectation", binary("Expect: canary", body="{}"), 417)
    yield no(49, "ce-id in a trailer", chunked("Trailer: ce-id", drop=("ce-id",), body="0\r\nce-id: canary\r\n\r\n"))
    for method in ("GET", "PUT", "DELETE", "PATCH"):
        yield no(50, method, binary(method=method), 405, headers={"allow": "POST"})
    yield no(51, "method in lower case", binary(method="post"))


def bodies() -> Iterator[Case]:
    large = b"canary" * (MAX_BODY // 5)
    yield no(40, "body over the limit", binary(body=large), 413)
    yield no(40, "chunked body over the limit", chunked(body=b"%x\r\n%b\r\n0\r\n\r\n" % (len(large), large)), 413)
    yield no(40, "chunk that never ends", chunked(body=b"%x\r\n%b" % (10**9, large)), 413)
    yield no(41, "compressed 50 MB", binary("Content-Encoding: gzip", body=gzip.compress(bytes(50_000_000))), 413)
    whole = gzip.compress(b'"canary"')
    corrupt = whole[:-8] + bytes(8)
    yield no(42, "corrupt gzip", binary("Content-Encoding: gzip", body=corrupt), names="corrupt")
    yield no(42, "truncated gzip", binary("Content-Encoding: gzip", body=whole[:-4]), names="incomplete")
    yield no(42, "no gzip at all", binary("Content-Encoding: gzip", body="canary"), names="corrupt")
    takes = {"accept-encoding": "gzip, deflate"}
    for number, coding in ((43, "br"), (44, "canary"), (44, "gzip, gzip")):
        yield no(number, f"coding {coding}", binary(f"Content-Encoding: {coding}", body=whole), 415, headers=takes)
    yield ok(85, "malformed JSON data", binary(JSON, body='{"canary":'), datacontenttype="application/json")


def structured_bodies() -> Iterator[Case]:
    for what, body in (("{", "{"), ("empty", ""), ("text after the JSON", ONE + "xx"), ("two events", ONE + ONE)):
        yield no(52, what, structured(body))
    for body in ("[]", "5", "null", '"canary"', f"[{ONE}]"):
        yield no(53, f"body {body[:10]}", structured(body), names="not an object")
    yield no(54, "invalid UTF-8", structured(ONE.encode().replace(b"canary-1", b"canary\xff")), names="UTF-8")
    utf16 = "Content-Type: application/cloudevents+json; charset=utf-16"
    yield no(55, "charset=utf-16", structured(ONE, content_type=utf16), 415)
    yield no(55, "UTF-16 that says so", structured(ONE.encode("utf-16"), content_type=utf16), 415)
    yield no(55, "UTF-16 that does not say so", structured(ONE.encode("utf-16")), names="UTF-8")
    yield no(56, "byte order mark", structured(b"\xef\xbb\xbf" + ONE.encode()))
    yield no(57, "id repeated", structured(ONE[:-1] + ',"id":"canary-2"}'), names="repeated")
    yield no(57, "id repeated by an escape", structured(ONE[:-1] + ',"\\u0069d":"canary-2"}'), names="repeated")
    yield no(57, "extension repeated", members('"x":1,"x":1'), names="repeated")
    for number in ("NaN", "Infinity", "-Infinity"):
        yield no(58, f"{number} in data", members(f'"data":{{"canary":{number}}}'))
        yield no(58, f"{number} as attribute", members(f'"n":{number}'))
    yield no(58, "1e400 as attribute", members('"n":1e400'), names="n: must be")
    yield ok(58, "1e400 in data", members('"data":[1e400]'))
    deep = 100_000
    yield no(59, "deep data", members(f'"data":{"[" * deep}{"]" * deep}'))
    yield no(59, "deep data, unclosed", members(f'"data":{"[" * deep}'))
    yield no(59, "deep body", structured("[" * deep))
    yield no(59, "deep attribute", members(f'"n":{"[" * deep}{"]" * deep}'))
    yield no(60, "integer of 5000 digits as attribute", members(f'"n":{"9" * 5000}'), names="n: must be")
    yield ok(60, "integer of 5000 digits in data", members(f'"data":{"9" * 5000}'))


def structured_members() -> Iterator[Case]:
    yield ok(61, "null time", members('"time":null'), time=None)
    yield ok(61, "null subject", members('"subject":null'), subject=None)
    yield no(62, "time that is a number", members('"time":5'), names="time: must be")
    yield no(62, "time in basic format", members('"time":"20180405T173100Z"'), names="time: must be")
    yield ok(63, "leap second", members('"time":"2016-12-31T23:59:60Z"'), time="2016-12-31T23:59:60Z")
    for value in ("5", "null", '""'):
        yield no(64, f"id {value}", members(f'"id":{value}'), names="id: ")
    for value in ("2147483648", "1.5", "5.0", "1e3"):
        yield no(65, f"number {value}", members(f'"n":{value}'), names="n: ")
    for value in ('{"canary":1}', "[1]", "[]"):
        yield no(66, f"value {value}", members(f'"ext":{value}'), names="ext: must be")
    for name in ("MyExt", "my_ext", "ext\\n", "", "<b>canary</b>"):
        yield no(67, f"member {name!r}", members(f'"{name}":"canary"'), names="a-z and 0-9")
    yield no(68, "lone surrogate", members('"subject":"canary\\udead"'))
    yield no(68, "escaped NUL", members('"subject":"canary\\u0000b"'), names="subject: holds")
    yield no(69, "member extensions", members('"extensions":{"id":"canary-9"}'), names="extensions: must be")
    yield no(70, "data and data_base64", members('"data":"canary","data_base64":"YQ=="'), names="data: ")
    yield no(70, "null data and data_base64", members('"data":null,"data_base64":"YQ=="'), names="data: ")
    for value in ('"!!!"', '"abc"', "5", '"aGVs\\nbG8="', '"YR=="', '"_-8="', "true"):
        yield no(71, f"data_base64 {value}", members(f'"data_base64":{value}'), names="data_base64")
    yield no(72, "object as XML", members('"datacontenttype":"text/xml","data":{"canary":1}'), names="data: must be")


def modes() -> Iterator[Case]:
    others = [line.replace("canary", "header") for line in HEADERS]
    yield ok(73, "ce- headers beside a structured event", structured(ONE, *others), id="canary-1", source="/canary")
    yield ok(74, "stray ce- header", structured(ONE, "ce-foo: canary"), foo=None)
    for suffix in ("+avro", "+jsonx", "", "+json-seq"):
        content_type = f"Content-Type: application/cloudevents{suffix}"
        yield no(75, f"format {suffix}", structured(ONE, *HEADERS, content_type=content_type), 415)
    shouted = "Content-Type: APPLICATION/CLOUDEVENTS+JSON; Charset=utf-8"
    yield ok(76, "media type in capitals", structured(ONE, content_type=shouted), id="canary-1")
    yield no(77, "two media types", structured(ONE, content_type=STRUCTURED + ", text/plain"), 415)
    for content_type in ("", "garbage", ";charset=canary", "text/", "/canary"):
        refused = binary(f"Content-Type: {content_type}")
        yield no(78, f"Content-Type {content_type!r}", refused, names="datacontenttype")
    spaces = "Content-Type: a/b" + "; " * 2000 + "@"
    yield no(78, "Content-Type of separators", binary(spaces), names="datacontenttype: must be a media type")
    for text in ("é".encode(), b"\xe9", b"\\\xe9"):
        refused = binary(b'Content-Type: text/plain; x="' + text + b'"')
        yield no(78, f"Content-Type with {text!r}", refused, names="datacontenttype: must be a media type")
    yield no(78, "datacontenttype with é", members('"datacontenttype":"a/b; x=\\"é\\""'), names="datacontenttype")
    yield ok(80, "empty batch", request(BATCH, body="[]"), calls=0)
    for what, body in (("without id", '{"specversion":"1.0"}'), ("no object", "null"), ("no event", "[]")):
        yield no(81, f"batch with a member {what}", request(BATCH, body=f"[{ONE},{body},{ONE}]"), names="event 1: ")
    old = ONE.replace("1.0", "0.3")
    yield no(82, "batch of two versions", request(BATCH, body=f"[{ONE},{old}]"), names="event 1: specversion")
    yield no(83, "batch that is an object", request(BATCH, body=ONE), names="not an array")
    many = ",".join([ONE] * (MAX_BATCH + 1))
    yield no(84, "batch over the limit", request(BATCH, body=f"[{many}]"), 413)
    yield ok(84, "batch at the limit", request(BATCH, body=f"[{','.join([ONE] * MAX_BATCH)}]"), calls=MAX_BATCH)


def webhooks() -> Iterator[Case]:
    origin = "WebHook-Request-Origin: canary.example"
    for number, what, *lines in (
        (87, "origin", origin),
        (88, "rate of 0", origin, "WebHook-Request-Rate: 0"),
        (88, "rate that is no number", origin, "WebHook-Request-Rate: abc"),
    ):
        yield no(number, f"OPTIONS with {what}", request(*lines, method="OPTIONS"), 405, headers={"allow": "POST"})
    yield ok(96, "duplicate", binary(), id="canary-1")


CASES = [
    *headers_of_events(),
    *values_of_headers(),
    *broken_http(),
    *bodies(),
    *structured_bodies(),
    *structured_members(),
    *modes(),
    *webhooks(),
]
