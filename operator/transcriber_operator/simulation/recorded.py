"""Traces that were recorded: CSV with the time of arrival and the length of each file."""

import csv
from collections.abc import Iterable
from math import isfinite
from typing import Final

from transcriber_operator.simulation.trace import Trace

COLUMNS: Final = ("time_s", "audio_s")
MAX_FILES: Final = 5_000_000
MAX_SPAN_SECONDS: Final = 366 * 86_400.0
MAX_AUDIO_SECONDS: Final = 604_800.0  # of a file; the most that runtime.maxAudioSeconds allows


class TraceError(Exception):
    """A trace that cannot be used; the message names line, column and what is right."""


def read_trace(lines: Iterable[str], origin: str) -> Trace:
    """Read CSV with a header that has `time_s` (seconds, any start, any order) and `audio_s` (seconds of the file).

    The first arrival becomes time 0. Other columns are ignored. Raises TraceError.
    """
    reader = csv.reader(lines)
    files: list[tuple[float, float]] = []
    try:
        header = [name.strip().removeprefix("\ufeff") for name in next(reader, [])]
        at_column, audio_column = (_column(header, name, origin) for name in COLUMNS)
        for row in reader:
            where = f"{origin}:{reader.line_num}"
            if not row:
                continue
            if len(row) != len(header):
                raise TraceError(f"{where}: has {len(row)} columns; the header has {len(header)}")
            at = _number(row[at_column], f"{where}: time_s")
            audio = _number(row[audio_column], f"{where}: audio_s")
            if not 0 < audio <= MAX_AUDIO_SECONDS:
                raise TraceError(f"{where}: audio_s: {audio:g} is not between 0 and {MAX_AUDIO_SECONDS:g} seconds of audio")
            files.append((at, audio))
            if len(files) > MAX_FILES:
                raise TraceError(f"{where}: has more than {MAX_FILES:,} files; cut the trace into parts")
    except csv.Error as error:
        raise TraceError(f"{origin}:{reader.line_num}: is not CSV: {error}") from None
    if not files:
        raise TraceError(f"{origin}: has no files; each line after the header is one: its time_s and audio_s")
    return _trace(files, origin)


def _trace(files: list[tuple[float, float]], origin: str) -> Trace:
    files.sort(key=lambda file: file[0])
    first, last = files[0][0], files[-1][0]
    if last - first > MAX_SPAN_SECONDS:
        raise TraceError(f"{origin}: time_s: spans {(last - first) / 86_400:,.0f} days, more than 366; it is in seconds")
    at, audio = zip(*files, strict=True)
    return Trace(origin, tuple(time - first for time in at), audio, last - first)


def _column(header: list[str], name: str, origin: str) -> int:
    if header.count(name) != 1:
        problem = "is missing" if name not in header else "is there twice"
        raise TraceError(f"{origin}:1: column {name} {problem}; the first line names the columns: {','.join(COLUMNS)}")
    return header.index(name)


def _number(text: str, where: str) -> float:
    try:
        number = float(text)
    except ValueError:
        raise TraceError(f"{where}: {text[:40]!r} is not a number of seconds") from None
    if not isfinite(number):
        raise TraceError(f"{where}: {text[:40]!r} is not a finite number of seconds")
    return number
