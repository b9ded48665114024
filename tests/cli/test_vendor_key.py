"""A vendor's API key is read from a prompt, standard input or a variable, never from the command line."""

from __future__ import annotations

import pytest

from llm_gateway.cli.vendor_key import REFUSAL
from tests.cli.command import Ran, SetUp, call, execute, on_terminal

CANARY = "sk-canary-0123456789"


def flags(set_up: SetUp, *more: str) -> list[str]:
    return ["providers", "add", "acme", "-m", "ok", "--base-url", set_up.vendor.base_url, *more]


def key_sent(set_up: SetUp) -> str:
    """Return the key that the vendor receives."""
    assert set_up.gateway.ask().status == 200
    return set_up.vendor.seen().calls[-1].key


def assert_it_was_taken(set_up: SetUp, ran: Ran) -> None:
    assert ran.code == 0, ran
    assert CANARY not in ran.out + ran.err
    assert key_sent(set_up) == CANARY


def test_the_key_is_read_from_a_pipe(set_up: SetUp) -> None:
    assert_it_was_taken(set_up, execute(*flags(set_up), stdin=f"{CANARY}\n"))


def test_the_key_is_read_from_a_pipe_with_api_key_stdin(set_up: SetUp) -> None:
    assert_it_was_taken(set_up, execute(*flags(set_up, "--api-key-stdin"), stdin=CANARY))


def test_the_key_is_read_from_a_variable(set_up: SetUp) -> None:
    assert_it_was_taken(set_up, execute(*flags(set_up, "--api-key-env", "ACME_KEY"), ACME_KEY=CANARY))


def test_a_terminal_prompts_for_the_key_and_does_not_show_it(set_up: SetUp) -> None:
    ran = on_terminal(*flags(set_up), typed=f"{CANARY}\n")
    assert "API key of acme (it is not shown): " in ran.out
    assert_it_was_taken(set_up, ran)


def test_update_changes_the_key_only_with_a_key_option(set_up: SetUp) -> None:
    assert execute(*flags(set_up), stdin=CANARY).code == 0
    assert execute("providers", "update", "acme", "--rpm", "100", stdin="not this").code == 0
    assert key_sent(set_up) == CANARY
    assert execute("providers", "update", "acme", "--api-key-stdin", stdin="sk-new").code == 0
    assert key_sent(set_up) == "sk-new"
    assert on_terminal("providers", "update", "acme", "--api-key-prompt", typed="sk-newer\n").code == 0
    assert key_sent(set_up) == "sk-newer"


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ([], "No API key was given"),
        (["--api-key-env", "NOWHERE"], "NOWHERE is not set"),
        (["--api-key-env", CANARY], "takes the name of a variable"),
        (["--api-key-stdin", "--no-api-key"], "Choose one"),
        (["--api-key", CANARY], "--api-key is not taken"),
        ([f"--api-key={CANARY}"], "--api-key-env OPENAI_API_KEY"),
        (["--key-file", "-"], "--api-key-env"),
    ],
)
def test_a_missing_key_ends_with_2(set_up: SetUp, more: list[str], said: str) -> None:
    ended = execute(*flags(set_up, *more), stdin="\n" if "--key-file" not in more else "dev-gateway-key\n")
    assert ended.code == 2
    assert said in ended.sentence
    assert CANARY not in ended.err
    assert set_up.gateway.call("GET", "/api/v1/providers").json == []


@pytest.mark.parametrize("command", ["add", "update"])
@pytest.mark.parametrize(
    "more",
    [
        ["--api-keys", CANARY],
        [f"--apikey={CANARY}"],
        [f"--apiKey={CANARY}"],
        ["--API_KEY", CANARY],
        ["--api-key"],
        [f"--api-key-stdin={CANARY}"],
        [f"--no-api-key={CANARY}"],
    ],
)
def test_a_key_as_an_argument_is_answered_with_the_ways_to_give_it(
    capsys: pytest.CaptureFixture[str], command: str, more: list[str]
) -> None:
    ended = call(capsys, "providers", command, "acme", "-m", "ok", *more)
    assert ended.code == 2
    assert ended.sentence == REFUSAL
    assert CANARY not in ended.err


def test_other_invalid_options_keep_their_own_message(capsys: pytest.CaptureFixture[str]) -> None:
    assert "--api-key-env requires an argument" in call(capsys, "providers", "add", "a", "--api-key-env").sentence
    assert "Did you mean --api-key-env?" in call(capsys, "providers", "update", "a", "--api-key-en=X").sentence
    assert "Unknown option: --api-key." in call(capsys, "usage", "--api-key", "x").sentence


def test_an_empty_or_interrupted_prompt_ends_the_command(set_up: SetUp) -> None:
    assert on_terminal(*flags(set_up), typed="\n").code == 2
    ended = on_terminal(*flags(set_up), typed="\x04")
    assert (ended.code, "Nothing was entered." in ended.out) == (1, True)
    assert on_terminal(*flags(set_up), typed="\x03").code == 130


def test_a_key_that_is_not_text_is_rejected(set_up: SetUp) -> None:
    ended = execute(*flags(set_up), stdin=b"\xff\xfe\x00sk")
    assert ended.code == 1
    assert "api_key" in ended.sentence


def test_the_embedded_model_requires_no_key(set_up: SetUp) -> None:
    ended = execute("providers", "add", "local", "-m", "x")
    assert (ended.code, "LLM_GATEWAY_LOCAL_MODEL" in ended.sentence) == (1, True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["providers", "add", "acme", CANARY, "-m", "ok"], "1 argument more than the command takes"),
        (["providers", "add", "acme", "key", "0123456789abcdef" * 2, "-m", "ok"], "2 arguments more than the command"),
        (["providers", "list", CANARY], "1 argument more than the command takes"),
        ([CANARY], 'Unknown command "sk-[redacted]"'),
        (["providers", CANARY], 'Unknown command "sk-[redacted]"'),
        (["providers", "list", f"--url-of={CANARY}"], "Unknown option"),
        (["usage", "--days", CANARY], "--days"),
    ],
)
def test_a_key_in_a_wrong_place_is_not_repeated(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = call(capsys, *arguments)
    assert code == 2
    assert message in err
    assert CANARY not in err
    assert "0123456789abcdef" not in err
