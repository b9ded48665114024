"""Scope of a provider's refusal, by dialect, status and body: the request, the account, or a moment."""

from __future__ import annotations

from typing import Any, NamedTuple

import msgspec
import pytest

from llm_gateway.domain.catalog import Provider
from llm_gateway.domain.upstream_call import UpstreamResult
from llm_gateway.errors import GatewayError
from llm_gateway.worker.pipeline.availability import Wait
from tests.upstream.behaviour import REFUSALS
from tests.worker.pipeline.fakes import World, answer, plan, provider, request

ANTHROPIC: dict[str, Any] = {
    "id": "msg_1", "model": "m1", "content": [{"type": "text", "text": "hello"}], "stop_reason": "end_turn",
    "usage": {"input_tokens": 20, "output_tokens": 30},
}  # fmt: skip
GEMINI: dict[str, Any] = {
    "candidates": [{"content": {"parts": [{"text": "hello"}]}, "finishReason": "STOP"}],
    "usageMetadata": {"promptTokenCount": 20, "candidatesTokenCount": 30},
}
SERVED = {
    "openai": answer(),
    "anthropic": UpstreamResult(200, msgspec.json.encode(ANTHROPIC)),
    "gemini": UpstreamResult(200, msgspec.json.encode(GEMINI)),
}
OTHER = provider("other")


class Case(NamedTuple):
    """A refusal. `told`: it ends the request, else the next candidate is tried.

    `rests`: two pause the account. `no_model`: one pauses the model.
    """

    kind: str
    status: int
    error: Any
    told: bool = False
    rests: bool = False
    no_model: bool = False


def claude(kind: str, message: str = "no") -> Any:
    return {"type": "error", "error": {"type": kind, "message": message}}


def google(status: str, *details: Any) -> Any:
    return {"error": {"code": 400, "message": "no", "status": status, "details": details}}


TOLD, RESTS, NO_MODEL = {"told": True}, {"rests": True}, {"no_model": True}
CASES = {
    "moderation": Case("openai", *REFUSALS["moderation"], **TOLD),
    "content filter": Case("openai", *REFUSALS["content-filter"], **TOLD),
    "bad request": Case("openai", 400, {"message": "max_tokens is too large"}, **TOLD),
    "too large": Case("openai", 413, {"message": "too large"}, **TOLD),
    "unprocessable": Case("openai", 422, {"message": "no"}, **TOLD),
    "no model": Case("openai", *REFUSALS["no-model"], **NO_MODEL),
    "no access to the model": Case("openai", *REFUSALS["no-access"], **NO_MODEL),
    "no path": Case("openai", 404, {"message": "Not Found"}),
    "quota used up": Case("openai", *REFUSALS["no-quota"], **RESTS),
    "max_tokens beyond the credit": Case("openai", *REFUSALS["too-dear"]),
    "not implemented": Case("openai", 501, {"message": "no"}),
    "no JSON was written": Case("openai", 400, {"message": "no", "code": "json_validate_failed"}),
    "bad key": Case("openai", 401, {"message": "Incorrect API key provided"}, **RESTS),
    "no credit": Case("openai", 402, {"message": "Insufficient Balance"}, **RESTS),
    "forbidden": Case("openai", 403, {"message": "Country not supported"}, **RESTS),
    "bad key of xAI": Case("openai", 400, {"message": "Incorrect API key provided: x"}, **RESTS),
    "rate limit": Case("openai", 429, {"message": "slow down"}),
    "failure": Case("openai", 500, {"message": "down"}),
    "anthropic: bad request": Case("anthropic", 400, claude("invalid_request_error"), **TOLD),
    "anthropic: no model": Case("anthropic", 404, claude("not_found_error", "model: m1"), **NO_MODEL),
    "anthropic: filtered": Case(
        "anthropic", 400, claude("invalid_request_error", "Output blocked by content filtering policy"), **TOLD
    ),
    "anthropic: bad key": Case("anthropic", 401, claude("authentication_error"), **RESTS),
    "anthropic: no credit": Case(
        "anthropic", 400, claude("invalid_request_error", "Your credit balance is too low to …"), **RESTS
    ),
    "anthropic: overloaded": Case("anthropic", 529, claude("overloaded_error")),
    "gemini: bad request": Case("gemini", 400, google("INVALID_ARGUMENT"), **TOLD),
    "gemini: no model": Case(
        "gemini", 404, {"error": {"code": 404, "message": "models/m1 is not found", "status": "NOT_FOUND"}}, **NO_MODEL
    ),
    "gemini: no billing": Case("gemini", 400, google("FAILED_PRECONDITION"), **RESTS),
    "gemini: bad key": Case("gemini", 400, google("INVALID_ARGUMENT", {"reason": "API_KEY_INVALID"}), **RESTS),
    "gemini: forbidden": Case("gemini", 403, google("PERMISSION_DENIED"), **RESTS),
}


async def ask(world: World, one: Provider, customer: str) -> str:
    """Return the name of the provider that answers this customer, or the error's class."""
    asked = request(id=f"of-{customer}", user_id=customer, prompt=f"of {customer}", deadline=world.clock.now + 120)
    try:
        served = await world.failover.run(asked, plan([one], [OTHER]), world.open(asked))
    except GatewayError as error:
        return type(error).__name__ if not error.retryable else "retryable"
    return served.provider


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if not case.no_model])
async def test_one_refusal_affects_no_other_request(world: World, name: str) -> None:
    case = CASES[name]
    one = provider("one", kind=case.kind)
    refusal = UpstreamResult(
        case.status, msgspec.json.encode({"error": case.error} if case.kind == "openai" else case.error)
    )
    world.script(one=[refusal, SERVED[case.kind]], other=[answer()])

    assert await ask(world, one, "first") == ("ProviderFailed" if case.told else "other")
    assert await ask(world, one, "second") == "one"
    assert world.logged == []


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if not case.no_model])
async def test_two_refusals_in_a_row_pause_the_account_and_nothing_else(world: World, name: str) -> None:
    case = CASES[name]
    one = provider("one", kind=case.kind)
    refusal = UpstreamResult(
        case.status, msgspec.json.encode({"error": case.error} if case.kind == "openai" else case.error)
    )
    world.script(one=[refusal, refusal, SERVED[case.kind]], other=[answer()] * 3)

    for customer in ("first", "second"):
        assert await ask(world, one, customer) == ("ProviderFailed" if case.told else "other")
    assert await ask(world, one, "third") == ("other" if case.rests else "one")
    assert [event for event, _ in world.logged] == (["provider account paused"] if case.rests else [])


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.no_model])
async def test_a_missing_model_rests_five_minutes_and_no_other_model_does(world: World, name: str) -> None:
    case = CASES[name]
    one = provider("one", kind=case.kind)
    other_model = provider("one", kind=case.kind, models=("m2",))
    refusal = UpstreamResult(
        case.status, msgspec.json.encode({"error": case.error} if case.kind == "openai" else case.error)
    )
    world.script(one=[refusal, SERVED[case.kind], SERVED[case.kind]], other=[answer()] * 3)

    assert [await ask(world, one, customer) for customer in ("first", "second")] == ["other", "other"]
    assert await ask(world, other_model, "third") == "one"
    assert world.wait(one) == Wait(300.0, limited=False)
    world.clock.now += 299.9
    assert await ask(world, one, "fourth") == "other"
    world.clock.now += 0.1
    assert await ask(world, one, "fifth") == "one"
    assert [event for event, _ in world.logged] == ["provider model paused", "provider model pause ended"]


@pytest.mark.parametrize("status", [402, 403])
async def test_a_refused_prompt_sent_repeatedly_does_not_pause_the_account(world: World, status: int) -> None:
    """A 402 or 403 with an unknown message may be about the prompt; a 401 never is."""
    one = provider("one")
    refusal = UpstreamResult(status, b'{"error": {"message": "This prompt is not for us."}}')
    world.script(one=[*[refusal] * 5, answer()], other=[answer()] * 5)
    for number in range(5):
        asked = request(id=str(number), prompt="the same")
        assert (await world.failover.run(asked, plan([one], [OTHER]), world.open(asked))).provider == "other"

    assert await ask(world, one, "another") == "one"


async def test_keys_in_a_refusal_are_redacted(world: World) -> None:
    one = provider("one")
    refusal = UpstreamResult(401, b'{"error": {"message": "Bad key sk-live-0123456789abcdef"}}')
    world.script(one=[refusal] * 2, other=[answer()] * 2)
    for customer in ("first", "second"):
        await ask(world, one, customer)

    assert world.wait(one) == Wait(15.0, limited=False)
    ((_, fields),) = world.logged
    assert fields["reason"] == "2 refusals in a row: Provider one: answered 401: Bad key sk-[redacted]"
