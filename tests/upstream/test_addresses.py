"""Public IP addresses: private and special ranges, and addresses that embed such an address, are not public."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_gateway.upstream.addresses import is_public
from tests.rows import each_row

PRIVATE_V4 = [
    "0.0.0.0/8",
    "10.0.0.0/8",
    "100.64.0.0/10",
    "127.0.0.0/8",
    "168.63.129.16/32",
    "169.254.0.0/16",
    "172.16.0.0/12",
    "192.0.0.0/24",
    "192.0.2.0/24",
    "192.88.99.0/24",
    "192.168.0.0/16",
    "198.18.0.0/15",
    "198.51.100.0/24",
    "203.0.113.0/24",
    "224.0.0.0/4",
    "240.0.0.0/4",
]
PRIVATE_V6 = [
    "::/128",
    "::1/128",
    "::/96",
    "::ffff:0:0:0/96",
    "64:ff9b::/96",
    "64:ff9b:1::/48",
    "100::/64",
    "2001::/32",
    "2001:db8::/32",
    "2002::/16",
    "3fff::/20",
    "5f00::/16",
    "fc00::/7",
    "fe80::/10",
    "fec0::/10",
    "ff00::/8",
]
METADATA = ["169.254.169.254", "fd00:ec2::254", "192.0.0.192", "168.63.129.16", "100.100.100.200"]


@pytest.mark.parametrize(
    "address", ["8.8.8.8", "1.1.1.1", "100.63.255.255", "100.128.0.0", "168.63.129.17", "172.32.0.1", "192.0.1.0"]
)
def test_a_public_v4_address_is_public(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize("address", ["2606:4700::1111", "2a00:1450:4001:800::200e", "2001:4860:4860::8888", "2003::1"])
def test_a_public_v6_address_is_public(address: str) -> None:
    assert is_public(address)


@each_row("network", PRIVATE_V4 + PRIVATE_V6)
def test_both_ends_of_each_special_range_are_not_public(network: str) -> None:
    addresses = ip_network(network)

    assert not is_public(str(addresses[0]))
    assert not is_public(str(addresses[-1]))


@pytest.mark.parametrize("address", METADATA)
def test_the_metadata_services_of_clouds_are_not_public(address: str) -> None:
    assert not is_public(address)


@given(st.sampled_from(PRIVATE_V4).flatmap(lambda text: st.ip_addresses(v=4, network=text)))
def test_forms_that_embed_a_private_address_are_not_public(address: IPv4Address) -> None:
    number = int(address)
    wrapped = [
        IPv6Address((0xFFFF << 32) | number),
        IPv6Address(number),
        IPv6Address((0x64FF9B << 96) | number),
        IPv6Address((0x2002 << 112) | (number << 80)),
        IPv6Address((0x20010000 << 96) | (number ^ 0xFFFFFFFF)),
    ]

    assert not any(is_public(text) for text in (str(address), *map(str, wrapped)))


def test_an_ipv4_mapped_address_counts_as_its_ipv4_address() -> None:
    assert is_public("::ffff:8.8.8.8")
    assert not is_public("::ffff:10.0.0.1")
    assert not is_public("::ffff:a9fe:a9fe")
    assert not is_public("::ffff:224.0.0.1")


def test_a_zone_is_ignored() -> None:
    assert not is_public("fe80::1%eth0")
    assert is_public("2606:4700::1111%eth0")


@given(st.ip_addresses(v=6))
def test_an_ipv6_address_in_a_special_range_is_not_public(address: IPv6Address) -> None:
    if any(address in ip_network(network) for network in PRIVATE_V6):
        assert not is_public(str(address))


@pytest.mark.parametrize("text", ["", "example.com", "127.1", "0x7f.0.0.1", "2130706433", "[::1]", "1.2.3.4:80"])
def test_text_that_is_not_an_address_is_an_error(text: str) -> None:
    with pytest.raises(ValueError, match="does not appear to be"):
        is_public(text)
