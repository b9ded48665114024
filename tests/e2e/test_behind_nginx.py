"""Behind nginx with deploy/nginx.conf: TLS, a path prefix, streams, large bodies, the client's address."""

from __future__ import annotations

import datetime as dt
import http.client
import json
import ssl
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tests.e2e.process import KEY, GatewayProcess, Response, free_port, send, until
from tests.e2e.streaming_vendor import BEGIN, Pause, StreamingVendor, delta
from tests.nginx_server import changed, find_nginx, nginx

BODY_BYTES = 32 * 1024 * 1024


class Site(NamedTuple):
    """nginx in front of a gateway: its port, the certificate that it shows, and the gateway."""

    port: int
    certificate: Path
    gateway: GatewayProcess

    def connect(self) -> http.client.HTTPSConnection:
        context = ssl.create_default_context(cafile=str(self.certificate))
        return http.client.HTTPSConnection("127.0.0.1", self.port, timeout=60, context=context)

    def call(self, method: str, path: str, body: object = None, **options: Any) -> Response:
        connection = self.connect()
        try:
            return send(connection, method, path, body, **options)
        finally:
            connection.close()


def write_certificate(folder: Path) -> tuple[Path, Path]:
    """Write a certificate for 127.0.0.1, signed by itself, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "llm.example.com")])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), 1)
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    paths = folder / "site.crt", folder / "site.key"
    paths[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    paths[1].write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return paths


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    find_nginx()
    folder, port = tmp_path_factory.mktemp("nginx"), free_port()
    certificate, key = write_certificate(folder)
    settings = {"root_path": "/llm", "trusted_proxies": "127.0.0.1", "on_disconnect": "abort"}
    with GatewayProcess(folder, **settings) as gateway:
        changes = {
            "127.0.0.1:8200": f"127.0.0.1:{gateway.port}",
            "listen 443 ssl": f"listen 127.0.0.1:{port} ssl",
            "/etc/nginx/llm.example.com.crt": str(certificate),
            "/etc/nginx/llm.example.com.key": str(key),
        }
        site = Site(port, certificate, gateway)
        with nginx(folder, changed("nginx.conf", changes), lambda: site.call("GET", "/llm/readyz").status == 200):
            yield site


def test_each_piece_of_a_stream_arrives_at_once(site: Site) -> None:
    with StreamingVendor() as vendor:
        vendor.steps = [BEGIN, delta(content="first"), Pause(60.0)]
        site.gateway.provider("streamer", vendor.url, "streamer-1")
        connection = site.connect()
        body = {"model": "streamer-1", "stream": True, "messages": [{"role": "user", "content": "Hi"}]}
        headers = {"authorization": f"Bearer {KEY}", "content-type": "application/json"}
        connection.request("POST", "/llm/v1/chat/completions", json.dumps(body), headers)
        answer = connection.getresponse()
        received = b""
        while b"first" not in received:  # else the read times out
            received += answer.read1()
        connection.close()


def test_a_body_of_32_mib_comes_through_and_no_larger_one(site: Site) -> None:
    start, end = b'{"model":"none","messages":[{"role":"user","content":"', b'"}]}'
    for size, status in ((BODY_BYTES, 404), (BODY_BYTES + 1, 413)):
        connection = site.connect()
        body = start + b"x" * (size - len(start) - len(end)) + end
        try:
            connection.request("POST", "/llm/v1/chat/completions", body, {"authorization": f"Bearer {KEY}"})
        except (BrokenPipeError, ConnectionResetError):  # nginx has refused it already
            assert status == 413
        answer = connection.getresponse()
        assert answer.status == status
        assert (b"model_not_found" in answer.read()) == (status == 404)
        connection.close()


def test_the_log_has_the_address_of_the_client_behind_the_proxies(site: Site) -> None:
    refused = site.call("GET", "/llm/api/v1/providers", key="wrong", x_forwarded_for="6.6.6.6, 203.0.113.9")
    assert refused.status == 401
    shown = refused.headers["x-request-id"]
    until(lambda: shown in site.gateway.log)
    [line] = [json.loads(line) for line in site.gateway.log.splitlines() if shown in line]
    assert (line["client"], line["path"]) == ("203.0.113.9", "/api/v1/providers")


@pytest.mark.parametrize("is_proxied", [True, False])
def test_links_and_documents_name_the_prefix(site: Site, *, is_proxied: bool) -> None:
    """A proxy that passes the prefix on, and a client of the gateway itself."""
    call = site.call if is_proxied else site.gateway.call
    home = call("GET", "/llm/", key=None, accept="text/html")
    assert (home.status, home.headers["location"]) == (307, "/llm/ui")
    assert call("GET", "/llm/", key=None).json["docs"] == "/llm/docs"
    assert call("GET", "/llm/openapi.json").json["servers"] == [{"url": "/llm"}]
    page = call("GET", "/llm/docs", key=None, accept="text/html")
    assert page.status == 401
    assert "location.origin + root + path" in page.body.decode()
    assert call("GET", "/llm/docs/swagger-ui.css").headers["content-type"].startswith("text/css")
    assert call("GET", "/llm/api/v1/nothing").status == 404
