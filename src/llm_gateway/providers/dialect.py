"""Contract of an API dialect: URLs, headers, protocol codecs and error classification for one kind of account.

A dialect is a module of pure functions, listed in `registry.py`. The smallest one, for a vendor with OpenAI's protocol:

    static_key = StaticKey("authorization", "Bearer ")
    codecs = {
        "openai_chat": ProtocolCodec(
            lambda model, stream: "/chat/completions", read_reply, StreamReader, write_request
        ),
    }

    def target(base_url: str) -> Target:
        return Target(root=base_url, models_url=f"{base_url}/models", headers={"content-type": "application/json"})

    def decode_error(body: bytes) -> str:
        return error_text(body)

    def classify_error(refused: UpstreamResult) -> UpstreamRefusal:
        return refusal_by_status(refused)

Call order:

    snapshot is built   target, static_key, codecs        once per provider (`account_assembler.py`)
    attempt starts      codec.path, codec.write           `write` only to translate (`worker/pipeline/translation.py`)
    status 2xx          codec.read_reply, or codec.reader for a stream
    any other status    classify_error, then decode_error  (`worker/pipeline/attempt.py`)
    no response         nothing: the transport reports a fault

No function does I/O, keeps state, or raises for any response body, except the readers with their documented errors.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple, Protocol

from llm_gateway.domain.catalog import Target
from llm_gateway.domain.conversation import Completion
from llm_gateway.domain.request import ClientRequest
from llm_gateway.domain.upstream_call import UpstreamResult
from llm_gateway.domain.upstream_refusal import UpstreamRefusal
from llm_gateway.protocols.contract import JsonObject, StreamReader, UpstreamBody
from llm_gateway.providers.upstream_credentials import StaticKey


class Dialect(Protocol):
    """The vendor-specific part of all accounts of one kind, implemented as a module."""

    @property
    def static_key(self) -> StaticKey:
        """The header for the account's API key.

        Read when the snapshot is built; ignored for an account with an `UpstreamAuthorizer`.
        """
        ...

    def target(self, base_url: str) -> Target:
        """Return the URLs of an account's calls, and their headers without the API key.

        Called when the snapshot is built, once per provider; never during a request.
        """
        ...

    @property
    def codecs(self) -> Mapping[str, ProtocolCodec]:
        """The protocols that accounts of this kind can speak, by their names in `protocols/registry.py`.

        Read when the snapshot is built and when a provider's configuration is validated. The order matters: requests
        in other protocols are translated into the first protocol that the account speaks and that has a `write`.
        """
        ...

    def decode_error(self, body: bytes) -> str:
        """Return the provider's message in an error body, else the start of the body as text.

        Called once for each response with an error status, after `classify_error`, and when a provider is checked. Do
        not redact or shorten the message much: the caller redacts secrets, then cuts it.
        """
        ...

    def classify_error(self, refused: UpstreamResult) -> UpstreamRefusal:
        """Classify an error response: what it concerns (`UpstreamRefusal.about`), and the wait it requests.

        Called once for each attempt that got a status other than 2xx, before `decode_error`. The result decides
        about failover, retry and circuit breaker. Not called for a fault (no response), nor for an error inside a
        stream that began with status 200.
        """
        ...


class ProtocolCodec(NamedTuple):
    """One protocol of a dialect: path of a call, request writer, reply readers (contracts: `protocols/contract.py`).

    `path(model, stream)` returns the path and query to append to the target's root; called for every attempt.
    `read_reply(body)` reads the body of a 2xx response. `reader()` makes the reader of one stream, None if the
    protocol has no streams. `write(conversation, model, stream=…)` translates a request into this protocol, None if it
    takes only requests of its own protocol. `json_reader()` replaces `reader()` for a translated request that asks for
    JSON, if the protocol returns JSON other than as text (as a tool call). `is_default` False: an account speaks the
    protocol only if its preset or its `protocols` setting lists it. `required_for(model)` returns a test
    of the requests that the account takes in this protocol only, even if it speaks the client's; None if the model has
    none. `without_signatures(document)` removes signed and encrypted reasoning from a request's body, in place, and
    returns whether there was any; None if the protocol has none. `with_valid_arguments(document)` makes the arguments
    of earlier tool calls JSON objects, in place, and returns whether any was none; None if the protocol has no others.
    """

    path: Callable[[str, bool], str]
    read_reply: Callable[[bytes], Completion]
    reader: Callable[[], StreamReader] | None = None
    write: Callable[..., UpstreamBody] | None = None
    json_reader: Callable[[], StreamReader] | None = None
    is_default: bool = True
    required_for: Callable[[str], Callable[[ClientRequest], bool] | None] | None = None
    without_signatures: Callable[[JsonObject], bool] | None = None
    with_valid_arguments: Callable[[JsonObject], bool] | None = None
