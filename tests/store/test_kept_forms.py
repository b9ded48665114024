"""Forms that wait for a sign-in: taken once, for ten minutes, and unreadable in the database."""

from __future__ import annotations

import sqlalchemy as sa

from llm_gateway.store.database import Database
from llm_gateway.store.kept_forms import LASTS_MS, MOST_BYTES, MOST_KEPT, KeptForms
from llm_gateway.store.secrets import SecretBox
from llm_gateway.store.tables import kept_forms


def test_a_form_is_taken_once_within_ten_minutes_with_the_same_keys(database: Database, box: SecretBox) -> None:
    now = [1000.0]
    forms = KeptForms(database, box, lambda: now[0])
    forms.put("one", "/ui/teams", "typed-secret")
    with database.read() as connection:
        [row] = connection.execute(sa.select(kept_forms)).all()
    assert "one" not in row.state
    assert b"typed" not in row.sealed
    assert (forms.take("one"), forms.take("one")) == (("/ui/teams", "typed-secret"), None)
    forms.put("two", "/ui/teams", "a")
    assert KeptForms(database, SecretBox([b"x" * 32]), lambda: now[0]).take("two") is None
    forms.put("three", "/ui/teams", "a")
    now[0] += LASTS_MS / 1000 + 1
    assert forms.take("three") is None


def test_all_forms_together_have_a_limit_of_bytes(database: Database, box: SecretBox) -> None:
    """Who sends one has not signed in yet."""
    now = [1000.0]
    forms = KeptForms(database, box, lambda: now[0])
    for number in range(10):
        now[0] += 1
        forms.put(str(number), "/ui", "a" * (MOST_BYTES // 8))
    with database.read() as connection:
        size = connection.execute(sa.select(sa.func.sum(sa.func.length(kept_forms.c.sealed)))).scalar_one()
    assert MOST_BYTES // 2 < size <= MOST_BYTES
    assert (forms.take("1"), forms.take("9") is None) == (None, False)


def test_only_the_newest_forms_are_kept(database: Database, box: SecretBox) -> None:
    now = [1000.0]
    forms = KeptForms(database, box, lambda: now[0])
    for number in range(MOST_KEPT + 2):
        now[0] += 1
        forms.put(str(number), "/ui", "a")
    assert (forms.take("1"), forms.take("2")) == (None, ("/ui", "a"))
    now[0] += LASTS_MS / 1000
    forms.put("last", "/ui", "a")
    with database.read() as connection:
        assert connection.execute(sa.select(sa.func.count()).select_from(kept_forms)).scalar_one() <= 2
