"""Bytes per held event: 100 000 events decoded from bodies of their own, one process per subject."""

from __future__ import annotations

import gc
import sys
import tracemalloc
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any, Final

from . import samples
from .loops import HAS_OFFICIAL, usable
from .process import Child, SubjectError, answer
from .table import Row

_HELD: Final = 100_000
_KIT: Final = "kit"
_OFFICIAL: Final = "official SDK"
_BODY: Final = "body alone"
_SUBJECTS: Final = (_BODY, _OFFICIAL, _KIT)


def _decoder(subject: str) -> Callable[[bytes], Any]:
    if subject == _KIT:
        from cloudevents_kit import _json

        kit: Callable[[bytes], Any] = _json.decode
        return kit
    if subject == _OFFICIAL:
        from cloudevents.core.formats.json import JSONFormat

        form = JSONFormat()
        return lambda body: form.read(None, body)
    return lambda body: body


def _held_bytes(subject: str) -> float:
    decode = _decoder(subject)
    template = samples.structured(0)
    mark = samples.small(0)["id"].encode()[:8]
    decode(template)
    gc.collect()
    tracemalloc.start()
    try:
        held = [decode(template.replace(mark, b"%08x" % number)) for number in range(_HELD)]
        gc.collect()
        return tracemalloc.get_traced_memory()[0] / len(held)
    finally:
        tracemalloc.stop()


def work(pipe: Connection) -> None:
    """A subject's process."""
    answer(pipe, _held_bytes)


def run(rounds: int, seconds: float, failures: list[str]) -> list[Row]:
    """Measure every subject once: the figure does not vary from round to round."""
    del rounds, seconds
    held: dict[str, float] = {}
    print("memory: held events ...", file=sys.stderr, flush=True)
    for subject in usable({name: name != _OFFICIAL or HAS_OFFICIAL for name in _SUBJECTS}):
        try:
            with Child(work) as child:
                held[subject] = child.ask(subject)
        except SubjectError as error:
            failures.append(f"memory / {subject}: {error}")
    return [_row(subject, figure, held.get(_OFFICIAL)) for subject, figure in held.items()]


def _row(subject: str, figure: float, official: float | None) -> Row:
    compared = subject == _KIT and official is not None
    ratio = official / figure if compared and official is not None else None
    against = _OFFICIAL if compared else ""
    return Row("memory", "100 000 held events", subject, figure, "B/event", against=against, ratio=ratio)
