"""Coding agents as users run them: npm packages, non-interactive, configured as `llm-gateway agent` prints."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
from abc import ABC, abstractmethod
from pathlib import Path

from llm_gateway.domain.agent_configurations import (
    aider_config,
    claude_config,
    codex_config,
    gemini_config,
    opencode_config,
    qwen_config,
)
from tests.e2e.process import KEY

COMMANDS = Path(__file__).parent / "npm" / "node_modules" / ".bin"
AIDER = Path(__file__).parents[2] / ".venv-aider" / "bin" / "aider"
PATIENCE_S = 300


class Agent(ABC):
    """An agent with a home directory and a working directory of its own, configured for a gateway and one model."""

    name: str
    """Its name in the matrix, and that of its command."""

    def __init__(self, directory: Path, port: int, model: str) -> None:
        self.home, self.work = directory / "home", directory / "work"
        self.home.mkdir()
        self.work.mkdir()
        self.root, self.model = f"http://127.0.0.1:{port}", model
        self.environment = {"PATH": os.environ["PATH"], "HOME": str(self.home), "NO_COLOR": "1"}
        self.configure()

    @classmethod
    def command_path(cls) -> Path:
        """Return the path of its command, which need not exist."""
        return COMMANDS / cls.name

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
        done = self.run(prompt, resume=resume)
        assert done.returncode == 0, f"{self.name} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}"
        return self.reply(done.stdout)

    def run(self, prompt: str, *, resume: bool = False) -> subprocess.CompletedProcess[str]:
        """Run one turn, however it ends."""
        return subprocess.run(
            self.command(prompt, resume=resume),
            cwd=self.work,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )


class ClaudeCode(Agent):
    name = "claude"

    def configure(self) -> None:
        self.export(claude_config(self.root, KEY, self.model))
        self.environment |= {
            "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
            "IS_SANDBOX": "1",  # permits --dangerously-skip-permissions to root
        }

    def command(self, prompt: str, *, resume: bool) -> list[str]:
        flags = ["--output-format", "json", "--dangerously-skip-permissions", *(["--continue"] if resume else [])]
        return [str(self.command_path()), "-p", prompt, *flags]

    def reply(self, output: str) -> str:
        return str(json.loads(output)["result"])


class Codex(Agent):
    name = "codex"

    def configure(self) -> None:
        (self.home / ".codex").mkdir()
        unattended = 'approval_policy = "never"\nsandbox_mode = "danger-full-access"\n'
        (self.home / ".codex" / "config.toml").write_text(unattended + codex_config(self.root, KEY, self.model))
        self.environment["GATEWAY_KEY"] = KEY

    def command(self, prompt: str, *, resume: bool) -> list[str]:
        verb = ["exec", "resume", "--last"] if resume else ["exec"]
        return [str(self.command_path()), *verb, "--skip-git-repo-check", "--json", prompt]

    def reply(self, output: str) -> str:
        items = [json.loads(line).get("item") or {} for line in output.splitlines() if line.startswith("{")]
        return str([item["text"] for item in items if item.get("type") == "agent_message"][-1])


class GeminiCli(Agent):
    name = "gemini"

    def configure(self) -> None:
        (self.home / ".gemini").mkdir()
        settings = {"security": {"auth": {"selectedType": "gemini-api-key"}}}
        (self.home / ".gemini" / "settings.json").write_text(json.dumps(settings))
        self.export(gemini_config(self.root, KEY, self.model))

    def command(self, prompt: str, *, resume: bool) -> list[str]:
        flags = ["--yolo", "--skip-trust", "-o", "json", *(["--resume", "latest"] if resume else [])]
        return [str(self.command_path()), *flags, "-p", prompt]

    def reply(self, output: str) -> str:
        return str(json.loads(output[output.index("{") :])["response"])


class OpenCode(Agent):
    name = "opencode"

    def configure(self) -> None:
        folder = self.home / ".config" / "opencode"
        folder.mkdir(parents=True)
        (folder / "opencode.json").write_text(opencode_config(self.root, KEY, self.model))
        self.environment |= {
            "GATEWAY_KEY": KEY,
            "OPENCODE_DISABLE_AUTOUPDATE": "1",
            "OPENCODE_DISABLE_MODELS_FETCH": "1",
        }

    def command(self, prompt: str, *, resume: bool) -> list[str]:
        flags = ["--format", "json", "--auto", *(["--continue"] if resume else [])]
        return [str(self.command_path()), "run", *flags, prompt]

    def reply(self, output: str) -> str:
        events = [json.loads(line) for line in output.splitlines() if line.startswith("{")]
        return str([event["part"]["text"] for event in events if event["type"] == "text"][-1])


class QwenCode(Agent):
    name = "qwen"

    def configure(self) -> None:
        self.export(qwen_config(self.root, KEY, self.model))

    def command(self, prompt: str, *, resume: bool) -> list[str]:
        flags = ["--yolo", "-o", "json", *(["--continue"] if resume else [])]
        return [str(self.command_path()), *flags, prompt]

    def reply(self, output: str) -> str:
        events = json.loads(output[output.index("[") :])
        return str([event["result"] for event in events if event["type"] == "result"][-1])


class Aider(Agent):
    """aider has no tools: the model edits files by blocks in its answer, and reads those that the user names."""

    name = "aider"

    @classmethod
    def command_path(cls) -> Path:
        return AIDER

    def configure(self) -> None:
        self.export(aider_config(self.root, KEY, self.model))
        self.environment |= {"AIDER_ANALYTICS_DISABLE": "true", "LITELLM_LOCAL_MODEL_COST_MAP": "True"}

    def command(self, prompt: str, *, resume: bool) -> list[str]:
        flags = ["--yes-always", "--no-git", "--no-check-update", "--no-show-release-notes", "--no-show-model-warnings"]
        flags += ["--edit-format", "diff", *(["--restore-chat-history"] if resume else [])]
        return [str(self.command_path()), *flags, "--message", prompt]

    def reply(self, output: str) -> str:
        """Return the answer from the history file: there the user's lines begin with #, aider's own with >."""
        history = (self.work / ".aider.chat.history.md").read_text()
        lines = history.rpartition("\n#### ")[2].splitlines()[1:]
        return "\n".join(line for line in lines if not line.startswith(">")).strip()


AGENTS = {agent.name: agent for agent in (ClaudeCode, Codex, GeminiCli, OpenCode, QwenCode, Aider)}
