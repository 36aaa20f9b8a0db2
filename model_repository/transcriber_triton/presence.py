"""Tells the models that decode a request's windows that the request is still wanted.

Triton passes no cancellation on to the calls that a model makes. So a request holds an anonymous file open for as long as it wants
its windows, and its calls carry the file's name as a request parameter, which Triton hands to every step of an ensemble. The name
is gone as soon as the file is closed, or as the process that held it dies; nothing is left to clean up.
"""

import json
import os
import re
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

PARAMETER: Final = "transcriber_wanted_by"
NAME: Final = re.compile(r"([0-9]{1,10})/fd/([0-9]{1,10})/(transcriber-[0-9a-f]{32})")


class Presence:
    """A request that wants its windows; use as a context manager."""

    def __init__(self) -> None:
        self.name = f"transcriber-{uuid.uuid4().hex}"
        self._descriptor = os.memfd_create(self.name)
        self.parameters = {PARAMETER: f"{os.getpid()}/fd/{self._descriptor}/{self.name}"}

    def __enter__(self) -> "Presence":
        return self

    def __exit__(self, *exception: object) -> None:
        os.close(self._descriptor)


def withdrawal(parameters: str) -> Callable[[], bool]:
    """Return what says whether the request that sent these parameters (JSON) is gone; never where it named no presence."""
    named = NAME.fullmatch(str(json.loads(parameters or "{}").get(PARAMETER, "")))
    if named is None:
        return lambda: False
    pid, descriptor, name = named.groups()
    link = Path("/proc", pid, "fd", descriptor)

    def is_gone() -> bool:
        with suppress(OSError):
            return not str(link.readlink()).startswith(f"/memfd:{name}")
        return True

    return is_gone
