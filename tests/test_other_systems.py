"""List of what only Linux has, with what happens elsewhere (docs/ARCHITECTURE.md): it names each file that asks."""

from __future__ import annotations

import re
from pathlib import Path

import llm_gateway

SOURCE = Path(llm_gateway.__file__).parent
DOCUMENT = Path(__file__).parents[1] / "docs" / "ARCHITECTURE.md"
ASKS_FOR_THE_SYSTEM = re.compile(
    r"sys\.platform|\"/proc/"
    r"|hasattr\((?:os|library|calls|signal|socket|select|time)\b|getattr\((?:os|socket|select|time|signal), "
)


def test_each_file_that_asks_for_the_system_is_in_the_list_of_other_systems() -> None:
    text = DOCUMENT.read_text("utf-8")
    section = text.partition("## Systems other than Linux")[2].partition("\n## ")[0]
    listed = {
        name for row in section.splitlines() if row.startswith("| `") for name in re.findall(r"`([\w/]+\.py)`", row)
    }
    files = {path.relative_to(SOURCE).as_posix(): path.read_text("utf-8") for path in SOURCE.rglob("*.py")}
    assert {name for name, code in files.items() if ASKS_FOR_THE_SYSTEM.search(code)} == listed
