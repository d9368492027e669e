"""Alternating rounds, medians, and ratios taken within each round."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import median

from .process import SubjectError
from .table import Row


@dataclass(frozen=True)
class Sample:
    """What one subject did in one slice: `count` units in `seconds`, costing `cpu` seconds of its process."""

    count: int
    seconds: float
    cpu: float

    @property
    def rate(self) -> float:
        """Units per second."""
        return self.count / self.seconds

    @property
    def micros(self) -> float:
        """Microseconds of processor time per unit."""
        return self.cpu / self.count * 1e6


@dataclass(frozen=True)
class Goal:
    """`subject` measured against `base`; `least` is the wanted ratio, `most` the wanted time in microseconds."""

    subject: str
    base: str
    least: float | None = None
    most: float | None = None

    @property
    def text(self) -> str:
        """The target as the table shows it."""
        wanted = [f">= {self.least:g} x"] if self.least is not None else []
        return ", ".join(wanted + ([f"< {self.most:g} us"] if self.most is not None else []))

    def met(self, ratio: float | None, micros: float) -> bool | None:
        """Whether the target holds, or None where there is none."""
        verdicts = []
        if self.least is not None:
            verdicts.append(ratio is not None and ratio >= self.least)
        if self.most is not None:
            verdicts.append(micros < self.most)
        return all(verdicts) if verdicts else None


@dataclass(frozen=True)
class Case:
    """One workload, the subjects that do it, and what is compared with what."""

    suite: str
    name: str
    unit: str
    subjects: Sequence[str]
    goals: Sequence[Goal] = field(default=())


Samples = dict[str, list[Sample]]


def alternate(case: Case, measure: Callable[[str], Sample], rounds: int, failures: list[str]) -> Samples:
    """Measure A B C, A B C, ...; a subject that fails leaves the rounds and is reported in `failures`."""
    print(f"{case.suite}: {case.name} ...", file=sys.stderr, flush=True)
    samples: Samples = {subject: [] for subject in case.subjects}
    for _ in range(rounds):
        for subject in list(samples):
            try:
                samples[subject].append(measure(subject))
            except SubjectError as error:
                failures.append(f"{case.suite} / {case.name} / {subject}: {error}")
                del samples[subject]
    return samples


def _ratio(subject: Sequence[Sample], base: Sequence[Sample], value: Callable[[Sample], float]) -> float:
    return median(value(one) / value(other) for one, other in zip(subject, base, strict=True))


def rows(case: Case, samples: Samples) -> list[Row]:
    """The table's rows: one for each goal of a subject, or one without a goal."""
    return [row for subject in samples for row in _rows_of(case, samples, subject)]


def _rows_of(case: Case, samples: Samples, subject: str) -> list[Row]:
    own = samples[subject]
    rate, micros = median(sample.rate for sample in own), median(sample.micros for sample in own)
    found = []
    for goal in [goal for goal in case.goals if goal.subject == subject] or [Goal(subject, "")]:
        base = samples.get(goal.base)
        ratio = _ratio(own, base, lambda sample: sample.rate) if base else None
        by_cpu = _ratio(base, own, lambda sample: sample.micros) if base else None
        compared = (goal.base, ratio, by_cpu, goal.text, goal.met(ratio, micros))
        found.append(Row(case.suite, case.name, subject, rate, case.unit, micros, *compared))
    return found
