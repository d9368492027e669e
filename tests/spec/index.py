"""Finds which numbers of the checklist each test carries, in its docstring or in the ids of its parameters."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
NUMBER = re.compile(r"\b((?:EM|TS|EX|JF|HB|HS|BA|RR|RT|DL|SD|CQ|SF)-\d\d|18-\d{1,3}|18\.1-[a-z]|decision 0\.\d{1,2})\b")


def carried_here() -> dict[str, set[str]]:
    """Return the numbers of every test beside this file, by ``file::test``."""
    found: dict[str, set[str]] = {}
    for path in sorted(HERE.glob("test_*.py")):
        module = importlib.import_module(f"{__package__}.{path.stem}")
        for name, function in inspect.getmembers(module, inspect.isfunction):
            if name.startswith("test_") and function.__module__ == module.__name__:
                found[f"{path.name}::{name}"] = set(NUMBER.findall("\n".join(_texts(function))))
    return found


def _texts(function: Any) -> Iterator[str]:
    yield function.__doc__ or ""
    for mark in getattr(function, "pytestmark", ()):
        if mark.name == "parametrize":
            yield from (str(getattr(value, "id", "")) for value in mark.args[1])


def carried_elsewhere() -> dict[str, set[str]]:
    """Return the numbers in the docstrings of all other tests, by ``../file::test``; nothing is imported for that."""
    found: dict[str, set[str]] = {}
    for path in sorted(HERE.parent.glob("test_*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_"):
                found[f"../{path.name}::{node.name}"] = set(NUMBER.findall(ast.get_docstring(node) or ""))
    return found
