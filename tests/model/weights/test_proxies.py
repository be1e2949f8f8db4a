"""Files are fetched through the proxy in the environment, and with an organisation's own certificates."""

from __future__ import annotations

import http.client
import select
import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import huggingface_hub
import pytest
from huggingface_hub import constants

from model.audioclip import AudioCLIP
from model.weights.fetch import FetchError, RemoteFile, fetch
from model.weights.hub_folders import find_hub_folder
from model.weights.releases import WeightsError

if TYPE_CHECKING:
    from tests.conftest import Web

CONTENT = bytes(range(256)) * 100
PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")
CERTIFICATES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE", "SSL_CERT_DIR")
MALFORMED = {
    "http://user:secret@127.0.0.1:port": "127.0.0.1:port",
    "http://user:secret/secret@127.0.0.1:9": "127.0.0.1:9",
}
"""Addresses of proxies, and how messages show them."""
LOGIN = "Basic dXNlcjpzZWNyZXQ="  # user:secret


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AUDIOCLIP_MIRROR", *CERTIFICATES, *PROXIES, *map(str.lower, PROXIES)):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "assets" / "weights.pt"


@contextmanager
def serving(server: ThreadingHTTPServer) -> Iterator[int]:
    """Serve in a thread, and return the port."""
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield server.server_port
    server.shutdown()
    thread.join()
    server.server_close()


@dataclass
class Proxy:
    """A proxy on this machine, which requires the user `user` and the password `secret`."""

    port: int = 0
    passed: list[str] = field(default_factory=list)
    """Method and target of each request that had the right password."""

    @property
    def url(self) -> str:
        return f"http://user:secret@127.0.0.1:{self.port}"


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    proxy = Proxy()
    with serving(ThreadingHTTPServer(("127.0.0.1", 0), _proxy_handler(proxy))) as proxy.port:
        yield proxy


def _proxy_handler(proxy: Proxy) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def parse_request(self) -> bool:
            if not super().parse_request():
                return False
            if self.headers["Proxy-Authorization"] != LOGIN:
                self.send_error(407)
                return False
            proxy.passed.append(f"{self.command} {self.path}")
            return True

        def do_GET(self) -> None:
            url = urlsplit(self.path)
            connection = http.client.HTTPConnection(url.netloc, timeout=10)
            connection.request("GET", url.path)
            content = connection.getresponse().read()
            connection.close()
            self.send_response(200)
            self.end_headers()
            self.wfile.write(content)

        def do_CONNECT(self) -> None:
            host, _, port = self.path.partition(":")
            with socket.create_connection((host, int(port)), timeout=10) as server:
                self.send_response(200)
                self.end_headers()
                other_end = {self.connection: server, server: self.connection}
                while True:
                    for source in select.select(list(other_end), [], [], 10)[0]:
                        if not (data := source.recv(1 << 16)):
                            return
                        other_end[source].sendall(data)

        def log_message(self, *_: object) -> None:
            """Log nothing."""

    return Handler


@pytest.fixture
def file(web: Web) -> RemoteFile:
    web.files["weights.pt"] = CONTENT
    return RemoteFile("weights.pt", f"{web.url}/weights.pt", len(CONTENT))


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a certificate of 127.0.0.1 that nobody trusts, with its key."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    path = tmp_path_factory.mktemp("certificate") / "own.pem"
    command = "openssl req -x509 -newkey rsa:2048 -nodes -subj /CN=own -addext subjectAltName=IP:127.0.0.1"
    usage = "-addext keyUsage=critical,digitalSignature,keyCertSign"  # as strict verification asks
    files = ["-keyout", str(path), "-out", str(path)]
    subprocess.run([*command.split(), *usage.split(), *files], check=True, capture_output=True)
    return path


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Log nothing."""


@pytest.fixture
def secure_file(certificate: Path, tmp_path: Path) -> Iterator[RemoteFile]:
    """Serve a file over HTTPS, with the certificate that nobody trusts."""
    (tmp_path / "served").mkdir()
    (tmp_path / "served/weights.pt").write_bytes(CONTENT)
    handler = partial(_Quiet, directory=str(tmp_path / "served"))
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler, bind_and_activate=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    # the handshake takes place in the thread of the request, so that a failed one does not stop the server
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    server.handle_error = lambda *_: None  # type: ignore[method-assign]
    with serving(server) as port:
        yield RemoteFile("weights.pt", f"https://127.0.0.1:{port}/weights.pt", len(CONTENT))


def message_of_failure(file: RemoteFile, target: Path, caplog: pytest.LogCaptureFixture) -> str:
    """Check that fetching fails without showing a password, also in the log; return the message."""
    with pytest.raises(FetchError) as caught:
        fetch(file, target)
    assert "secret" not in str(caught.value) + caplog.text
    return str(caught.value)


def test_http_goes_through_the_proxy(
    proxy: Proxy, web: Web, file: RemoteFile, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", proxy.url)
    assert fetch(file, target).read_bytes() == CONTENT
    assert proxy.passed == [f"GET {file.url}"]
    assert len(web.asked["/weights.pt"]) == 1


@pytest.mark.parametrize("variable", ["REQUESTS_CA_BUNDLE", "SSL_CERT_FILE"])
def test_https_goes_through_the_proxy_in_a_tunnel(
    variable: str,
    proxy: Proxy,
    secure_file: RemoteFile,
    certificate: Path,
    target: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", proxy.url)
    monkeypatch.setenv(variable, str(certificate))
    assert fetch(secure_file, target).read_bytes() == CONTENT
    assert proxy.passed == [f"CONNECT {urlsplit(secure_file.url).netloc}"]


def test_hosts_in_no_proxy_are_reached_directly(
    proxy: Proxy, web: Web, file: RemoteFile, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", proxy.url)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    assert fetch(file, target).read_bytes() == CONTENT
    assert proxy.passed == []
    file = RemoteFile("absent.pt", f"{web.url}/absent.pt")
    with pytest.raises(FetchError) as caught:
        fetch(file, target.with_name("absent.pt"))
    assert "PROXY" not in str(caught.value)


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_proxy_that_refuses_is_named(
    scheme: str,
    proxy: Proxy,
    target: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv(f"{scheme.upper()}_PROXY", f"http://user:wrong-secret@127.0.0.1:{proxy.port}")
    file = RemoteFile("weights.pt", f"{scheme}://127.0.0.1:9/weights.pt", len(CONTENT))
    message = message_of_failure(file, target, caplog)
    assert f"could not be fetched through the proxy 127.0.0.1:{proxy.port}: " in message
    assert "407 Proxy Authentication Required. HTTPS_PROXY and HTTP_PROXY set the proxy, as http:" in message
    assert proxy.passed == []


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize(
    ("value", "shown", "reason"),
    [
        ("http://user:secret@127.0.0.1:9", "127.0.0.1:9", "Connection refused"),
        ("127.0.0.1:9", "127.0.0.1:9", "Connection refused"),
        ("http://127.0.0.1:9/", "127.0.0.1:9", "Connection refused"),
        ("user:secret@127.0.0.1:9", "127.0.0.1:9", "an address is not valid"),
        *((value, shown, "an address is not valid") for value, shown in MALFORMED.items()),
    ],
)
def test_a_proxy_that_cannot_be_reached_is_named(
    scheme: str,
    value: str,
    shown: str,
    reason: str,
    target: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv(f"{scheme.upper()}_PROXY", value)
    message = message_of_failure(
        RemoteFile("weights.pt", f"{scheme}://example.invalid/weights.pt"), target, caplog
    )
    assert f"through the proxy {shown}: " in message
    assert reason in message
    assert "hosts in NO_PROXY are reached without it" in message


@pytest.mark.parametrize(
    "variable", ["REQUESTS_CA_BUNDLE", "SSL_CERT_FILE"]
)  # the latter stands for the system's store
def test_an_untrusted_certificate_is_an_error_that_says_how_to_trust_it(
    variable: str,
    secure_file: RemoteFile,
    certificate: Path,
    target: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    message = message_of_failure(secure_file, target, caplog)
    assert "certificate verify failed" in message
    assert "set SSL_CERT_FILE to a file that contains them" in message
    monkeypatch.setenv(variable, str(certificate))
    assert fetch(secure_file, target).read_bytes() == CONTENT


def test_a_file_of_certificates_that_is_missing_or_invalid_is_named_as_the_reason(
    secure_file: RemoteFile,
    target: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    own = tmp_path / "own.pem"
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(own))
    message = message_of_failure(secure_file, target, caplog)
    assert f"certificate bundle, invalid path: {own}. If" in message
    own.write_text("no certificate")
    assert "set SSL_CERT_FILE" in message_of_failure(secure_file, target, caplog)


@pytest.mark.parametrize(
    "mirror",
    [
        "ftp://user:secret@127.0.0.1",
        "user:secret@127.0.0.1",
        "http://user:secret@127.0.0.1:port",
        "http://user:secret@[::1",
    ],
)
def test_passwords_in_invalid_addresses_are_not_shown(
    mirror: str, target: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("AUDIOCLIP_MIRROR", mirror)
    monkeypatch.setenv("NO_PROXY", "localhost")
    message_of_failure(RemoteFile("weights.pt", "https://127.0.0.1:9/weights.pt"), target, caplog)


def messages_of_the_hub(value: str, monkeypatch: pytest.MonkeyPatch, cache: Path) -> list[str]:
    """Set the proxy; return the messages of the two ways to load a model from the hub."""
    monkeypatch.setenv("HTTPS_PROXY", value)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    huggingface_hub.close_session()  # the next session reads the variables
    with pytest.raises(WeightsError) as of_audioclip:
        AudioCLIP.from_pretrained("someone/absent")
    with pytest.raises(WeightsError) as of_clap:
        find_hub_folder("someone/absent", model_type="clap")
    huggingface_hub.close_session()
    messages = [str(caught.value) for caught in (of_audioclip, of_clap)]
    assert "secret" not in "".join(messages)
    return messages


def test_a_proxy_before_the_hugging_face_hub_is_named(
    proxy: Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    value = f"http://user:wrong-secret@127.0.0.1:{proxy.port}"
    for message in messages_of_the_hub(value, monkeypatch, tmp_path):
        assert f" through the proxy 127.0.0.1:{proxy.port}: " in message
        assert "407 Proxy Authentication Required" in message


@pytest.mark.parametrize(("value", "shown"), MALFORMED.items())
def test_a_malformed_proxy_before_the_hugging_face_hub_is_named(
    value: str, shown: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for message in messages_of_the_hub(value, monkeypatch, tmp_path):
        assert f" through the proxy {shown}: an address is not valid." in message
