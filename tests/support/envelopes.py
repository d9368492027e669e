"""JSON envelopes as honest, careless and hostile producers write them, for comparing the two paths of the decoder."""

from __future__ import annotations

import json

from hypothesis import strategies as st

Member = tuple[bytes, bytes]

REQUIRED: list[Member] = [(b'"specversion"', b'"1.0"'), (b'"id"', b'"1"'), (b'"source"', b'"/s"'), (b'"type"', b'"t"')]
#: Extensions with a type each, for the fast path to learn.
LEARNED: list[Member] = [(b'"flag"', b"true"), (b'"n"', b"5"), (b'"myext"', b'"a"'), (b'"partitionkey"', b'"k"')]

_TEXT = [
    '"a"',
    '"é"',
    '"\\u00e9"',
    '"\\u0031"',
    '"a\\"b"',
    '"\\\\"',
    '"\\/"',
    '"\\ud83d\\ude00"',
    '"😀"',
    '"\\u0022"',
    '"\xa0"',
]
_DATA = [
    '"x"', '"a\\"b"', '"\\"id\\":\\"2\\""', '{"id":"2"}', '{"a":"\\\\","b":"\\""}', '[{"data":1}]', '"}"',
    '","id":"2"}"', "1.0", '"1.0"', '"/s"', '"1"', '"t"', "5", "true", '{"a":1,"a":2}', '"é"', "[[[]]]", "null",
    '"\\u0000"', "1e400", '"\\"\\"\\"\\""', '"}\\\\"', "[ 1 , 2 ]",
]  # fmt: skip
#: What may stand beside the required members: names, each with values that are allowed for it.
_ALLOWED = {
    "subject": [*_TEXT, "null"],
    "time": ['"2018-04-05T17:31:00Z"', '"2016-12-31t23:59:60.123456789-00:00"', "null"],
    "datacontenttype": ['"application/json"', '"Text/JSON; x=\\"y\\""', "null"],
    "dataschema": ['"https://example.com/s"', '"https:\\/\\/example.com"', "null"],
    "partitionkey": [*_TEXT, "5"],
    "myext": [*_TEXT, '""', "null"],
    "n": ["5", "-0", "-2147483648", "2147483647", '"5"', "true"],
    "flag": ["true", "false", '"true"', "1"],
    "unmet7": ['"a"', "1"],
    "data": [*_DATA],
    "\\u006eamed": ['"escaped name"'],
}
_ODD_VALUES = [
    '"\\u0000"', '"\\n"', '"\\u007f"', '"\x7f"', '"\x85"', '"\\u0085"', '"\\ufffe"', '"\ufdd0"', '"\\ud800"', '""',
    "[]", '"text/plain"', '"text/plain; charset=iso-8859-1"', '"image/png"', '"not a type"', '"2018-02-30T17:31:00Z"',
    "{}", '"has space"', '"\\u0022,\\u0022id\\u0022:\\u00222\\u0022"', '"\\",\\"id\\":\\"2\\""', '"aGk="', '"aGk"',
    "null", "true", "-5", "5.0", "1e3", "1.5", "2147483648", "-2147483649", "01", "1" * 30, "1e400", "NaN", '["a"]',
    '{"id":"2"}', "[1,", "tru", "", '"', '"\\',
]  # fmt: skip
_ODD_NAMES = [
    "data_base64", "Bad_Name", "", "é", "i\\u0064", "d\\u0061ta", "\\u0069\\u0064", "id\\u0000", "extensions", "id ",
    "dat\\u0061_base64", "\\ud800", "subjec\\u0074", "n\\u0000",
]  # fmt: skip
_SPACES = [b" ", b"\n", b"\t\r\n "]
_NOISE = [b'"', b"\\", b"}", b",", b"\xff", b"", b'\\"', b"\x0c", b"\x00", b"\xef\xbb\xbf"]


def _raw(texts: list[str]) -> st.SearchStrategy[bytes]:
    return st.sampled_from([text.encode() for text in texts])


def _allowed() -> st.SearchStrategy[Member]:
    return st.sampled_from([*_ALLOWED]).flatmap(
        lambda name: st.tuples(st.just(f'"{name}"'.encode()), _raw(_ALLOWED[name]))
    )


def _odd() -> st.SearchStrategy[Member]:
    names = [*_ODD_NAMES, *_ALLOWED, "id", "source", "type", "specversion"]
    free = st.text(st.characters(codec="utf-8"), max_size=6)
    written = st.builds(lambda text, escape: json.dumps(text, ensure_ascii=escape).encode(), free, st.booleans())
    broken = st.sampled_from([b'"\xff"', b'"\xed\xa0\x80"', b'"\xc3"'])
    values = st.one_of(_raw(_ODD_VALUES), _raw(_DATA), written, broken)
    return st.tuples(st.sampled_from([f'"{name}"'.encode() for name in names]), values)


@st.composite
def envelopes(draw: st.DrawFn) -> bytes:
    """Bytes of one envelope: half of them valid, the others with something that should not be there."""
    found = [*REQUIRED, *draw(st.lists(_allowed(), max_size=5, unique_by=lambda member: member[0]))]
    attack = draw(st.sampled_from(["none", "none", "none", "odd", "repeat", "drop", "noise"]))
    if attack == "odd":
        found += draw(st.lists(_odd(), min_size=1, max_size=2))
    elif attack == "repeat":
        found.append(draw(st.sampled_from(found)))
    elif attack == "drop":
        found.remove(draw(st.sampled_from(found)))
    if draw(st.booleans()):
        found = draw(st.permutations(found))
    space = st.sampled_from(_SPACES) if draw(st.integers(0, 3)) == 0 else st.just(b"")
    parts = [draw(space) + name + draw(space) + b":" + draw(space) + value + draw(space) for name, value in found]
    body = draw(space) + b"{" + b",".join(parts) + b"}" + draw(space)
    if attack == "noise":
        at = draw(st.integers(0, len(body)))
        body = body[:at] + draw(st.sampled_from(_NOISE)) + body[at + draw(st.integers(0, 1)) :]
    return body


def write(found: list[Member]) -> bytes:
    """Join members to an envelope."""
    return b"{" + b",".join(name + b":" + value for name, value in found) + b"}"
