"""https:// against a TLS server on loopback with its own authority, and the addresses it must never reach."""

import datetime
import hashlib
import ssl
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from transcriber_repository.errors import Reason, RepositoryError
from transcriber_repository.progress import silent
from transcriber_repository.request import Source, SourceFile
from transcriber_repository.sources.download import fetch
from transcriber_repository.sources.remote import Access, HttpsPolicy
from transcriber_repository.sources.web import is_public

HOST = "models.example.com"
CONTENT = bytes(range(256)) * 64


@dataclass
class Web:
    port: int = 0
    ca_file: Path = Path()
    requests: list[tuple[str, str | None]] = field(default_factory=list)
    cut_after: list[int] = field(default_factory=list)
    ranges: bool = True

    def access(self, **policy: object) -> Access:
        rules = {"hosts": frozenset({HOST}), "resolve": lambda host, port: ["127.0.0.1"], "ca_file": self.ca_file}
        return Access(https=HttpsPolicy(**(rules | {"permits": lambda address: address == "127.0.0.1"} | policy)))  # type: ignore[arg-type]

    def uri(self, path: str = "/whisper", host: str = HOST) -> str:
        return f"https://{host}:{self.port}{path}"


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A self-signed certificate for HOST, which is its own authority; key and certificate in one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, HOST)])
    now = datetime.datetime.now(datetime.UTC)
    built = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(HOST)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    path = tmp_path_factory.mktemp("tls") / "server.pem"
    path.write_bytes(private + built.public_bytes(serialization.Encoding.PEM))
    return path


@pytest.fixture
def web(certificate: Path) -> Iterator[Web]:
    state = Web(ca_file=certificate)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            state.requests.append((self.path, self.headers.get("Range")))
            if self.path.startswith("/moved"):
                self.send_response(302)
                self.send_header("Location", "http://169.254.169.254/latest/meta-data")
                self.end_headers()
                return
            start = int(self.headers["Range"].removeprefix("bytes=").rstrip("-")) if state.ranges else 0
            self.send_response(206 if state.ranges else 200)
            self.send_header("Content-Length", str(len(CONTENT) - start))
            self.end_headers()
            self.wfile.write(CONTENT[start:][: state.cut_after.pop(0) if state.cut_after else None])

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    state.port = server.server_port
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield state
    server.shutdown()
    server.server_close()
    thread.join()


def fetched(web: Web, into: Path, uri: str | None = None, access: Access | None = None) -> bytes:
    sha256 = hashlib.sha256(CONTENT).hexdigest()
    source = Source(uri=uri or web.uri(), files=(SourceFile(path="model.safetensors", sha256=sha256),))
    (file,) = fetch("target", source, into, silent, access or web.access(), pause=lambda seconds: None)
    return file.path.read_bytes()


def test_file_of_an_allowed_host_is_fetched_from_the_checked_address(web: Web, tmp_path: Path) -> None:
    assert fetched(web, tmp_path) == CONTENT
    assert web.requests == [("/whisper/model.safetensors", "bytes=0-")]


@pytest.mark.parametrize("ranges", [True, False])
def test_transfer_that_breaks_off_goes_on_whether_or_not_the_server_knows_ranges(web: Web, tmp_path: Path, ranges: bool) -> None:
    web.cut_after, web.ranges = [5000, 6000], ranges
    assert fetched(web, tmp_path) == CONTENT
    assert web.requests[1][1] == "bytes=5000-"


def test_redirect_is_refused(web: Web, tmp_path: Path) -> None:
    with pytest.raises(RepositoryError, match=r"answered 302; redirects are not followed") as error:
        fetched(web, tmp_path, web.uri("/moved"))
    assert error.value.reason is Reason.SOURCE_REFUSED
    assert len(web.requests) == 1


def test_host_that_is_not_allowed_is_refused_before_it_is_resolved(web: Web, tmp_path: Path) -> None:
    def resolve(host: str, port: int) -> list[str]:
        raise AssertionError("was resolved")

    with pytest.raises(RepositoryError, match=r"host 'evil.example.com' is not allowed .*add it to TRANSCRIBER_HTTPS_HOSTS"):
        fetched(web, tmp_path, web.uri(host="evil.example.com"), web.access(resolve=resolve))


def test_certificate_of_another_host_is_refused(web: Web, tmp_path: Path) -> None:
    access = web.access(hosts=frozenset({"other.example.com"}))
    with pytest.raises(RepositoryError, match=r"CERTIFICATE_VERIFY_FAILED|doesn't match"):
        fetched(web, tmp_path, web.uri(host="other.example.com"), access)
    assert web.requests == []


def test_certificate_of_an_unknown_authority_is_refused(web: Web, tmp_path: Path) -> None:
    with pytest.raises(RepositoryError, match="CERTIFICATE_VERIFY_FAILED"):
        fetched(web, tmp_path, access=web.access(ca_file=None))


PRIVATE = [
    "127.0.0.1", "127.1.2.3", "0.0.0.0", "10.0.0.1", "172.16.0.1", "192.168.1.1", "100.64.0.1", "169.254.169.254", "192.0.2.1",
    "198.18.0.1", "224.0.0.1", "240.0.0.1", "255.255.255.255", "::", "::1", "::ffff:127.0.0.1", "::ffff:169.254.169.254",
    "::ffff:10.0.0.1", "fe80::1", "fc00::1", "fd00:ec2::254", "ff02::1", "2001:db8::1", "64:ff9b::a9fe:a9fe", "2002:7f00:1::",
    "fec0::1",
]  # fmt: skip


@pytest.mark.parametrize("address", PRIVATE)
def test_name_that_resolves_to_a_private_address_is_refused_before_a_connection(web: Web, tmp_path: Path, address: str) -> None:
    access = web.access(permits=None, resolve=lambda host, port: ["93.184.215.14", address])
    with pytest.raises(RepositoryError, match="which is not a public address"):
        fetched(web, tmp_path, access=access)
    assert web.requests == []


@pytest.mark.parametrize("host", ["127.1", "0.0.0.0", "2130706433", "017700000001", "[::1]", "[::ffff:169.254.169.254]"])
def test_address_in_disguise_is_refused_even_where_somebody_allowed_it(tmp_path: Path, web: Web, host: str) -> None:
    access = web.access(hosts=frozenset({host.strip("[]")}), permits=None, resolve=None)
    with pytest.raises(RepositoryError, match="which is not a public address"):
        fetched(web, tmp_path, web.uri(host=host), access)


@pytest.mark.parametrize("address", ["93.184.215.14", "2606:2800:21f:cb07:6820:80da:af6b:8b2c", "::ffff:93.184.215.14"])
def test_public_address_is_public(address: str) -> None:
    assert is_public(address)


def test_name_is_resolved_once_so_that_a_second_answer_cannot_lead_elsewhere(web: Web, tmp_path: Path) -> None:
    answers = iter([["127.0.0.1"]])
    web.cut_after = [100]
    assert fetched(web, tmp_path, access=web.access(resolve=lambda host, port: next(answers))) == CONTENT


@pytest.mark.parametrize(
    "uri",
    [
        "http://models.example.com/x",
        "gopher://models.example.com/x",
        "ftp://models.example.com/x",
        "HTTPS//x",
        "https:///x",
        "https://user:secret@models.example.com/x",
        "https://models.example.com:port/x",
        "https://models.example.com/x?y=z",
    ],
)
def test_other_schemes_and_forms_are_refused_without_repeating_a_password(web: Web, tmp_path: Path, uri: str) -> None:
    with pytest.raises(RepositoryError, match=r"spec.model.target.uri") as error:
        fetched(web, tmp_path, uri)
    assert "secret" not in str(error.value)
