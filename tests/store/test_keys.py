"""Stored service keys, what is in force of them, and the peppers of their hashes."""

from __future__ import annotations

import asyncio
import stat
from pathlib import Path
from typing import Any

import pytest

from llm_gateway.control.effective_keys import EffectiveKeys
from llm_gateway.control.key_use import KeyUse, store_key_use_forever
from llm_gateway.domain.key_secret import Hashers, Pepper
from llm_gateway.domain.service_key import SCOPES_OF_BITS, ServiceKey
from llm_gateway.domain.stored_key import Fixed, KeySettings
from llm_gateway.domain.usage import UsageRecord
from llm_gateway.errors import ConfigurationError, Conflict, Invalid, StoreUnavailable
from llm_gateway.store.database import Database
from llm_gateway.store.keys import KeyDraft, KeyStore, MadeKey
from llm_gateway.store.peppers import FILE, open_peppers
from llm_gateway.store.teams import TeamStore
from tests.rows import each_row
from tests.store.histories import record

PEPPER = Pepper(1, b"a" * 32)
RANDOM = "0123456789abcdef0123456789abcdef"


class Loads(KeyStore):
    """A store that notes which keys are read whole."""

    loaded: list[set[str]]

    def load(self, ids: Any) -> Any:
        self.loaded = [*getattr(self, "loaded", []), set(ids)]
        return super().load(ids)


@pytest.fixture
def store(database: Database) -> Loads:
    return Loads(database, [PEPPER])


def add(store: KeyStore, name: str, parent: MadeKey | None = None, **fields: Any) -> MadeKey:
    settings = KeySettings(**{name: fields.pop(name) for name in KeySettings.__struct_fields__ if name in fields})
    parent_id = None if parent is None else parent.key.id
    return store.create(KeyDraft(name=name, settings=settings, parent_id=parent_id, **fields))


def test_each_refresh_reads_only_what_changed_and_its_descendants_follow(store: Loads) -> None:
    keys = EffectiveKeys(store)
    assert keys.refresh() == {}
    parent = add(store, "parent", scopes=("call", "read"))
    child, other = add(store, "child", parent, scopes=("call", "read")), add(store, "other")
    first = keys.refresh()
    assert keys.refresh() is first
    assert store.loaded == [{parent.key.id, child.key.id, other.key.id}]
    store.update(parent.key.id, {"scopes": ("call",), "rpm": 5})
    second = keys.refresh()
    assert store.loaded[1:] == [{parent.key.id}]
    changed = {key.name for public_id, key in second.items() if first[public_id] is not key}
    assert changed == {"parent", "child"}
    [of_child] = [key for key in second.values() if key.name == "child"]
    assert SCOPES_OF_BITS[of_child.scopes] == {"call"}
    assert of_child.rights is not None
    assert [limit.key_id for limit in of_child.rights.limits] == [parent.key.id]
    store.delete(child.key.id)
    assert {key.name for key in keys.refresh().values()} == {"parent", "other"}


def test_what_parents_and_key_allow_holds_together(store: Loads, database: Database) -> None:
    team = TeamStore(database).create("core")
    lists: Any = {"customers": ("team-*",), "models": Fixed("m"), "max_tokens": 50, "tags": {"a": "parent"}}
    parent = add(store, "parent", team_id=team.id, expires_at_ms=2**42, **lists)
    own: Any = {"customers": ("*-a",), "max_tokens": 90, "max_reasoning_effort": "low", "tags": {"a": "own", "b": "x"}}
    child = add(store, "child", parent, **own)
    store.update(parent.key.id, {"disabled": True})
    key = in_force(store)["child"]
    assert (key.team_id, key.until_ms, key.is_disabled) == (team.id, 2**42, True)
    assert key.rights is not None
    assert key.rights.customers == (("*-a",), ("team-*",))
    assert (key.rights.fixed_model, key.rights.max_tokens) == ("m", 50)
    assert (key.rights.max_reasoning_effort, key.rights.tags) == ("low", {"a": "parent", "b": "x"})
    assert Hashers([PEPPER]).digest(key.pepper, child.secret.encode()) == key.digest


def test_no_key_has_so_many_parents_that_one_does_not_narrow_it(store: Loads) -> None:
    def line(name: str, length: int) -> list[MadeKey]:
        made: list[MadeKey] = [add(store, f"{name} 0", max_tokens=50 if name == "upper" else None)]
        for number in range(1, length):
            made.append(add(store, f"{name} {number}", made[-1]))
        return made

    upper, lower = line("upper", 6), line("lower", 4)
    with pytest.raises(Invalid, match="keys that descend from this one would have more"):
        store.update(lower[0].key.id, {"parent_id": upper[-1].key.id})
    store.update(lower[0].key.id, {"parent_id": upper[-2].key.id})
    rights = in_force(store)["lower 3"].rights
    assert rights is not None
    assert rights.max_tokens == 50
    with pytest.raises(Invalid, match="choose a parent with fewer"):
        add(store, "one more", lower[-1])


def in_force(store: KeyStore) -> dict[str, ServiceKey]:
    return {key.name: key for key in EffectiveKeys(store).refresh().values()}


def test_rotations_keep_secrets_until_their_overlap_ends(database: Database) -> None:
    now = [1_000_000]
    store = KeyStore(database, [PEPPER], clock_ms=lambda: now[0])
    made = add(store, "shop")
    for overlap_s in (60, 10, 60):
        store.rotate(made.key.id, overlap_s)
    ends = sorted(key.until_ms for key in EffectiveKeys(store).refresh().values())
    assert ends == [0, 1_010_000, 1_010_000, 1_060_000]
    with pytest.raises(Conflict, match="has 4 secrets that are still valid"):
        store.rotate(made.key.id, 5)
    now[0] += 10_000
    store.rotate(made.key.id, 5)
    store.rotate(made.key.id, 0)
    assert len(EffectiveKeys(store).refresh()) == 1


def test_the_last_use_is_taken_from_records_on_their_way(store: Loads) -> None:
    key = add(store, "shop").key
    stored: list[UsageRecord] = []
    use = KeyUse(stored.extend, store)
    records = [record(key_id=key.id, at_ms=5_000), record(key_id=None), record(key_id="gone", at_ms=1)]
    use.write(records)
    assert stored == records
    use.store()
    use.store()
    after = store.get(key.id)
    assert (after.last_used_at_ms, after.updated_at_ms) == (5_000, key.updated_at_ms)
    store.note_use({key.id: 4_000})  # of another host, which stores it later
    assert store.get(key.id).last_used_at_ms == 5_000


class Broken(KeyStore):
    def note_use(self, used_at_ms: Any) -> None:
        raise RuntimeError(f"{len(used_at_ms)} keys")


class Away(KeyStore):
    def note_use(self, used_at_ms: Any) -> None:
        raise StoreUnavailable(f"{len(used_at_ms)} keys")


@pytest.mark.parametrize(
    ("kind", "event"), [(Broken, "last use of keys cannot be stored"), (Away, "last use of keys is not stored")]
)
async def test_a_last_use_that_is_not_stored_is_logged_and_the_job_goes_on(
    database: Database, kind: type[KeyStore], event: str
) -> None:
    logged: asyncio.Queue[str] = asyncio.Queue()
    use = KeyUse(lambda _records: None, kind(database, [PEPPER]))
    job = asyncio.create_task(store_key_use_forever(use, lambda told, **_: logged.put_nowait(told), every_s=0.001))
    async with asyncio.timeout(5):
        assert [await logged.get() for _ in range(2)] == [event] * 2
    job.cancel()


def test_a_pepper_is_made_once_and_stays_valid_behind_a_setting(tmp_path: Path) -> None:
    made = open_peppers(None, tmp_path)
    assert [pepper.version for pepper in made] == [1]
    assert stat.S_IMODE((tmp_path / FILE).stat().st_mode) == 0o600
    assert open_peppers(None, tmp_path) == made
    assert open_peppers(f"7:{RANDOM}", tmp_path) == [Pepper(7, RANDOM.encode()), *made]
    with pytest.raises(ConfigurationError, match="Version 1 is another pepper"):
        open_peppers(f"1:{RANDOM}", tmp_path)
    assert open_peppers(f"7:{RANDOM}", tmp_path / "none") == [Pepper(7, RANDOM.encode())]
    assert not (tmp_path / "none").exists()


@each_row(
    "text",
    ["", RANDOM, f"x:{RANDOM}", f"0:{RANDOM}", f"9{'0' * 10}:{RANDOM}", "1:short", f"1:{'a' * 40}", f"1:{RANDOM},2"],
)
def test_an_unfit_pepper_is_refused_without_its_text(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        open_peppers(text, tmp_path)
    assert "LLM_GATEWAY_KEY_PEPPERS" in str(refused.value)
    assert RANDOM not in str(refused.value)
