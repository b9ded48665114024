"""Syntax of a provider's base_url: one regular expression for validation and for the OpenAPI document."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

MAX_CHARACTERS = 2000

_OCTET = r"(25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
_IPV4 = rf"({_OCTET}\.){{3}}{_OCTET}"
# The last label of a host name is neither a decimal nor a hexadecimal number: the WHATWG URL standard parses a host
# that ends in one as an IPv4 address.
_NAME = r"([A-Za-z0-9_-]+\.)*([0-9]*[A-WYZa-wyz_-]|[Xx])[A-Za-z0-9_-]*"
_GROUP = r"[0-9A-Fa-f]{1,4}"
_TAIL = rf"({_GROUP}:{_GROUP}|{_IPV4})"
# RFC 3986, section 3.2.2: IPv6address.
_IPV6 = "|".join(
    [
        rf"({_GROUP}:){{6}}{_TAIL}",
        rf"::({_GROUP}:){{5}}{_TAIL}",
        rf"({_GROUP})?::({_GROUP}:){{4}}{_TAIL}",
        rf"(({_GROUP}:)?{_GROUP})?::({_GROUP}:){{3}}{_TAIL}",
        rf"(({_GROUP}:){{0,2}}{_GROUP})?::({_GROUP}:){{2}}{_TAIL}",
        rf"(({_GROUP}:){{0,3}}{_GROUP})?::{_GROUP}:{_TAIL}",
        rf"(({_GROUP}:){{0,4}}{_GROUP})?::{_TAIL}",
        rf"(({_GROUP}:){{0,5}}{_GROUP})?::{_GROUP}",
        rf"(({_GROUP}:){{0,6}}{_GROUP})?::",
    ]
)
_FOUR_DIGITS = r"[1-9][0-9]{3}|0?[1-9][0-9]{2}|0{0,2}[1-9][0-9]|0{0,3}[1-9]"
_PORT = rf"(6553[0-5]|655[0-2][0-9]|65[0-4][0-9]{{2}}|6[0-4][0-9]{{3}}|[1-5][0-9]{{4}}|{_FOUR_DIGITS})"
PATTERN = rf"^[Hh][Tt][Tt][Pp][Ss]?://({_NAME}|{_IPV4}|\[({_IPV6})\])(:{_PORT})?(/[!-\"$->@-~]*)?$"
"""An absolute http(s) URL in printable ASCII, without query, fragment or credentials.

All URL parsers read the same host from it, so that the egress check sees the host that is called.
"""

_WHOLE = re.compile(PATTERN.removeprefix("^").removesuffix("$"))


def problem_of(url: str) -> str | None:
    """Return what is wrong with the URL, as the end of a sentence; None if it is valid."""
    if len(url) > MAX_CHARACTERS:
        return f"it must have at most {MAX_CHARACTERS} characters."
    if _WHOLE.fullmatch(url):
        return None
    if not url.isascii() or any(ord(character) <= 32 or ord(character) == 127 for character in url):
        return "it must be ASCII without blanks or control characters; an international name starts with xn--."
    try:
        parts = urlsplit(url)
    except ValueError:
        return "it is not a valid URL."
    if parts.scheme not in ("http", "https") or not parts.netloc:
        return "it must be an absolute http or https URL."
    if "?" in url or "#" in url or "@" in parts.netloc:
        return "it must have no query, fragment or credentials."
    return "its host or port is not valid."
