"""Assemble stream chunks into a complete reply, and split a complete reply into stream chunks."""

from __future__ import annotations

from typing import Any, TypeAlias

from llm_gateway.domain.conversation import (
    BillingUpdate,
    Choice,
    ChoiceEnd,
    Chunk,
    Completion,
    Part,
    Refusal,
    RefusalDelta,
    ReplyStart,
    Text,
    TextDelta,
    Thinking,
    ThinkingDelta,
    ToolCall,
    ToolDelta,
    ToolStart,
    UsageUpdate,
    VendorPart,
    VendorPartDelta,
)
from llm_gateway.domain.output_estimate import estimated_output
from llm_gateway.domain.usage import Usage

_Other: TypeAlias = ToolDelta | ToolStart | ThinkingDelta | RefusalDelta | VendorPartDelta | ChoiceEnd


class _Open:
    """A choice that is still streaming. `pieces` has a list of text pieces for each of `parts`, joined at the end."""

    __slots__ = ("calls", "end", "logprobs", "parts", "pieces")

    def __init__(self) -> None:
        self.parts: list[Part] = []
        self.pieces: list[list[str]] = []
        self.calls: dict[int, int] = {}
        self.end = ChoiceEnd()
        self.logprobs: dict[str, list[Any]] = {}

    def append(self, part: Part, text: str) -> None:
        self.parts.append(part)
        self.pieces.append([text])

    def last(self, kind: type[Part]) -> bool:
        return bool(self.parts) and isinstance(self.parts[-1], kind)


class ReplyAssembler:
    """A streamed reply under construction."""

    __slots__ = ("_choices", "_finished", "_text_of", "_texts", "billing", "is_estimated", "start", "usage")

    def __init__(self) -> None:
        self.start = ReplyStart()
        self.usage: Usage | None = None
        self.is_estimated = False
        self.billing = BillingUpdate()
        self._choices: dict[int, _Open] = {}
        self._finished: set[int] = set()
        self._text_of = -1  # the choice whose open text part the last chunk belonged to; -1 if there is none
        self._texts: list[str] = []

    @property
    def is_finished(self) -> bool:
        """True if at least one choice began, and every choice that began has finished."""
        return bool(self._finished) and len(self._finished) == len(self._choices)

    def take(self, chunk: Chunk) -> None:
        """Add the next chunk."""
        if isinstance(chunk, TextDelta):
            # The common case takes the shortest path: nearly all chunks continue the open text part.
            if chunk.choice == self._text_of and chunk.logprobs is None and chunk.signature is None:
                self._texts.append(chunk.text)
                return
            self._text(self._choices.get(chunk.choice) or self._open(chunk.choice), chunk)
        elif isinstance(chunk, ReplyStart):
            self.start = chunk
        elif isinstance(chunk, UsageUpdate):
            self.usage, self.is_estimated = chunk.usage, chunk.is_estimated
        elif isinstance(chunk, BillingUpdate):
            self.billing = chunk
        else:
            self._text_of = -1
            self._other(self._choices.get(chunk.choice) or self._open(chunk.choice), chunk)

    def _open(self, index: int) -> _Open:
        choice = self._choices[index] = _Open()
        return choice

    def _other(self, choice: _Open, chunk: _Other) -> None:
        if isinstance(chunk, ToolDelta):
            choice.pieces[choice.calls[chunk.call]].append(chunk.arguments)
        elif isinstance(chunk, ToolStart):
            choice.calls[chunk.call] = len(choice.parts)
            choice.append(ToolCall(id=chunk.id, name=chunk.name, arguments="", signature=chunk.signature), "")
        elif isinstance(chunk, ThinkingDelta):
            self._thinking(choice, chunk)
        elif isinstance(chunk, RefusalDelta):
            if choice.last(Refusal):
                choice.pieces[-1].append(chunk.text)
            else:
                choice.append(Refusal(text=""), chunk.text)
        elif isinstance(chunk, VendorPartDelta):
            if not choice.last(VendorPart):
                choice.append(VendorPart(kind=chunk.kind), "")
        else:
            choice.end = chunk
            self._finished.add(chunk.choice)

    def _text(self, choice: _Open, chunk: TextDelta) -> None:
        parts = choice.parts
        last = parts[-1] if parts else None
        if isinstance(last, Text) and last.signature is None:
            choice.pieces[-1].append(chunk.text)
        elif chunk.signature is not None and not chunk.text:
            return  # a signature without any text to sign
        else:
            choice.append(Text(text=""), chunk.text)
        self._text_of, self._texts = chunk.choice, choice.pieces[-1]
        if chunk.signature is not None:
            parts[-1] = Text(text="", signature=chunk.signature)
            self._text_of = -1
        if chunk.logprobs is not None:
            for name, values in chunk.logprobs.items():
                if isinstance(values, list):
                    choice.logprobs.setdefault(name, []).extend(values)

    def _thinking(self, choice: _Open, chunk: ThinkingDelta) -> None:
        last = choice.parts[-1] if choice.parts else None
        if not isinstance(last, Thinking) or last.signature is not None or last.redacted is not None:
            last = Thinking()
            choice.append(last, "")
        choice.pieces[-1].append(chunk.text)
        last.signature, last.redacted = chunk.signature, chunk.redacted

    def completion(self) -> Completion:
        """Return the reply received so far. Estimates the output tokens if the provider has reported no usage."""
        usage = self.usage
        choices = [_closed(self._choices[index]) for index in sorted(self._choices)]
        return Completion(
            choices=choices,
            usage=estimated_output(choices) if usage is None else usage,
            usage_estimated=usage is None or self.is_estimated,
            id=self.start.id,
            model=self.start.model,
            created_s=self.start.created_s,
            service_tier=self.billing.service_tier,
            units=self.billing.units,
        )


def _closed(choice: _Open) -> Choice:
    """Join the pieces of each part into its text."""
    parts: list[Part] = []
    for part, pieces in zip(choice.parts, choice.pieces, strict=True):
        text = "".join(pieces)
        if isinstance(part, ToolCall):
            part = ToolCall(id=part.id, name=part.name, arguments=text, signature=part.signature)  # noqa: PLW2901
        elif isinstance(part, Thinking):
            part = Thinking(text=text, signature=part.signature, redacted=part.redacted)  # noqa: PLW2901
        elif isinstance(part, Refusal):
            part = Refusal(text=text)  # noqa: PLW2901
        elif not isinstance(part, VendorPart):
            part = Text(text=text, signature=part.signature if isinstance(part, Text) else None)  # noqa: PLW2901
        parts.append(part)
    return Choice(
        parts=parts,
        finish_reason=choice.end.reason,
        stop_sequence=choice.end.stop_sequence,
        logprobs=dict(choice.logprobs) or None,
    )


def chunks_of(completion: Completion) -> list[Chunk]:
    """Split a complete reply into chunks, one or two per part, to stream a cached answer. Omits VendorPart parts."""
    chunks: list[Chunk] = [ReplyStart(id=completion.id, model=completion.model, created_s=completion.created_s)]
    for index, choice in enumerate(completion.choices):
        chunks += _pieces(choice, index)
    chunks.append(UsageUpdate(usage=completion.usage))
    return chunks


def _pieces(choice: Choice, index: int) -> list[Chunk]:
    chunks: list[Chunk] = []
    calls = 0
    logprobs = choice.logprobs
    for part in choice.parts:
        if isinstance(part, Text):
            chunks.append(TextDelta(text=part.text, signature=part.signature, choice=index, logprobs=logprobs))
            logprobs = None
        elif isinstance(part, Refusal):
            chunks.append(RefusalDelta(text=part.text, choice=index))
        elif isinstance(part, Thinking):
            chunks.append(ThinkingDelta(text=part.text, signature=part.signature, redacted=part.redacted, choice=index))
        elif isinstance(part, ToolCall):
            chunks.append(ToolStart(call=calls, id=part.id, name=part.name, signature=part.signature, choice=index))
            chunks.append(ToolDelta(call=calls, arguments=part.arguments, choice=index))
            calls += 1
    chunks.append(ChoiceEnd(reason=choice.finish_reason, stop_sequence=choice.stop_sequence, choice=index))
    return chunks
