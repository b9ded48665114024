"""Check that an IP address is on the public internet, as upstream calls in production require (against SSRF).

`ipaddress.is_global` is not enough: it counts NAT64, 6to4, the old site-local range and two clouds' metadata addresses
as global. The ranges are those of the IANA special-purpose registries (RFC 6890) and the ones named below.
"""

from __future__ import annotations

import ipaddress

NEVER = tuple(
    ipaddress.ip_network(text)
    for text in (
        "::/96",  # IPv4-compatible, deprecated (RFC 4291)
        "::ffff:0:0:0/96",  # IPv4-translated (RFC 7915): may reach any IPv4 address
        "64:ff9b::/96",  # NAT64 (RFC 6052): reaches any IPv4 address, private ones included
        "64:ff9b:1::/48",  # local-use NAT64 (RFC 8215)
        "2002::/16",  # 6to4 (RFC 3056), wraps an IPv4 address
        "2001::/32",  # Teredo (RFC 4380), wraps one too
        "3fff::/20",  # documentation (RFC 9637)
        "5f00::/16",  # segment routing (RFC 9602)
        "fec0::/10",  # site-local, deprecated (RFC 3879)
        "192.88.99.0/24",  # 6to4 relays, deprecated (RFC 7526)
        "192.0.0.0/24",  # IETF protocol assignments; 192.0.0.192 is a cloud's metadata address
        "168.63.129.16/32",  # a cloud's platform address
        "100.64.0.0/10",  # shared address space (RFC 6598)
    )
)


def is_public(address: str) -> bool:
    """Return whether an IP address is on the public internet; an IPv4-mapped IPv6 address counts as its IPv4 address.

    Raises:
        ValueError: `address` is not an IP address.
    """
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped is not None:
        ip = ip.ipv4_mapped
    if not ip.is_global or ip.is_multicast:
        return False
    return not any(ip in network for network in NEVER if network.version == ip.version)
