"""The log: one JSON object a line, or text for people; what it speaks of travels with each record."""

import logging
import sys
from datetime import UTC, datetime
from typing import Any, Final, Literal, TextIO

from pythonjsonlogger.json import JsonFormatter

_FIELDS: Final = ("namespace", "name", "generation", "reason")
_QUIET: Final = ("kopf.objects", "aiohttp.access")  # a line per event and per request


def about(
    *, namespace: str | None = None, name: str | None = None, generation: int | None = None, reason: str | None = None
) -> dict[str, Any]:
    """Return `extra` for a log call that speaks of a resource; `reason` is that of the condition, or of the failure."""
    given = {"namespace": namespace, "name": name, "generation": generation, "reason": reason}
    return {"about": {field: value for field, value in given.items() if value is not None}}


def configure(form: Literal["Auto", "Json", "Text"], level: Literal["Debug", "Info", "Warning", "Error"], stream: TextIO) -> None:
    """Set up logging of the whole process, Kopf's too."""
    is_text = form == "Text" or (form == "Auto" and stream.isatty())
    handler = logging.StreamHandler(stream)
    handler.setFormatter(TextLines() if is_text else JsonLines())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for name in _QUIET:
        logging.getLogger(name).setLevel(logging.NOTSET if level == "Debug" else logging.WARNING)
    # urllib3 and asyncio speak at Debug of what nobody asked for.
    logging.getLogger("asyncio").setLevel(logging.WARNING)
    logging.captureWarnings(True)


def flush() -> None:
    """Write out what is buffered, before a process ends without saying goodbye."""
    for handler in logging.getLogger().handlers:
        handler.flush()
    sys.stderr.flush()


class JsonLines(JsonFormatter):
    """`time`, `level`, `logger`, `message`, what it is about, and `exception`."""

    def add_fields(self, log_data: dict[str, Any], record: logging.LogRecord, message_dict: dict[str, Any]) -> None:
        """Fill in the fields of a line."""
        log_data["time"] = _time(record)
        log_data["level"] = record.levelname
        log_data["logger"] = record.name
        log_data["message"] = record.getMessage()
        log_data.update(_subject(record))
        if record.exc_info:
            log_data["exception"] = self.formatException(record.exc_info)


class TextLines(logging.Formatter):
    """`TIME LEVEL namespace/name message (reason)`, then the traceback if there is one."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        subject = _subject(record)
        whom = "/".join(str(subject[field]) for field in ("namespace", "name") if field in subject)
        parts = [_time(record), f"{record.levelname:<7}", *([whom] if whom else []), record.getMessage()]
        if "reason" in subject:
            parts.append(f"({subject['reason']})")
        line = " ".join(parts)
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


def _time(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _subject(record: logging.LogRecord) -> dict[str, Any]:
    """Return what a record is about; Kopf says it in a way of its own."""
    said = getattr(record, "about", None) or getattr(record, "k8s_ref", None) or {}
    return {field: said[field] for field in _FIELDS if said.get(field) is not None}
