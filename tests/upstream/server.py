"""HTTP server of the mock vendor: OpenAI chat completions and Responses, on asyncio and httptools.

It is fast enough for benchmarks, and fails on request (see `behaviour`). Besides the vendor's paths it has three for
control: GET /_calls, POST /_behave and POST /_reset.
"""

from __future__ import annotations

import asyncio
import random
import re
import secrets
from collections import Counter, deque
from collections.abc import Callable
from pathlib import Path
from time import time
from types import TracebackType
from typing import Any, Self

import msgspec

from tests.upstream import answers, responses_api
from tests.upstream.behaviour import OK, REFUSALS, Behaviour, parse
from tests.upstream.billing import Bill, BillingJournal
from tests.upstream.connection import VendorConnection

MODELS = ("ok", "gpt-4o-mini", "gpt-4o")
KEPT_CALLS = 100_000
DRIP_S = 0.05
SEED = 4
"""Seed of the random numbers by which `random-P` chooses calls; set again by a reset."""

_MARKER = re.compile(r"marker:([\w.-]+)")


class Call(Bill, gc=False):
    """A received call: its bill, and the key, prompt and body it was sent with."""

    key: str
    prompt: str
    body: msgspec.Raw

    @property
    def json(self) -> Any:
        """The request's body, decoded."""
        return msgspec.json.decode(self.body)


class Seen(msgspec.Struct):
    """The response to GET /_calls. `connections` includes the connection of this request."""

    total: int
    listed: int
    in_flight: int
    connections: int
    calls: list[Call]


class Override(msgspec.Struct):
    """The body of POST /_behave: a behaviour for calls of `model` (null: all), for the next `times` (null: all).

    A null `behaviour` ends the override.
    """

    behaviour: str | None
    model: str | None = None
    times: int | None = None


class Refused(msgspec.Struct):
    """The response to an invalid control request."""

    error: str


class _Message(msgspec.Struct, gc=False):
    role: str
    content: Any = None


class _ResponseFormat(msgspec.Struct, gc=False):
    type: str = "text"


class _ChatRequest(msgspec.Struct, gc=False):
    model: str
    messages: list[_Message]
    response_format: _ResponseFormat | None = None
    stream: bool = False
    tools: list[Any] | None = None
    reasoning_effort: str | None = None


class MockUpstream:
    """A mock vendor: `async with MockUpstream() as mock: … mock.base_url … mock.calls`.

    `total` and `listed` count the requests for chat completions and for the model list. `refuse`: given the model
    and the decoded body, it returns the message of a 400, None for a body that the vendor takes (`vendor_limits.py`).
    """

    def __init__(
        self,
        *,
        port: int = 0,
        journal: Path | None = None,
        fsync: bool = False,
        kept_calls: int = KEPT_CALLS,
        refuse: Callable[[str, Any], str | None] | None = None,
    ) -> None:
        self.total = 0
        self.listed = 0
        self.connections: set[VendorConnection] = set()
        self.port = port
        self._journal = None if journal is None else BillingJournal(journal, fsync=fsync)
        self._refuse = refuse
        self._n = 0
        self._run = secrets.token_hex(4)
        self._calls: deque[Call] = deque(maxlen=kept_calls)
        self._of_model: Counter[str] = Counter()
        self._overrides: dict[str | None, Override] = {}
        self._random = random.Random(SEED)
        self._decoder = msgspec.json.Decoder(_ChatRequest)
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: VendorConnection(self), "127.0.0.1", self.port, backlog=1024)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._server is not None:
            self._server.close()
        open_ones = list(self.connections)
        for connection in open_ones:
            connection.transport.abort()
        await asyncio.gather(*(connection.gone for connection in open_ones))
        if self._journal is not None:
            self._journal.close()

    @property
    def base_url(self) -> str:
        """The `base_url` of a provider at this mock."""
        return f"http://127.0.0.1:{self.port}/v1"

    @property
    def calls(self) -> list[Call]:
        """The chat completions received, oldest first (the last `kept_calls` of them)."""
        return list(self._calls)

    @property
    def in_flight(self) -> int:
        """Number of calls without a complete response, on connections that are open."""
        return sum(connection.waits for connection in self.connections)

    def behave(self, behaviour: str | None, model: str | None = None, times: int | None = None) -> None:
        """Set the behaviour for calls of `model` (None: all calls), or for the next `times` only; None ends it.

        Raises:
            ValueError: `behaviour` is not the name of a behaviour.
        """
        if behaviour is None:
            self._overrides.pop(model, None)
            return
        if parse(behaviour) is None:
            raise ValueError(f"{behaviour!r} names no behaviour")
        self._overrides[model] = Override(behaviour, model, times)

    def reset(self) -> None:
        """Forget calls, counts and overrides. Ids and token counts go on: no two calls of one mock share an id."""
        self.total = self.listed = 0
        self._calls.clear()
        self._of_model.clear()
        self._overrides.clear()
        self._random.seed(SEED)

    def received(self, connection: VendorConnection, body: bytes) -> None:
        """Answer a whole request that arrived on `connection`."""
        if connection.path == b"/v1/chat/completions":
            self._complete(connection, body)
        elif connection.path == b"/v1/responses":
            self._respond(connection, body)
        elif connection.path == b"/v1/models":
            self.listed += 1
            _, behaviour = self._behaviour("", connection.key)
            self._answer(connection, behaviour, answers.ok(answers.model_list(MODELS)))
        else:
            connection.send(self._control(connection.path, body))

    def _complete(self, connection: VendorConnection, body: bytes) -> None:
        try:
            request = self._decoder.decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError):
            connection.send(answers.refusal(400, None))
            return
        if self._refuse is not None and (message := self._refuse(request.model, msgspec.json.decode(body))):
            connection.send(answers.answer(400, {"error": {"message": message, "type": "invalid_request_error"}}))
            return
        refused = responses_api.chat_problem(request.model, request.tools, request.reasoning_effort)
        if refused is not None:
            connection.send(answers.problem(refused[0], *refused[1]))
            return
        prompt = _prompt(request.messages)
        n, call_id, behaviour = self._record(connection, "chatcmpl", request.model, prompt, body)
        kind = behaviour.kind
        if kind == "ok" and request.response_format is not None and request.response_format.type == "json_object":
            kind = "json"
        write = answers.stream if request.stream else answers.whole
        self._answer(connection, behaviour, write(kind, n, call_id, request.model, prompt))

    def _respond(self, connection: VendorConnection, body: bytes) -> None:
        """Answer a request for the Responses API, or refuse it as the vendor does."""
        try:
            document = msgspec.json.decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError):
            connection.send(answers.refusal(400, None))
            return
        if self._refuse is not None and (message := self._refuse(document["model"], document)):
            connection.send(answers.answer(400, {"error": {"message": message, "type": "invalid_request_error"}}))
            return
        problem = responses_api.problem_in(document)
        if problem is not None:
            connection.send(answers.problem(400, *problem))
            return
        prompt = responses_api.prompt_of(document)
        n, call_id, behaviour = self._record(connection, "resp", document["model"], prompt, body)
        kind = behaviour.kind
        wanted = ((document.get("text") or {}).get("format") or {}).get("type")
        if kind == "ok" and wanted == "json_object":
            kind = "json"
        whole = responses_api.response(kind, n, call_id, document)
        if kind in answers.BROKEN:
            answer = answers.whole(kind, n, call_id, document["model"], prompt)
        elif document.get("stream"):
            answer = answers.event_stream(responses_api.encoded_events(whole))
        else:
            answer = answers.ok(msgspec.json.encode(whole))
        self._answer(connection, behaviour, answer)

    def _record(
        self, connection: VendorConnection, prefix: str, model: str, prompt: str, body: bytes
    ) -> tuple[int, str, Behaviour]:
        """Count and bill a call. Returns its number, its id and the behaviour that it gets."""
        self._n = n = self._n + 1
        self.total += 1
        call_id = f"{prefix}-{self._run}-{n}"
        word, behaviour = self._behaviour(model, connection.key)
        if self._journal is not None or self._calls.maxlen:
            tokens = answers.prompt_tokens(n), answers.completion_tokens(n)
            bill = Bill(call_id, n, model, _marker(prompt), word, *tokens, time())
            if self._journal is not None:
                self._journal.append(bill)
            fields: tuple[Any, ...] = (*msgspec.structs.astuple(bill), connection.key, prompt, msgspec.Raw(body))
            self._calls.append(Call(*fields))
        return n, call_id, behaviour

    def _behaviour(self, model: str, key: str) -> tuple[str, Behaviour]:
        """Return the behaviour that an override names, else the key, else the model; ok without one."""
        word = self._overridden(model) if self._overrides else None
        behaviour = parse(word or key)
        if behaviour is None:
            word, behaviour = model, parse(model)
        if behaviour is None:
            return "ok", OK
        if behaviour.every:
            self._of_model[model] += 1
            if self._of_model[model] % behaviour.every:
                return "ok", OK
        if behaviour.percent and self._random.random() * 100 >= behaviour.percent:
            return "ok", OK
        return word or key, behaviour

    def _overridden(self, model: str) -> str | None:
        override = self._overrides.get(model) or self._overrides.get(None)
        if override is None:
            return None
        if override.times is not None:
            override.times -= 1
            if override.times <= 0:
                del self._overrides[override.model]
        return override.behaviour

    def _answer(self, connection: VendorConnection, behaviour: Behaviour, answer: bytes) -> None:
        if behaviour is OK:
            connection.send(answer)
            return
        connection.waits = True
        if behaviour.delay_s:
            asyncio.get_running_loop().call_later(behaviour.delay_s, _act, connection, behaviour, answer)
        else:
            _act(connection, behaviour, answer)

    def _control(self, path: bytes, body: bytes) -> bytes:
        if path == b"/_calls":
            seen = Seen(self.total, self.listed, self.in_flight, len(self.connections), self.calls)
            return answers.answer(200, seen)
        if path == b"/_reset":
            self.reset()
            return answers.answer(200, {})
        if path == b"/_behave":
            try:
                override = msgspec.json.decode(body, type=Override)
                self.behave(override.behaviour, override.model, override.times)
            except ValueError as error:  # msgspec's are ValueErrors too
                return answers.answer(422, Refused(str(error)))
            return answers.answer(200, {})
        return answers.refusal(404, None)


def _act(connection: VendorConnection, behaviour: Behaviour, answer: bytes) -> None:
    """Send `answer`, or fail as `behaviour` requires."""
    if connection.transport.is_closing():
        return
    kind = behaviour.kind
    if kind in ("stall", "stall-body", "drip"):
        _hold_back(connection, kind, answer)
        return
    connection.waits = False
    if kind == "half":
        head = answers.head_length(answer)
        connection.send_and_close(answer[: head + (len(answer) - head) // 2])
    elif kind == "reset":
        connection.reset()
    elif kind == "close":
        connection.transport.close()
    elif kind == "garbage":
        connection.send_and_close(b"220 mock ESMTP ready\r\n")
    elif kind == "leak":
        connection.send(answers.leak(connection.key))
    elif kind in REFUSALS:
        status, error = REFUSALS[kind]
        connection.send(answers.answer(status, {"error": error}))
    elif kind == "status":
        connection.send(answers.refusal(behaviour.status, behaviour.retry_after))
    else:
        connection.send(answer)


def _hold_back(connection: VendorConnection, kind: str, answer: bytes) -> None:
    """Hold back the whole response, its body, or each byte of its body."""
    head = 0 if kind == "stall" else answers.head_length(answer)
    connection.transport.write(answer[:head])
    if kind == "drip":
        _drip(connection, answer[head:])


def _drip(connection: VendorConnection, rest: bytes) -> None:
    """Send one byte now, and the others one by one."""
    if connection.transport.is_closing():
        return
    connection.transport.write(rest[:1])
    if len(rest) > 1:
        asyncio.get_running_loop().call_later(DRIP_S, _drip, connection, rest[1:])
    else:
        connection.waits = False


def _prompt(messages: list[_Message]) -> str:
    """Return the text of the last user message."""
    for message in reversed(messages):
        if message.role == "user":
            if isinstance(message.content, str):
                return message.content
            if isinstance(message.content, list):
                return "".join(part.get("text", "") for part in message.content if isinstance(part, dict))
    return ""


def _marker(prompt: str) -> str | None:
    found = _MARKER.search(prompt) if "marker:" in prompt else None
    return found[1] if found else None
