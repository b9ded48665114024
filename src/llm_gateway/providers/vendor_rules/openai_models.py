"""Globs of OpenAI's models, by what they accept, for the tables of vendors' words and limits."""

from __future__ import annotations

OPENAI = ("openai", "")
"""OpenAI, and providers of no known vendor for rules about OpenAI's own models, which Azure and proxies serve."""
O_SERIES = ("o[0-9]", "o[0-9][-:@]*")
GPT_5 = ("gpt-5", "gpt-5-*")
LATER_GPT = ("gpt-5.*", "gpt-[6-9]", "gpt-[6-9][-.]*")
REASONING = (*O_SERIES, *GPT_5, *LATER_GPT)
CHAT = ("gpt-5-chat*", "gpt-5.*-chat*")
"""Chat models called GPT-5: the first one does not reason, later ones have words of their own."""
CHAT_EFFORT = "https://github.com/Laisky/one-api/issues/120"
"""Source: GPT-5 Chat refuses an effort."""
