"""Rules from Python objects, dicts, TOML and JSON, and what is wrong with them."""

import copy
import json
import pickle
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from cloudevents_kit import CloudEventsError, Event
from cloudevents_kit.stages import Condition, Rule, RuleError, load_rules, rule_filter

TOML = """
[[rules]]
name = "no tests"
priority = 10
action = "block"
when = [
    { field = "source", op = "starts_with", value = "/test" },
    { any = [
        { field = "data.total", op = "lt", value = 1 },
        { field = "time", op = "lt", value = 2020-01-01T00:00:00Z },
        { field = "region", op = "not_in", value = ["eu", "us"], missing = true },
    ] },
]

[[rules]]
name = "vip"
action = "route"
to = ["vip", "audit"]
continue = true
sql = "customer = 'vip'"

[[rules]]
name = "mark"
priority = 20
action = "transform"
set = { checked = true, level = 3, expirytime = 2030-01-01T00:00:00Z }
remove = "debug"

[[rules]]
name = "busy"
action = "nack"
retry_after = 30
reason = "come back later"
"""
OBJECTS = (
    Rule(
        name="mark",
        priority=20,
        action="transform",
        set={"checked": True, "level": 3, "expirytime": datetime(2030, 1, 1, tzinfo=UTC)},  # type: ignore[dict-item]
        remove="debug",
    ),
    Rule(
        name="no tests",
        priority=10,
        action="block",
        when=[
            Condition("source", "starts_with", "/test"),
            {
                "any": [
                    Condition("data.total", "lt", 1),
                    Condition("time", "lt", datetime(2020, 1, 1, tzinfo=UTC)),
                    Condition("region", "not_in", ["eu", "us"], missing=True),
                ]
            },
        ],
    ),
    Rule(name="vip", action="route", to=["vip", "audit"], continue_=True, sql="customer = 'vip'"),
    Rule(name="busy", action="nack", retry_after=30, reason="come back later"),
)


def test_toml_dict_and_objects_give_the_same_rules_in_the_order_in_which_they_are_asked(tmp_path: Path) -> None:
    """K-D5."""
    import tomllib

    file = tmp_path / "rules.toml"
    file.write_text(TOML, "utf-8")
    as_dict = tomllib.loads(TOML)
    before = copy.deepcopy(as_dict)
    for source in (file, as_dict, as_dict["rules"], OBJECTS, (one for one in OBJECTS)):
        assert load_rules(source) == OBJECTS
    assert load_rules(TOML, format="toml") == OBJECTS
    assert as_dict == before


def test_json_gives_the_same_rules_as_a_dict(tmp_path: Path) -> None:
    rules: list[dict[str, Any]] = [
        {"name": "a", "action": "allow", "when": {"field": "x", "op": "eq", "value": 1}},
        {"name": "b", "action": "block", "when": [{"all": [{"field": "data.é", "op": "eq", "value": None}]}]},
    ]
    text = json.dumps({"rules": rules}, ensure_ascii=False)
    file = tmp_path / "rules.JSON"
    file.write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert load_rules(text, format="json") == load_rules(json.dumps(rules), format="json") == load_rules(rules)
    assert load_rules(file) == load_rules(rules)


def test_rules_of_equal_priority_keep_the_order_in_which_they_are_given() -> None:
    """K-D5."""
    rules = [Rule(name=f"{at}", action="allow", priority=at % 3) for at in range(9)]
    assert [rule.name for rule in load_rules(rules)] == ["2", "5", "8", "1", "4", "7", "0", "3", "6"]


def test_a_rule_can_be_copied_and_pickled() -> None:
    for rule in OBJECTS:
        assert copy.deepcopy(rule) == pickle.loads(pickle.dumps(rule)) == rule
    exists = Condition("x", "exists")
    assert pickle.loads(pickle.dumps(exists)) == exists


def test_what_a_rule_was_made_of_may_change_afterwards() -> None:
    """The caller's objects are copied."""
    given: dict[str, Any] = {
        "name": "a",
        "action": "transform",
        "set": {"x": 1},
        "remove": ["y"],
        "when": [{"field": "z", "op": "in", "value": [1]}],
    }
    (rule,) = load_rules([given])
    given["set"]["x"] = "no value \0"
    given["remove"].append("z")
    given["when"][0]["value"].append(2)
    assert (rule.set, rule.remove, rule.when) == ({"x": 1}, ("y",), (Condition("z", "in", (1,)),))


ALLOW = {"name": "a", "action": "allow"}
NACK = {"name": "a", "action": "nack"}
SET = {"name": "a", "action": "transform"}

WRONG: list[tuple[Any, str]] = [
    ({"name": "a"}, "rule 'a': rules[0].action: is required"),
    ({"action": "allow"}, "rules[0].name: is required"),
    ({**ALLOW, "name": ""}, "rules[0].name: must have 1 to 200 characters"),
    ({**ALLOW, "name": "a" * 201}, "rules[0].name: must have 1 to 200 characters"),
    ({**ALLOW, "name": 5}, "rules[0].name: must be text, not int"),
    ({**ALLOW, "prioritty": 1}, "rule 'a': rules[0].prioritty: is not known here (did you mean 'priority'?)"),
    ({**ALLOW, "continue_": True}, "rules[0].continue_: is not known here (did you mean 'continue'?)"),
    ({**ALLOW, 5: True}, "rules[0].5: is not known here"),
    ({**ALLOW, "action": "alow"}, "rules[0].action: 'alow' is no action (did you mean 'allow'?)"),
    ({**ALLOW, "action": "drop"}, "rules[0].action: 'drop' is no action (one of allow, block, nack, route, transform)"),
    ({**ALLOW, "action": ["allow"]}, "rules[0].action: must be text, not list"),
    ({**ALLOW, "priority": "high"}, "rules[0].priority: must be a whole number, not str"),
    ({**ALLOW, "priority": True}, "rules[0].priority: must be a whole number, not bool"),
    ({**ALLOW, "when": [{"field": "x", "op": "eqq"}]}, "rule 'a': rules[0].when[0].op: 'eqq' is no operator"),
    ({**ALLOW, "sql": "x = "}, "rule 'a': rules[0].sql: "),
    ({**ALLOW, "sql": 5}, "rules[0].sql: must be text, not int"),
    ({**ALLOW, "continue": True}, "rules[0].continue: is only for route and transform, not for allow"),
    ({**ALLOW, "to": ["x"]}, "rules[0].to: is only for route, not for allow"),
    ({**ALLOW, "function": print}, "rules[0].function: is only for transform, not for allow"),
    ({**ALLOW, "action": "block", "set": {"x": 1}}, "rules[0].set: is only for allow and route and transform"),
    ({**ALLOW, "reason": "no"}, "rules[0].reason: is only for nack, not for allow"),
    ({**ALLOW, "action": "route"}, "rules[0].to: is required for route"),
    ({**ALLOW, "action": "route", "to": 5}, "rules[0].to: must be a name or a list of names, not int"),
    ({**ALLOW, "action": "route", "to": ["x", ""]}, "rules[0].to[1]: must be text of 1 to 200 characters"),
    ({**ALLOW, "action": "route", "to": ["x", 5]}, "rules[0].to[1]: must be text of 1 to 200 characters"),
    ({**ALLOW, "action": "route", "to": ["x"] * 101}, "rules[0].to: has more than 100 names"),
    (SET, "rules[0].set: is required for transform (or remove, or a function)"),
    ({**SET, "function": "upper"}, "rules[0].function: must be a function, not str"),
    ({**SET, "set": ["x"]}, "rules[0].set: must be a table of attributes, not list"),
    ({**SET, "set": {"x": None}}, "rules[0].set.x: cannot be null (use remove)"),
    ({**SET, "set": {"x": 1.5}}, "rules[0].set.x: must be str, int, bool, bytes"),
    ({**SET, "set": {"X": 1}}, "rules[0].set.X: attribute names use only a-z and 0-9"),
    ({**SET, "set": {5: 1}}, "rules[0].set.5: names no attribute"),
    ({**SET, "set": {"id": "1"}}, "rules[0].set.id: a rule does not change the identity of an event"),
    ({**SET, "set": {"data": 1}}, "rules[0].set.data: a rule does not change the identity of an event, or its data"),
    ({**SET, "set": {"time": "now"}}, "rules[0].set.time: must be an RFC 3339 timestamp"),
    ({**SET, "set": {"expirytime": "soon"}}, "rules[0].set.expirytime: must be a Timestamp"),
    ({**SET, "remove": ["x", "type"]}, "rules[0].remove[1]: cannot be removed"),
    ({**SET, "remove": ["source"]}, "rules[0].remove[0]: a rule does not change the identity"),
    ({**SET, "remove": ["x"], "set": {"x": 1}}, "rules[0].remove[0]: is set as well"),
    ({**NACK, "status": 200}, "rules[0].status: Reject takes a final 4xx status, not 200"),
    ({**NACK, "status": 600}, "rules[0].status: "),
    ({**NACK, "status": 0}, "rules[0].status: must be 1 or more, not 0"),
    ({**NACK, "status": 422, "retry_after": 1}, "rules[0].retry_after: is for a status that is to be sent again"),
    ({**NACK, "retry_after": -1}, "rules[0].retry_after: must be finite and not negative"),
    ({**NACK, "retry_after": "1"}, "rules[0].retry_after: must be a number, not str"),
    (5, "rules[0]: must be a rule, not int"),
]


@pytest.mark.parametrize(("rule", "message"), WRONG, ids=range(len(WRONG)))
def test_an_error_names_the_rule_the_place_and_what_was_meant(rule: Any, message: str) -> None:
    """K-D5: nothing that cannot work is found only when events come."""
    with pytest.raises(RuleError) as caught:
        load_rules([rule])
    assert message in str(caught.value)
    with pytest.raises(RuleError):
        rule_filter([rule])


def test_an_error_has_its_parts() -> None:
    with pytest.raises(CloudEventsError) as any_error:
        load_rules({"rules": [5]})
    assert isinstance(any_error.value, ValueError)
    with pytest.raises(RuleError) as caught:
        load_rules({"rules": [ALLOW, {**SET, "name": "b", "when": [{"any": [{"field": "x", "op": "matches"}]}]}]})
    error = caught.value
    assert (error.path, error.name) == ("rules[1].when[0].any[0].op", "b")
    assert error.problem == "'matches' is no operator"
    assert error.hint.startswith("one of eq, ne, gt")


def test_a_rule_made_in_python_names_itself() -> None:
    with pytest.raises(RuleError, match=r"^rule 'a': when\[0\].op: 'x' is no operator"):
        Rule(name="a", action="allow", when=[{"field": "y", "op": "x"}])


TEXTS: list[tuple[Any, Any, str]] = [
    ("rules = [", "toml", "rules: no TOML: "),
    ("[", "json", "rules: no JSON: Expecting value: line 1 column 2"),
    ("[" * 100_000, "json", "rules: nested too deeply"),
    ("a = " + "[" * 100_000, "toml", "rules: nested too deeply"),
    ('[{"name": "a", "name": "b"}]', "json", "rules: an object has two members 'name'"),
    ("[NaN]", "json", "rules: no JSON: NaN is no number"),
    ("[" + "9" * 5000 + "]", "json", "rules: no JSON: Exceeds the limit"),
    ("5", "json", "rules: must be a list of rules, not int"),
    ('"abc"', "json", "rules: must be a list of rules, not str"),
    ('{"rules": {}}', "json", "rules: must be a list of rules, not dict"),
    ('{"rule": []}', "json", "rule: is not known here (did you mean 'rules'?)"),
    ("{}", "json", "rules: is required"),
    ("", "toml", "rules: is required"),
    (" " * 4_194_305, "json", "rules: longer than 4194304 characters"),
    ("[]", None, "format: must be 'toml' or 'json'"),
    ("[]", "yaml", "format: must be 'toml' or 'json'"),
]


@pytest.mark.parametrize(("text", "kind", "message"), TEXTS, ids=range(len(TEXTS)))
def test_text_that_holds_no_rules_is_refused(text: str, kind: Any, message: str) -> None:
    with pytest.raises(RuleError) as caught:
        load_rules(text, format=kind)
    assert message in str(caught.value)


def test_an_error_in_a_file_names_the_file(tmp_path: Path) -> None:
    file = tmp_path / "broken.json"
    file.write_bytes(b"[")
    with pytest.raises(RuleError, match=r"^broken.json: no JSON"):
        load_rules(file)
    file.write_bytes(b"\xff")
    with pytest.raises(RuleError, match=r"^broken.json: is not UTF-8"):
        load_rules(file)
    with pytest.raises(RuleError, match=r"^rules.yaml: must be 'toml' or 'json'"):
        other = tmp_path / "rules.yaml"
        other.write_text("[]")
        load_rules(other)
    with pytest.raises(FileNotFoundError):
        load_rules(tmp_path / "none.toml")


def test_two_rules_of_one_name_are_refused() -> None:
    with pytest.raises(RuleError, match=r"rule 'a': rules\[2\].name: another rule has the same name"):
        load_rules([ALLOW, {**ALLOW, "name": "b"}, ALLOW])


def test_a_set_of_rules_is_bounded() -> None:
    with pytest.raises(RuleError, match=r"rules: more than 2000: 2001"):
        load_rules([Rule(name=str(at), action="allow") for at in range(2001)])
    regex = [{"field": "x", "op": "regex", "value": "a"}] * 129
    with pytest.raises(RuleError, match=r"rules: more than 256 conditions with regex: 258"):
        load_rules([{**ALLOW, "name": str(at), "when": {"any": regex}} for at in range(2)])


def test_every_attribute_that_an_event_could_have_can_be_set() -> None:
    values: dict[str, Any] = {
        "subject": "s",
        "type": "t",
        "time": "2026-01-01T00:00:00Z",
        "dataschema": "https://example.com/s",
        "datacontenttype": "application/json",
        "severitytext": "info",
        "authid": "a",
        "tracestate": "a=b",
        "deprecationsunset": "2026-01-01T00:00:00Z",
    }
    rule = Rule(name="a", action="allow", set=values)
    assert rule.set == values
    event = Event(type="t", source="/s", deprecationfrom="2026-01-01T00:00:00Z", severitynumber=1, authtype="user")
    assert event.evolve(**values, traceparent=f"00-{'a' * 32}-{'b' * 16}-01").subject == "s"
