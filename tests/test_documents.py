"""Links between the documents resolve, and decisions are numbered once and listed in their index."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
INDEX = Path("docs/decisions/README.md")

FENCED = re.compile(r"^```.*?^```$", re.DOTALL | re.MULTILINE)
CODE = re.compile(r"`[^`\n]*`")
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
LINK = re.compile(r"\]\(([^)\s]+)\)")
DECISION = re.compile(r"(D-\d{3}) · (\d{4}-\d{2}-\d{2}) · \S.*")
LISTED = re.compile(r"^- \[(D-\d{3})\]\(([^)]+)\) (.+?)(?: \(superseded\))?$", re.MULTILINE)
PARTS = ("**Context:**", "**Decision:**", "**Consequences:**")
NAMED_PATH = re.compile(r"`((?:[\w.-]+/)+(?:[\w-]+\.(?:py|toml|md|lock|json))?)`")
NAMED_DOCUMENT = re.compile(r"\bdocs/[A-Za-z/_-]+\.md\b")
NAMED_DECISION = re.compile(r"\bD-\d{3}\b")

Check = Callable[[Path], list[str]]


def documents(root: Path) -> list[Path]:
    """Return the README and all documents in docs/."""
    return [root / "README.md", *sorted(root.glob("docs/**/*.md"))]


def headings(document: Path) -> list[str]:
    return HEADING.findall(FENCED.sub("", document.read_text("utf-8")))


def anchor(heading: str) -> str:
    """Return the fragment that GitHub derives from a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def links(document: Path) -> Iterator[tuple[str, Path, str]]:
    """Each relative link of a document: as it is written, the file it leads to and its fragment."""
    text = CODE.sub("", FENCED.sub("", document.read_text("utf-8")))
    for link in LINK.findall(text):
        path, _, fragment = link.partition("#")
        if "://" not in path and not path.startswith("mailto:"):
            yield link, (document.parent / path).resolve() if path else document.resolve(), fragment


def broken_links(root: Path) -> list[str]:
    found = []
    for document in documents(root):
        for link, target, fragment in links(document):
            if not target.exists():
                found.append(f"{document.relative_to(root)}: {link}: no such file")
            elif fragment and fragment not in map(anchor, headings(target)):
                found.append(f"{document.relative_to(root)}: {link}: no such heading")
    return found


def unreachable_documents(root: Path) -> list[str]:
    """Find documents that no chain of links from the README reaches."""
    reached, waiting = set(), [(root / "README.md").resolve()]
    while waiting:
        document = waiting.pop()
        if document.suffix == ".md" and document.exists() and document not in reached:
            reached.add(document)
            waiting += [target for _, target, _ in links(document)]
    return [str(each.relative_to(root)) for each in documents(root) if each.resolve() not in reached]


def missing_paths(root: Path) -> list[str]:
    """Folders and files of the repository, or of its package, that documents name but that do not exist.

    A path counts if its first folder exists: others are those of a running gateway or of a vendor's API.
    """
    bases = (root, root / "src/llm_gateway")
    found = []
    for document in documents(root):
        for path in NAMED_PATH.findall(FENCED.sub("", document.read_text("utf-8"))):
            homes = [base for base in bases if (base / path.split("/")[0]).is_dir()]
            if homes and not any((base / path).exists() for base in homes):
                found.append(f"{document.relative_to(root)}: {path}")
    return found


def decisions(root: Path) -> dict[str, tuple[Path, str]]:
    """Return file and heading of each decision, by number."""
    return {
        heading.partition(" ")[0]: (document, heading)
        for document in sorted((root / INDEX).parent.glob("*.md"))
        for heading in headings(document)
        if DECISION.fullmatch(heading)
    }


def misnumbered_decisions(root: Path) -> list[str]:
    """Entries without a number and a date, and numbers that are used twice or left out."""
    found, numbers = [], []
    for document in sorted((root / INDEX).parent.glob("*.md")):
        if document.name == INDEX.name:
            continue
        for heading in headings(document)[1:]:
            entry = DECISION.fullmatch(heading)
            if entry is None:
                found.append(f"{document.name}: {heading!r} is not 'D-NNN · date · decision'")
            else:
                numbers.append(entry.group(1))
    expected = [f"D-{number:03d}" for number in range(1, len(numbers) + 1)]
    twice = sorted({number for number in numbers if numbers.count(number) > 1})
    return [*found, *[f"{each} is used twice" for each in twice], *sorted(set(numbers).symmetric_difference(expected))]


def incomplete_decisions(root: Path) -> list[str]:
    """Decisions that lack their context, the decision itself or its consequences."""
    found = []
    for document in sorted((root / INDEX).parent.glob("*.md")):
        for entry in re.split(r"^## ", document.read_text("utf-8"), flags=re.MULTILINE)[1:]:
            if DECISION.match(entry):
                found += [f"{entry.split()[0]}: no {part}" for part in PARTS if f"\n{part} " not in entry]
    return found


def unlisted_decisions(root: Path) -> list[str]:
    """Decisions that the index does not list exactly once, with a link to the entry and its own words."""
    known = decisions(root)
    wanted = [
        (number, f"{document.name}#{anchor(heading)}", heading.split(" · ", 2)[2])
        for number, (document, heading) in known.items()
    ]
    listed: list[tuple[str, str, str]] = LISTED.findall((root / INDEX).read_text("utf-8"))
    wrong = {each for each in listed if each not in wanted or listed.count(each) > 1}
    return sorted({each[0] for each in wrong | set(wanted).difference(listed)})


def unknown_references(root: Path) -> list[str]:
    """Documents and decisions that source, tests and tools name, but that do not exist."""
    known = decisions(root)
    files = [root / "Makefile", root / "pyproject.toml", *root.glob("deploy/*")]
    files += [file for folder in ("src", "tests", "benchmarks") for file in root.glob(f"{folder}/**/*.py")]
    found = []
    for file in files:
        if not file.is_file() or file.name == Path(__file__).name:
            continue
        text = file.read_text("utf-8")
        missing = [name for name in NAMED_DOCUMENT.findall(text) if not (root / name).exists()]
        missing += [number for number in NAMED_DECISION.findall(text) if number not in known]
        found += [f"{file.relative_to(root)}: {name}" for name in missing]
    return found


CHECKS: list[Check] = [
    broken_links,
    unreachable_documents,
    missing_paths,
    misnumbered_decisions,
    incomplete_decisions,
    unlisted_decisions,
    unknown_references,
]


@pytest.mark.parametrize("check", CHECKS)
def test_the_documents_agree_with_each_other(check: Check) -> None:
    assert check(REPOSITORY) == []


ENTRY = "## D-001 · 2026-11-23 · Use `a` & b\n\n**Context:** c\n\n**Decision:** d\n\n**Consequences:** e\n"
SOUND = {
    "README.md": "# Project\n[Guide](docs/GUIDE.md#first-step), [why](docs/decisions/README.md), [web](https://a.b/c)\n",
    "docs/GUIDE.md": "# Guide\n## First step\n[back](../README.md) [below](#first-step)\n```\n[no](link)\n```\n",
    "docs/decisions/README.md": "# Decisions\n- [D-001](a.md#d-001--2026-11-23--use-a--b) Use `a` & b (superseded)\n",
    "docs/decisions/a.md": f"# Decisions: a\n\n{ENTRY}",
    "src/a.py": "# docs/GUIDE.md, D-001",
}
ANOTHER = ENTRY.replace("D-001", "D-003")
PLANTED: list[tuple[Check, str, str, list[str]]] = [
    (broken_links, "docs/GUIDE.md", "[a](MISSING.md)", ["docs/GUIDE.md: MISSING.md: no such file"]),
    (broken_links, "docs/GUIDE.md", "[a](#missing)", ["docs/GUIDE.md: #missing: no such heading"]),
    (broken_links, "README.md", "[a](docs/GUIDE.md#b)", ["README.md: docs/GUIDE.md#b: no such heading"]),
    (broken_links, "README.md", "`[a](b)`", []),
    (unreachable_documents, "docs/LOST.md", "# Lost", ["docs/LOST.md"]),
    (missing_paths, "docs/GUIDE.md", "`src/a.py`, `data/x.json`, `docs/decisions/`, `decisions/x.py`", []),
    (missing_paths, "docs/GUIDE.md", "`src/b.py`, `src/b/`", ["docs/GUIDE.md: src/b.py", "docs/GUIDE.md: src/b/"]),
    (misnumbered_decisions, "docs/decisions/b.md", f"# b\n{ENTRY}", ["D-001 is used twice", "D-002"]),
    (misnumbered_decisions, "docs/decisions/b.md", f"# b\n{ANOTHER}", ["D-002", "D-003"]),
    (misnumbered_decisions, "docs/decisions/b.md", "# b\n## Soon", ["b.md: 'Soon' is not 'D-NNN · date · decision'"]),
    (incomplete_decisions, "docs/decisions/b.md", "## D-002 · 2026-11-23 · B\n\n**Context:** c\n\n**Decision:** d\n",
     ["D-002: no **Consequences:**"]),
    (unlisted_decisions, "docs/decisions/b.md", f"# b\n{ANOTHER}", ["D-003"]),
    (unlisted_decisions, "docs/decisions/README.md", "- [D-002](a.md#x) Do", ["D-002"]),
    (unlisted_decisions, "docs/decisions/README.md", "- [D-001](a.md#d-001--2026-11-23--use-a--b) Use", ["D-001"]),
    (unknown_references, "src/b.py", "docs/NO.md, D-009", ["src/b.py: docs/NO.md", "src/b.py: D-009"]),
]  # fmt: skip


def plant(root: Path, texts: dict[str, str]) -> None:
    for name, text in texts.items():
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, "utf-8")


@pytest.mark.parametrize("check", CHECKS)
def test_sound_documents_pass_every_check(tmp_path: Path, check: Check) -> None:
    plant(tmp_path, SOUND)

    assert check(tmp_path) == []


@pytest.mark.parametrize(("check", "name", "added", "found"), PLANTED)
def test_a_mistake_in_a_document_is_found(
    tmp_path: Path, check: Check, name: str, added: str, found: list[str]
) -> None:
    plant(tmp_path, SOUND | {name: f"{SOUND.get(name, '')}{added}"})

    assert check(tmp_path) == found
