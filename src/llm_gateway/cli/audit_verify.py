"""Command `audit verify`, which works on the settings' database, with or without a running gateway."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from llm_gateway.cli.database import current_database
from llm_gateway.cli.env_files import EnvFiles
from llm_gateway.cli.exits import FAILED, CommandFailed
from llm_gateway.cli.output import Flag, Json, print_json
from llm_gateway.errors import ConfigurationError
from llm_gateway.settings_reader import load_settings
from llm_gateway.store import audit_check
from llm_gateway.store.audit_check import ChainReport
from llm_gateway.store.audit_head import HeadFile


def verify(
    *,
    accept_gaps: Annotated[Flag, Parameter(help="exit with 0 if gaps that the gateway wrote down are all there is")] = (
        False
    ),
    env_file: EnvFiles = None,
    json: Json = False,
) -> None:
    """Check the hashes of all audit entries, and that none is missing.

    It reads the settings' database, and `audit.head` in the data directory. Write the printed heads down elsewhere, to
    compare them later: who can write both can replace a whole chain.

    ```sh
    llm-gateway audit verify
    llm-gateway audit verify --accept-gaps
    ```
    """
    settings = load_settings(env_files=env_file)
    file, problems = HeadFile(settings.data_dir.absolute()), []
    try:
        head = file.read() if file.exists() else None
    except ConfigurationError as error:
        head = None
        problems.append(str(error))
    with current_database(settings) as database:
        reports = audit_check.verify(database, head)
    problems += [f"Chain {each.head.chain}: {problem}" for each in reports for problem in each.problems]
    gaps = [f"Chain {each.head.chain}: {gap}" for each in reports for gap in each.gaps]
    if json:
        print_json({"chains": [_document(each) for each in reports], "problems": problems, "gaps": gaps})
    else:
        for each in reports:
            print(f"Chain {each.head.chain}: {each.entries} entries, the last is {each.head.number} {each.head.hash}")
        for line in (*problems, *gaps):
            print(line)
        if not reports:
            print("There are no entries.")
    if problems:
        raise CommandFailed("The audit trail was changed after it was written: the lines above say where.", FAILED)
    if gaps and not accept_gaps:
        raise CommandFailed(
            "Entries are missing: if they were written after the backup that you restored, add --accept-gaps.", FAILED
        )


def _document(report: ChainReport) -> dict[str, object]:
    head = report.head
    return {"chain": head.chain, "entries": report.entries, "number": head.number, "hash": head.hash}
