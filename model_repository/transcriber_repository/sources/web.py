"""`https://host/folder`: allowed hosts only, no redirects, and only addresses that were checked before the connection."""

import ipaddress
import socket
from collections.abc import Iterator, Mapping, Sequence
from http import HTTPStatus
from typing import Final
from urllib.parse import urlsplit

import urllib3
from urllib3.exceptions import HTTPError

from transcriber_repository.disk import CHUNK_BYTES
from transcriber_repository.errors import Reason, RepositoryError, SourceInterruptedError
from transcriber_repository.request import Source
from transcriber_repository.sources.remote import HttpsPolicy, RemoteFile, refuse, required_files

HOSTS_VARIABLE: Final = "TRANSCRIBER_HTTPS_HOSTS"
HTTPS_PORT: Final = 443
TIMEOUT: Final = urllib3.Timeout(connect=10, read=60)
# Prefixes that carry an IPv4 address which the network may unwrap: NAT64 (RFC 6052) and its local-use form (RFC 8215).
NAT64: Final = (ipaddress.ip_network("64:ff9b::/96"), ipaddress.ip_network("64:ff9b:1::/48"))


def list_web(field_path: str, source: Source, policy: HttpsPolicy, credentials: Mapping[str, str]) -> list[RemoteFile]:
    """List `https://host/folder`; the host is resolved once and every address checked. Raises RepositoryError."""
    subject = f"{field_path}.uri"
    files = required_files(field_path, source)
    parts = urlsplit(source.uri)
    try:
        host, port = parts.hostname or "", parts.port or HTTPS_PORT
    except ValueError:
        raise refuse(subject, f"{source.uri!r} has no valid port") from None
    if not host or parts.username is not None or parts.password is not None or parts.query or parts.fragment:
        raise refuse(subject, f"{parts.scheme}://{host}… is not of the form https://host/folder without user, query or fragment")
    if host not in policy.hosts:
        allowed = ", ".join(sorted(policy.hosts)) or "none"
        raise refuse(subject, f"host {host!r} is not allowed (allowed: {allowed}): add it to {HOSTS_VARIABLE}")
    address = _checked_address(subject, host, port, policy)
    pool = urllib3.HTTPSConnectionPool(
        address,
        port,
        maxsize=1,
        server_hostname=host,
        assert_hostname=host,
        cert_reqs="CERT_REQUIRED",
        ca_certs=str(policy.ca_file) if policy.ca_file is not None else None,
        timeout=TIMEOUT,
        retries=False,
    )
    folder = parts.path.rstrip("/")
    authority = host if port == HTTPS_PORT else f"{host}:{port}"
    headers = {"Host": authority, "Accept-Encoding": "identity"}
    if "token" in credentials:
        headers["Authorization"] = f"Bearer {credentials['token']}"
    return [
        _file(pool, headers, f"{field_path}.files {path!r}", f"{folder}/{path}", path, sha256) for path, sha256 in files.items()
    ]


def is_public(address: str) -> bool:
    """Whether an address is on the public internet: not private, loopback, link-local, reserved, nor one of these in disguise."""
    ip = ipaddress.ip_address(address)
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour or (ip.teredo[1] if ip.teredo is not None else None)
        if inner is not None:
            return is_public(str(inner))
        if ip.is_site_local or any(ip in network for network in NAT64):
            return False
    return ip.is_global and not ip.is_multicast and not ip.is_reserved


def resolve(host: str, port: int) -> Sequence[str]:
    """Return every address that the system's resolver knows; raises OSError."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


def _checked_address(subject: str, host: str, port: int, policy: HttpsPolicy) -> str:
    try:
        addresses = (policy.resolve or resolve)(host, port)
    except OSError as error:
        raise RepositoryError(Reason.SOURCE_UNAVAILABLE, subject, f"host {host!r} does not resolve: {error}") from None
    if not addresses:
        raise RepositoryError(Reason.SOURCE_UNAVAILABLE, subject, f"host {host!r} has no address")
    for address in addresses:
        if not (policy.permits or is_public)(address):
            raise refuse(subject, f"host {host!r} resolves to {address}, which is not a public address")
    return addresses[0]


def _file(
    pool: urllib3.HTTPSConnectionPool, headers: Mapping[str, str], subject: str, target: str, path: str, sha256: str
) -> RemoteFile:
    def read_from(offset: int) -> Iterator[bytes]:
        wanted = {**headers, "Range": f"bytes={offset}-"}
        try:
            response = pool.request("GET", target, headers=wanted, redirect=False, preload_content=False)
            try:
                yield from _body(response, subject, offset)
            finally:
                response.close()
        except HTTPError as error:
            raise SourceInterruptedError(str(error)) from error

    return RemoteFile(path, read_from, None, sha256)


def _body(response: urllib3.BaseHTTPResponse, subject: str, offset: int) -> Iterator[bytes]:
    if response.status == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
        return
    if response.status >= HTTPStatus.INTERNAL_SERVER_ERROR or response.status == HTTPStatus.TOO_MANY_REQUESTS:
        raise SourceInterruptedError(f"the server answered {response.status}")
    if response.status not in (HTTPStatus.OK, HTTPStatus.PARTIAL_CONTENT):
        redirected = "; redirects are not followed: give the final address" if "Location" in response.headers else ""
        raise refuse(subject, f"the server answered {response.status}{redirected}")
    skip = offset if response.status == HTTPStatus.OK else 0
    for chunk in response.stream(CHUNK_BYTES, decode_content=False):
        kept, skip = chunk[skip:], max(skip - len(chunk), 0)
        if kept:
            yield kept
