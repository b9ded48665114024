"""Numbers of examples of the store's property tests: fewer on Postgres, where each takes several times as long."""

from __future__ import annotations

from hypothesis import HealthCheck

from tests.examples import examples

many = examples(1, deadline=None, suppress_health_check=[HealthCheck.too_slow])
few = examples(0.16, deadline=None, suppress_health_check=[HealthCheck.too_slow])
