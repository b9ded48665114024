"""What every test run shares: the options, and how many examples the property tests try."""

from __future__ import annotations

import os

import pytest
from hypothesis import HealthCheck, is_hypothesis_test, settings

FUZZING = "fuzz"
ROUNDS = int(os.environ.get("FUZZ_ROUNDS") or 30)
"""How often `make fuzz` runs a property test, with other examples each time.

One run with so many examples would take several times as long: hypothesis makes ever larger ones.
"""

EXAMPLES = 100
"""How many a property test tries in a usual run, where it does not say; `make fuzz` as many a round."""

settings.register_profile("default", deadline=None, max_examples=EXAMPLES)
settings.register_profile("ci", deadline=None, max_examples=EXAMPLES, derandomize=True, print_blob=True)
# A method gets another instance in each round, which is what a method's test must bear.
settings.register_profile(
    FUZZING, deadline=None, print_blob=True, suppress_health_check=[HealthCheck.differing_executors]
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE") or ("ci" if os.environ.get("CI") else "default"))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--long",
        action="store_true",
        help="run the fault tests or the API's fuzzing at full length (make faults, make fuzz)",
    )


@pytest.fixture
def fuzz_round(request: pytest.FixtureRequest) -> int:
    """Which of the rounds it is."""
    number: int = request.param
    return number


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if settings.get_current_profile_name() == FUZZING and is_hypothesis_test(metafunc.function):
        metafunc.fixturenames.append("fuzz_round")
        metafunc.parametrize("fuzz_round", range(1, ROUNDS + 1), indirect=True)
