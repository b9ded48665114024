"""Configuration files: YAML is read as plain data with lines, and every file that is not fit is one clear sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from llm_gateway.cli.exits import CommandFailed
from llm_gateway.cli.secret_references import placeholders, resolve
from llm_gateway.cli.yaml_file import MOST_BYTES, read_yaml, written
from tests.rows import each_row

BOMB = "a: &a [1, 1, 1, 1, 1, 1, 1, 1, 1]\n" + "".join(
    f"{chr(98 + number)}: &{chr(98 + number)} [{', '.join([f'*{chr(97 + number)}'] * 9)}]\n" for number in range(9)
)


def read(text: str | bytes) -> Any:
    Path("gateway.yaml").write_bytes(text.encode() if isinstance(text, str) else text)
    return read_yaml("gateway.yaml")


def test_values_are_those_of_json_and_have_lines() -> None:
    file = read("""\
# a comment
a: {"b": [1, 2.5, 1e3, true, null, ~]}
base: &base
  x: 1
  y: yes
c:
  - <<: *base
    x: 2027-01-31T12:00:00Z
  - 'true'
  - 010
  - 1_000
  - 12:30
  - 0x1F
  - .inf
200: d
""")
    assert file.value == {
        "a": {"b": [1, 2.5, "1e3", True, None, None]},
        "base": {"x": 1, "y": "yes"},
        "c": [{"x": "2027-01-31T12:00:00Z", "y": "yes"}, "true", "010", "1_000", "12:30", "0x1F", ".inf"],
        "200": "d",
    }
    places = [(), ("a", "b", 1), ("c", 0, "x"), ("c", 0, "y"), ("c", 1), ("c", 0, "missing"), ("missing",)]
    assert [file.line(place) for place in places] == [2, 2, 8, 5, 9, 7, 2]
    assert file.where(("c", 1)) == "gateway.yaml, line 9"


TRICKY = ["yes", "null", "010", "1e3", "2027-01-31", "=", "<<", "${X}", "a: b", "# c", "", " x", "ü\u2028", "1.5", "*"]


def test_what_is_written_is_read_again() -> None:
    value = {"texts": TRICKY, "numbers": [1, 2.5, 1e22, 1e-7], "flags": [True, None], "empty": [], "last": {}}
    assert read(written(value)).value == value


UNFIT = [
    ("a: [1\nb: 2", "gateway.yaml, line 2, column 2: not valid YAML: expected ',' or ']', but got ':'."),
    ("a: b: c", "line 1, column 5: not valid YAML: mapping values are not allowed here."),
    ("\ta: 1", "line 1, column 1: not valid YAML: found character '\\t' that cannot start any token."),
    ("a: *b", "line 1, column 4: not valid YAML: found undefined alias 'b'."),
    ("a: 1\n---\nb: 2", "line 2, column 1: not valid YAML: but found another document."),
    ("a: \x07", "gateway.yaml: not valid YAML: special characters are not allowed."),
    (b"a: 1\nb: \xff", "gateway.yaml, line 2: the file is not UTF-8: save it as UTF-8."),
    ("a: 1\nb: 2\na: 3", "line 3: 'a' is there twice: name it once."),
    ("a: !!python/object/apply:os.system [echo]", "line 1: the tag tag:yaml.org,2002:python/object/apply:os.system"),
    ("a: !env X", "line 1: the tag !env is not supported."),
    ("a: !!set {b}", "line 1: the tag tag:yaml.org,2002:set is not supported."),
    ("? [a]\n: 1", "line 1: a name must be text: put it in quotes."),
    ("true: 1", "line 1: a name must be text: put it in quotes."),
    ("a: &a\n  - *a", "line 1: an alias contains itself: write its value out."),
    ("a:\n  <<: 5", "line 2: << takes a mapping, or a list of them."),
    ("[" * 1000, "gateway.yaml is nested too deeply"),
    (BOMB, "gateway.yaml has more than 100,000 values, those of aliases counted: split it into several files."),
    (b"#" * (MOST_BYTES + 1), "gateway.yaml is larger than 1 MiB: split it into several files."),
]


@each_row(("text", "sentence"), UNFIT)
def test_a_file_that_is_not_fit_is_one_clear_sentence(text: str | bytes, sentence: str) -> None:
    with pytest.raises(CommandFailed) as raised:
        read(text)
    assert sentence in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_missing_file_is_a_sentence() -> None:
    with pytest.raises(CommandFailed, match=r"^none\.yaml cannot be read: No such file or directory\.$"):
        read_yaml("none.yaml")


def test_references_are_replaced_by_secrets(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ACME_KEY", " sk-1\n")
    (tmp_path / "key").write_text("sk-2\n")
    file = read("""\
providers:
  - {name: a, api_key: "${ACME_KEY}"}
  - {name: b, api_key: file:key}
  - {name: c, api_key: unused}
  - {name: d}
keys:
  - {name: e, secret: "${ACME_KEY}"}
  - 5
""")
    document = resolve(file, tmp_path)
    assert [each.get("api_key") for each in document["providers"]] == ["sk-1", "sk-2", "unused", None]
    assert document["keys"] == [{"name": "e", "secret": "sk-1"}, 5]


def test_each_reference_that_leads_nowhere_is_a_line(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    file = read("""\
providers:
  - {name: a, api_key: "${NOT_SET_ANYWHERE}"}
  - {name: b, api_key: file:none}
  - {name: c, api_key: sk-1234}
keys:
  - name: d
    secret: file:empty
  - name: e
    secret: file:binary
  - secret: gw_1234
""")
    with pytest.raises(CommandFailed) as raised:
        resolve(file, tmp_path)
    lines = str(raised.value).splitlines()
    assert [line.partition(": ")[0] for line in lines] == [f"gateway.yaml, line {n}" for n in (2, 3, 4, 7, 9, 10)]
    assert lines[0].endswith("providers 'a': api_key: the variable NOT_SET_ANYWHERE is not set: export it.")
    assert "none cannot be read: No such file" in lines[1]
    assert "a file should not hold a secret, which is not repeated here" in lines[2]
    assert "empty holds no secret" in lines[3]
    assert "keys 'number 3'" in lines[5]
    assert not any(secret in str(raised.value) for secret in ("sk-1234", "gw_1234"))
    with pytest.raises(CommandFailed, match="must be sections"):
        resolve(read("- a"), tmp_path)


def test_placeholders_are_names_of_variables() -> None:
    names = ("openai", "my-box", "4all", "local", "free")
    providers = [{"name": name} for name in names]
    providers[3]["kind"] = "local"
    providers[4]["api_key"] = "unused"
    targets = [
        {"name": "on call", "url": None, "secret": None},
        {"name": "mail", "password": None},
        {"name": "box"},
        {"name": "ON-CALL", "url": None},
    ]
    document = {"providers": providers, "alert_targets": targets}
    assert [(field, name) for _, field, name in placeholders(document)] == [
        ("api_key", "OPENAI_API_KEY"), ("api_key", "MY_BOX_API_KEY"), ("api_key", "_4ALL_API_KEY"),
        ("url", "ALERT_ON_CALL_URL"), ("secret", "ALERT_ON_CALL_SECRET"), ("password", "ALERT_MAIL_PASSWORD"),
        ("url", "ALERT_ON_CALL_URL_2"),
    ]  # fmt: skip
