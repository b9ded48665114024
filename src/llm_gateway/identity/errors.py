"""Errors of identity providers and of their tokens."""

from __future__ import annotations


class IdentityRefused(Exception):
    """A token or a sign-in is refused; the message is a sentence for the person. `status` is that of the response."""

    def __init__(self, sentence: str, status: int = 401) -> None:
        super().__init__(sentence)
        self.status = status


class ProviderUnusable(IdentityRefused):
    """The identity provider does not answer, or not as OpenID Connect demands."""

    def __init__(self, sentence: str) -> None:
        super().__init__(sentence, 502)
