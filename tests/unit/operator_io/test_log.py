"""The log, as JSON for machines and as text for people."""

import io
import json
import logging
from collections.abc import Iterator

import pytest

from transcriber_operator import log

logger = logging.getLogger("transcriber_operator.test")


@pytest.fixture(autouse=True)
def logging_as_it_was() -> Iterator[None]:
    root = logging.getLogger()
    before = (root.handlers[:], root.level, logging.getLogger("asyncio").level)
    yield
    root.handlers[:] = before[0]
    root.setLevel(before[1])
    logging.getLogger("asyncio").setLevel(before[2])
    logging.captureWarnings(False)


def test_a_json_line_says_what_it_is_about() -> None:
    stream = io.StringIO()
    log.configure("Auto", "Info", stream)  # a file is no terminal
    logger.warning("Pass ended: %s", "503", extra=log.about(namespace="speech", name="whisper", generation=3, reason="Transient"))
    line = json.loads(stream.getvalue())
    assert line.pop("time").endswith("Z")
    assert line == {
        "level": "WARNING",
        "logger": "transcriber_operator.test",
        "message": "Pass ended: 503",
        "namespace": "speech",
        "name": "whisper",
        "generation": 3,
        "reason": "Transient",
    }


def test_a_traceback_stays_on_its_line_of_json() -> None:
    stream = io.StringIO()
    log.configure("Json", "Info", stream)
    logger.error("failed", exc_info=KeyError("field"))
    assert len(stream.getvalue().splitlines()) == 1
    assert "KeyError: 'field'" in json.loads(stream.getvalue())["exception"]


def test_text_is_a_line_to_read() -> None:
    stream = io.StringIO()
    log.configure("Text", "Info", stream)
    logger.info("ConfigMap one created", extra=log.about(namespace="speech", name="whisper", reason="RollingOut"))
    logger.error("failed", exc_info=KeyError("field"))
    first, second, *_, last = stream.getvalue().splitlines()
    assert first.partition(" ")[2] == "INFO    speech/whisper ConfigMap one created (RollingOut)"
    assert second.endswith("ERROR   failed")
    assert last == "KeyError: 'field'"


def test_what_kopf_says_of_an_object_names_the_object_too() -> None:
    stream = io.StringIO()
    log.configure("Json", "Debug", stream)
    reference = {"kind": "TranscriberDeployment", "namespace": "speech", "name": "whisper", "uid": "uid-1"}
    logging.getLogger("kopf.objects").debug("handled", extra={"k8s_ref": reference})
    line = json.loads(stream.getvalue())
    assert (line["namespace"], line["name"]) == ("speech", "whisper")
    assert "uid" not in line


def test_a_line_per_event_is_only_for_those_who_ask_for_debug() -> None:
    stream = io.StringIO()
    log.configure("Json", "Info", stream)
    logging.getLogger("kopf.objects").info("Handler 'changed' succeeded.")
    assert stream.getvalue() == ""
