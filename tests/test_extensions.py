"""The documented extensions where an event is changed: what bears upon a rule is checked, the rest passes as it came.

Which values the rules take and refuse is tested row by row in tests/spec/test_extensions.py.
"""

from __future__ import annotations

from typing import Any

import pytest

from cloudevents_kit import Event, EventError
from cloudevents_kit._extensions import _NEEDS, _RULES
from tests.support.events import new, read

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b9c7c989f97918e1-01"
EARLY, LATE = "2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z"
PERIOD = {"deprecated": True, "deprecationfrom": EARLY, "deprecationsunset": LATE}
#: Values that a peer may send although they break the rules, and what this package's users see of them.
BROKEN: dict[str, Any] = {
    "traceparent": "",
    "correlationid": 5,
    "partitionkey": True,
    "sequence": 7,
    "expirytime": "tomorrow",
    "dataref": "no reference",
    "deprecated": False,
    "severitynumber": "high",
    "severitytext": "",
    "sampledrate": 0,
    "authclaims": "{}",
}


@pytest.mark.parametrize(
    ("given", "rule", "document"),
    [
        ({"partitionkey": ""}, "partitionkey: must be a non-empty String", "partitioning"),
        ({"traceparent": 5}, "traceparent: must be a traceparent of W3C Trace Context", "distributed-tracing"),
        ({"expirytime": "tomorrow"}, "expirytime: must be a Timestamp", "expirytime"),
        ({"dataref": "a b"}, "dataref: must be a URI-reference", "dataref"),
        ({"deprecated": False}, "deprecated: must be true, or left out", "deprecation"),
        ({"sampledrate": 0}, "sampledrate: must be an Integer above 0", "sampledrate"),
        ({"severitytext": "INFO"}, "severitytext: needs severitynumber beside it", "severity"),
        ({"tracestate": "a=b"}, "tracestate: needs traceparent beside it", "distributed-tracing"),
        ({"deprecationsunset": LATE}, "deprecationsunset: needs deprecationfrom beside it", "deprecation"),
        (
            {"deprecationfrom": LATE, "deprecationsunset": EARLY},
            "deprecationsunset: must not be before deprecationfrom",
            "deprecation",
        ),
    ],
)
def test_a_broken_rule_names_the_document_that_sets_it(given: dict[str, Any], rule: str, document: str) -> None:
    with pytest.raises(EventError) as caught:
        new(**given)
    assert str(caught.value) == f"{rule} (see the CloudEvents extension {document!r})"


def test_every_rule_can_be_kept() -> None:
    event = new(
        **PERIOD, traceparent=TRACE, tracestate="a=b",
        correlationid="c", causationid="d", partitionkey="k", sequence="1", expirytime=LATE, recordedtime=EARLY,
        dataref="/data", deprecationmigration="https://e.x/m", severitynumber=0, severitytext="TRACE", sampledrate=1,
        authtype="user", authid="u", authclaims="{}", dataclassification="internal",
    )  # fmt: skip
    assert event.extensions.keys() == _RULES.keys() | _NEEDS.keys()
    assert event.evolve(subject="s").extensions == event.extensions


def test_a_peers_broken_extensions_pass_while_others_are_changed() -> None:
    event = read(**BROKEN)
    changed = event.evolve(subject="s", comexample="x", data={"a": 1}, causationid="c")
    assert {name: changed[name] for name in BROKEN} == BROKEN
    assert Event.of(changed) is changed


@pytest.mark.parametrize("name", [name for name in BROKEN if name != "authclaims"])
def test_a_peers_broken_extension_is_checked_once_it_is_set_again(name: str) -> None:
    event = read(**BROKEN)
    with pytest.raises(EventError) as caught:
        event.evolve(**{name: BROKEN[name]})
    assert caught.value.attribute == name
    assert name not in event.evolve(**{name: None, **({"severitytext": None} if name == "severitynumber" else {})})


@pytest.mark.parametrize(("name", "needed"), _NEEDS.items())
def test_what_another_extension_needs_cannot_be_removed_alone(name: str, needed: str) -> None:
    event = new(**{needed: {"severitynumber": 1, "traceparent": TRACE}.get(needed, "x"), name: "y"})
    with pytest.raises(EventError, match=f"^{name}: needs {needed} beside it"):
        event.evolve(**{needed: None})
    assert name not in event.evolve(**{needed: None, name: None})


def test_the_dates_of_a_deprecation_are_compared_when_either_changes() -> None:
    event = new(**PERIOD)
    with pytest.raises(EventError, match=r"^deprecationsunset: must not be before"):
        event.evolve(deprecationfrom="2026-01-03T00:00:00Z")
    with pytest.raises(EventError, match=r"^deprecationsunset: must not be before"):
        event.evolve(deprecationsunset="2025-12-31T00:00:00Z")
    with pytest.raises(EventError, match=r"^deprecationsunset: needs deprecationfrom"):
        event.evolve(deprecationfrom=None)
    later = event.evolve(deprecationfrom="2026-01-02T01:00:00+01:00")
    assert later["deprecationfrom"] == "2026-01-02T01:00:00+01:00"  # the same moment, written otherwise
    assert "deprecationsunset" not in event.evolve(deprecationsunset=None)


@pytest.mark.parametrize("name", ["deprecationfrom", "deprecationsunset"])
def test_a_date_that_a_peer_sent_wrong_is_named_when_the_other_is_set(name: str) -> None:
    event = read(**{**PERIOD, name: "soon"})
    other = "deprecationsunset" if name == "deprecationfrom" else "deprecationfrom"
    with pytest.raises(EventError, match=f"^{name}: must be a Timestamp"):
        event.evolve(**{other: PERIOD[other]})


@pytest.mark.parametrize("name", ["deprecationfrom", "deprecationsunset"])
def test_a_date_that_datetime_cannot_hold_is_named(name: str) -> None:
    with pytest.raises(EventError, match=f"^{name}: lies outside what datetime can hold"):
        new(**{**PERIOD, name: "0000-01-01T00:00:00Z"})


def test_names_that_only_resemble_documented_ones_have_no_rules() -> None:
    assert new(sequences=5, deprecatedx=False, authids="")["sequences"] == 5
