"""Parse and name the checkouts of this project that one run measures: this one, and those given by `--tree`."""

from __future__ import annotations

import argparse
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks.targets import ROOT


class Tree(NamedTuple):
    """A checkout of this project, and its name in the tables."""

    name: str
    path: Path

    def __str__(self) -> str:
        """Return the name and commit, for the facts below a table."""
        return f"{self.name}: {_commit(self.path)}"


THIS = Tree("this tree", ROOT)


def tree_argument(text: str) -> Tree:
    """Parse `PATH` or `NAME=PATH`.

    Raises:
        ArgumentTypeError: there is no checkout of this project at the path.
    """
    name, given, path = text.partition("=")
    folder = Path(path if given else text).resolve()
    if not (folder / "src" / "llm_gateway").is_dir():
        raise argparse.ArgumentTypeError(f"{folder} is not a checkout of this project: it has no src/llm_gateway")
    return Tree(name if given else folder.name, folder)


def with_this(given: Iterable[Tree]) -> list[Tree]:
    """Append this tree to the given ones.

    Raises:
        ValueError: two of them have the same name.
    """
    trees = [*given, THIS]
    names = [tree.name for tree in trees]
    if len(set(names)) < len(names):
        raise ValueError(f"Two trees have the same name ({', '.join(names)}): use --tree NAME=PATH")
    return trees


def without_paths(arguments: Sequence[str]) -> list[str]:
    """Replace the paths in `--tree` and `--folder` options by PATH: they mean nothing on another machine."""
    texts = [argument.removeprefix("--tree=") for argument in arguments]
    shown: list[str] = []
    for number, argument in enumerate(arguments):
        if argument.startswith("--tree="):
            shown.append(f"--tree={_hidden(texts[number])}")
        elif number and arguments[number - 1] == "--tree":
            shown.append(_hidden(argument))
        elif number and arguments[number - 1] == "--folder":
            shown.append("PATH")
        else:
            shown.append(argument)
    return shown


def _hidden(tree: str) -> str:
    name, given, _ = tree.partition("=")
    return f"{name}=PATH" if given else "PATH"


def _commit(path: Path) -> str:
    found = [
        subprocess.run(["git", "-C", path, *command], capture_output=True, text=True, check=False).stdout.strip()
        for command in (["rev-parse", "--short", "HEAD"], ["status", "--porcelain", "--", "src"])
    ]
    commit, changed = found
    return (f"commit {commit}" if commit else "no git checkout") + (" with changes" if changed else "")
