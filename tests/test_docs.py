"""Every claim of the documentation that a machine can check: its code, its links, its tables of defaults."""

import ast
import asyncio
import inspect
import re
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, get_args

import pytest

from cloudevents_kit import Event, Receiver, RetryPolicy, Sender, stages
from cloudevents_kit._result import Reason
from cloudevents_kit.asgi import asgi_app
from cloudevents_kit.request_reply import Requests
from tests.support import programs
from tests.support.pages import PAGES, ROOT, Block, Page, run_blocks

README = PAGES[0]
by_name = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)

# What a served block is run by: it says its URL, on a port that is free.
_HOST_OF_A_BLOCK = """
import logging, sys
logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
exec(compile(sys.argv[1], "block", "exec"), {"__name__": "__main__"})
"""


async def take(event: Event) -> None:
    """Acknowledge whatever the pages send."""


@by_name
async def test_every_python_block_of_a_page_runs(page: Page) -> None:
    """A page's blocks are one program; what it sends goes to what the page itself serves, if it serves."""
    async with AsyncExitStack() as stack:
        served = [await stack.enter_async_context(_serving(block)) for block in page.blocks if block.serves]
        stand_in = await stack.enter_async_context(Receiver(take, port=0))
        await asyncio.to_thread(run_blocks, page, served[0].url if served else stand_in.url)
        for server in served:
            assert await server.stop() == 0, server.printed
            assert "receiver stopped, 0 requests cut off" in server.printed
    assert not served or stand_in.counts == {}


def _serving(block: Block) -> Any:
    assert block.body.count("port=8080") == 1
    return programs.serving("-c", _HOST_OF_A_BLOCK, block.body.replace("port=8080", "port=0"))


async def test_the_first_page_sends_to_what_it_receives_with() -> None:
    (block,) = [block for block in README.blocks if block.serves]
    async with _serving(block) as server:
        await asyncio.to_thread(run_blocks, README, server.url)
        await server.stop()
    assert re.search(r"^\w+ \{'id': 1\}$", server.printed, re.MULTILINE)


def test_a_block_that_is_wrong_fails_its_page_at_its_line(tmp_path: Path) -> None:
    page = tmp_path / "wrong.md"
    page.write_text("# Wrong\n\n```python\nimport asyncio\n\nawait asyncio.sleep(0)\nassert False\n```\n", "utf-8")
    with pytest.raises(AssertionError) as raised:
        run_blocks(Page(page), "http://localhost:1/")
    assert (raised.traceback[-1].path, raised.traceback[-1].lineno) == (page, 7 - 1)


@by_name
def test_no_block_escapes_the_runner(page: Page) -> None:
    assert {block.language for block in page.blocks} <= {"python", "console", "text", "http"}
    assert page.text.count("```") == 2 * len(page.blocks)


@by_name
def test_every_link_leads_somewhere(page: Page) -> None:
    for link in page.links:
        if link.startswith("https://"):
            continue
        path, _, fragment = link.partition("#")
        target = (page.path.parent / path).resolve() if path else page.path
        assert target.exists(), link
        assert not fragment or fragment in Page(target).anchors, link


def test_the_index_leads_to_every_page() -> None:
    index = Page(ROOT / "docs" / "index.md")
    assert {link.partition("#")[0] for link in index.links} == {page.path.name for page in PAGES[1:]} - {"index.md"}


def test_the_index_tells_every_example() -> None:
    index = Page(ROOT / "docs" / "index.md")
    recipes = [row[2].strip("`") for row in index.table("problem")]
    others = [row[0].strip("`") for row in index.table("example")]
    assert {*recipes}.isdisjoint(others)
    assert {*recipes, *others} == {f"examples/{path.name}" for path in (ROOT / "examples").glob("*.py")}


def test_the_guarantees_name_tests_that_the_command_there_runs() -> None:
    page = Page(ROOT / "docs" / "guarantees.md")
    named = {name for row in page.table("pattern") for name in re.findall(r"`(\w+\.py)`", row[3])}
    assert {f"{name}.py" for name in ("test_outbox_crash", "test_saga_crash")} < named
    (command,) = [block.body for block in page.blocks if block.language == "console"]
    assert command.startswith("KILLS=200 ")
    words = re.findall(r"\w+", command.partition('-k "')[2])
    for name in named:
        code = (ROOT / "tests" / "stores" / name).read_text("utf-8")
        assert any(word in name or re.search(rf"def test_\w*{word}", code) for word in words), name
    kills = {path.name for path in (ROOT / "tests" / "stores").glob("test_*.py") if "KILLS" in path.read_text("utf-8")}
    assert kills <= named


def test_every_program_that_a_page_names_exists() -> None:
    named = {name for page in PAGES for name in re.findall(r"examples/\w+\.py", page.text)}
    assert named >= {"examples/quickstart.py", "examples/send.py", "examples/receive.py", "examples/request_reply.py"}
    assert all((ROOT / name).is_file() for name in named)


@pytest.mark.parametrize(
    ("page", "thing", "left_out"),
    [
        ("sending", RetryPolicy, set()),
        ("sending", Sender, {"url"}),
        ("receiving", Receiver, {"handler", "stages"}),
        ("request-reply", Requests, {"sink"}),
        ("stages-flow", stages.background, {"branch", "name"}),
        ("stages-guards", stages.circuit_breaker, {"clock", "name"}),
        ("stages-guards", stages.rate_limit, {"rate", "clock", "name"}),
        ("stages-state", stages.Cached, {"load", "clock", "name"}),
        ("stages-state", stages.aggregate, {"clock", "name"}),
        ("stages-state", stages.batch, {"work", "name"}),
        ("stages-state", stages.deduplicate, {"clock", "name"}),
        ("stages-state", stages.order, {"clock", "name"}),
        ("stages-state", stages.queue, {"name"}),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_a_table_of_settings_has_every_default(page: str, thing: Any, left_out: set[str]) -> None:
    parameters = inspect.signature(thing).parameters
    rows = Page(ROOT / "docs" / f"{page}.md").table(f"`{thing.__name__}`")
    told = {row[0].strip("`"): _value(row[1]) for row in rows}
    assert told == {name: one.default for name, one in parameters.items() if name not in left_out}


STAGES = Page(ROOT / "docs" / "stages.md")


def test_the_table_of_stages_has_all_of_them() -> None:
    functions = {name: getattr(stages, name) for name in stages.__all__ if name.islower()}
    made = {
        name: vars(inspect.getmodule(one)).get(inspect.signature(one).return_annotation)
        for name, one in functions.items()
    }
    found = {name for name, kind in made.items() if isinstance(kind, type) and issubclass(kind, stages.Stage)}
    told = [re.findall(r"\w+", row[0])[0] for row in STAGES.table("stage")]
    assert sorted(told) == sorted(found - {"stage", "chain"})  # which make a stage of others


@pytest.mark.parametrize("page", ["stages", "stages-flow", "stages-guards", "stages-state"])
def test_an_argument_that_is_told_in_passing_has_that_default(page: str) -> None:
    """As in ``keep_if(predicate, otherwise="drop")``, where a table shows how a stage is called."""
    text = Page(ROOT / "docs" / f"{page}.md").prose
    calls = re.findall(r"^\|\s*\[?`(\w+)\((.*?)\)`", text, re.MULTILINE)
    assert calls
    for name, given in calls:
        parameters = inspect.signature(getattr(stages, name)).parameters
        for argument, value in re.findall(r"(\w+)=([^,)]*)", given):
            assert argument in parameters, (name, argument)
            assert not value or parameters[argument].default == ast.literal_eval(value), (name, argument)


def test_an_asgi_receiver_has_the_limits_of_a_receiver() -> None:
    receiver = inspect.signature(Receiver).parameters
    for name, parameter in inspect.signature(asgi_app).parameters.items():
        if name not in {"handler", "stages", "path"}:
            assert parameter.default == receiver[name].default, name


def _value(cell: str) -> object:
    """Read a cell such as ``10 s``, ``4 MiB``, ``none``, ``any``, ``404, 408`` or Python between backticks."""
    if cell in {"none", "any"}:
        return {"none": None, "any": Any}[cell]
    if cell.startswith("`stages."):
        return getattr(stages, cell[len("`stages.") : -1])
    if "," in cell:
        return frozenset(map(int, cell.split(",")))
    if cell.startswith("`"):
        return ast.literal_eval(cell.strip("`"))
    number, _, unit = cell.partition(" ")
    return float(number) * {"": 1, "s": 1, "MiB": 2**20}[unit]


def test_the_table_of_results_says_what_is_retried() -> None:
    policy = RetryPolicy()
    rows = README.table("what happened")
    told = {int(status): row[2] == "yes" for row in rows for status in re.findall(r"\b[45][0-9]{2}\b", row[0])}
    assert told == {status: policy.retryable(status) for status in told}
    assert {status for status, again in told.items() if again} == policy.statuses
    assert all(policy.retryable(status) for status in (500, 501, 503, 599, 600, 999))


def test_the_table_of_results_has_every_reason() -> None:
    cells = [row[0] + row[1] for row in README.table("what happened")]
    told = [found for cell in cells for found in re.findall(r'(?<=`)[a-z-]+(?=`)|(?<=Undelivered\(")[a-z]+', cell)]
    assert sorted(told) == sorted(get_args(Reason))


def test_the_two_commands_stand_on_the_first_page() -> None:
    commands = [block.body.strip() for block in README.blocks if block.language == "console"]
    assert commands == [
        "pip install uv && uv run python examples/quickstart.py",
        "pip install uv && uv run pytest",
    ]


def test_the_lint_command_is_the_one_that_is_run_for_every_change() -> None:
    script = Path(ROOT / ".ci" / "run").read_text("utf-8")
    run = re.findall(r"^(uv run (?!pytest|coverage).*?)(?: --no-logo)?$", script, re.MULTILINE)
    assert f"`{' && '.join(run)}`" in README.text
