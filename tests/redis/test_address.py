"""URLs of Redis servers: what they say, and that no message shows their password."""

from __future__ import annotations

import pytest

from llm_gateway.redis_client.address import InvalidAddress, RedisAddress, parse_address

READ = {
    "redis://localhost": RedisAddress("localhost"),
    "redis://[::1]:7000/3": RedisAddress("::1", 7000, database=3),
    "redis://:p%40ss%2F@h": RedisAddress("h", password="p@ss/"),
    "rediss://me:secret@h:1/0": RedisAddress("h", 1, is_tls=True, user="me", password="secret"),
    "rediss://h?ca_file=/etc/ca.pem": RedisAddress("h", is_tls=True, ca_file="/etc/ca.pem"),
    "unix:///run/valkey.sock": RedisAddress(path="/run/valkey.sock"),
    "unix://me:secret@/run/a%20b?db=2": RedisAddress(path="/run/a b", user="me", password="secret", database=2),
}
REFUSED = [
    "", "h:6379", "http://h", "redis://", "redis://h:0", "redis://h:99999", "redis://h/x", "redis://h/-1", "redis://h/1/2",
    "redis://h/٣", "redis://me@h", "redis://h#x", "redis://h?db=1", "redis://h?ca_file=x", "rediss://h?verify=no",
    "unix://h/run/x", "unix://", "unix:///", "unix:///x?db=one", "redis://[::1", "redis://h/99999999999",
]  # fmt: skip


def test_addresses_are_read_and_shown_without_their_password() -> None:
    for url, address in READ.items():
        assert parse_address(url) == address, url
        assert "secret" not in f"{address!r} {address.shown} {address}"
    assert parse_address("redis://:x@[::1]:7000/3").shown == "redis://[::1]:7000"


def test_other_urls_are_refused_without_their_text() -> None:
    for url in REFUSED:
        with pytest.raises(InvalidAddress) as refused:
            parse_address(url)
        assert str(refused.value), url
    with pytest.raises(InvalidAddress) as refused:
        parse_address("redis://me:se#cret@h")
    assert "cret" not in str(refused.value)
