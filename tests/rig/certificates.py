"""Keys of a control plane that lives for minutes: its authority, certificates for servers and clients, and kubeconfigs."""

import base64
import datetime
import ipaddress
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

LIFETIME: Final = datetime.timedelta(days=1)
CLOCK_SKEW: Final = datetime.timedelta(minutes=5)
LOOPBACK: Final = "127.0.0.1"
RSA_BITS: Final = 2048
MODE_PRIVATE: Final = 0o600


@dataclass(frozen=True)
class KeyPair:
    """A certificate and its key, in PEM files."""

    certificate: Path
    key: Path


class Authority:
    """Signs certificates; all files lie in `folder`."""

    def __init__(self, folder: Path) -> None:
        """Make a new authority."""
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _name("transcriber-test-ca", ())
        certificate = (
            _builder(self._name, self._name, self._key.public_key())
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_key_usage(signs_certificates=True), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(self._key.public_key()), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        self.certificate = folder / "ca.crt"
        self.certificate.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))

    def server(self, name: str, dns_names: Sequence[str] = ("localhost",), addresses: Sequence[str] = (LOOPBACK,)) -> KeyPair:
        """Issue a serving certificate for these names and addresses."""
        alternatives = [*map(x509.DNSName, dns_names), *(x509.IPAddress(ipaddress.ip_address(address)) for address in addresses)]
        return self._issue(name, (), (ExtendedKeyUsageOID.SERVER_AUTH,), x509.SubjectAlternativeName(alternatives))

    def peer(self, name: str) -> KeyPair:
        """Issue a certificate for this machine that is shown by servers and by their clients."""
        alternatives = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address(LOOPBACK))]
        usages = (ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH)
        return self._issue(name, (), usages, x509.SubjectAlternativeName(alternatives))

    def client(self, user: str, groups: Sequence[str] = ()) -> KeyPair:
        """Issue a client certificate: the API server takes the common name as user and the organizations as groups."""
        return self._issue(user, groups, (ExtendedKeyUsageOID.CLIENT_AUTH,), None)

    def _issue(
        self,
        name: str,
        organizations: Sequence[str],
        usages: Sequence[x509.ObjectIdentifier],
        alternatives: x509.SubjectAlternativeName | None,
    ) -> KeyPair:
        key = ec.generate_private_key(ec.SECP256R1())
        builder = (
            _builder(_name(name, organizations), self._name, key.public_key())
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(signs_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
        )
        if alternatives:
            builder = builder.add_extension(alternatives, critical=False)
        certificate = builder.sign(self._key, hashes.SHA256())
        stem = name.replace(":", "-").replace("/", "-")
        pair = KeyPair(self._folder / f"{stem}.crt", self._folder / f"{stem}.key")
        pair.certificate.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        _write_key(pair.key, key)
        return pair


def service_account_key(file: Path) -> Path:
    """Write the RSA key that signs the tokens of ServiceAccounts."""
    _write_key(file, rsa.generate_private_key(public_exponent=65537, key_size=RSA_BITS))
    return file


def certificate_user(pair: KeyPair) -> dict[str, str]:
    """Return a kubeconfig's user that shows a client certificate."""
    return {"client-certificate-data": _encoded(pair.certificate), "client-key-data": _encoded(pair.key)}


def write_kubeconfig(file: Path, context: str, server: str, authority: Path, user: Mapping[str, str]) -> Path:
    """Write a kubeconfig of one context; `server` is an https URL, or http where a proxy on loopback serves it."""
    cluster = {"server": server} | ({"certificate-authority-data": _encoded(authority)} if server.startswith("https:") else {})
    document: dict[str, Any] = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": context, "cluster": cluster}],
        "users": [{"name": context, "user": dict(user)}],
        "contexts": [{"name": context, "context": {"cluster": context, "user": context}}],
        "current-context": context,
    }
    file.touch(MODE_PRIVATE)
    file.write_text(json.dumps(document, indent=1), encoding="utf-8")  # JSON is YAML
    return file


def _builder(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder(subject_name=subject, issuer_name=issuer, public_key=key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - CLOCK_SKEW)
        .not_valid_after(now + LIFETIME)
    )


def _name(common_name: str, organizations: Sequence[str]) -> x509.Name:
    attributes = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, organization) for organization in organizations]
    return x509.Name([*attributes, x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True, key_cert_sign=signs_certificates, crl_sign=signs_certificates,
        content_commitment=False, key_encipherment=False, data_encipherment=False, key_agreement=False,
        encipher_only=False, decipher_only=False,
    )  # fmt: skip


def _write_key(file: Path, key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> None:
    pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
    )
    file.touch(MODE_PRIVATE)
    file.write_bytes(pem)


def _encoded(file: Path) -> str:
    return base64.b64encode(file.read_bytes()).decode()
