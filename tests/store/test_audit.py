"""Audit trail: an entry in the transaction of each change, and a chain of hashes in which tampering is found."""

from __future__ import annotations

import hashlib
import json
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import pytest
import sqlalchemy as sa

from llm_gateway.domain.audit import START, Actor, AuditEntry, acting
from llm_gateway.domain.catalog import Provider
from llm_gateway.domain.key_secret import Pepper
from llm_gateway.errors import Conflict, StoreUnavailable
from llm_gateway.store.audit import AuditFilter, AuditTrail
from llm_gateway.store.audit_check import ChainReport, verify
from llm_gateway.store.audit_head import Head, HeadFile
from llm_gateway.store.database import Database
from llm_gateway.store.erasure import Erasure
from llm_gateway.store.keys import KeyDraft, KeyStore
from llm_gateway.store.one_transaction import OneTransaction
from llm_gateway.store.overrides import OverrideDraft, OverrideStore
from llm_gateway.store.providers import ProviderDraft, ProviderStore
from llm_gateway.store.secrets import SecretBox
from llm_gateway.store.tables import audit_chains, audit_entries, teams
from llm_gateway.store.teams import TeamStore
from llm_gateway.store.usage import UsageStore
from tests.rows import each_row
from tests.store.conftest import opened
from tests.store.histories import record

ALL = AuditFilter()
ANN = Actor("ann", "01890a5d-ac96-774b-bcce-b302099a8057", "203.0.113.7", "request-1")


@pytest.fixture
def trail(database: Database, tmp_path: Path) -> AuditTrail:
    return AuditTrail(database, tmp_path, fsync=False)


def written(trail: AuditTrail, number: int, first: int = 1) -> None:
    for each in range(first, first + number):
        with trail.change("team.create") as change:
            change.about(f"id {each}", f"team {each}", after={"name": f"team {each}"})


def checked(database: Database, directory: Path) -> ChainReport:
    [report] = verify(database, HeadFile(directory).read())
    return report


def altered(database: Database, *statements: str) -> None:
    with database.write() as connection:
        for statement in statements:
            connection.exec_driver_sql(statement)


def test_a_change_and_its_entry_are_stored_together_or_not_at_all(
    database: Database, trail: AuditTrail, tmp_path: Path
) -> None:
    store = TeamStore(database, trail)
    with acting(ANN):
        team = store.create("core", "The core")
    [entry] = trail.page(ALL, 10)
    assert (entry.number, entry.action, entry.resource_id, entry.resource_name) == (1, "team.create", team.id, "core")
    assert (entry.actor, entry.key_id, entry.address, entry.request_id) == tuple(
        getattr(ANN, n) for n in ANN.__struct_fields__
    )
    assert (entry.before, json.loads(entry.after or "")) == (None, {"name": "core", "description": "The core"})
    assert entry.hash == entry.hash_after(START)

    with pytest.raises(Conflict):
        store.create("core")
    with pytest.raises(RuntimeError, match=r"team\.create is not described"), trail.change("team.create") as change:
        change.connection.execute(sa.delete(teams))
    with trail.change("team.update") as change:
        change.nothing()
    assert len(trail.page(ALL, 10)) == 1
    assert [each.name for each in store.list()] == ["core"]
    (tmp_path / "audit.head").write_text("nonsense")
    with pytest.raises(StoreUnavailable, match=r"Nothing was changed.*audit\.head is damaged"):
        store.delete(team.id)
    assert len(store.list()) == 1


def test_entries_say_what_changed_and_no_secret(database: Database, trail: AuditTrail, box: SecretBox) -> None:
    providers, keys = ProviderStore(database, box, trail), KeyStore(database, [Pepper(1, b"p" * 16)], audit=trail)
    overrides = OverrideStore(database, trail)
    draft = ProviderDraft(name="acme", display_name="Acme", api_key="sk-first", kind="openai", models=("m",))
    acme = providers.create(draft)
    providers.update(acme.id, {"priority": 3, "api_key": "sk-second"})
    providers.note_test(acme, None)
    override = overrides.create(OverrideDraft(user_id="ann", provider_name="acme", model_name="m"))
    overrides.delete(override.id)
    made = keys.create(KeyDraft(name="shop"))
    keys.update(made.key.id, {"rpm": 5, "owner": "ann"})
    rotated = keys.rotate(made.key.id, 60)
    keys.delete(made.key.id)
    assert ProviderStore(database, SecretBox([b"n" * 32, b"k" * 32]), trail).rekey() == 1
    assert ProviderStore(database, SecretBox([b"n" * 32, b"k" * 32]), trail).rekey() == 0
    providers.delete(acme.id)

    found = {entry.action: entry for entry in trail.page(ALL, 20)}
    shown: dict[str, Any] = {
        action: [json.loads(text) if text else None for text in (e.before, e.after)] for action, e in found.items()
    }
    assert list(reversed(found)) == [
        *("provider.create", "provider.update", "provider.test", "override.create", "override.delete"),
        *("key.create", "key.update", "key.rotate", "key.delete", "provider.rekey", "provider.delete"),
    ]
    assert shown["provider.create"][1]["api_key"] == shown["provider.delete"][0]["api_key"] == "***"
    assert shown["provider.update"] == [{"priority": 10, "api_key": "***"}, {"priority": 3, "api_key": "*** (new)"}]
    assert shown["provider.test"] == [None, {"success": True, "error": None}]
    assert shown["provider.rekey"] == [None, {"providers": [acme.id]}]
    assert shown["override.delete"][0]["user_id"] == "ann"
    assert shown["key.update"] == [{"owner": None}, {"rpm": 5, "owner": "ann"}]
    assert shown["key.rotate"] == [{"last4": made.secret[-4:]}, {"last4": rotated.secret[-4:], "overlap_s": 60}]
    assert shown["key.delete"][0]["rpm"] == 5
    text = repr(trail.page(ALL, 20))
    assert not any(secret in text for secret in ("sk-first", "sk-second", made.secret, rotated.secret))
    assert {name for name in Provider.__struct_fields__ if name.endswith("_by_model")}.isdisjoint(
        shown["provider.create"][1]
    )


def test_the_hash_is_the_documented_one(trail: AuditTrail) -> None:
    """As docs/AUDIT.md computes it, so that anybody can verify a chain without this program."""
    with trail.change("team.create") as change:
        change.about(None, 'quote " tab \t ü 😀', after={"name": "\x01 \u2028 /"})
    [entry] = trail.page(ALL, 1)
    text = json.dumps(list(msgspec.structs.astuple(entry))[:-1], ensure_ascii=False, separators=(",", ":"))
    assert entry.hash == hashlib.sha256(bytes(32) + text.encode()).hexdigest()
    assert list(entry.__struct_fields__) == audit_entries.c.keys()


def test_an_erasure_is_kept_without_the_erased_label(database: Database, trail: AuditTrail) -> None:
    UsageStore(database).write([record(1, user_id="ann@example.com")])
    erased = Erasure(database, audit=trail, sleep=lambda _: None).run("ann@example.com", 2**42)
    assert erased is not None
    assert Erasure(database, audit=trail).run("nobody", 2**42) is None
    end, start = trail.page(ALL, 10)
    assert (start.action, end.action, end.after) == ("customer.erase", "customer.erased", '{"records":1}')
    assert start.resource_name == end.resource_name == erased.label
    assert "ann@example.com" not in repr((start, end))


def test_entries_are_paged_and_filtered_newest_first(trail: AuditTrail) -> None:
    with acting(ANN):
        written(trail, 3)
    with trail.change("key.create") as change:
        change.about("k", "team 1")
    newest, *others = trail.page(ALL, 3)
    assert [newest.number, *(each.number for each in others)] == [4, 3, 2]
    last = others[-1]
    assert [each.number for each in trail.page(ALL, 3, (last.at_ms, last.number, last.chain))] == [1]

    def numbers(**wanted: object) -> list[int]:
        return [each.number for each in trail.page(AuditFilter(**wanted), 10)]  # type: ignore[arg-type]

    assert numbers(actor="ann") == numbers(actor=ANN.key_id) == numbers(action="team.create") == [3, 2, 1]
    assert numbers(resource="team 1") == [4, 1]
    assert numbers(resource="key") == numbers(resource="k") == [4]
    assert numbers(resource="tea%") == numbers(actor="bob") == numbers(start_ms=newest.at_ms + 1) == []
    assert numbers(end_ms=newest.at_ms + 1) == [4, 3, 2, 1]


def test_concurrent_changes_keep_the_chain_unbroken(url: str, tmp_path: Path) -> None:
    """Two trails of one data directory, as those of a gateway and of a command are."""
    with opened(url, busy_timeout_s=60.0) as database:
        check_concurrent_changes(database, tmp_path)


def check_concurrent_changes(database: Database, tmp_path: Path) -> None:
    trails, begin = [AuditTrail(database, tmp_path, fsync=False) for _ in range(2)], threading.Barrier(4)

    def work(number: int) -> None:
        begin.wait()
        written(trails[number % 2], 5, number * 10)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    report = checked(database, tmp_path)
    assert (report.entries, report.head.number, report.problems, report.gaps) == (20, 20, [], [])
    assert HeadFile(tmp_path).read() == report.head
    other = AuditTrail(database, tmp_path / "other", fsync=False)
    (tmp_path / "other").mkdir()
    written(other, 2)
    assert sorted(each.entries for each in verify(database)) == [2, 20]


def filled(database: Database, directory: Path, number: int) -> None:
    """Store a chain of entries in one transaction: 1,000 changes take seconds of syncs."""
    file, entries = HeadFile(directory, fsync=False), []
    chain, _, previous = file.read()
    for each in range(1, number + 1):
        entry = AuditEntry(
            chain=chain, number=each, at_ms=each, actor="ann", key_id=None, address="", request_id=None,
            action="team.create", resource_id=None, resource_name=None, before=None, after=f'{{"name": "team {each}"}}',
        )  # fmt: skip
        previous = entry.hash_after(previous)
        entries.append(msgspec.structs.asdict(entry) | {"hash": previous})
    with database.write() as connection:
        connection.execute(sa.insert(audit_entries), entries)
        connection.execute(sa.insert(audit_chains), {"chain": chain, "number": number, "hash": previous})
    file.advance(Head(chain, number, previous))


def test_one_flipped_byte_in_1000_entries_is_found_and_named(
    sqlite_database: Database, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """With --long the entries come from 1,000 changes."""
    trail = AuditTrail(sqlite_database, tmp_path, fsync=False)
    if request.config.getoption("--long"):
        written(trail, 1000)
    else:
        filled(sqlite_database, tmp_path, 990)
        written(trail, 10, 991)
    assert checked(sqlite_database, tmp_path)[1:] == (1000, [], [])
    flip = "UPDATE audit_entries SET after = replace(after, 'team 512', 'team 513') WHERE number = 512"
    altered(sqlite_database, flip)
    report = checked(sqlite_database, tmp_path)
    assert report.problems == ["Entry 512 (team.create) was changed, or the hash of the one before it."]
    assert report.entries == 1000


@each_row(
    ("statements", "problems"),
    [
        (["UPDATE audit_entries SET actor = 'bob' WHERE number = 3"], ["Entry 3 (team.create) was changed, or"]),
        (["UPDATE audit_entries SET at_ms = at_ms + 1 WHERE number = 1"], ["Entry 1 (team.create) was changed, or"]),
        (["UPDATE audit_entries SET before = 'x' WHERE number = 6"], ["Entry 6 (team.create) was changed, or"]),
        (["DELETE FROM audit_entries WHERE number = 3"], ["Entry 3 is missing."]),
        (["DELETE FROM audit_entries WHERE number IN (1, 2)"], ["Entries 1 to 2 are missing."]),
        (
            ["DELETE FROM audit_entries WHERE number > 4"],
            ["Entries 5 to 6 are missing at the end.", "Entries 5 to 6 are missing at the end, by audit.head."],
        ),
        (
            ["DELETE FROM audit_entries WHERE number > 4", "UPDATE audit_chains SET number = 4, hash = '{4}'"],
            ["Entries 5 to 6 are missing at the end, by audit.head."],
        ),
        (
            ["DELETE FROM audit_entries", "DELETE FROM audit_chains"],
            ["Entries 1 to 6 are missing at the end, by audit.head."],
        ),
        (
            ["UPDATE audit_entries SET hash = 'xyz' WHERE number = 2"],
            ["Entry 2 (team.create) was changed, or", "Entry 3 (team.create) was changed, or"],
        ),
        (
            ["UPDATE audit_entries SET actor = 'bob' WHERE number = 6", "REHASH 6"],
            ["Entry 6 is not the one whose hash audit.head has"],
        ),
        (["UPDATE audit_chains SET hash = 'x'"], ["The table audit_chains does not have the last entry"]),
    ],
)
def test_tampering_with_any_part_is_found(
    database: Database, tmp_path_factory: pytest.TempPathFactory, statements: list[str], problems: list[str]
) -> None:
    altered(database, "DELETE FROM audit_entries", "DELETE FROM audit_chains")
    directory = tmp_path_factory.mktemp("trail")
    trail = AuditTrail(database, directory, fsync=False)
    written(trail, 6)
    hashes = {entry.number: entry.hash for entry in trail.page(ALL, 10)}
    for statement in statements:
        if statement.startswith("REHASH"):
            rehash(database, trail, int(statement.split()[1]), hashes)
        else:
            altered(database, statement.replace("{4}", hashes[4]))
    found = checked(database, directory).problems
    assert len(found) == len(problems), found
    assert all(text.startswith(start) for text, start in zip(found, problems, strict=True)), found


def rehash(database: Database, trail: AuditTrail, number: int, hashes: dict[int, str]) -> None:
    """Give a changed entry the hash that fits, as who knows the rules would, and the table of heads too."""
    [entry] = [each for each in trail.page(ALL, 10) if each.number == number]
    digest = entry.hash_after(hashes[number - 1])
    with database.write() as connection:
        connection.execute(sa.update(audit_entries).where(audit_entries.c.number == number).values(hash=digest))
        connection.exec_driver_sql(f"UPDATE audit_chains SET hash = '{digest}'")


def test_the_next_change_writes_down_that_entries_are_missing(
    database: Database, trail: AuditTrail, tmp_path: Path
) -> None:
    """As after the restore of a backup: the file knows of entries that the database does not have."""
    written(trail, 5)
    hashes = {entry.number: entry.hash for entry in trail.page(ALL, 10)}
    altered(
        database,
        "DELETE FROM audit_entries WHERE number > 2",
        f"UPDATE audit_chains SET number = 2, hash = '{hashes[2]}'",
    )
    written(trail, 1)
    changed, gap, *_ = trail.page(ALL, 10)
    assert (gap.number, gap.action, gap.actor, changed.number) == (3, "audit.gap", "(gateway)", 4)
    assert json.loads(gap.before or "") == {"number": 5, "hash": hashes[5]}
    written(trail, 1)
    report = checked(database, tmp_path)
    assert (report.entries, report.problems) == (5, [])
    [gap_found] = report.gaps
    assert gap_found.startswith("Entry 3: the gateway found its own entries up to 5 replaced or missing behind 2,")


def test_entries_of_one_transaction_are_stored_with_it_and_then_settled(
    database: Database, trail: AuditTrail, tmp_path: Path
) -> None:
    """Until it is committed the file stays behind, so that a rollback is no gap; an older gap is noted once."""
    written(trail, 3)
    hashes = {entry.number: entry.hash for entry in trail.page(ALL, 10)}
    with database.write() as connection:
        written(trail.within(OneTransaction(connection)), 2)
        connection.rollback()
    trail.settle()
    assert checked(database, tmp_path) == ChainReport(HeadFile(tmp_path).read(), 3, [], [])
    altered(
        database,
        "DELETE FROM audit_entries WHERE number > 1",
        f"UPDATE audit_chains SET number = 1, hash = '{hashes[1]}'",
    )
    trail.settle()
    assert HeadFile(tmp_path).read().number == 3, "a gap is not forgotten before it is noted"
    store = TeamStore(database, trail)
    with database.write() as connection:
        part = store.within(OneTransaction(connection))
        part.create("one")
        part.create("two")
    trail.settle()
    assert [entry.action for entry in trail.page(ALL, 10)] == ["team.create", "team.create", "audit.gap", "team.create"]
    report = checked(database, tmp_path)
    assert (report.entries, report.problems, len(report.gaps)) == (4, [], 1)
    assert HeadFile(tmp_path).read() == report.head


def test_each_change_that_is_stored_has_a_log_line(database: Database, tmp_path: Path) -> None:
    lines: list[tuple[str, dict[str, Any]]] = []
    trail = AuditTrail(database, tmp_path, lambda event, **fields: lines.append((event, fields)), fsync=False)
    store = TeamStore(database, trail)
    with acting(ANN):
        store.create("core")
        with pytest.raises(Conflict):
            store.create("core")
        with database.write() as connection:
            part = store.within(OneTransaction(connection))
            part.create("one")
            part.create("two")
            assert len(lines) == 1, "it can still be rolled back"
        trail.settle()
        trail.settle()
    facts = {"level": "warning", "action": "team.create", "by": "ann", "client": "203.0.113.7"}
    assert lines == [("management change", facts | {"name": name}) for name in ("core", "one", "two")]


def test_a_head_that_cannot_be_written_is_logged_and_the_change_stays(database: Database, tmp_path: Path) -> None:
    lines: list[tuple[str, dict[str, Any]]] = []
    head = tmp_path / "audit.head"

    def log(event: str, **fields: Any) -> None:
        lines.append((event, fields))

    def clock_ms() -> int:
        """Put a directory in the file's place after it was read."""
        head.unlink()
        head.mkdir()
        return 1

    written(AuditTrail(database, tmp_path, log, clock_ms, fsync=False), 1)
    [_change, (event, fields)] = lines
    assert (event, fields["level"]) == ("audit head cannot be written", "error")
    assert "audit.head cannot be used (Is a directory)" in fields["reason"]
    head.rmdir()
    assert [(each.entries, each.problems) for each in verify(database)] == [(1, [])]
