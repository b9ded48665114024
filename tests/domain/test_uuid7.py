"""UUIDv7 identifiers: format, uniqueness and order by time."""

from __future__ import annotations

import time
from uuid import RFC_4122, UUID

from llm_gateway.domain.uuid7 import new_id


def test_an_id_is_a_uuid_of_version_7() -> None:
    for _ in range(1000):
        text = new_id()
        parsed = UUID(text)
        assert (str(parsed), parsed.version, parsed.variant) == (text, 7, RFC_4122)


def test_an_id_begins_with_the_millisecond_of_its_creation() -> None:
    before = time.time_ns() // 1_000_000
    made = [int(new_id().replace("-", "")[:12], 16) for _ in range(50)]
    after = time.time_ns() // 1_000_000

    assert all(before <= ms <= after for ms in made)
    assert made == sorted(made)


def test_ids_made_within_a_millisecond_sort_in_the_order_of_their_creation() -> None:
    made = [new_id() for _ in range(1000)]  # each takes more than a quarter of a microsecond
    assert len({text[:13] for text in made}) < 500
    assert made == sorted(made)


def test_ids_differ_and_use_all_their_random_bits() -> None:
    made = [int(new_id().replace("-", ""), 16) for _ in range(5000)]
    random_bits = 0x3FFF_FFFF_FFFF_FFFF
    seen_one = seen_zero = 0
    for value in made:
        seen_one |= value
        seen_zero |= ~value

    assert len(set(made)) == len(made)
    assert seen_one & random_bits == random_bits
    assert seen_zero & random_bits == random_bits
