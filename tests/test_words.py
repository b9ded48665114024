"""Checks of wording: plain phrases, summary lines, test names and commit subjects.

A failure lists all offenders, each with its place and the plain alternative. Every check is also shown a violation.
"""

from __future__ import annotations

import ast
import re
import subprocess
import tokenize
from collections.abc import Callable, Iterator
from io import StringIO
from pathlib import Path

import pytest

from tests.parsed_source import PACKAGE, nodes_of, parsed_files, sources

REPOSITORY = Path(__file__).parents[1]
TESTS = REPOSITORY / "tests"
DOCUMENTS = REPOSITORY / "docs"

PLAIN = {
    "what (is|was) said": "name the object: message, event, header",
    "(is|are|was|were) said": "is sent, is stated, is logged",
    "so many": "maximum number of, this many",
    "as far as (it|one|they) can": "say the limit",
    "(is|are) (none|no (field|parameter|header|path)) of": "is not one of",
    r"(?<!there\x20)(is|are) (?-i:none)": "is not valid, is not a …",
    "whoever": "name the person or the part: client, operator, caller",
    "who (waits?|asks?|pays?|calls?)": "name the person or the part: waiter, client, customer",
    "(go|goes|going|went|gone) away": "disconnects, ends",
    "(is|are|was|were) told": "gets, reads, is configured with",
    "asked for": "requested",
    "the one that": "name the thing",
    "what (it|they) (brought|brings?)": "name the thing",
    "makes? no sense": "is not valid",
    "of ours": "of the gateway",
    "(house|floor|tape)s?": "package, layer, segment",
}
"""Phrases that make a reader guess, as regular expressions, with a plain alternative for each."""
PHRASES = {re.compile(rf"\b{phrase}\b".replace(" ", r"\s+"), re.IGNORECASE): PLAIN[phrase] for phrase in PLAIN}
ANY_PHRASE = re.compile(rf"\b(?:{'|'.join(PLAIN)})\b".replace(" ", r"\s+"), re.IGNORECASE)
"""Any of PHRASES: a text without one need not be searched for each."""
FENCED = re.compile(r"^```.*?^```$", re.DOTALL | re.MULTILINE)
"""A block of code in a document."""

OPENERS = frozenset(
    (
        "what", "who", "whose", "whoever", "whether", "how", "where", "when", "why", "as", "from",
        "every", "everything", "everybody", "nobody", "nothing",
    )
)  # fmt: skip
"""First words that start a description before its subject is known."""
OPENED = re.compile(
    rf"^[ \t]*(?:class\b.*:[ \t]*)?[ru]?[\"']+(?:\s|\\\n)*(?:{'|'.join(sorted(OPENERS))})\b",
    re.IGNORECASE | re.MULTILINE,
)
"""A statement or line that opens with a string, and this with one of them; without one, a file need not be parsed."""
WORDS_OF_A_NAME = 4
SHORT_NAME = re.compile(rf"\bdef test_[^\W_]*(?:_[^\W_]*){{0,{WORDS_OF_A_NAME - 2}}}\(")
"""A test whose own name has too few words; without one, a file need not be parsed."""

SINCE = "64d351b51c13b57ea68290b9f41ec62735c706ec"
"""The commit from which on subjects are checked."""
TOLERATED = frozenset({"910737a9e68b9209084546e8aedc1450d16a6f97", "38045fa29a2f4963cf3759866dc29a5097ec63a1"})
"""Commits with a longer subject, made while this check was: a subject cannot be changed once others build on it."""
SUBJECT_CHARACTERS = 72

Check = Callable[[Path], list[str]]


def riddles(text: str, first_line: int = 1) -> Iterator[tuple[int, str]]:
    """Yield the line of each phrase of PLAIN in a text, and the finding."""
    for phrase, alternative in PHRASES.items() if ANY_PHRASE.search(text) else ():
        for found in phrase.finditer(text):
            words = " ".join(found[0].split())
            yield first_line + text.count("\n", 0, found.start()), f"{words!r}, rather: {alternative}"


def prose(text: str, nodes: list[ast.AST]) -> Iterator[tuple[int, str]]:
    """Yield docstrings, comments and string literals of a Python file: line and text."""
    for node in nodes:
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.lineno, node.value
    if not any(riddles(text)):  # comments are in the text as they are; to find them takes most of the time
        return
    for token in tokenize.generate_tokens(StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string


def riddles_in_source(root: Path) -> list[str]:
    return [
        f"{file.place}:{line}: {finding}"
        for file in parsed_files(root)
        for line, finding in sorted({found for at, part in prose(file.text, file.nodes) for found in riddles(part, at)})
    ]


def riddles_in_documents(root: Path) -> list[str]:
    texts = {path.name: path.read_text(encoding="utf-8") for path in sorted(root.glob("*.md"))}
    prose_only = {name: FENCED.sub(lambda code: "\n" * code[0].count("\n"), text) for name, text in texts.items()}
    return [f"{name}:{line}: {found}" for name, text in prose_only.items() for line, found in sorted(riddles(text))]


def summaries_without_subject(root: Path) -> list[str]:
    """Find modules and classes whose docstring opens with a word of OPENERS."""
    found = []
    for place, text in sources(root):
        for node in nodes_of(ast.parse(text)) if OPENED.search(text) else ():
            if isinstance(node, ast.Module | ast.ClassDef):
                summary = (ast.get_docstring(node) or "").partition("\n")[0]
                if re.split(r"\W", summary.lower(), maxsplit=1)[0] in OPENERS:
                    found.append(f"{place}:{getattr(node, 'lineno', 1)}: begin with a noun or a verb: {summary}")
    return found


def short_test_names(root: Path) -> list[str]:
    """Find test names of less than four words; the name of a test's class counts."""
    return [
        f"{place}:{line} {name}: describe the behaviour in at least {WORDS_OF_A_NAME} words"
        for place, text in sources(root)
        if SHORT_NAME.search(text)
        for line, subject, name in named_tests(ast.parse(text))
        if len([*subject, *name.removeprefix("test_").split("_")]) < WORDS_OF_A_NAME
    ]


def named_tests(tree: ast.Module) -> Iterator[tuple[int, list[str], str]]:
    """Yield line, words of the class (none outside of one) and name of the tests in a module."""
    classes = [node for node in tree.body if isinstance(node, ast.ClassDef)]
    bodies = [([], tree.body), *((re.findall("[A-Z][a-z0-9]*", each.name)[1:], each.body) for each in classes)]
    for subject, body in bodies:
        for node in body:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_"):
                yield node.lineno, subject, node.name


def long_subjects(log: str) -> list[str]:
    """Find too long subjects in lines of hash and subject."""
    commits = (line.partition(" ") for line in log.splitlines())
    return [
        f"{commit} {subject}"
        for commit, _, subject in commits
        if len(subject) > SUBJECT_CHARACTERS and commit not in TOLERATED
    ]


def assert_none(offenders: list[str]) -> None:
    if offenders:
        pytest.fail("\n".join((f"{len(offenders)} found:", *offenders)), pytrace=False)


def git(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["git", *arguments], cwd=REPOSITORY, capture_output=True, text=True, check=False)


def test_source_has_no_phrase_that_makes_a_reader_guess() -> None:
    assert_none(riddles_in_source(PACKAGE))


def test_documents_have_no_phrase_that_makes_a_reader_guess() -> None:
    assert_none(riddles_in_documents(DOCUMENTS))


@pytest.mark.parametrize("root", [PACKAGE, TESTS], ids=["src", "tests"])
def test_summaries_of_modules_and_classes_open_with_their_subject(root: Path) -> None:
    assert_none(summaries_without_subject(root))


def test_test_names_describe_behaviour_in_four_words() -> None:
    assert_none(short_test_names(TESTS))


def test_commit_subjects_have_at_most_72_characters() -> None:
    try:
        is_known = git("cat-file", "-e", f"{SINCE}^{{commit}}").returncode == 0
    except FileNotFoundError:
        is_known = False
    if not is_known:
        pytest.skip("there is no git, or its history does not reach back far enough")
    log = git("log", "--no-merges", "--format=%H %s", f"{SINCE}..HEAD")
    assert log.returncode == 0, log.stderr
    assert_none(long_subjects(log.stdout))


PLANTED: list[tuple[Check, str, str, list[str]]] = [
    (riddles_in_source, "a.py", '"""Return the model that was requested."""', []),
    (riddles_in_source, "a.py", "asked_for = 1", []),
    (riddles_in_source, "b/a.py", '"""Text.\n\nThe model asked\nfor."""', ["b/a.py:3: 'asked for', rather: requested"]),
    (riddles_in_source, "a.py", "\n1  # Whoever", ["a.py:2: 'Whoever', rather: " + PLAIN["whoever"]]),
    (riddles_in_source, "a.py", 'f"{1} is none"', ["a.py:1: 'is none', rather: is not valid, is not a …"]),
    (riddles_in_source, "a.py", '"0 if there is none, or if it is None"', []),
    (
        riddles_in_documents,
        "a.md",
        "A text.\n\nIt makes\nno sense.",
        ["a.md:3: 'makes no sense', rather: is not valid"],
    ),
    (riddles_in_documents, "a.md", "```sh\nasked for\n```\n", []),
    (riddles_in_documents, "a.txt", "asked for", []),
    (summaries_without_subject, "a.py", '"""Report of what was sent."""\nclass A:\n  """A part."""', []),
    (summaries_without_subject, "a.py", '"""What it does."""', ["a.py:1: begin with a noun or a verb: What it does."]),
    (
        summaries_without_subject,
        "a.py",
        'def f():\n  class A:\n    """Every part."""',
        ["a.py:2: begin with a noun or a verb: Every part."],
    ),
    (short_test_names, "a.py", "def test_a_stream_ends_early(): ...\ndef a_test(): ...", []),
    (
        short_test_names,
        "a.py",
        "async def test_a_stream(): ...",
        ["a.py:1 test_a_stream: describe the behaviour in at least 4 words"],
    ),
    (short_test_names, "a.py", "class TestChatStream:\n  def test_ends_early(self): ...", []),
    (
        short_test_names,
        "a.py",
        "class TestStream:\n  def test_it_ends(self): ...",
        ["a.py:2 test_it_ends: describe the behaviour in at least 4 words"],
    ),
]


@pytest.mark.parametrize(("check", "place", "text", "found"), PLANTED)
def test_a_planted_violation_is_found(tmp_path: Path, check: Check, place: str, text: str, found: list[str]) -> None:
    path = tmp_path / place
    path.parent.mkdir(exist_ok=True)
    path.write_text(text, encoding="utf-8")

    assert check(tmp_path) == found


def test_a_long_commit_subject_is_found() -> None:
    assert long_subjects(f"a1b2c3d {'x' * 72}\nb1b2c3d {'x' * 73}") == [f"b1b2c3d {'x' * 73}"]


def test_a_failure_lists_all_offenders() -> None:
    with pytest.raises(pytest.fail.Exception, match="2 found:\nfirst\nsecond"):
        assert_none(["first", "second"])
