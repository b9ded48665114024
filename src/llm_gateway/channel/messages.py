"""Message types of the channel, encoded as MessagePack maps, each behind its length in 4 bytes.

Control and workers can be of different versions during an upgrade. Unknown fields are ignored and missing ones have
defaults, and messages of an unknown type are skipped. So a later version may add both, and changes neither.
"""

from __future__ import annotations

import asyncio
import struct
from typing import Any, TypeAlias

import msgspec

from llm_gateway.domain.budget import Budget
from llm_gateway.domain.catalog import Override
from llm_gateway.domain.configuration import FORMAT, Account
from llm_gateway.domain.key_secret import Pepper
from llm_gateway.domain.metric_families import MetricFamily
from llm_gateway.domain.public_prices import VendorPrices
from llm_gateway.domain.service_key import ServiceKey
from llm_gateway.domain.usage import KeyCall, SentAttempt

NAME = "channel.sock"
"""The channel's socket in the data directory."""
MAX_FRAME_BYTES = 64 << 20
"""The longest message that is read; this version's are much shorter."""
BEAT_S = 0.25
"""Seconds between two beats, in both directions."""
ALIVE_S = 1.0
"""Seconds after its last message for which a process counts as alive."""
_LENGTH = struct.Struct(">I")


class MalformedFrame(Exception):
    """The other side sent bytes that are no message: the connection must end."""


class Message(msgspec.Struct, kw_only=True, tag_field="type", tag=str.lower):
    """Base of all messages."""


class Hello(Message):
    """A worker's first message: its number, and its process. `wants_refill`: its limiter has no calls yet.

    `started_ns` tells apart processes with the same id.
    """

    number: int
    pid: int
    started_ns: int = 0
    format: int = FORMAT
    wants_refill: bool = False


class Applied(Message):
    """The worker serves requests with this version of the configuration."""

    version: int


class NeedAll(Message):
    """The worker has not the version that the last changes build on, and needs the whole configuration."""


class WorkerBeat(Message):
    """The worker's event loop runs. `is_ready`: it accepts requests. `can_record`: its journal can be written."""

    is_ready: bool = False
    can_record: bool = False


class Report(Message):
    """A worker's metrics. `id` is that of `AskReport`, 0 for the last report of a worker that ends."""

    id: int
    families: list[MetricFamily]


class Commit(Message):
    """Request to have the first `entries` entries of a writer's journal in the database; answered by `Stored`."""

    writer: str
    entries: int


class Goodbye(Message):
    """The worker ends: nobody need wait for it."""


class Refill(Message):
    """Calls of the last minute, which count against the rate limits of providers and keys: a part of them."""

    attempts: list[SentAttempt] = []
    key_calls: list[KeyCall] = []


class Begin(Message):
    """The next messages are a configuration, or with `base` the changes since that version.

    `has_prices`: the price lists follow, in place of those before, and with `has_budgets` the budgets. `peppers` of
    service keys are always all.
    """

    version: int
    base: int | None = None
    has_vendor: bool = False
    has_prices: bool = False
    has_budgets: bool = False
    peppers: tuple[Pepper, ...] = ()
    format: int = FORMAT


class Accounts(Message):
    """Accounts that are new or changed, and the provider ids of deleted ones."""

    accounts: list[Account] = []
    removed: list[str] = []


class Overrides(Message):
    """Overrides that are new or changed, and the (user_id, service_name) of deleted ones."""

    overrides: list[Override] = []
    removed: list[tuple[str, str | None]] = []


class Keys(Message):
    """Secrets of service keys that are new or changed, and the public ids of deleted ones."""

    keys: list[ServiceKey] = []
    removed: list[bytes] = []


class Budgets(Message):
    """A part of the budgets; all of them come if any is new, changed or deleted (`Begin.has_budgets`)."""

    budgets: list[Budget]


class Prices(Message):
    """Price lists of vendors, in their order. A vendor's list may come in parts: later parts follow the first."""

    vendors: dict[str, VendorPrices]


class End(Message):
    """All of this version was sent: apply it."""

    version: int


class Passed(Message):
    """A provider has passed its test: forget its failures."""

    provider_id: str


class ControlBeat(Message):
    """The event loop of control runs; its state, which health endpoints report.

    `is_storing`: the database stores the usage that is shipped. `is_leaving`: control ends in a moment, and another
    control process takes its place. `hosts` is the number of living hosts; 0 on a database that only one host can use.
    `clock_offset_ms` is to be added to the system's time; None: it is not known.
    """

    database_ok: bool = True
    shipping_lag_s: float = 0.0
    is_storing: bool = True
    is_leaving: bool = False
    hosts: int = 0
    clock_offset_ms: int | None = None


class Stored(Message):
    """The first `entries` entries of the worker's journal are in the database."""

    entries: int


class AskReport(Message):
    """Request for the worker's metrics."""

    id: int


FromWorker: TypeAlias = Hello | Applied | NeedAll | WorkerBeat | Report | Commit | Goodbye
Part: TypeAlias = Accounts | Overrides | Keys | Budgets | Prices
FromControl: TypeAlias = Refill | Begin | Part | End | Passed | ControlBeat | Stored | AskReport


class _AnyMessage(msgspec.Struct):
    type: str


class Decoder:
    """Decodes messages of the types that `kinds` joins."""

    def __init__(self, kinds: Any) -> None:
        self._decoder = msgspec.msgpack.Decoder(kinds)
        self._known = frozenset(kind.__struct_config__.tag for kind in kinds.__args__)

    def decode(self, payload: bytes) -> Any:
        """Return the message, None for a type that is not known.

        Raises:
            MalformedFrame: this is no message, or not what its type says.
        """
        try:
            return self._decoder.decode(payload)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            try:
                if _any_message.decode(payload).type not in self._known:
                    return None
            except (msgspec.DecodeError, UnicodeDecodeError):
                pass
            raise MalformedFrame(str(error)) from error


def encode(message: Message) -> bytes:
    """Return a message as a frame."""
    payload = _encoder.encode(message)
    return _LENGTH.pack(len(payload)) + payload


async def read_frame(reader: asyncio.StreamReader) -> bytes:
    """Return the payload of the next frame.

    Raises:
        EOFError: the other side has closed the connection.
        OSError: the connection is broken.
        MalformedFrame: the frame is too long.
    """
    size = _LENGTH.unpack(await reader.readexactly(_LENGTH.size))[0]
    if size > MAX_FRAME_BYTES:
        raise MalformedFrame(f"A frame of {size} bytes is longer than {MAX_FRAME_BYTES}.")
    return await reader.readexactly(size)


_encoder = msgspec.msgpack.Encoder()
_any_message = msgspec.msgpack.Decoder(_AnyMessage)
