"""Names of the environment variables that tell the hooks about the running gateway and the length of the run."""

from __future__ import annotations

UPSTREAM, PROVIDER_ID, PROVIDER, MODEL = "FUZZ_UPSTREAM", "FUZZ_PROVIDER_ID", "FUZZ_PROVIDER", "FUZZ_MODEL"
"""Environment variables: the mock's base_url; id, name and model of the provider that is never changed."""
SAMPLE = "FUZZ_SAMPLE"
"""Environment variable: of cases that repeat a kind of value, one in this many is sent; 1, the default, sends all."""
