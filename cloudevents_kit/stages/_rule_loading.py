"""Reads sets of rules: from Python objects, dicts, TOML and JSON, text or file."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, NoReturn

from cloudevents_kit.stages._conditions import check_fields, conditions_of
from cloudevents_kit.stages._operators import RuleError
from cloudevents_kit.stages._rule import FIELDS, LONGEST_NAME, Rule

MOST_RULES = 2_000
LONGEST_RULES = 4_194_304
_MOST_PATTERNS = 256

Rules = Iterable[Rule | Mapping[str, Any]] | Mapping[str, Any] | Path


def load_rules(source: Rules | str, *, format: Literal["toml", "json"] | None = None) -> tuple[Rule, ...]:  # noqa: A002 - what else to call it
    """Return the rules of a set, in the order in which they are asked.

    Args:
        source: a `pathlib.Path` to a ``.toml`` or ``.json`` file; text, with its ``format``; a dict with ``rules``,
            as the files hold; or a list of `Rule` objects and dicts.
        format: of text.

    Raises:
        RuleError: something in it cannot be used; the message names the rule and the place.
        OSError: the file cannot be read.
    """
    if isinstance(source, Path):
        found = _read_file(source)
    elif isinstance(source, str):
        found = _read_text(source, format)
    else:
        found = source
    if isinstance(found, Mapping):
        check_fields(found, ("rules",), "", needed=("rules",))
        found = found["rules"]
    if isinstance(found, str | bytes | Mapping) or not isinstance(found, Iterable):
        raise RuleError("rules", f"must be a list of rules, not {type(found).__name__}")
    return _checked_set([*found])


def _read_file(path: Path) -> Any:
    kind: Any = path.suffix.removeprefix(".").lower()
    with path.open("rb") as file:
        raw = file.read(LONGEST_RULES * 4 + 1)
    try:
        return _read_text(raw.decode("utf-8-sig"), kind)
    except UnicodeDecodeError:
        raise RuleError(path.name, "is not UTF-8") from None
    except RuleError as error:
        raise RuleError(path.name, error.problem, hint=error.hint) from None


def _read_text(text: str, kind: Literal["toml", "json"] | None) -> Any:
    if kind not in {"toml", "json"}:
        raise RuleError("format", "must be 'toml' or 'json'", hint="files are known by their suffix, in a Path")
    if len(text) > LONGEST_RULES:
        raise RuleError("rules", f"longer than {LONGEST_RULES} characters")
    try:
        if kind == "toml":
            return tomllib.loads(text)
        return json.loads(text, object_pairs_hook=_unique, parse_constant=_no_constant)
    except RecursionError:
        raise RuleError("rules", "nested too deeply") from None
    except RuleError:
        raise
    except ValueError as error:
        raise RuleError("rules", f"no {kind.upper()}: {error}") from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for at, name in enumerate(names) if name in names[:at])
        raise RuleError("rules", f"an object has two members {twice[:LONGEST_NAME]!r}")
    return found


def _no_constant(word: str) -> NoReturn:
    raise RuleError("rules", f"no JSON: {word} is no number")


def _checked_set(found: list[Any]) -> tuple[Rule, ...]:
    if len(found) > MOST_RULES:
        raise RuleError("rules", f"more than {MOST_RULES}: {len(found)}")
    rules: dict[str, Rule] = {}
    for at, one in enumerate(found):
        rule = _read_rule(one, f"rules[{at}]")
        if rule.name in rules:
            raise RuleError(f"rules[{at}].name", "another rule has the same name", name=rule.name)
        rules[rule.name] = rule
    patterns = sum(node.op == "regex" for rule in rules.values() for node in conditions_of(rule.when))  # type: ignore[arg-type]
    if patterns > _MOST_PATTERNS:
        raise RuleError("rules", f"more than {_MOST_PATTERNS} conditions with regex: {patterns}")
    return tuple(sorted(rules.values(), key=lambda rule: -rule.priority))


def _read_rule(given: object, path: str) -> Rule:
    if isinstance(given, Rule):
        return given
    if not isinstance(given, Mapping):
        raise RuleError(path, f"must be a rule, not {type(given).__name__}")
    shown = given.get("name")
    try:
        check_fields(given, FIELDS, "", needed=("name", "action"))
        return Rule(**{"continue_" if name == "continue" else name: value for name, value in given.items()})
    except RuleError as error:
        raise error.within(path, name=shown[:LONGEST_NAME] if isinstance(shown, str) else None) from None
