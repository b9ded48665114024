"""Syntax trees of the package, parsed once for all tests that look at its source.

`make test` forks its workers once all tests are collected, so what is parsed then is parsed for all of them.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import llm_gateway

PACKAGE = Path(llm_gateway.__file__).parent


class ParsedFile(NamedTuple):
    """A Python file: its path below a folder, its text, its syntax tree, and all nodes of that."""

    place: str
    text: str
    tree: ast.Module
    nodes: list[ast.AST]


def sources(root: Path) -> Iterator[tuple[str, str]]:
    """Yield all Python files below `root`: the path below it, and the text."""
    for path in sorted(root.rglob("*.py")):
        yield path.relative_to(root).as_posix(), path.read_text(encoding="utf-8")


def nodes_of(tree: ast.AST) -> list[ast.AST]:
    """Return all nodes of a tree, in the order of `ast.walk`, which takes several times as long."""
    found = [tree]
    for node in found:
        for value in vars(node).values():
            if isinstance(value, ast.AST):
                found.append(value)
            elif isinstance(value, list):
                found += [each for each in value if isinstance(each, ast.AST)]
    return found


def parse(root: Path) -> list[ParsedFile]:
    """Parse all Python files below `root`."""
    trees = ((place, text, ast.parse(text)) for place, text in sources(root))
    return [ParsedFile(place, text, tree, nodes_of(tree)) for place, text, tree in trees]


FILES = parse(PACKAGE)
"""The files of the package."""


def parsed_files(root: Path) -> list[ParsedFile]:
    """Return all Python files below `root`, which is the package or a folder of a test."""
    return FILES if root == PACKAGE else parse(root)
