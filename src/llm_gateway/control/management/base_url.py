"""What a provider's base_url may look like, as a rule for the code and as a pattern for the API's description."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

MAX_CHARACTERS = 2000

_OCTET = r"(25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
_IPV4 = rf"({_OCTET}\.){{3}}{_OCTET}"
# A name's last label has more than digits and is no hexadecimal number: the URL standard takes those for addresses.
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
_PORT = r"(6553[0-5]|655[0-2][0-9]|65[0-4][0-9]{2}|6[0-4][0-9]{3}|[1-5][0-9]{4}|[0-9]{1,4})"
PATTERN = rf"^[Hh][Tt][Tt][Pp][Ss]?://({_NAME}|{_IPV4}|\[({_IPV6})\])(:{_PORT})?(/[!-\"$->@-~]*)?$"
"""An absolute http(s) URL in printable ASCII, without query, fragment or credentials.

What every parser reads as the same host: the one that is checked is the one that is called.
"""

_WHOLE = re.compile(PATTERN.removeprefix("^").removesuffix("$"))


def problem_of(url: str) -> str | None:
    """What is wrong with it, as a sentence; None if nothing is."""
    if len(url) > MAX_CHARACTERS:
        return f"it must have at most {MAX_CHARACTERS} characters."
    if _WHOLE.fullmatch(url):
        return None
    if not url.isascii() or any(ord(character) <= 32 or ord(character) == 127 for character in url):
        return "it must be ASCII without blanks or control characters; an international name starts with xn--."
    try:
        parts = urlsplit(url)
    except ValueError:
        return "it is no URL."
    if parts.scheme not in ("http", "https") or not parts.netloc:
        return "it must be an absolute http or https URL."
    if "?" in url or "#" in url or "@" in parts.netloc:
        return "it must have no query, fragment or credentials."
    return "its host is not a name, an address or a port that can be called."
