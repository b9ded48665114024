"""The contract of a provider's dialect: where its calls go, which protocols it speaks, and what its refusals mean.

Adapters are pure: `worker/pipeline/translation.py` writes and reads through their wires.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping
from importlib import import_module, resources
from typing import NamedTuple, Protocol, cast

import msgspec

from llm_gateway.domain.catalog import Provider, Target
from llm_gateway.domain.conversation import Completion
from llm_gateway.domain.plan import Exchange
from llm_gateway.domain.refusals import Refusal
from llm_gateway.protocols.base import StreamReader, Written

KINDS = ("openai", "anthropic", "gemini", "local")


class Adapter(Protocol):
    """One dialect, as a module of pure functions."""

    def target(self, provider: Provider, api_key: str, base_url: str) -> Target:
        """Where this provider's calls go and the headers they carry."""
        ...

    @property
    def wires(self) -> Mapping[str, Wire]:
        """The protocols it speaks, by name; the first is what other protocols are translated into."""
        ...

    def decode_error(self, body: bytes) -> str:
        """The provider's own message in an error body, or its beginning as text; secrets and length are cut later."""
        ...

    def interpret(self, refused: Exchange) -> Refusal:
        """What an error response is about (the request, the model, the account, the moment), and its wait."""
        ...


class Wire(NamedTuple):
    """One protocol that a dialect speaks: where its calls go, and how they are written and read (protocols/base.py).

    `path(model, stream)` is appended to the target's root. `write` None: nothing is translated into it, it only passes
    through. `json_reader` reads what was translated and shall be JSON, where that comes in another way than text.
    """

    path: Callable[[str, bool], str]
    read_reply: Callable[[bytes], Completion]
    reader: Callable[[], StreamReader] | None = None
    write: Callable[..., Written] | None = None
    json_reader: Callable[[], StreamReader] | None = None


class Vendor(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A preset: what a provider of this name speaks, and where; and what it lacks of that dialect."""

    kind: str
    base_url: str | None = None
    has_json_mode: bool = True
    has_responses: bool = False


def load(kind: str) -> Adapter:
    """The adapter of a kind: the module `providers/<kind>.py`.

    Raises:
        KeyError: there is no such kind.
    """
    if kind not in KINDS:
        raise KeyError(kind)
    return cast(Adapter, import_module(f"llm_gateway.providers.{kind}"))


def load_vendors() -> dict[str, Vendor]:
    """The presets of `vendors.toml`, by name."""
    text = resources.files("llm_gateway.providers").joinpath("vendors.toml").read_text("utf-8")
    return msgspec.convert(tomllib.loads(text), dict[str, Vendor])
