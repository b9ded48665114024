"""Explain why a request has no valid key, in the terms of the protocol of its path. Messages contain no part of a key.

The causes are distinguished: no key, a key in another header or parameter, a malformed key, an unknown key. That
reveals nothing to an attacker, since only the last one depends on the configured keys.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from difflib import get_close_matches
from itertools import islice

from starlette.types import Scope

from llm_gateway.protocols.registry import VENDOR_PATH_PREFIXES, protocol_of

SERVICE_KEY = b"x-service-key"
AUTHORIZATION = b"authorization"
SHOWN = {
    SERVICE_KEY: "X-Service-Key: KEY",
    AUTHORIZATION: "Authorization: Bearer KEY",
    b"x-api-key": "x-api-key: KEY",
    b"x-goog-api-key": "x-goog-api-key: KEY",
}
"""Headers in which clients send keys, as examples for messages."""
_ALMOST = (
    *("api-key", "apikey", "api_key", "x-apikey", "x-api_key", "key", "x-key", "token", "x-token", "bearer"),
    *("service-key", "servicekey", "x-servicekey", "x-service-token", "auth-token", "x-auth-token", "x-auth-key"),
    *("x-authorization", "proxy-authorization", "ocp-apim-subscription-key"),
)
"""Headers in which other APIs expect a key, or that resemble the gateway's own."""
_IN_QUERY = re.compile(rb"(?i)(?:^|&)(?:x[-_])?(?:service[-_]?|api[-_]?)?(?:key|token)=")
_SCHEMES = ("basic", "token", "apikey", "api-key", "key", "digest", "x-api-key", "x-service-key")
_QUOTES = tuple("\"'`\u2018\u2019\u201c\u201d\xab\xbb")
_PLACEHOLDER = re.compile(r"<.*>$|\{.*\}$|\[.*\]$|(?i:your|insert|replace)[-_ ]|KEY$|x{5,}$|\.{3}")
_VENDORS = {"sk-ant-": "Anthropic", "sk-": "OpenAI", "AIza": "Google", "gsk_": "Groq", "hf_": "Hugging Face"}
_PARTS = ("key", "aut", "token", "service")
"""Parts of header names that are worth a comparison with the headers for keys."""
MOST_COMPARED, LONGEST_NAME = 3, 40
"""Maximum number of header names that are compared, and of characters of such a name.

A comparison takes some 30 µs on the event loop, and a client without a key can send a hundred headers.
"""


def explain(
    scope: Scope, headers: Mapping[bytes, bytes], key: bytes | None, dev_key: str | None, problem: str | None = None
) -> str:
    """Return a sentence on what is wrong with the key, and one on what to send.

    `key` is the unknown key of the request, None if it has no key. `dev_key` is the public development key if it is
    valid. `problem` is what is wrong if that is known already.
    """
    place = _place_of(scope, headers)
    if problem is None:
        problem = _problem_of_value(key) if key is not None else _problem_of_headers(scope, headers)
    dev = f" In dev mode the key is {dev_key}." if dev_key is not None else ""
    return f"{problem} Send a service key of the gateway as `{SHOWN[place]}`.{dev}"


def _place_of(scope: Scope, headers: Mapping[bytes, bytes]) -> bytes:
    """Return the header in which clients of this path send their key."""
    path: str = scope["path"]
    if not path.startswith(VENDOR_PATH_PREFIXES):
        return SERVICE_KEY
    return protocol_of(path, headers, scope["query_string"]).credential_headers[0]


def _problem_of_headers(scope: Scope, headers: Mapping[bytes, bytes]) -> str:
    if AUTHORIZATION in headers:
        return _problem_of_authorization(headers[AUTHORIZATION].decode("latin-1").strip())
    for name in SHOWN:
        if name in headers:
            return f"The header {_title(name)} is empty: is the variable that it is made from set?"
    found = next((name for name in _ALMOST if name.encode() in headers), None) or _misspelt(headers)
    if found is not None:
        return f"No key was found: the gateway does not read one from the header {found}."
    if _IN_QUERY.search(scope["query_string"]):
        return "No key was found: this path does not read one from the query string, which logs and proxies keep."
    return "No key was sent."


def _misspelt(headers: Mapping[bytes, bytes]) -> str | None:
    """Return the name of a header that resembles one of the headers for keys."""
    known = [name.decode() for name in SHOWN]
    names = (name.decode("latin-1") for name in headers if len(name) <= LONGEST_NAME)
    similar = (name for name in names if any(part in name for part in _PARTS))
    return next((name for name in islice(similar, MOST_COMPARED) if get_close_matches(name, known, 1, 0.85)), None)


def _problem_of_authorization(value: str) -> str:
    scheme, _, rest = value.partition(" ")
    word = scheme.rstrip(":=").lower()
    if not value:
        return "The header Authorization is empty: is the variable that it is made from set?"
    if word == "bearer" and not rest.strip():
        return "The header Authorization holds no key after Bearer: is the variable that it is made from set?"
    if word.startswith("bearer"):
        return "The header Authorization needs one space, and nothing else, between Bearer and the key."
    if word in _SCHEMES:
        return f"The header Authorization has the scheme {word}, not Bearer."
    return "The header Authorization does not begin with the word Bearer."


def _problem_of_value(key: bytes) -> str:
    text = key.decode("utf-8", "replace").strip()
    if text.startswith(_QUOTES) or text.endswith(_QUOTES):
        return "The key is sent with quotes around it, which are not part of it."
    if re.match(r"(?i)bearer\b", text):
        return "The key begins with the word Bearer, which is not part of it: remove this word."
    if re.match(r"(?i)(x-service-key|x-api-key|x-goog-api-key|authorization)\s*[:=]", text):
        return "The key is sent with the name of a header in front of it."
    if re.search(r"\s|\\[nrt]", text):
        return "The key contains a blank or a line break, which no service key does: copy it again."
    if not (text.isascii() and text.isprintable()):
        return "The key contains characters other than printable ASCII, which no service key does: copy it again."
    if re.match(r"\$|%\w+%$", text):
        return "The key is the name of a shell variable, not its value: put it in double quotes, not single ones."
    if _PLACEHOLDER.match(text):
        return "The key looks like a placeholder: replace it."
    for prefix, vendor in _VENDORS.items():
        if text.startswith(prefix):
            return (
                f"The key is not known: it looks like a key of {vendor}. To add such a key to the gateway, use "
                "`llm-gateway providers add` or POST /api/v1/providers."
            )
    return "The key is not known: it is neither in LLM_GATEWAY_SERVICE_KEYS nor made with POST /api/v1/keys."


def _title(name: bytes) -> str:
    return SHOWN[name].partition(":")[0]
