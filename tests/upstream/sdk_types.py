"""Check a request against the parameter types of a vendor's SDK, and word the problem as OpenAI's API does. Pure.

The API refuses what these types do not have: unknown fields, values of the wrong type, missing fields. Where it takes
less than the types require, or more than they have, `OPTIONAL` and `EXTRA` say so, with the source.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache
from os import PathLike
from types import UnionType
from typing import IO, Annotated, Any, Literal, NamedTuple, NotRequired, Required, Union, get_args, get_origin

from pydantic import BaseModel
from typing_extensions import get_type_hints, is_typeddict

OPTIONAL = {
    # OpenAI's own client leaves them out: https://github.com/openai/codex/blob/main/codex-rs/protocol/src/models.rs
    "ResponseReasoningItemParam": {"id"},
    "ResponseOutputMessageParam": {"id", "status"},
    "ResponseOutputTextParam": {"annotations"},
    "ResponseInputImageParam": {"detail"},
}
EXTRA: dict[str, dict[str, Any]] = {
    # OpenAI's own client sends them: Codex 0.171, https://github.com/openai/codex
    "ResponseCreateParamsBase": {"client_metadata": dict},
    "EasyInputMessageParam": {"id": str},
    "Message": {"id": str},
    "WebSearchToolParam": {"external_web_access": bool},
}
"""Fields that the API takes though the types have them not."""


class Problem(NamedTuple):
    """An error of the vendor: message, field and code."""

    message: str
    param: str | None
    code: str | None


def problem_with(value: Any, kind: Any, at: str = "") -> Problem | None:
    """Return what is wrong with a JSON value of this type; `at` is its path, as the vendor writes it."""
    origin = get_origin(kind)
    if kind is Any or kind is object:
        return None
    if origin in (Required, NotRequired):
        return problem_with(value, get_args(kind)[0], at)
    if origin in (Union, UnionType):
        return _problem_with_union(value, get_args(kind), at)
    if origin is Literal:
        return None if value in get_args(kind) else _invalid_value(value, get_args(kind), at)
    if is_typeddict(kind):
        return _problem_with_object(value, kind, at)
    if isinstance(origin, type) and issubclass(origin, Iterable) and not issubclass(origin, dict):
        return _problem_with_list(value, get_args(kind)[0], at)
    if origin is dict or kind is dict:
        return None if isinstance(value, dict) else _invalid_type(value, "an object", at)
    return _problem_with_scalar(value, kind, at)


def _problem_with_scalar(value: Any, kind: Any, at: str) -> Problem | None:
    if kind is type(None):
        return None if value is None else _invalid_type(value, "null", at)
    words = {str: "a string", int: "an integer", float: "a decimal", bool: "a boolean"}[kind]
    accepted = (int, float) if kind is float else (kind,)
    is_right = isinstance(value, accepted) and (kind is bool or not isinstance(value, bool))
    return None if is_right else _invalid_type(value, words, at)


def _problem_with_list(value: Any, kind: Any, at: str) -> Problem | None:
    if not isinstance(value, list):
        return _invalid_type(value, "an array", at)
    for number, each in enumerate(value):
        problem = problem_with(each, kind, f"{at}[{number}]")
        if problem is not None:
            return problem
    return None


def _problem_with_object(value: Any, kind: Any, at: str) -> Problem | None:
    if not isinstance(value, dict):
        return _invalid_type(value, "an object", at)
    fields, required = _fields(kind)
    for name, each in value.items():
        path = f"{at}.{name}" if at else name
        if name not in fields:
            return Problem(f"Unknown parameter: '{path}'.", path, "unknown_parameter")
        problem = problem_with(each, fields[name], path)
        if problem is not None:
            return problem
    for name in sorted(required - value.keys()):
        path = f"{at}.{name}" if at else name
        return Problem(f"Missing required parameter: '{path}'.", path, "missing_required_parameter")
    return None


@cache
def _fields(kind: Any) -> tuple[dict[str, Any], frozenset[str]]:
    hints = {**get_type_hints(kind, include_extras=True), **EXTRA.get(kind.__name__, {})}
    optional = OPTIONAL.get(kind.__name__, set())
    # The SDK's types are lazy (`from __future__ import annotations`), so `__required_keys__` lacks their `Required`.
    origins: dict[str, Any] = {name: get_origin(each) for name, each in hints.items()}
    required = {name for name, origin in origins.items() if origin is Required}
    return hints, frozenset(required - optional)


def _problem_with_union(value: Any, kinds: Sequence[Any], at: str) -> Problem | None:
    """Return None if the value fits one of the types; else the problem with the last type of its `type`."""
    kinds = [kind for kind in kinds if _is_of_json(kind)]
    if isinstance(value, dict):
        kinds = _of_type(value.get("type"), kinds) or kinds
    problems = [problem_with(value, kind, at) for kind in kinds]
    if any(problem is None for problem in problems):
        return None
    # The deeper the field, the more of the value fits; an unknown field is more to the point than another type.
    found = [each for each in problems if each is not None]
    return max(found, key=lambda each: (_depth(each), each.code == "unknown_parameter"))


def _is_of_json(kind: Any) -> bool:
    """Return False for what the SDK takes and turns into JSON: files, paths and its own response objects."""
    origin = get_origin(kind) or kind
    if origin is Annotated:  # a union of response objects
        return False
    return not (isinstance(origin, type) and issubclass(origin, (IO, PathLike, BaseModel)))


def _depth(problem: Problem) -> int:
    return 0 if problem.param is None else problem.param.count(".") + problem.param.count("[")


def _of_type(name: Any, kinds: Sequence[Any]) -> list[Any]:
    """Return the objects among the types whose `type` can have this value, and those of any fields."""
    found: list[Any] = []
    for kind in kinds:
        if get_origin(kind) in (Union, UnionType):
            found += _of_type(name, get_args(kind))
        elif (get_origin(kind) or kind) is dict:
            found.append(kind)
        elif is_typeddict(kind):
            allowed, required = _fields(kind)
            hint = allowed.get("type")
            literal = get_args(hint)[0] if get_origin(hint) in (Required, NotRequired) else hint
            if name in get_args(literal) or (name is None and "type" not in required):
                found.append(kind)
    return found


def _invalid_type(value: Any, expected: str, at: str) -> Problem:
    got = {str: "a string", int: "an integer", float: "a decimal", bool: "a boolean", list: "an array"}
    kind = "null" if value is None else got.get(type(value), "an object")
    return Problem(f"Invalid type for '{at}': expected {expected}, but got {kind} instead.", at, "invalid_type")


def _invalid_value(value: Any, allowed: Sequence[Any], at: str) -> Problem:
    *rest, last = [f"'{each}'" for each in allowed]
    listed = f"{', '.join(rest)}, and {last}" if rest else last
    return Problem(f"Invalid value: '{value}'. Supported values are: {listed}.", at, "invalid_value")
