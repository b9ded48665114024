"""Plans restricted to the models of a service key: by model, provider/model, name and alias."""

from __future__ import annotations

import pytest

from llm_gateway.domain.service_key import KeyRights
from llm_gateway.errors import ModelNotAllowed
from llm_gateway.routing.restricted_plan import allows_model, check_allowed, restrict_plan
from llm_gateway.routing.route import AUTO, route
from tests.rows import each_row
from tests.worker.pipeline.fakes import provider, request, snapshot

LOCAL = provider("local", models=("small",), priority=20)
VENDOR = provider(
    "vendor", models=("large", "gpt-4o"), model_aliases={"*": "large", "fast-*": "gpt-4o", "best": "large"}
)
OTHER = provider("other", models=("fallback",), model_aliases={"gpt-*": "fallback"}, priority=5)
CURRENT = snapshot([LOCAL, VENDOR, OTHER])


@each_row(
    ("globs", "model", "used"),
    [
        (("local/*",), "small", ["local"]),
        (("local/*",), "local/small", ["local"]),
        (("local/*",), "auto", ["local"]),
        (("local/*",), "local/anything", []),  # the vendor's alias * takes it
        (("local/*",), "local/*", []),
        (("*small",), "not-so-small", []),
        (("my-model",), "my-model", ["vendor"]),
        (("fast-*",), "fast-1", ["vendor"]),
        (("fast-*",), "vendor/fast-1", []),
        (("vendor/fast-*",), "vendor/fast-1", ["vendor"]),
        (("f*",), "fast-1", ["vendor"]),
        (("best",), "best", ["vendor"]),
        (("b*",), "vendor/best", []),
        (("vendor/b*",), "vendor/best", ["vendor"]),
        (("gpt-4o",), "gpt-4o", ["vendor", "other"]),
        (("gpt-4*",), "gpt-4o", ["vendor", "other"]),
        (("gpt-4*",), "gpt-4-anything", []),
        (("large",), "anything", ["vendor"]),
    ],
)
def test_a_name_that_a_client_makes_up_opens_no_model(globs: tuple[str, ...], model: str, used: list[str]) -> None:
    rights, asked = KeyRights(models=(globs,)), request(requested_model=model)
    plan = route(asked, CURRENT)
    found = None if model == AUTO else CURRENT.resolve(model)
    if used:
        assert [each.provider.name for each in restrict_plan(plan, asked, rights).candidates] == used
        check_allowed(rights, model, CURRENT)
    else:
        with pytest.raises(ModelNotAllowed):
            restrict_plan(plan, asked, rights)
        with pytest.raises(ModelNotAllowed):
            check_allowed(rights, model, CURRENT)
    if found is not None:
        candidates = tuple(each for tier in found.tiers for each in tier)
        assert allows_model(rights.models, model, candidates) is bool(used)
