"""Metrics as data: what a process counts and measures, in a form that can be sent and added up over processes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import msgspec


class Sample(msgspec.Struct, frozen=True, array_like=True):
    """One number of a family. `suffix` follows the family's name in its own: `_total`, `_bucket`, "" for a gauge."""

    suffix: str
    labels: dict[str, str]
    value: float


class MetricFamily(msgspec.Struct, frozen=True, kw_only=True):
    """A metric with all its samples, which differ in their labels. `help` is its description in words.

    `is_maximum`: over several processes its value is the greatest one, not the sum.
    """

    name: str
    type: Literal["counter", "gauge", "histogram"]
    help: str
    samples: list[Sample]
    is_maximum: bool = False


def gauge(name: str, text: str, value: float, **labels: str) -> MetricFamily:
    """Return a gauge with one sample."""
    return MetricFamily(name=name, type="gauge", help=text, samples=[Sample("", labels, value)])


def with_label(families: Iterable[MetricFamily], name: str, value: str) -> list[MetricFamily]:
    """Return the families with one more label at each sample."""
    return [
        msgspec.structs.replace(
            family, samples=[Sample(each.suffix, {**each.labels, name: value}, each.value) for each in family.samples]
        )
        for family in families
    ]


def add_up(reports: Iterable[Iterable[MetricFamily]]) -> list[MetricFamily]:
    """Return the families of several processes as one: samples with equal labels are added, or the greatest is kept."""
    first: dict[str, MetricFamily] = {}
    numbers: dict[str, dict[tuple[str, tuple[tuple[str, str], ...]], float]] = {}
    for family in (family for report in reports for family in report):
        known = first.setdefault(family.name, family)
        found = numbers.setdefault(family.name, {})
        for sample in family.samples:
            key = sample.suffix, tuple(sample.labels.items())
            before = found.get(key)
            if before is None:
                found[key] = sample.value
            else:
                found[key] = max(before, sample.value) if known.is_maximum else before + sample.value
    return [
        msgspec.structs.replace(
            family,
            samples=[Sample(suffix, dict(labels), value) for (suffix, labels), value in numbers[family.name].items()],
        )
        for family in first.values()
    ]


def with_few_values(family: MetricFamily, most: int, other: str) -> MetricFamily:
    """Return a gauge's family with at most `most` different values of each label; further ones become `other`.

    Samples that have equal labels then are one: their sum, or the greatest if the family `is_maximum`. Counters stay as
    they are: one whose label comes and goes would fall.
    """
    if family.type != "gauge" or len(family.samples) <= most:
        return family
    known: dict[str, set[str]] = {}
    samples = []
    for sample in family.samples:
        labels = {
            name: _one_of(known.setdefault(name, set()), text, most, other) for name, text in sample.labels.items()
        }
        samples.append(Sample(sample.suffix, labels, sample.value))
    [found] = add_up([[msgspec.structs.replace(family, samples=samples)]])
    return found


def _one_of(known: set[str], text: str, most: int, other: str) -> str:
    """Return the text if it is known, or is one of the first `most`; otherwise `other`."""
    if len(known) < most:
        known.add(text)
    return text if text in known else other
