"""Scripted model of the agents' tests: decide its next step from the conversation that the agent sends.

The prompt names the scenario: `Do: say WORD`, or `read`, `view` or `edit` with a path. The step is the same in every
vendor's dialect (`dialects.py` reads the conversation from a request and writes the step as a reply).
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple

TASK = re.compile(r"Do: (say|read|view|edit) ([^\s\"]+)")
WORDS = ("the word is xylophone", "the word is zebra")
"""What the file of a scenario says, and what it says after an edit."""
ASIDE = "All right."
"""Reply to the requests that agents make beside the conversation, such as one for the session's title."""


class Turn(NamedTuple):
    """One turn: its texts, the calls the model made, and the results of tools, as texts; `pictures` counts images."""

    role: str
    texts: list[str]
    calls: list[str]
    results: list[str]
    pictures: int = 0


class Step(NamedTuple):
    """The model's next step: a text, or the call of a tool with arguments."""

    text: str = ""
    tool: str = ""
    arguments: dict[str, Any] | None = None


def next_step(turns: list[Turn], tools: dict[str, dict[str, Any]]) -> Step:
    """Return the next step for the last task in the conversation; `tools` are JSON schemas of arguments by name."""
    place, task = _last_task(turns)
    if task is None:
        return Step(ASIDE)
    verb, subject = task
    if verb == "say":
        return Step(f"{subject} it is.")
    if verb == "edit":
        return Step(edit_of(subject))
    after = turns[place:]
    results = [result for turn in after for result in turn.results]
    if verb == "view" and (pictures := sum(turn.pictures for turn in after)):
        return Step(f"I see {pictures} picture.")
    if results:
        return Step(f"The tool said: {results[-1].strip()[-1000:]}")
    return reading(subject, tools, picture=verb == "view")


def edit_of(path: str) -> str:
    """Return the answer that replaces the first of `WORDS` in a file: https://aider.chat/docs/more/edit-formats.html."""
    before, after = WORDS
    return f"{path}\n```\n<<<<<<< SEARCH\n{before}\n=======\n{after}\n>>>>>>> REPLACE\n```\n"


def _last_task(turns: list[Turn]) -> tuple[int, tuple[str, str] | None]:
    for place in range(len(turns) - 1, -1, -1):
        for text in reversed(turns[place].texts):
            found = TASK.findall(text) if turns[place].role == "user" else []
            if found:
                return place, found[-1]
    return 0, None


def reading(path: str, tools: dict[str, dict[str, Any]], *, picture: bool) -> Step:
    """Return the call that reads a file with one of the agent's own tools."""
    if picture and "view_image" in tools:
        return Step(tool="view_image", arguments={"path": path})
    for name, argument in (("Read", "file_path"), ("read_file", "file_path"), ("read", "filePath")):
        if name in tools:
            properties = tools[name].get("properties", {})
            return Step(tool=name, arguments={argument if argument in properties else "absolute_path": path})
    for name in ("exec_command", "shell_command", "Bash", "run_shell_command"):
        if name in tools:
            properties = tools[name].get("properties", {})
            return Step(tool=name, arguments={"cmd" if "cmd" in properties else "command": f"cat {path}"})
    if "shell" in tools:
        return Step(tool="shell", arguments={"command": ["cat", path]})
    return Step(f"There is no tool to read {path} among {sorted(tools)}.")
