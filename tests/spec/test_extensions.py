"""Section 2 of the checklist: the documented extension attributes.

They are checked where an event is built. A received event passes as it came, as is asked of intermediaries.
"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from cloudevents_kit import Event, Receiver, Sender
from tests.spec.wire import MODES, again, binary, new, refused, structured

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b9c7c989f97918e1-01"
EARLY, LATE = "2026-01-01T00:00:00Z", "2026-01-02T00:00:00.5+01:00"

GOOD: list[dict[str, Any]] = [
    {"traceparent": TRACE},
    {"traceparent": TRACE, "tracestate": "a=b"},
    {"traceparent": "cc" + TRACE[2:-2] + "00"},
    {"correlationid": "c", "causationid": "d"},
    {"partitionkey": "k"},
    {"sequence": "0000000009"},
    {"expirytime": LATE, "time": EARLY},
    {"recordedtime": LATE},
    {"dataref": "/relative?x"},
    {"deprecated": True, "deprecationfrom": EARLY, "deprecationsunset": LATE, "deprecationmigration": "https://e.x/m"},
    {"severitynumber": 0},
    {"severitynumber": 9, "severitytext": "INFO"},
    {"sampledrate": 1},
    {"authtype": "unauthenticated"},
    {"authtype": "user", "authid": "u", "authclaims": '{"sub":"u"}'},
    {"dataclassification": "internal"},
]
BAD: list[tuple[str, dict[str, Any]]] = [
    ("EX-01", {"traceparent": ""}),
    ("EX-01", {"traceparent": 1}),
    ("EX-01", {"traceparent": TRACE.upper()}),
    ("EX-01", {"traceparent": TRACE.replace("0af7651916cd43dd8448eb211c80319c", "0" * 32)}),
    ("EX-01", {"traceparent": TRACE.replace("b9c7c989f97918e1", "0" * 16)}),
    ("EX-01", {"traceparent": "ff" + TRACE[2:]}),
    ("EX-01", {"traceparent": TRACE[:-1]}),
    ("EX-01", {"traceparent": TRACE + "-01"}),
    ("EX-01", {"traceparent": f" {TRACE}"}),
    ("EX-01", {"tracestate": "a=b"}),
    ("EX-02", {"correlationid": ""}),
    ("EX-02", {"causationid": ""}),
    ("EX-02", {"causationid": 5}),
    ("EX-03", {"partitionkey": ""}),
    ("EX-03", {"partitionkey": 7}),
    ("EX-04", {"sequence": ""}),
    ("EX-04", {"sequence": 9}),
    ("EX-05", {"expirytime": "tomorrow"}),
    ("EX-05", {"expirytime": 5}),
    ("EX-06", {"recordedtime": "2026-01-01"}),
    ("EX-07", {"dataref": "no reference"}),
    ("EX-07", {"dataref": ""}),
    ("EX-08", {"deprecated": False}),
    ("EX-08", {"deprecated": "true"}),
    ("EX-08", {"deprecated": True, "deprecationfrom": LATE, "deprecationsunset": EARLY}),
    ("EX-08", {"deprecated": True, "deprecationmigration": "/relative"}),
    ("EX-09", {"severitynumber": -1}),
    ("EX-09", {"severitynumber": True}),
    ("EX-09", {"severitynumber": "5"}),
    ("EX-09", {"severitytext": "INFO"}),
    ("EX-10", {"sampledrate": 0}),
    ("EX-10", {"sampledrate": "2"}),
    ("EX-11", {"authtype": ""}),
    ("EX-11", {"authid": "u"}),
    ("EX-11", {"authclaims": "{}"}),
    ("EX-11", {"authtype": "user", "authclaims": 5}),
    ("EX-12", {"dataclassification": ""}),
]


@pytest.mark.parametrize("extensions", GOOD, ids=repr)
def test_a_documented_extension_that_keeps_its_rules_is_taken(extensions: dict[str, Any]) -> None:
    """EX-01, EX-02, EX-03, EX-04, EX-05, EX-06, EX-07, EX-08, EX-09, EX-10, EX-11, EX-12."""
    event = new(**extensions)
    assert {name: event[name] for name in extensions} == extensions
    for mode in MODES:
        assert again(event, mode).attributes.keys() == event.attributes.keys()


@pytest.mark.parametrize(("number", "extensions"), [pytest.param(*case, id=f"{case[0]} {case[1]}") for case in BAD])
def test_a_documented_extension_that_breaks_its_rules_cannot_be_built(number: str, extensions: dict[str, Any]) -> None:
    refused(lambda: new(**extensions), attribute=next(reversed(extensions)))
    refused(lambda: new().evolve(**extensions))


@pytest.mark.parametrize("extensions", [extensions for _, extensions in BAD], ids=repr)
def test_on_receipt_a_documented_extension_passes_as_it_came(extensions: dict[str, Any]) -> None:
    """EM-22: an intermediary forwards what it does not understand."""
    event = structured(extensions)
    assert {name: event[name] for name in extensions} == extensions
    assert again(event, "structured") == event


def test_a_reply_names_its_cause_and_its_correlation() -> None:
    """EX-02."""
    asked = new(id="asked")
    answer = asked.reply(type="t", source="/s")
    assert (answer["causationid"], answer["correlationid"]) == ("asked", "asked")
    later = answer.reply(type="t", source="/s")
    assert (later["causationid"], later["correlationid"]) == (answer.id, "asked")


def test_a_sequence_is_text_that_sorts_as_text() -> None:
    """EX-04: the producer pads; nothing turns the text into a number."""
    padded = [new(sequence=f"{number:010}") for number in (10, 9)]
    assert sorted(event["sequence"] for event in padded) == ["0000000009", "0000000010"]
    assert binary({"ce-sequence": "0000000009"})["sequence"] == "0000000009"
    assert again(structured(sequence="0000000009"), "binary")["sequence"] == "0000000009"


async def test_a_trace_that_an_event_has_is_never_replaced() -> None:
    """EX-01, decision 0.4: not by forwarding it, nor by sending it while another event is handled."""
    other = TRACE.replace("b9c7", "0000")
    sent: list[Event] = []

    async def last(event: Event) -> None:
        sent.append(event)

    async with Receiver(last, port=0) as receiver, Sender(receiver.url) as sender:

        async def middle(event: Event) -> None:
            for onward in (event, new(id="2", traceparent=other), new(id="3")):
                assert await sender.send(onward)

        async with Receiver(middle, port=0) as first, Sender(first.url) as start:
            assert await start.send(new(traceparent=TRACE, tracestate="a=b"))
    forwarded, own, inherited = sent
    assert (forwarded["traceparent"], forwarded["tracestate"]) == (TRACE, "a=b")
    assert own["traceparent"] == other
    assert "tracestate" not in own
    assert str(inherited["traceparent"])[:36] == TRACE[:36]
    assert inherited["traceparent"] != TRACE


async def test_a_dataref_is_never_fetched() -> None:
    """EX-07."""
    fetched = asyncio.Event()

    async def store(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        fetched.set()
        writer.close()

    async def handler(event: Event) -> None:
        assert event.data is None
        assert not event.has_data

    async with await asyncio.start_server(store, "127.0.0.1", 0) as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
        async with Receiver(handler, port=0) as receiver, Sender(receiver.url) as sender:
            assert await sender.send(new(dataref=url))
    assert not fetched.is_set()


@pytest.mark.parametrize("kind", ["system", "unauthenticated", "made up"])
async def test_a_receiver_never_decides_by_authtype(kind: str) -> None:
    """EX-11: authtype informs, it proves nothing."""
    seen = []

    async def handler(event: Event) -> None:
        seen.append(event["authtype"])

    async with Receiver(handler, port=0) as receiver, Sender(receiver.url) as sender:
        assert await sender.send(new(authtype=kind))
    assert seen == [kind]
