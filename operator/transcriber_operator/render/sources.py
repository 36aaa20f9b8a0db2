"""What the sources of a spec need of a build's pod: claims, Secrets and ways out of the cluster."""

from typing import Final, NamedTuple
from urllib.parse import urlsplit

from transcriber_api.sources import ModelSource
from transcriber_api.v1alpha1 import Spec

HTTPS_PORT: Final = 443
REMOTE: Final = ("hf", "s3", "https")


class Credentials(NamedTuple):
    """A Secret and whose weights it opens: `target` or `draft`."""

    role: str
    secret: str


def used_sources(spec: Spec) -> dict[str, ModelSource]:
    """The sources that a build fetches, by role: a draft that decoding.draftSource does not use is left alone."""
    draft = spec.model.draft if spec.draft_source == "Model" else None
    return {"target": spec.model.target, **({"draft": draft} if draft else {})}


def source_claims(spec: Spec) -> tuple[str, ...]:
    """The claims that pvc:// sources lie in."""
    uris = [urlsplit(source.uri) for source in used_sources(spec).values()]
    return tuple(sorted({uri.netloc for uri in uris if uri.scheme == "pvc"}))


def credentials(spec: Spec) -> tuple[Credentials, ...]:
    """The Secrets that a build reads."""
    sources = used_sources(spec).items()
    return tuple(sorted(Credentials(role, source.credentials_secret) for role, source in sources if source.credentials_secret))


def remote_ports(spec: Spec) -> tuple[int, ...]:
    """The TCP ports outside the cluster that sources are fetched from."""
    uris = [urlsplit(source.uri) for source in used_sources(spec).values()]
    return tuple(sorted({_port(uri.netloc) if uri.scheme == "https" else HTTPS_PORT for uri in uris if uri.scheme in REMOTE}))


def uses_role(spec: Spec) -> bool:
    """Whether a bucket is opened by the role of the pod's ServiceAccount."""
    return any(source.uri.startswith("s3://") and not source.credentials_secret for source in used_sources(spec).values())


def _port(authority: str) -> int:
    """`host:8443` -> 8443; the API takes any digits, so a number that is no port is left to the build to refuse."""
    _, _, digits = authority.partition(":")
    port = int(digits) if digits else HTTPS_PORT
    return port if 0 < port <= 65_535 else HTTPS_PORT
