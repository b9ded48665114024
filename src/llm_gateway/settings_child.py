"""Short-lived process that reads the settings and writes them to stdout as JSON, so that the supervisor stays small."""

from __future__ import annotations

import sys

from llm_gateway.entry import run_entry

STDOUT = 1


def main() -> int:
    """Write the settings in force to stdout, as one JSON object. Returns the exit code."""
    return run_entry(_write_settings)


def _write_settings() -> int:
    from llm_gateway.settings_reader import encode_settings, load_with_origins  # noqa: PLC0415 - see `run_entry`

    with open(STDOUT, "wb", closefd=False) as out:
        out.write(encode_settings(*load_with_origins()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
