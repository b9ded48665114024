"""The contract of a dialect: where an account's calls go, which protocols it can speak, and what its refusals mean.

Dialects are pure: `worker/pipeline/translation.py` writes and reads through their codecs. `registry.py` lists them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple, Protocol

from llm_gateway.domain.catalog import Target
from llm_gateway.domain.conversation import Completion
from llm_gateway.domain.upstream_call import UpstreamResult
from llm_gateway.domain.upstream_refusal import UpstreamRefusal
from llm_gateway.protocols.contract import StreamReader, UpstreamBody
from llm_gateway.providers.upstream_credentials import StaticKey


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
    def codecs(self) -> Mapping[str, ProtocolCodec]:
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


class ProtocolCodec(NamedTuple):
    """One protocol that a dialect speaks: path of a call, request writer, reply readers (protocols/contract.py).

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
