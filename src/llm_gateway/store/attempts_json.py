"""Encode a record's attempts as JSON arrays, a quarter of the size of objects with named fields, and decode them.

What repeats for millions of attempts, the provider, its models and their price, is an origin: a numbered text of
`usage_origins`. The other fields are an array in a fixed order; those that most attempts lack are an object behind
them, and the accounts of budgets come last:

    [[7,"cACAAAAAAAAAAA",3,1523,200,4500,null,[3210,1000],1081500,"stop","req_0123456789abcdef",{"why":"retry:503"}]]
    [[7,"cACAAAAAAAAAAA",3,1523,200,4500,null,[3210,1000],1081500,"stop",null,null,[9,1764547200000,""]]]

Of each account there are the number of its budget (of `usage_names`), the start of its period, and its value. A value
of null is the record's customer, so that it changes with the customer's label (`erasure.py`). The list is flat, since
`],[` tells records with several attempts (`record_sums.py`).

Records of version 1 were stored as an array of objects (`[{"id":…`). They stay as they are, and are read as well.
"""

from __future__ import annotations

from binascii import a2b_base64, a2b_hex, b2a_base64
from collections.abc import Iterable, Iterator, Mapping, Sequence
from operator import attrgetter
from typing import Any, NamedTuple, TypeAlias, cast

import msgspec
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from llm_gateway.domain.budget import AccountRef
from llm_gateway.domain.usage import AttemptRecord, CostStatus, Price, Usage, UsageRecord
from llm_gateway.store.budget_tables import budgets
from llm_gateway.store.bulk import Pause, no_pause, with_pauses
from llm_gateway.store.database import Database
from llm_gateway.store.driver_sql import CompiledQuery
from llm_gateway.store.numbered_texts import LONGEST_TEXT, NumberedTexts
from llm_gateway.store.tables import usage_names, usage_origins

MOST_ORIGINS = 100_000
"""Number from which origins are written out in each attempt: a provider reports a new model name for every call."""

UUID_BYTES, UUID_LENGTH, TIME_BYTES = 16, 36, 6
"""Bytes and characters of a UUID, and bytes of the milliseconds at the start of a UUIDv7 (RFC 9562, section 5.7)."""


class Origin(msgspec.Struct, frozen=True, array_like=True):
    """The fields that all attempts at one model of a provider share while its price is the same."""

    provider_id: str
    provider: str
    kind: str
    model: str
    upstream_model: str | None
    price: Price | None


class _Rest(msgspec.Struct, omit_defaults=True):
    """Fields that most attempts lack."""

    sent: bool = True
    error: str | None = None
    usage_estimated: bool = False
    cost_status: CostStatus = "exact"
    why: str | None = None
    service_tier: str | None = None
    units: dict[str, int] | None = None


class _Stored(msgspec.Struct, array_like=True):
    """An attempt in the order of its array. `limit_tokens` is None if it is the sum of input and output."""

    origin: int | Origin
    id: str
    started_after_ms: int
    latency_ms: int
    status: int | None
    reserved_tokens: int
    limit_tokens: int | None
    usage: list[int]
    cost_nanos: int
    finish_reason: str | None = None
    upstream_request_id: str | None = None
    rest: _Rest | None = None
    accounts: list[int | str | None] = []


class Place:
    """An origin of a transaction's attempts, and what stands for it in their texts: its number if it has one."""

    __slots__ = ("is_looked_up", "origin", "shown")

    def __init__(self, origin: Origin) -> None:
        self.origin = origin
        self.shown: int | Origin = origin
        self.is_looked_up = False


class BudgetPlace(NamedTuple):
    """The number of a budget in the texts of a transaction, and whether it counts by customer."""

    number: int
    is_by_customer: bool


class Places(dict[tuple[Any, ...], Place]):
    """The origins of a transaction, by their names, or by names and price (`_placed`); and its budgets by their id.

    `names` has the numbers that names are known to have, as in `NumberedTexts.numbers`.
    """

    def __init__(self) -> None:
        super().__init__()
        self.budgets: dict[str, BudgetPlace] = {}
        self.names: dict[str, int] = {}


Text: TypeAlias = tuple[int, str | None, str]
"""Time of a record's arrival (`at_ms`), the text of its attempts, and its customer."""


_BY_CUSTOMER = sa.select(budgets.c.accounts_id).where(budgets.c.per == "user_id")


class AttemptTexts:
    """The texts in the column `attempts` of usage records. Its methods run in the caller's transaction."""

    def __init__(self, database: Database) -> None:
        self._origins = NumberedTexts(database, usage_origins)
        self._budgets = NumberedTexts(database, usage_names)
        self._by_customer = CompiledQuery(database, _BY_CUSTOMER)

    def write(
        self,
        connection: Connection,
        records: Sequence[UsageRecord],
        pause: Pause = no_pause,
        places: Places | None = None,
    ) -> list[str | None]:
        """Return each record's text, None for a record without attempts; new origins are stored.

        `pause` is called after every few records. Give the same `places`, at first empty, to all calls of one
        transaction: then each origin and budget is looked up once.
        """
        attempts = [attempt for record in records for attempt in record.attempts]
        places = Places() if places is None else places
        numbers = iter(self._numbered(connection, attempts, pause, places))
        self._find_budgets(connection, attempts, pause, places)
        known = places.budgets
        return [_text(record, numbers, known) if record.attempts else None for record in with_pauses(records, pause)]

    def read(self, connection: Connection, texts: Iterable[Text]) -> list[list[AttemptRecord]]:
        """Return the attempts in each text."""
        parsed: list[tuple[int, str, list[AttemptRecord] | list[_Stored]]] = [
            (at_ms, customer, _parsed(text) if text else []) for at_ms, text, customer in texts
        ]
        stored = [one for _, _, attempts in parsed for one in attempts if isinstance(one, _Stored)]
        found = self._origins.texts(connection, (one.origin for one in stored if isinstance(one.origin, int)))
        origins = {number: _origin_decoder.decode(text) for number, text in found.items()}
        numbers = {cast(int, number) for one in stored for number in one.accounts[::3]}
        budget_ids = self._budgets.texts(connection, numbers)

        def restored(one: _Stored, at_ms: int, customer: str) -> AttemptRecord:
            return _restored(one, at_ms, origins, _accounts(one, customer, budget_ids))

        return [
            [restored(one, at_ms, customer) if isinstance(one, _Stored) else one for one in attempts]
            for at_ms, customer, attempts in parsed
        ]

    def _find_budgets(
        self,
        connection: Connection,
        attempts: Sequence[AttemptRecord],
        pause: Pause,
        places: Places,
    ) -> None:
        """Add the budgets of the attempts' accounts to `places`."""
        found = {account.budget_id for attempt in attempts if attempt.accounts for account in attempt.accounts}
        if missing := found - places.budgets.keys():
            by_customer = {found for (found,) in self._by_customer.rows(connection)}
            for budget_id, number in self._budgets.numbers(connection, missing, pause, known=places.names).items():
                places.budgets[budget_id] = BudgetPlace(number, budget_id in by_customer)

    def _numbered(
        self, connection: Connection, attempts: Sequence[AttemptRecord], pause: Pause, places: Places
    ) -> list[int | Origin]:
        """Return the number of each attempt's origin, or the origin itself if it cannot have one."""
        found = [_placed(places, attempt) for attempt in attempts]
        texts = {place: _encoder.encode(place.origin).decode() for place in set(found) if not place.is_looked_up}
        if texts:
            short = [text for text in texts.values() if len(text) <= LONGEST_TEXT]
            numbers = self._origins.numbers(connection, short, pause, MOST_ORIGINS)
            for place, text in texts.items():
                place.shown, place.is_looked_up = numbers.get(text) or place.origin, True
        return [place.shown for place in found]


def _placed(places: Places, attempt: AttemptRecord) -> Place:
    """Return the place of the attempt's origin.

    Nearly all attempts at a model have the same price, and to compare two prices takes less than to hash one. So a
    place is found by the names; only those of a second price have the price in their key.
    """
    names = _names(attempt)
    place = places.get(names)
    if place is None:
        key = (*names, attempt.price)
        place = places[names] = Place(Origin(*key))
    elif place.origin.price != attempt.price:
        key = (*names, attempt.price)
        place = places.get(key)
        if place is None:
            place = places[key] = Place(Origin(*key))
    return place


def _text(record: UsageRecord, origins: Iterator[int | Origin], budget_places: Mapping[str, BudgetPlace]) -> str:
    at_ms, attempts = record.at_ms, record.attempts
    if len(attempts) == 1:  # nearly always; a comprehension takes half as long again
        arrays = [_array(attempts[0], at_ms, next(origins))]
    else:
        arrays = [_array(one, at_ms, next(origins)) for one in attempts]
    if budget_places:
        for array, attempt in zip(arrays, attempts, strict=True):
            if attempt.accounts:
                array.extend([None] * (_ACCOUNTS - len(array)))
                array.append(_flat(attempt.accounts, record.user_id, budget_places))
    return _encoder.encode(arrays).decode()


def _flat(accounts: Iterable[AccountRef], customer: str, places: Mapping[str, BudgetPlace]) -> list[int | str | None]:
    found: list[int | str | None] = []
    for budget_id, value, period_start_ms in accounts:
        number, is_by_customer = places[budget_id]
        found += (number, period_start_ms, None if is_by_customer and value == customer else value)
    return found


def _accounts(stored: _Stored, customer: str, budget_ids: Mapping[int, str]) -> list[AccountRef]:
    each = cast("Iterator[Any]", iter(stored.accounts))
    return [
        AccountRef(budget_ids[number], customer if value is None else value, period_start_ms)
        for number, period_start_ms, value in zip(each, each, each, strict=True)
    ]


def _array(attempt: AttemptRecord, at_ms: int, origin: int | Origin) -> list[Any]:
    started_ms, limit_tokens = attempt.started_ms, attempt.limit_tokens
    counts = msgspec.structs.astuple(attempt.usage)
    input_tokens, output_tokens = counts[:2]
    array: list[Any] = [
        origin,
        _short(attempt.id, started_ms),
        started_ms - at_ms,
        attempt.latency_ms,
        attempt.status,
        attempt.reserved_tokens,
        None if limit_tokens == input_tokens + output_tokens else limit_tokens,
        counts[:2] if output_tokens and counts[2:] == _NO_SPECIAL_TOKENS else _without_zeros(counts),
        attempt.cost_nanos,
        attempt.finish_reason,
        attempt.upstream_request_id,
    ]
    if _rest_values(attempt) != _USUAL_REST:
        array.append(_Rest(*_rest_values(attempt)))
    while array[-1] is None:
        array.pop()
    return array


def _without_zeros(counts: tuple[int, ...]) -> tuple[int, ...]:
    """Return the counts without the zeros at their end."""
    length = len(counts)
    while length and not counts[length - 1]:
        length -= 1
    return counts[:length]


def _parsed(text: str) -> list[AttemptRecord] | list[_Stored]:
    return _old_decoder.decode(text) if text.startswith("[{") else _decoder.decode(text)


def _restored(stored: _Stored, at_ms: int, origins: Mapping[int, Origin], accounts: list[AccountRef]) -> AttemptRecord:
    origin = stored.origin if isinstance(stored.origin, Origin) else origins[stored.origin]
    usage, rest = Usage(**dict(zip(_KINDS, stored.usage, strict=False))), stored.rest or _NO_REST
    limit_tokens = stored.limit_tokens
    return AttemptRecord(
        id=_long(stored.id, at_ms + stored.started_after_ms),
        provider_id=origin.provider_id,
        provider=origin.provider,
        kind=origin.kind,
        model=origin.model,
        started_ms=at_ms + stored.started_after_ms,
        reserved_tokens=stored.reserved_tokens,
        limit_tokens=usage.input_tokens + usage.output_tokens if limit_tokens is None else limit_tokens,
        upstream_model=origin.upstream_model,
        upstream_request_id=stored.upstream_request_id,
        status=stored.status,
        finish_reason=stored.finish_reason,
        usage=usage,
        price=origin.price,
        cost_nanos=stored.cost_nanos,
        latency_ms=stored.latency_ms,
        accounts=accounts,
        **msgspec.structs.asdict(rest),
    )


def _short(attempt_id: str, started_ms: int) -> str:
    """Return a short form of the id: base64 of a UUID, 14 characters without its time if that is `started_ms`, else 22.

    Any other id stands behind a `=`, which base64 does not begin with.
    """
    digits = attempt_id.replace("-", "")
    try:
        value, time = a2b_hex(digits), started_ms.to_bytes(TIME_BYTES)
    except (ValueError, OverflowError):
        return f"={attempt_id}"
    is_uuid = len(attempt_id) == UUID_LENGTH and attempt_id[8:24:5] == "----" and value.hex() == digits
    if not is_uuid or len(value) != UUID_BYTES:
        return f"={attempt_id}"
    kept = value[TIME_BYTES:] if value.startswith(time) else value
    return b2a_base64(kept, newline=False)[:-2].decode()


def _long(short: str, started_ms: int) -> str:
    if short.startswith("="):
        return short[1:]
    value = a2b_base64(f"{short}==")
    return _uuid_text(value if len(value) == UUID_BYTES else started_ms.to_bytes(TIME_BYTES) + value)


def _uuid_text(value: bytes) -> str:
    digits = value.hex()
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


_KINDS = Usage.__struct_fields__
_NO_REST = _Rest()
_ACCOUNTS = _Stored.__struct_fields__.index("accounts")
_rest_values = attrgetter(*_Rest.__struct_fields__)
_USUAL_REST = _rest_values(_NO_REST)
_NO_SPECIAL_TOKENS = (0,) * (len(_KINDS) - 2)
_names = attrgetter(*(name for name in Origin.__struct_fields__ if name != "price"))
_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(list[_Stored])
_old_decoder = msgspec.json.Decoder(list[AttemptRecord])
_origin_decoder = msgspec.json.Decoder(Origin)
