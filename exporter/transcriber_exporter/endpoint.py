"""Addresses as the command line has them, IPv4 and IPv6, with or without brackets."""

import argparse
import re
from dataclasses import dataclass
from typing import Final

URL: Final = re.compile(r"http://(?P<endpoint>[^/]+)(?P<path>/\S*)?")


@dataclass(frozen=True)
class Endpoint:
    """A host (no brackets) and a port."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> "Endpoint":
        """Parse `HOST:PORT`, where an IPv6 host may stand bare as a pod's address does; raises argparse.ArgumentTypeError."""
        host, separator, port = text.rpartition(":")
        if not (host and separator and port.isdecimal() and int(port) < 1 << 16):
            raise argparse.ArgumentTypeError(f"{text!r} is not of the form HOST:PORT, such as 10.0.0.7:8001 or [fd00::7]:8001")
        return cls(host.removeprefix("[").removesuffix("]"), int(port))

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def metrics_url(text: str) -> str:
    """Return a URL with its IPv6 host in brackets; raises argparse.ArgumentTypeError."""
    found = URL.fullmatch(text)
    if found is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form http://HOST:PORT/PATH")
    return f"http://{Endpoint.parse(found['endpoint'])}{found['path'] or '/metrics'}"
