"""The contract of limiters, tests/limiter, run against Redis."""

from __future__ import annotations

from tests.limiter.test_reported import *  # noqa: F403
from tests.limiter.test_reserved import *  # noqa: F403
from tests.limiter.test_rules import *  # noqa: F403
from tests.limiter.test_settling import *  # noqa: F403
from tests.limiter.test_several import *  # noqa: F403
from tests.limiter.test_taking import *  # noqa: F403

del test_steady_overload_uses_the_whole_limit  # noqa: F821 - 10,000 trips; test_two_hosts.py shows it
