"""What users may import, pinned; and what an import costs."""

import ast
import importlib
import importlib.metadata
import inspect
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterable
from importlib.resources import files
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import cloudevents_kit
from tests.support.programs import ROOT

NAMES = [
    "ACCEPTED", "Ack", "Attempt", "Clock", "CloudEventsError", "DataError", "DeliveryError", "Event", "EventError",
    "Handler", "HandlerSink", "Message", "Middleware", "Nack", "Outcome", "Receiver", "Reject", "Result", "Retry",
    "RetryPolicy", "Router", "Sender", "Sink", "SystemClock", "Undelivered", "UnsupportedVersion", "current_event",
    "current_headers", "forward", "from_http", "from_json", "on", "settle", "to_http", "to_json", "wrap",
]  # fmt: skip
#: What each module that is imported by its path is for.
BY_PATH = {
    "asgi": {"AsgiReceiver", "asgi_app"},
    "blocking": {"Sender"},
    "cesql": {"MAX_LENGTH", "EvaluationError", "Expression", "Functions", "Kind", "ParseError", "parse"},
    "dead_letter": {
        "DeadLetter", "DeadLetterSink", "DeadLetterStore", "Forwarder", "Redriven", "Tried", "dead_letters",
        "forwarded", "keeper", "letters", "purge", "redrive",
    },
    "event_log": {
        "Appended", "Checkpoint", "CheckpointStore", "Condition", "Conflict", "EventLog", "EventLogStore", "Folded",
        "Inline", "Lag", "Projection", "Recorded", "Replayed", "Snapshot", "SnapshotStore", "Status", "Unhandled",
        "Work", "age", "all_of", "any_of", "count", "current_connection", "current_record",
    },
    "filters": {
        "MAX_DEPTH", "MAX_FILTERS", "Filter", "FilterError", "all_of", "any_of", "exact", "from_json", "not_", "prefix",
        "sql", "suffix",
    },
    "outbox": {"Lag", "Outbox", "OutboxStore"},
    "pubsub": {
        "DurableFanOut", "FanOut", "Lag", "PartialAck", "Published", "Queued", "Quorum", "Subscription", "Unsent",
        "quorum",
    },
    "receiver": {"Receiver"},
    "request_reply": {"Requests"},
    "router": {"Pattern", "Router", "bind", "on"},
    "saga": {
        "Context", "InDoubt", "Journal", "Report", "Saga", "SagaError", "Status", "Step", "Wait", "ask", "reacts",
    },
    "sender": {"Sender"},
    "stages": {
        "PASS", "REJECT", "Aggregate", "Batch", "Branch", "Bulkhead", "Cached", "CircuitBreaker", "Condition",
        "DedupeStore", "Description", "Ending", "Hook", "Metrics", "Observed", "Order", "Queue",
        "QueueStore", "Quorum", "Recorder", "Reducer", "Replaceable", "Rule", "RuleError", "RuleFilter", "SharedCache",
        "Stage", "StageError", "Totals", "WindowStore", "aggregate", "avg_of", "background", "batch", "bulkhead",
        "chain", "circuit_breaker", "count", "deduplicate", "describe", "distinct", "endpoints", "enrich", "fan_out",
        "field", "first_of", "fold", "hinted", "keep_if", "lint_types", "load_rules", "max_of", "min_of", "observe",
        "on_error", "order", "order_key", "queue", "quorum", "race", "rate_limit", "retry", "route", "route_hints",
        "rule_filter", "running", "stage", "sum_of", "tap", "timeout", "transform", "upcast", "validate", "version_of",
        "when", "with_version",
    },
    "stores": {"Store", "StoreError", "open_store"},
    "stores.memory": {"MemoryDedupeStore", "MemoryQueueStore", "MemoryWindowStore"},
    "stores.memory_cache": {"MemoryCache"},
    "stores.memory_dead_letters": {"MemoryDeadLetterStore"},
    "stores.memory_event_log": {"MemoryEventLogStore"},
    "stores.memory_journal": {"MemoryJournal"},
    "stores.memory_outbox": {"MemoryOutboxStore"},
    "stores.redis": {"RedisStore"},
    "stores.sql": {"SqlStore"},
    "testing": {
        "DeadLetterStoreConformance", "DedupeStoreConformance", "EventLogStoreConformance", "JournalConformance",
        "OutboxStoreConformance", "QueueStoreConformance", "SharedCacheConformance", "WindowStoreConformance",
    },
}  # fmt: skip
#: Every method and property of the classes that most programs use.
MEMBERS = {
    "Event": {
        "as_type", "attributes", "data", "datacontenttype", "dataschema", "evolve", "extensions", "get", "get_bool",
        "get_int", "has_data", "id", "key", "of", "raw", "reply", "source", "specversion", "subject", "time",
        "time_text", "type",
        # the event protocol of the official SDK
        "get_attributes", "get_data", "get_datacontenttype", "get_dataschema", "get_extension", "get_id", "get_source",
        "get_specversion", "get_subject", "get_time", "get_type",
    },
    "Receiver": {"app", "counts", "port", "ready", "run", "start", "stop", "url"},
    "RetryPolicy": {
        "attempts", "chance", "deadline", "factor", "initial", "jitter", "max_delay", "max_retry_after", "none",
        "retry_possibly_delivered", "retryable", "seed", "statuses",
    },
    "Router": {"branches", "include", "is_async_handler", "on"},
    "Sender": {"close", "is_open", "request", "send", "send_all", "send_batch", "url"},
    "HandlerSink": {"send"},
}  # fmt: skip
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]


def child(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run Python with nothing imported yet."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("COV", "PYTHON"))}
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT, env=inherited | environment, capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip


def public(module: ModuleType) -> set[str]:
    """Return the public names that are at home in ``module``: its `__all__`, or what it defines."""
    told = getattr(module, "__all__", None)
    return set(told or [name for name, value in vars(module).items() if _is_public(name, value, module)])


def _is_public(name: str, value: object, module: ModuleType) -> bool:
    is_variable = type(value).__module__ == "typing"  # TypeVar
    return not name.startswith("_") and not is_variable and getattr(value, "__module__", "") == module.__name__


# Names.


def test_the_names_of_the_package_are_these() -> None:
    assert cloudevents_kit.__all__ == NAMES
    assert sorted(NAMES, key=lambda name: (not name.isupper(), name[0].islower(), name)) == NAMES


def test_dir_tells_the_names() -> None:
    assert dir(cloudevents_kit) == sorted(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_every_name_can_be_imported(name: str) -> None:
    assert getattr(cloudevents_kit, name) is not None


def test_a_star_import_takes_them_all() -> None:
    found: dict[str, Any] = {}
    exec("from cloudevents_kit import *", found)
    assert found.keys() - {"__builtins__"} == set(NAMES)


@pytest.mark.parametrize("name", ["Requests", "sender_", "__version__", "Reciever"])
def test_a_name_that_does_not_exist_is_an_attribute_error(name: str) -> None:
    with pytest.raises(AttributeError, match=f"module 'cloudevents_kit' has no attribute '{name}'"):
        getattr(cloudevents_kit, name)


def test_the_modules_without_an_underscore_are_these() -> None:
    root = Path(str(files(cloudevents_kit)))
    stems = {path.stem for path in root.glob("*.py")} | {path.parent.name for path in root.glob("*/__init__.py")}
    assert {stem for stem in stems if not stem.startswith("_")} == {name for name in BY_PATH if "." not in name}


def test_the_modules_of_stores_are_these() -> None:
    root = Path(str(files(cloudevents_kit))) / "stores"
    stems = {path.stem for path in root.glob("*.py")} | {path.parent.name for path in root.glob("*/__init__.py")}
    assert {f"stores.{stem}" for stem in stems if not stem.startswith("_")} == {name for name in BY_PATH if "." in name}


@pytest.mark.parametrize("name", BY_PATH)
def test_a_module_that_is_imported_by_its_path_has_these_names(name: str) -> None:
    assert public(importlib.import_module(f"cloudevents_kit.{name}")) == BY_PATH[name]


@pytest.mark.parametrize("name", MEMBERS)
def test_a_class_has_these_members(name: str) -> None:
    kind = getattr(cloudevents_kit, name)
    assert {member for member in dir(kind) if not member.startswith("_")} == MEMBERS[name]


def test_the_names_of_stages_are_in_order() -> None:
    """Constants, then classes, then functions."""
    names = importlib.import_module("cloudevents_kit.stages").__all__
    assert sorted(names, key=lambda name: (not name.isupper(), name[0].islower(), name)) == names


@pytest.mark.parametrize("name", NAMES)
def test_every_name_is_described(name: str) -> None:
    check_described(getattr(cloudevents_kit, name))


@pytest.mark.parametrize("name", BY_PATH)
def test_every_name_of_a_module_is_described(name: str) -> None:
    module = importlib.import_module(f"cloudevents_kit.{name}")
    assert module.__doc__
    for one in BY_PATH[name]:
        check_described(getattr(module, one))


def check_described(thing: Any) -> None:
    """Fail for a class or function without a docstring; the others are types made of types, and constants."""
    if inspect.isclass(thing):
        members = {name: one for name, one in vars(thing).items() if not name.startswith(("_", "test_"))}
        undescribed = [
            name for name, one in members.items() if _is_code(one) and not inspect.getdoc(getattr(thing, name))
        ]
        assert (thing.__name__, undescribed) == (thing.__name__, [])
    if inspect.isclass(thing) or inspect.isfunction(thing):
        assert thing.__doc__, thing


def _is_code(member: object) -> bool:
    return inspect.isfunction(member) or isinstance(member, property | classmethod | staticmethod)


# The package.


def test_the_package_is_typed() -> None:
    assert (files(cloudevents_kit) / "py.typed").is_file()
    assert "Typing :: Typed" in PROJECT["classifiers"]


def test_the_samples_for_type_checkers_name_what_exists() -> None:
    """The lint command checks their types."""
    importlib.import_module("tests.typing.samples")


def test_the_version_is_that_of_the_installed_package() -> None:
    assert importlib.metadata.version("cloudevents-kit") == PROJECT["version"]
    assert re.fullmatch(r"\d+\.\d+\.\d+", PROJECT["version"])


def test_the_changelog_begins_with_what_is_not_released_yet() -> None:
    headings = re.findall(r"^## (.+)$", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.MULTILINE)
    assert headings[0] == "[Unreleased]"
    assert all(re.fullmatch(r"\[\d+\.\d+\.\d+\] - \d{4}-\d\d-\d\d", heading) for heading in headings[1:])


def test_what_the_package_imports_is_what_it_depends_on() -> None:
    """Only SQL, Redis and the suites need an extra; nothing is left over, but what tracing will use."""
    needed = {re.split(r"[<>=;\[ ]", one, maxsplit=1)[0].replace("-", "_") for one in PROJECT["dependencies"]}
    root = Path(str(files(cloudevents_kit)))
    of_sql = {*(root / "stores" / "sql").glob("*.py")}
    of_redis = {*(root / "stores" / "redis").glob("*.py")}
    of_testing = {*(root / "testing").glob("*.py")}
    of_core = imported({*root.rglob("*.py")} - of_sql - of_redis - of_testing)
    used_if_there, part_of_aiohttp = {"pydantic"}, {"yarl"}
    assert of_core - used_if_there - part_of_aiohttp == needed - {"opentelemetry_api"}
    assert imported(of_sql) == {"aiosqlite", "sqlalchemy"}
    assert imported(of_redis) == {"redis", "msgspec"}
    assert imported(of_testing) == {"pytest"}


def imported(paths: Iterable[Path]) -> set[str]:
    """Return the names of the packages of others that the modules at ``paths`` import."""
    found = set()
    for path in paths:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                found.add((node.module or "").partition(".")[0])
    return found - sys.stdlib_module_names - {"cloudevents_kit"}


# What an import costs.

CORE = "from cloudevents_kit import Event, RetryPolicy, Router, from_http, from_json, to_http, to_json"
PRINT_MODULES = "import sys; print(*sys.modules, sep='\\n')"


def loaded(statement: str) -> set[str]:
    """Return the names of the top-level modules that are there after ``statement``."""
    return {name.partition(".")[0] for name in child("-c", f"{statement}\n{PRINT_MODULES}").stdout.split()}


def test_an_import_loads_nothing_that_is_not_needed_yet() -> None:
    found = loaded("import cloudevents_kit")
    assert "msgspec" in found
    heavy = {"aiohttp", "asyncio", "cloudevents", "email", "http", "opentelemetry", "pydantic", "ssl", "tenacity"}
    assert found & (heavy | {"pytest", "redis", "sqlalchemy"}) == set()


@pytest.mark.parametrize(
    "statement",
    [
        "event = from_json(to_json(Event(type='t', source='/s', data={'a': 1}))).data",
        "from_http(*to_http(Event(type='t', source='/s', data={'a': 1}), 'binary'))",
        "RetryPolicy(), Router().on('t')(lambda event: None)",
    ],
)
def test_events_and_handlers_need_no_network(statement: str) -> None:
    found = loaded(f"{CORE}\n{statement}")
    assert found & {"aiohttp", "opentelemetry", "tenacity", "pydantic", "cloudevents"} == set()


@pytest.mark.parametrize("name", ["Sender", "Receiver"])
def test_aiohttp_is_loaded_with_the_first_name_that_needs_it(name: str) -> None:
    found = loaded(f"import cloudevents_kit; cloudevents_kit.{name}")
    assert "aiohttp" in found
    assert found & {"tenacity", "opentelemetry", "pydantic", "cloudevents"} == set()


def test_stages_need_no_network_and_no_extra() -> None:
    found = loaded("from cloudevents_kit import stages; stages.rule_filter([]), stages.deduplicate(), stages.retry()")
    assert found & {"aiohttp", "opentelemetry", "tenacity", "pydantic", "cloudevents", "re2"} == set()


def test_stores_need_no_package_of_another_kind_and_none_for_the_memory() -> None:
    packages = {"aiohttp", "aiosqlite", "asyncpg", "pytest", "redis", "sqlalchemy"}
    opened = "from cloudevents_kit.stores import open_store; open_store({!r})".format
    assert loaded(opened("memory:")) & packages == set()
    assert loaded(opened("redis://host")) & packages == {"redis"}
    assert loaded(opened("sqlite:///x.db")) & packages == {"aiosqlite", "sqlalchemy"}
    assert loaded("import cloudevents_kit.testing") & packages == set()


def test_an_asgi_application_needs_no_aiohttp() -> None:
    assert "aiohttp" not in loaded("import cloudevents_kit.asgi")


def test_an_import_is_quick(tmp_path: Path) -> None:
    """Below 60 ms beyond the JSON library, by -X importtime; a slow machine may take twice as long as for asyncio."""
    limit, best = 60_000, 10**9
    for _ in range(6):  # the first time compiles
        here = import_time("cloudevents_kit", tmp_path)
        best = min(best, here["cloudevents_kit"] - here["msgspec"])
        limit = max(limit, 2 * import_time("asyncio", tmp_path)["asyncio"])
    assert best < limit


def import_time(module: str, cache: Path) -> dict[str, int]:
    """Return the microseconds that each module took, with all it imports."""
    lines = child("-X", "importtime", "-c", f"import {module}", PYTHONPYCACHEPREFIX=str(cache)).stderr.splitlines()
    rows = [line.removeprefix("import time:").split("|") for line in lines if line.startswith("import time:")]
    return {name.strip(): int(time) for _, time, name in rows if time.strip().isdigit()}
