"""Loads packages that the kit can do without, and says what to install when one is missing."""

from importlib import import_module
from typing import Any


def load(module: str, extra: str) -> Any:
    """Return ``module``. Raises ImportError that names the ``extra`` to install."""
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        raise ImportError(f'{module} is not installed: pip install "cloudevents-kit[{extra}]"', name=module) from error
