"""Command `usage replay`: move usage records that stopped gateways left in the journal to the database."""

from __future__ import annotations

import asyncio

from llm_gateway.cli.env_files import EnvFiles
from llm_gateway.cli.output import Json, print_json
from llm_gateway.control.offline import replay_once
from llm_gateway.settings_reader import load_settings


def replay(*, env_file: EnvFiles = None, json: Json = False) -> None:
    """Move usage records that stopped gateways left in the journal to the database.

    `serve` does this too when it starts. No gateway may be running on the data directory of the settings.

    ```sh
    llm-gateway usage replay
    ```
    """
    records = asyncio.run(replay_once(load_settings(env_files=env_file)))
    if json:
        print_json({"records": records})
    else:
        print(f"{records} usage records were moved to the database.")
