"""`python -m tests.supply_chain.licences`: the licence of every package of the locks, and exit code 1 where one is not allowed.

It reads what the installed packages say of themselves, as SPDX: `License-Expression`, or what older ones have in `License` and in
their classifiers. What a wheel bundles without saying so it cannot see; docs/security.md names what we know of.
"""

import sys
from collections.abc import Mapping
from typing import Final

from license_expression import AND, OR, ExpressionError, LicenseExpression, get_spdx_licensing

from tests.supply_chain.locks import LOCKS, NotInstalledError, Pin, described, field, installed, pins

ALLOWED: Final = frozenset(
    {
        "0BSD", "Apache-2.0", "Apache-2.0 WITH LLVM-exception", "BSD-2-Clause", "BSD-3-Clause", "BSL-1.0", "CNRI-Python", "HPND",
        "ISC", "MIT", "MIT-0", "MIT-CMU", "MPL-2.0", "PSF-2.0", "Python-2.0", "Unlicense", "Zlib", "ZPL-2.1",
    }
)  # fmt: skip
NVIDIA: Final = "LicenseRef-NVIDIA-Proprietary"
CUDA: Final = (
    "cuda-toolkit", "nvidia-cublas", "nvidia-cuda-cccl", "nvidia-cuda-cupti", "nvidia-cuda-nvrtc", "nvidia-cuda-runtime",
    "nvidia-cudnn-cu13", "nvidia-cufft", "nvidia-cufile", "nvidia-cusolver", "nvidia-cusparse", "nvidia-cusparselt-cu13",
    "nvidia-nccl-cu13", "nvidia-nvjitlink", "nvidia-nvshmem-cu13", "nvidia-nvtx",
)  # fmt: skip
# Allowed by name, not by licence, and why.
EXCEPTIONS: Final[Mapping[str, str]] = dict.fromkeys(CUDA, "CUDA libraries under NVIDIA's terms, which torch is linked against")
# What wheels bundle under terms that are not the package's own; docs/security.md says so too.
BUNDLED: Final[Mapping[str, str]] = {"av": "bundles FFmpeg with x264 and x265 (GPL-2.0-or-later)"}
# Packages whose metadata says nothing, or not which of several; read in their sources.
UNSAID: Final[Mapping[str, str]] = {"antlr4-python3-runtime": "BSD-3-Clause", "cuda-toolkit": NVIDIA, "promql-parser": "MIT"}
# What authors write in the field `License`, in the place of SPDX.
WORDS: Final[Mapping[str, str]] = {
    "3-clause bsd license": "BSD-3-Clause",
    "apache": "Apache-2.0",
    "apache 2.0": "Apache-2.0",
    "apache 2.0 license": "Apache-2.0",
    "apache license 2.0": "Apache-2.0",
    "bsd 2-clause license": "BSD-2-Clause",
    "bsd 3-clause license": "BSD-3-Clause",
    "isc license": "ISC",
    "mit license": "MIT",
    "nvidia proprietary software": NVIDIA,
}
CLASSIFIERS: Final[Mapping[str, str]] = {
    "Apache Software License": "Apache-2.0",
    "BSD License": "BSD-3-Clause",  # the classifier leaves the number of clauses open
    "ISC License (ISCL)": "ISC",
    "MIT License": "MIT",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "Python Software Foundation License": "PSF-2.0",
}
_SPDX: Final = get_spdx_licensing()


def stated(pin: Pin) -> str | None:
    """Return what a package says its licence is, as SPDX; None where that is nothing known here. Raises NotInstalledError."""
    given = described(pin)
    if pin.name in UNSAID:
        return UNSAID[pin.name]
    if expression := field(given, "License-Expression"):
        return expression
    words = field(given, "License")
    classifiers = [text.rpartition(" :: ")[2] for text in given.get_all("Classifier") or () if text.startswith("License ::")]
    found = dict.fromkeys(CLASSIFIERS[text] for text in classifiers if text in CLASSIFIERS)
    return WORDS.get(words.lower()) or _spdx(words) or " OR ".join(found) or None


def is_allowed(expression: str, allowed: frozenset[str] = ALLOWED) -> bool:
    """Whether a package may be used under an SPDX expression: each part of AND, and one of OR, must be allowed."""
    return _holds(_SPDX.parse(expression), allowed)


def refusal(pin: Pin) -> str | None:
    """Return why a package is not allowed, and what to do; None where it is."""
    try:
        expression = stated(pin)
    except NotInstalledError as error:
        return str(error)
    if expression is None:
        return f"{pin.name}: says no licence that is known; read its sources and add it to UNSAID or WORDS"
    if pin.name in EXCEPTIONS or is_allowed(expression):
        return None
    return f"{pin.name}: {expression} is not among ALLOWED; do without it, or say in EXCEPTIONS why it may stay"


def locked() -> list[Pin]:
    """Return what all locks install, by name."""
    packages: dict[str, Pin] = {}
    for lock in LOCKS.values():
        packages |= installed(pins(lock.read_text(encoding="utf-8")))
    return [packages[name] for name in sorted(packages)]


def main() -> int:
    """Print the licences of all locks; returns the exit code."""
    refused = {pin.name: line for pin in locked() if (line := refusal(pin))}
    for pin in locked():
        said = refused.get(pin.name) or "; ".join(filter(None, (stated(pin), BUNDLED.get(pin.name))))
        print(f"{pin.name:36} {pin.version:24} {said}")  # noqa: T201 - this is its output
    print(*refused.values(), sep="\n", file=sys.stderr)  # noqa: T201
    return 1 if refused else 0


def _spdx(words: str) -> str | None:
    """Return words that are an SPDX expression, nothing of prose."""
    try:
        return str(_SPDX.parse(words, validate=True, strict=True)) if words and len(words) < 100 else None
    except ExpressionError:
        return None


def _holds(parsed: LicenseExpression, allowed: frozenset[str]) -> bool:
    if isinstance(parsed, AND):
        return all(_holds(part, allowed) for part in parsed.args)
    if isinstance(parsed, OR):
        return any(_holds(part, allowed) for part in parsed.args)
    return str(parsed) in allowed


if __name__ == "__main__":
    raise SystemExit(main())
