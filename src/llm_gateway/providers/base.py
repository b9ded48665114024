"""The contract of a dialect: where an account's calls go, which protocols it can speak, and what its refusals mean.

Dialects are pure: `worker/pipeline/translation.py` writes and reads through their wires. `registry.py` lists them.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping
from importlib import resources
from typing import NamedTuple, Protocol

import msgspec

from llm_gateway.domain.catalog import Target
from llm_gateway.domain.conversation import Completion
from llm_gateway.domain.upstream_call import UpstreamResult
from llm_gateway.domain.upstream_refusal import UpstreamRefusal
from llm_gateway.protocols.contract import StreamReader, UpstreamBody
from llm_gateway.providers.authorize import StaticKey


class Dialect(Protocol):
    """What accounts of one kind have in common, as a module of pure functions."""

    @property
    def static_key(self) -> StaticKey:
        """The header in which calls carry the account's key."""
        ...

    def target(self, base_url: str) -> Target:
        """Return where the calls of an account go, and the headers they carry beside the key."""
        ...

    @property
    def wires(self) -> Mapping[str, Wire]:
        """The protocols that an account can speak, by name.

        Other protocols are translated into the first that the account speaks and that can be written.
        """
        ...

    def decode_error(self, body: bytes) -> str:
        """The provider's own message in an error body, or its beginning as text; secrets and length are cut later."""
        ...

    def interpret(self, refused: UpstreamResult) -> UpstreamRefusal:
        """What an error response is about (the request, the model, the account, the moment), and its wait."""
        ...


class Wire(NamedTuple):
    """One protocol that a dialect speaks: its path, its request writer and its reply readers (protocols/contract.py).

    `path(model, stream)` is appended to the target's root. `write` None: nothing is translated into it, it only passes
    through. `json_reader` reads what was translated and shall be JSON, where that comes in another way than text.
    `is_default` False: an account speaks it only if its preset or its own `protocols` say so.
    """

    path: Callable[[str, bool], str]
    read_reply: Callable[[bytes], Completion]
    reader: Callable[[], StreamReader] | None = None
    write: Callable[..., UpstreamBody] | None = None
    json_reader: Callable[[], StreamReader] | None = None
    is_default: bool = True


class Vendor(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A preset: what an account of this name speaks, and where; and what it lacks of that dialect.

    `protocols` None means those that the dialect's accounts speak by default.
    """

    kind: str
    base_url: str | None = None
    has_json_mode: bool = True
    protocols: tuple[str, ...] | None = None


def load_vendors() -> dict[str, Vendor]:
    """Read the presets of `vendors.toml`, by name."""
    text = resources.files("llm_gateway.providers").joinpath("vendors.toml").read_text("utf-8")
    return msgspec.convert(tomllib.loads(text), dict[str, Vendor])
