"""Tests that walk the table of vendors' words and limits: each row, at its edges, passed through and translated.

A mock that was written apart from the table (`tests/upstream/vendor_limits.py`) judges what is sent: it must refuse the
value beyond the edge as the client sent it, and take every body that the gateway made of it.
"""

from __future__ import annotations

import copy
import json
from typing import Any, NamedTuple

import msgspec
import pytest

from llm_gateway.domain.catalog import Candidate
from llm_gateway.domain.conversation import REASONING_EFFORTS
from llm_gateway.domain.request import ClientRequest
from llm_gateway.domain.upstream_call import UpstreamCall
from llm_gateway.protocols.contract import Unreadable, Unsupported
from llm_gateway.protocols.registry import PROTOCOLS
from llm_gateway.providers.vendor_rules import part_rules, rule
from llm_gateway.providers.vendor_rules.body_rules import rules_of_model
from llm_gateway.providers.vendor_rules.table import ROWS
from llm_gateway.worker.pipeline.translation import Translation
from tests.providers.vendor_bodies import CLOSED, Body, chat, claude, google, reader, tool, with_id
from tests.rows import each_row
from tests.upstream.vendor_limits import refusal_of
from tests.worker.pipeline.fakes import provider, request

KINDS = {
    "openai_chat": "openai",
    "openai_responses": "openai",
    "anthropic_messages": "anthropic",
    "gemini_content": "gemini",
}
MODELS = {"anthropic": "claude-opus-4-6", "gemini": "gemini-2.5-flash", "deepseek": "deepseek-v4-pro"}
"""A model for rows about all models of a vendor."""
EXAMPLES = {
    "o[0-9]": "o3", "o3": "o3", "gpt-5": "gpt-5", "gpt-5-pro*": "gpt-5-pro", "gpt-5.1": "gpt-5.1",
    "gpt-5.*": "gpt-5.2", "gpt-5.[2-5]": "gpt-5.2", "gpt-5.[6-9]": "gpt-5.6", "gpt-oss*": "gpt-oss-20b",
    "grok-3-mini*": "grok-3-mini", "grok-3": "grok-4", "grok-4.3*": "grok-4.3", "grok-4.5*": "grok-4.5",
    "kimi-k2.[5-9]*": "kimi-k2.5", "gpt-3.5*": "gpt-4o", "claude-*": "claude-opus-5-5",
    "gpt-5.[2-9]-pro*": "gpt-5.2-pro", "gpt-5-chat*": "gpt-5-chat-latest", "gpt-5.2-chat*": "gpt-5.2-chat-latest",
    "gpt-5-codex*": "gpt-5.1-codex", "gpt-5.1-codex-max*": "gpt-5.1-codex-max",
    "claude-opus-4-[01]": "claude-opus-4-1",
    "claude-*-4-5": "claude-haiku-4-5", "claude-*-4-[6-8]": "claude-opus-4-8", "claude-fable-5*": "claude-fable-5-1",
}  # fmt: skip
"""A model for the first glob of a row."""


class Case(NamedTuple):
    """A row with one value for its field: what the client sends, and whether the rule has to change or refuse it."""

    row: rule.Row
    vendor: str
    body: Body
    expected: str  # kept, changed or refused


def model_of(row: rule.Row, vendor: str) -> str:
    return EXAMPLES.get(row.models[0], MODELS.get(vendor, "llama-4"))


def with_value(row: rule.Row, value: Any) -> Body:
    """Return a client's body with a value for the row's field, and with what the field needs."""
    if row.protocol == "openai_responses":
        thinks = isinstance(row.rule, rule.Dropped) and row.rule.with_effort
        return {"input": "Hi", **({"reasoning": {"effort": "low"}} if thinks else {}), row.field: value}
    if row.protocol == "gemini_content":
        return google(**{row.field.partition(".")[2]: value})
    if row.protocol == "anthropic_messages":
        return claude(**{row.field: value})
    needed: Body = {"logprobs": True} if row.field == "top_logprobs" and row.vendors != ("groq",) else {}
    if isinstance(row.rule, rule.Dropped) and row.rule.with_effort:
        needed["reasoning_effort"] = "low"
    if row.field == "parallel_tool_calls":
        needed["tools"] = [{"type": "function", "function": {"name": "t"}}]
    return chat(**needed, **{row.field: value})


def edges(row: rule.Row) -> list[tuple[Body, str]]:
    """Return the smallest and the largest value that the vendor takes, and one beyond each, with what is expected."""
    found = row.rule
    if isinstance(found, rule.Range):
        values = [
            (found.least, "kept"),
            (found.most, "kept"),
            (found.most + 1, "changed"),
            (found.least - 1, "changed"),
        ]
        return [(with_value(row, value), expected) for value, expected in values]
    if isinstance(found, rule.AtLeast):
        return [(with_value(row, found.least), "kept"), (with_value(row, found.least - 1), "changed")]
    if isinstance(found, rule.Inside):
        inner = edges(msgspec.structs.replace(row, rule=found.rule))
        return [({**body, row.field: {found.inner: body[row.field]}}, expected) for body, expected in inner]
    if isinstance(found, rule.AtMost):
        counts = [(1, "kept"), (found.count, "kept"), (found.count + 1, "refused")]
        return [(with_value(row, [str(n) for n in range(count)]), expected) for count, expected in counts]
    if isinstance(found, rule.Hashed):
        lengths = [(1, "kept"), (found.longest, "kept"), (found.longest + 1, "changed")]
        return [(with_value(row, "u" * length), expected) for length, expected in lengths]
    if isinstance(found, rule.Words):
        words = [(found.known[0], "kept"), (found.known[-1], "kept")]
        words += [(word, "changed") for word in REASONING_EFFORTS if word not in found.known]
        return [(with_value(row, word), expected) for word, expected in words]
    if isinstance(found, rule.Labels):
        fit = {"k" * found.key: "v" * found.value}
        many = {str(n): "v" for n in range(found.count)}
        bad = [{"k" * (found.key + 1): "v"}, {"k": "v" * (found.value + 1)}, {**many, "one more": "v"}]
        return [(with_value(row, value), "kept") for value in (fit, many)] + [
            (with_value(row, value), "changed") for value in bad
        ]
    if isinstance(found, rule.BiasRange):
        values = [(found.least, "kept"), (found.most, "kept"), (found.most + 1, "changed")]
        return [(with_value(row, {"5": value}), expected) for value, expected in values]
    return edges_of_fields(row) if not row.field.partition("[")[1] else edges_of_parts(row)


def edges_of_fields(row: rule.Row) -> list[tuple[Body, str]]:
    found = row.rule
    samples = {"stop": ["x"], "logprobs": True, "logit_bias": {"5": 1}, "parallel_tool_calls": False,
               "service_tier": "flex", "reasoning_effort": "low", "top_k": 5,
               "reasoning": {"effort": "low"}}  # fmt: skip
    sample = samples.get(row.field, 2 if row.field in ("n", "top_logprobs", "seed") else 0.5)
    if isinstance(found, rule.Renamed):
        return [(with_value(row, 5), "changed")]
    if isinstance(found, rule.AsEffort):
        values: list[Body] = [{"effort": "low"}, {"type": "enabled"}, {"enabled": False}, {"type": "disabled"}]
        return [(with_value(row, value), "changed") for value in values]
    if isinstance(found, rule.ThinkingSwitch):
        return [(with_value(row, "high"), "kept"), (with_value(row, "none"), "changed")]
    if isinstance(found, rule.Dropped):
        kept = [(with_value(row, value), "kept") for value in found.unless]
        return [*kept, *((with_value(row, value), "changed") for value in (*found.defaults, sample))]
    assert isinstance(found, rule.Refused)
    return [*((with_value(row, value), "changed") for value in found.harmless), (with_value(row, sample), "refused")]


def edges_of_parts(row: rule.Row) -> list[tuple[Body, str]]:
    found, protocol = row.rule, row.protocol
    if isinstance(found, part_rules.ToolName):
        names = [
            ("t", "kept"),
            ("t" * found.longest, "kept"),
            ("t" * (found.longest + 1), "changed"),
            ("ü/1", "changed"),
        ]
        return [(tool(name, protocol), expected) for name, expected in names]
    if isinstance(found, part_rules.CallId):
        bad = {"openai_chat": "c" * 41, "openai_responses": "c" * 65}.get(protocol, "functions.bash:0")
        bad = "functions.bash:0" if found.length != 32 else bad
        good = {9: "aB3456789"}.get(found.length, "call_1")
        return [(with_id(good, protocol), "kept"), (with_id(bad, protocol), "changed")]
    if isinstance(found, part_rules.Properties):
        return [(tool("t", protocol), "kept"), (tool("t", protocol, {"type": "object"}), "changed")]
    if isinstance(found, part_rules.Strict):
        limited = {**CLOSED, "properties": {"a": {"type": "integer", "minimum": 1}}}
        is_open = {key: value for key, value in CLOSED.items() if key != "additionalProperties"}
        unfit = limited if protocol == "anthropic_messages" else is_open
        return [(tool("t", protocol, strict=True), "kept"), (tool("t", protocol, unfit, strict=True), "changed")]
    if isinstance(found, part_rules.Role):
        return [(chat(), "kept"), ({"messages": [{"role": found.given, "content": "x"}]}, "changed")]
    if isinstance(found, part_rules.ReasoningOfCalls):
        lacking = tool("t", protocol)
        del lacking["messages"][1]["reasoning_content"]
        return [(tool("t", protocol), "kept"), (lacking, "changed")]
    if isinstance(found, part_rules.MessageField):
        return [
            ({"messages": [{"role": "assistant", "content": "x", field: "y"}]}, "changed") for field in found.fields
        ]
    if isinstance(found, part_rules.ImageTypes):
        source = {"type": "base64", "data": "iVBORw=="}
        kinds = [*((kind, "kept") for kind in found.known), ("image/jpg", "changed"), ("image/bmp", "refused")]
        images = [({"type": "image", "source": {**source, "media_type": kind}}, expected) for kind, expected in kinds]
        return [(claude(messages=[{"role": "user", "content": [image]}]), expected) for image, expected in images]
    assert isinstance(found, part_rules.CallField)
    body = tool("t", protocol)
    body["messages"][1]["tool_calls"][0]["extra_content"] = {"google": {"thought_signature": "s"}}
    return [(body, "changed")]


WITH_KEPT_VALUES = (rule.Range, rule.Words, rule.Hashed, rule.Labels, rule.AtLeast, rule.Inside)
every_row = each_row(
    ("row", "vendor"),
    [(row, vendor) for row in ROWS for vendor in row.vendors],
)


def cases(row: rule.Row, vendor: str) -> list[Case]:
    return [Case(row, vendor, body, expected) for body, expected in edges(row)]


def call(case: Case, client_request: ClientRequest) -> UpstreamCall:
    model, kind = model_of(case.row, case.vendor), KINDS.get(case.row.protocol, "openai")
    rules = rules_of_model(case.vendor, (case.row.protocol,), case.row.protocol, model)
    account = provider(
        case.vendor or "unknown",
        kind=kind,
        models=(model,),
        protocols=(case.row.protocol,),
        rules_by_model={model: rules},
    )
    return Translation().call(request(client_request=client_request), Candidate.of(account, model))


def judged(case: Case, body: Body) -> str | None:
    return refusal_of(case.vendor, model_of(case.row, case.vendor), body)


@every_row
def test_a_body_that_passes_through_is_fitted_to_the_vendor_at_every_edge(row: rule.Row, vendor: str) -> None:
    for case in cases(row, vendor):
        assert_fitted(case)


def assert_fitted(case: Case) -> None:
    sent = {**copy.deepcopy(case.body), "model": model_of(case.row, case.vendor)}
    given = copy.deepcopy(sent)
    asked = ClientRequest(case.row.protocol, sent, reader(case.row.protocol))
    if case.expected == "refused":
        with pytest.raises(Unsupported):
            call(case, asked)
        return

    made = call(case, asked)

    body = json.loads(made.body)
    unchanged = json.loads(json.dumps({**given, "model": body.get("model", given["model"])}))
    if "model" not in body:
        del unchanged["model"]
    if case.row.protocol == "openai_responses":  # stored nowhere: see its `pass_through.py`
        assert body.pop("store") is False
        body.pop("include", None)
    assert sent == given, "the client's own document must not change"
    assert judged(case, body) is None, case
    if case.expected == "kept" and isinstance(case.row.rule, WITH_KEPT_VALUES):
        assert body == unchanged, case
        assert made.dropped == (), case


@every_row
def test_a_translated_body_is_fitted_to_the_vendor_at_every_edge(row: rule.Row, vendor: str) -> None:
    """The conversation that the client's request holds is written for the vendor, as for a client of another API."""
    for case in cases(row, vendor):
        assert_fitted_after_translation(case)


def assert_fitted_after_translation(case: Case) -> None:
    try:
        found = PROTOCOLS[case.row.protocol].read_request({**copy.deepcopy(case.body), "model": "m"})
    except (Unreadable, Unsupported):  # it is invalid in the client's own protocol, too, or no other one has it
        found = None
    if found is None:
        assert case.expected == "changed" or case.body.get(case.row.field) == 0, case
        return
    try:
        made = call(case, ClientRequest.of(found.conversation))
    except Unsupported:
        assert case.expected == "refused", case
        return

    assert judged(case, json.loads(made.body)) is None, case


WITHOUT_HARM = (rule.Renamed, rule.Refused)
"""Rules that also make a value plain which the vendor may take: the old name of a field, a value that asks nothing."""


@every_row
def test_the_mock_refuses_what_the_rule_mends(row: rule.Row, vendor: str) -> None:
    for case in cases(row, vendor):
        is_harmless = isinstance(row.rule, WITHOUT_HARM) and case.expected == "changed"

        assert case.expected == "kept" or is_harmless or judged(case, case.body) is not None, case


def test_every_row_has_a_source_and_the_day_it_was_read() -> None:
    for row in ROWS:
        assert row.source.startswith("https://") or ": types." in row.source, row
        assert row.read >= "2026-11-27"
        assert row.vendors, row


def test_no_rule_applies_to_an_unknown_vendors_own_models() -> None:
    assert rules_of_model("", ("openai_chat",), "openai_chat", "llama-4") is None


def test_names_of_tools_are_restored_in_whole_answers_and_in_streams() -> None:
    long = "mcp__" + "x" * 70
    case = Case(ROWS[0], "openai", tool(long, "openai_chat"), "changed")
    made = call(case, ClientRequest("openai_chat", {**case.body, "model": "m"}, reader("openai_chat")))

    body = json.loads(made.body)
    short = body["tools"][0]["function"]["name"]
    assert len(short) <= 64
    assert body["tool_choice"]["function"]["name"] == short
    assert body["messages"][1]["tool_calls"][0]["function"]["name"] == short
    answer = json.dumps({"name": short, "text": f'say "{short}"'}).encode()
    assert json.loads(made.restored(answer)) == {"name": long, "text": f'say "{short}"'}


def test_names_of_tools_of_the_responses_api_are_shortened_wherever_they_stand_and_restored() -> None:
    long, row = "mcp__" + "x" * 70, next(row for row in ROWS if row.protocol == "openai_responses")
    body = tool(long, "openai_responses")
    body["tool_choice"] = {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": long}]}
    body["tools"].append({"type": "namespace", "name": "n" * 70, "tools": []})
    case = Case(row, "openai", body, "changed")
    made = call(case, ClientRequest("openai_responses", {**body, "model": "m"}, reader("openai_responses")))

    sent = json.loads(made.body)
    short = sent["tools"][0]["name"]
    assert len(short) <= 64
    assert [sent["tool_choice"]["tools"][0]["name"], sent["input"][1]["name"]] == [short, short]
    assert sent["tools"][1]["name"] == "n" * 70, "nothing is known about the names of namespaces"
    assert json.loads(made.restored(json.dumps({"name": short}).encode())) == {"name": long}


def test_a_chat_clients_tools_are_fitted_for_a_model_that_needs_the_responses_api() -> None:
    long, protocols = "mcp__" + "x" * 70, ("openai_chat", "openai_responses")
    rules = rules_of_model("openai", protocols, "openai_chat", "gpt-5.6", "openai_responses")
    account = provider("openai", models=("gpt-5.6",), protocols=protocols, rules_by_model={"gpt-5.6": rules})
    asked = ClientRequest("openai_chat", {**tool(long, "openai_chat"), "model": "m"}, reader("openai_chat"))

    made = Translation().call(request(client_request=asked), Candidate.of(account, "gpt-5.6"))

    sent = json.loads(made.body)
    assert refusal_of("openai", "gpt-5.6", sent) is None
    assert len(sent["tools"][0]["name"]) == 64
    assert len(made.renamed) == 1


@pytest.mark.parametrize(
    ("model", "given", "sent", "dropped"),
    [
        ("gpt-5", {"reasoning": {"effort": "xhigh"}}, {"reasoning_effort": "high"}, ("reasoning_effort",)),
        ("gpt-5.2", {"thinking": {"type": "disabled"}}, {"reasoning_effort": "none"}, ()),
        ("gpt-4o", {"reasoning": {"effort": "low"}}, {}, ("reasoning_effort",)),
        ("gpt-5", {"thinking": {"type": "enabled"}, "top_k": 5}, {}, ("reasoning_effort", "top_k")),
    ],
    ids=str,
)
def test_other_vendors_words_for_reasoning_reach_openai_as_an_effort(
    model: str, given: Body, sent: Body, dropped: tuple[str, ...]
) -> None:
    rules = rules_of_model("openai", ("openai_chat",), "openai_chat", model)
    account = provider("openai", models=(model,), rules_by_model={model: rules})
    asked = ClientRequest("openai_chat", chat(model="m", **given), reader("openai_chat"))

    made = Translation().call(request(client_request=asked), Candidate.of(account, model))

    assert json.loads(made.body) == {**chat(model=model), **sent}
    assert made.dropped == dropped
