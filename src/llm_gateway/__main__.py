"""What `llm-gateway serve` becomes: the server process."""

from __future__ import annotations

import sys

from llm_gateway.app import run
from llm_gateway.errors import ConfigurationError, StoreUnavailable
from llm_gateway.settings import load_settings

if __name__ == "__main__":
    try:
        sys.exit(run(load_settings()))
    except ConfigurationError as error:
        print(f"llm-gateway: {error}", file=sys.stderr)
        sys.exit(ConfigurationError.exit_code)
    except StoreUnavailable as error:
        print(f"llm-gateway: {error.detail}", file=sys.stderr)
        sys.exit(1)
