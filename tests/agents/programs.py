"""Coding agents as users run them: npm packages, non-interactive, configured as `llm-gateway agent` prints."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
from abc import ABC, abstractmethod
from pathlib import Path

from llm_gateway.cli.agents import claude_config, codex_config, gemini_config
from tests.e2e.process import KEY

COMMANDS = Path(__file__).parent / "npm" / "node_modules" / ".bin"
PATIENCE_S = 120


class Agent(ABC):
    """An agent with a home directory and a working directory of its own, configured for a gateway and one model."""

    name: str
    program: str
    """The name of its command."""
    resumes_tools = True
    """False if it sends a history with tools that its own vendor refuses when it resumes a session."""

    def __init__(self, directory: Path, port: int, model: str) -> None:
        self.home, self.work = directory / "home", directory / "work"
        self.home.mkdir()
        self.work.mkdir()
        self.root, self.model = f"http://127.0.0.1:{port}", model
        self.environment = {"PATH": os.environ["PATH"], "HOME": str(self.home), "NO_COLOR": "1"}
        self.configure()

    @abstractmethod
    def configure(self) -> None:
        """Write the agent's configuration, as docs/AGENTS.md shows it."""

    @abstractmethod
    def command(self, prompt: str, *, resume: bool) -> list[str]:
        """Return the command line of one turn; `resume` continues the last session of this directory."""

    @abstractmethod
    def reply(self, output: str) -> str:
        """Return the agent's last message in its output."""

    def export(self, lines: str) -> None:
        """Set the environment variables that shell lines export."""
        pairs = [word.partition("=") for word in shlex.split(lines) if word != "export"]
        self.environment |= {name: value for name, _, value in pairs}

    def ask(self, prompt: str, *, resume: bool = False) -> str:
        """Run one turn and return the agent's last message."""
        done = subprocess.run(
            self.command(prompt, resume=resume),
            cwd=self.work,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )
        assert done.returncode == 0, f"{self.name} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}"
        return self.reply(done.stdout)


class ClaudeCode(Agent):
    name = program = "claude"

    def configure(self) -> None:
        self.export(claude_config(self.root, KEY, self.model))
        self.environment |= {
            "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
            "IS_SANDBOX": "1",  # permits --dangerously-skip-permissions to root
        }

    def command(self, prompt: str, *, resume: bool) -> list[str]:
        flags = ["--output-format", "json", "--dangerously-skip-permissions", *(["--continue"] if resume else [])]
        return [str(COMMANDS / "claude"), "-p", prompt, *flags]

    def reply(self, output: str) -> str:
        return str(json.loads(output)["result"])


class Codex(Agent):
    name = program = "codex"

    def configure(self) -> None:
        (self.home / ".codex").mkdir()
        unattended = 'approval_policy = "never"\nsandbox_mode = "danger-full-access"\n'
        (self.home / ".codex" / "config.toml").write_text(unattended + codex_config(self.root, KEY, self.model))
        self.environment["GATEWAY_KEY"] = KEY

    def command(self, prompt: str, *, resume: bool) -> list[str]:
        verb = ["exec", "resume", "--last"] if resume else ["exec"]
        return [str(COMMANDS / "codex"), *verb, "--skip-git-repo-check", "--json", prompt]

    def reply(self, output: str) -> str:
        items = [json.loads(line).get("item") or {} for line in output.splitlines() if line.startswith("{")]
        return str([item["text"] for item in items if item.get("type") == "agent_message"][-1])


class GeminiCli(Agent):
    name = program = "gemini"
    resumes_tools = False  # 0.61 sends each result twice: "number of function response parts", its issue 16984

    def configure(self) -> None:
        (self.home / ".gemini").mkdir()
        settings = {"security": {"auth": {"selectedType": "gemini-api-key"}}}
        (self.home / ".gemini" / "settings.json").write_text(json.dumps(settings))
        self.export(gemini_config(self.root, KEY, self.model))

    def command(self, prompt: str, *, resume: bool) -> list[str]:
        flags = ["--yolo", "--skip-trust", "-o", "json", *(["--resume", "latest"] if resume else [])]
        return [str(COMMANDS / "gemini"), *flags, "-p", prompt]

    def reply(self, output: str) -> str:
        return str(json.loads(output[output.index("{") :])["response"])


AGENTS = {agent.name: agent for agent in (ClaudeCode, Codex, GeminiCli)}
