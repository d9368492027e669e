"""Rules of the extension attributes that the CloudEvents project documents, checked when an event is built.

On receipt extensions pass untouched, as the specification asks of intermediaries; so they do when other attributes of
a received event are changed. Each rule, and each error about it, names its document
(cloudevents/extensions/<name>.md).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet

from cloudevents_kit._errors import EventError
from cloudevents_kit._values import (
    Value,
    is_absolute_uri,
    is_timestamp,
    is_uri_reference,
    match_traceparent,
    parse_timestamp,
)


def _text(value: Value) -> bool:
    return isinstance(value, str) and value != ""


def _when(value: Value) -> bool:
    return isinstance(value, str) and is_timestamp(value)


def _trace(value: Value) -> bool:
    return isinstance(value, str) and match_traceparent(value) is not None


def _number(low: int) -> Callable[[Value], bool]:
    return lambda value: isinstance(value, int) and not isinstance(value, bool) and value >= low


def _uri(check: Callable[[str], bool]) -> Callable[[Value], bool]:
    return lambda value: isinstance(value, str) and check(value)


#: By name: the check, the rule in words, and the document that sets it.
_RULES: dict[str, tuple[Callable[[Value], bool], str, str]] = {
    "traceparent": (_trace, "must be a traceparent of W3C Trace Context", "distributed-tracing"),
    "correlationid": (_text, "must be a non-empty String", "correlation"),
    "causationid": (_text, "must be a non-empty String", "correlation"),
    "partitionkey": (_text, "must be a non-empty String", "partitioning"),
    "sequence": (_text, "must be a non-empty String", "sequence"),
    "expirytime": (_when, "must be a Timestamp", "expirytime"),
    "recordedtime": (_when, "must be a Timestamp", "recordedtime"),
    "dataref": (_uri(is_uri_reference), "must be a URI-reference", "dataref"),
    "deprecated": (lambda value: value is True, "must be true, or left out", "deprecation"),
    "deprecationfrom": (_when, "must be a Timestamp", "deprecation"),
    "deprecationsunset": (_when, "must be a Timestamp", "deprecation"),
    "deprecationmigration": (_uri(is_absolute_uri), "must be a URI", "deprecation"),
    "severitynumber": (_number(0), "must be an Integer of 0 or more", "severity"),
    "severitytext": (_text, "must be a non-empty String", "severity"),
    "sampledrate": (_number(1), "must be an Integer above 0", "sampledrate"),
    "authtype": (_text, "must be a non-empty String", "authcontext"),
    "authclaims": (_text, "must be a String that holds JSON", "authcontext"),
    "dataclassification": (_text, "must be a non-empty String", "data-classification"),
}
_NEEDS = {"severitytext": "severitynumber", "authid": "authtype", "authclaims": "authtype", "tracestate": "traceparent"}

_PERIOD = frozenset({"deprecationfrom", "deprecationsunset"})  # compared with one another
#: All names that a rule is about.
KNOWN = frozenset({*_RULES, *_NEEDS})


def check_known_extensions(attributes: Mapping[str, Value], built: AbstractSet[str]) -> None:
    """Check the documented extensions among ``attributes`` that the names in ``built``, set or removed, bear upon.

    Raises EventError for the first that breaks its rule.
    """
    if KNOWN.isdisjoint(built):
        return
    if not built.isdisjoint(_PERIOD):
        built = built | _PERIOD
    for name, value in attributes.items():
        if name not in built or name not in _RULES:
            continue
        check, rule, document = _RULES[name]
        if not check(value):
            raise EventError(name, rule, hint=_see(document))
    for name, needed in _NEEDS.items():
        if name in attributes and needed not in attributes and not built.isdisjoint({name, needed}):
            raise EventError(name, f"needs {needed} beside it", hint=_see(_RULES[needed][2]))
    if "deprecationsunset" in attributes and "deprecationsunset" in built:
        _check_order(attributes, "deprecationfrom", "deprecationsunset")


def _check_order(attributes: Mapping[str, Value], first: str, then: str) -> None:
    if first not in attributes:
        raise EventError(then, f"needs {first} beside it", hint=_see(_RULES[then][2]))
    start, end = (parse_timestamp(str(attributes[name]), name) for name in (first, then))
    if end < start:
        raise EventError(then, f"must not be before {first}", hint=_see(_RULES[then][2]))


def _see(document: str) -> str:
    return f"see the CloudEvents extension {document!r}"
