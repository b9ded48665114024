"""Read YAML files with the line of each value, and write them. Only plain data is read: no tags, and bounded aliases.

Texts without quotes are read as in JSON: `true`, `false`, `null` and decimal numbers. `yes`, dates and octal numbers,
which YAML 1.1 would convert, are texts.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import yaml

from llm_gateway.cli.exits import CommandFailed
from llm_gateway.cli.output import printable

Path_: TypeAlias = Sequence[str | int]
MOST_BYTES = 1024 * 1024
MOST_VALUES = 100_000
"""Values of a file at most, those of each use of an alias counted: nested aliases could stand for billions."""
WIDTH = 110
_TAGS = "tag:yaml.org,2002:"
_WHOLE = re.compile(r"[-+]?(0|[1-9][0-9]*)")
_NUMBER = re.compile(r"[-+]?[0-9]+(\.[0-9]*)?([eE][-+]?[0-9]+)?")


class YamlFile(NamedTuple):
    """The value in a file, and the lines (from 1) of its parts, by their path of keys and positions."""

    place: str
    value: Any
    lines: dict[tuple[str | int, ...], int]

    def line(self, path: Path_) -> int:
        """Return the line of a part; of one that is missing, the line of what it is missing in."""
        found = tuple(path)
        while found not in self.lines and found:
            found = found[:-1]
        return self.lines.get(found, 1)

    def where(self, path: Path_) -> str:
        """Return the place of a part for messages."""
        return f"{self.place}, line {self.line(path)}"


def read_yaml(place: str) -> YamlFile:
    """Read a YAML file, or standard input for `-`.

    Raises:
        CommandFailed: the file cannot be read, is too large, or is not valid YAML; the message has the line.
    """
    name = "standard input" if place == "-" else place
    text = _text(place, name)
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)  # nodes only: nothing is constructed
        reader = _Reader(name)
        value = None if node is None else reader.value_of(node, ())
    except RecursionError:
        raise CommandFailed(f"{name} is nested too deeply: no section needs more than a few levels.") from None
    except yaml.YAMLError as error:
        raise CommandFailed(_sentence(name, error)) from None
    return YamlFile(name, value, reader.lines)


def written(value: object) -> str:
    """Return a value as YAML, in the order of its keys."""
    text: str = yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=WIDTH)
    return text


def _text(place: str, name: str) -> str:
    try:
        if place == "-":
            data = sys.stdin.buffer.read(MOST_BYTES + 1)
        else:
            with Path(place).open("rb") as file:
                data = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise CommandFailed(f"{name} cannot be read: {error.strerror}.") from None
    if len(data) > MOST_BYTES:
        raise CommandFailed(f"{name} is larger than {MOST_BYTES // 1024 // 1024} MiB: split it into several files.")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise CommandFailed(f"{name}, line {line}: the file is not UTF-8: save it as UTF-8.") from None


def _sentence(name: str, error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    problem = getattr(error, "problem", None) or getattr(error, "reason", None) or "it cannot be parsed"
    where = name if mark is None else f"{name}, line {mark.line + 1}, column {mark.column + 1}"
    return printable(f"{where}: not valid YAML: {problem}.")


class _Reader:
    """Conversion of nodes to values."""

    def __init__(self, name: str) -> None:
        self.lines: dict[tuple[str | int, ...], int] = {}
        self._name = name
        self._open: set[int] = set()

    def value_of(self, node: Any, path: tuple[str | int, ...]) -> Any:
        """Return the value of a node, and note the lines of its parts."""
        self.lines.setdefault(path, node.start_mark.line + 1)
        if len(self.lines) > MOST_VALUES:
            raise CommandFailed(
                f"{self._name} has more than {MOST_VALUES:,} values, those of aliases counted: split it into several "
                "files."
            )
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node)
        if id(node) in self._open:
            raise self._failed(node, "an alias contains itself: write its value out")
        self._open.add(id(node))
        try:
            if node.tag not in (f"{_TAGS}seq", f"{_TAGS}map"):
                raise self._failed(node, f"the tag {node.tag} is not supported")
            if isinstance(node, yaml.SequenceNode):
                return [self.value_of(each, (*path, position)) for position, each in enumerate(node.value)]
            return self._mapping(node, path)
        finally:
            self._open.remove(id(node))

    def _mapping(self, node: Any, path: tuple[str | int, ...]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        merged: dict[str, Any] = {}
        for key_node, value_node in node.value:
            if key_node.tag == f"{_TAGS}merge":
                for each in value_node.value if isinstance(value_node, yaml.SequenceNode) else [value_node]:
                    more = self.value_of(each, path)
                    if not isinstance(more, dict):
                        raise self._failed(value_node, "<< takes a mapping, or a list of them")
                    merged = more | merged
                continue
            key = self._scalar(key_node) if isinstance(key_node, yaml.ScalarNode) else None
            if isinstance(key, int | float) and not isinstance(key, bool):
                key = key_node.value
            if not isinstance(key, str):
                raise self._failed(key_node, "a name must be text: put it in quotes")
            if key in found:
                raise self._failed(key_node, f"{key!r} is there twice: name it once")
            self.lines[(*path, key)] = key_node.start_mark.line + 1
            found[key] = self.value_of(value_node, (*path, key))
        return merged | found

    def _scalar(self, node: Any) -> Any:
        """Return a scalar's value: what JSON has no type for is text."""
        text: str = node.value
        kind = node.tag.removeprefix(_TAGS)
        if kind == node.tag:
            raise self._failed(node, f"the tag {node.tag} is not supported")
        if kind == "null":
            return None
        if kind == "bool" and text.lower() in ("true", "false"):
            return text.lower() == "true"
        if kind == "int" and _WHOLE.fullmatch(text):
            return int(text)
        if kind == "float" and _NUMBER.fullmatch(text):
            return float(text)
        return text

    def _failed(self, node: Any, problem: str) -> CommandFailed:
        return CommandFailed(printable(f"{self._name}, line {node.start_mark.line + 1}: {problem}."))
