"""`transcriber transcribe`: files to transcripts over gRPC, several at once, results in the order given."""

import asyncio
import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, Literal

import numpy as np
import tritonclient.grpc.aio as triton
import typer
from pydantic import ValidationError
from tritonclient.grpc import KeepAliveOptions
from tritonclient.utils import InferenceServerException

from transcriber_cli.console import CommandError, FileSpinners, expected_errors, say, show_error, write_result
from transcriber_engine.fallback import MAX_SEED
from transcriber_engine.result import Speculation, Transcript, to_srt, to_text, to_vtt
from transcriber_engine.settings import MAX_HOTWORDS_CHARACTERS, MAX_PROMPT_CHARACTERS, Task, Timestamps

Format = Literal["text", "json", "srt", "vtt"]
RENDER: Final[dict[Format, Callable[[Transcript], str]]] = {
    "text": to_text,
    "json": lambda transcript: transcript.model_dump_json(),
    "srt": to_srt,
    "vtt": to_vtt,
}
EXTENSIONS: Final[dict[Format, str]] = {"text": ".txt", "json": ".json", "srt": ".srt", "vtt": ".vtt"}
STDIN: Final = "-"
MAX_MESSAGE_BYTES: Final = 2**31 - 2**20  # gRPC carries 2 GiB, and the request is a little more than the file
# The server allows pings every 10 s: a connection that died during a long file is noticed, not waited for.
KEEPALIVE: Final = KeepAliveOptions(
    keepalive_time_ms=20_000, keepalive_timeout_ms=10_000, keepalive_permit_without_calls=True, http2_max_pings_without_data=0
)
PROBE_SECONDS: Final = 10.0
TARGET_ALONE: Final[Mapping[str, str | int | bool]] = {"max_draft_tokens": 0}


@dataclass(frozen=True)
class Request:
    """What is asked for each file."""

    endpoint: str
    options: Mapping[str, str | int | bool]
    timeout_seconds: float | None
    verify: bool


@dataclass(frozen=True)
class Outcome:
    """A file's transcript and what it took in seconds, or the error in its place; `proof` is the line of --verify."""

    transcript: Transcript | None = None
    seconds: float = 0.0
    error: str | None = None
    proof: str | None = None


def transcribe_command(
    files: Annotated[
        list[str], typer.Argument(help="Audio of any common format; - reads stdin.", metavar="FILE...", show_default=False)
    ],
    output_format: Annotated[Format, typer.Option("--format", help="json: one document a line.")] = "text",
    language: Annotated[str | None, typer.Option(help="Such as en or de; default: the deployment's.")] = None,
    task: Annotated[Task | None, typer.Option(help="translate: into English.")] = None,
    timestamps: Annotated[Timestamps | None, typer.Option(help="none: no times within a window; word: in json and vtt.")] = None,
    prompt: Annotated[str | None, typer.Option(help="Text that goes before: names, spelling, style.")] = None,
    hotwords: Annotated[str | None, typer.Option(help="Names and terms to expect, in every window.")] = None,
    condition_on_previous_text: Annotated[
        bool, typer.Option("--condition-on-previous-text", help="One window after another, each knowing the text before it.")
    ] = False,
    temperature_fallback: Annotated[
        bool | None, typer.Option(help="Decode again, less greedily, what came out badly; default: the deployment's.")
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, max=MAX_SEED, help="Of what temperature fallback draws; default: 0.")] = None,
    hallucination_guards: Annotated[
        bool | None, typer.Option(help="Leave out what nobody said, and loops; default: the deployment's.")
    ] = None,
    output_dir: Annotated[Path | None, typer.Option(help="Write a file per input there.", metavar="DIR", file_okay=False)] = None,
    endpoint: Annotated[str, typer.Option(help="gRPC address of the server.", metavar="HOST:PORT")] = "127.0.0.1:8001",
    concurrency: Annotated[int, typer.Option(min=1, max=256, help="Files at once.")] = 4,
    timeout: Annotated[float | None, typer.Option(min=0.001, help="Seconds for one file; default: none.")] = None,
    verify: Annotated[
        bool,
        typer.Option("--verify", help="Decode each file again by the target alone and compare every token; one file at a time."),
    ] = False,
) -> None:
    """Transcribe audio files.

    Transcripts go to stdout in the order given, all else to stderr. A file that fails is reported, the others finish, and the
    exit code is 1.

    Examples:

    `transcriber transcribe talk.mp3`

    `transcriber transcribe *.flac --format srt --output-dir subtitles`

    `ffmpeg -i film.mkv -f flac - | transcriber transcribe - --language de --verify`
    """
    for name, text, most in (("prompt", prompt, MAX_PROMPT_CHARACTERS), ("hotwords", hotwords, MAX_HOTWORDS_CHARACTERS)):
        if text is not None and len(text) > most:
            raise typer.BadParameter(f"has {len(text)} characters; at most {most}", param_hint=f"--{name}")
    outputs = _outputs(files, output_format, output_dir)
    chosen = {
        "language": language,
        "task": task,
        "timestamps": timestamps,
        "prompt": prompt,
        "hotwords": hotwords,
        "condition_on_previous_text": condition_on_previous_text or None,
        "temperature_fallback": temperature_fallback,
        "seed": seed,
        "hallucination_guards": hallucination_guards,
    }
    request = Request(endpoint, {name: value for name, value in chosen.items() if value is not None}, timeout, verify)
    with expected_errors():
        if output_dir is not None:
            _make_dir(output_dir)
        emit = _Emitter(output_format, outputs)
        asyncio.run(_transcribe_all(files, request, 1 if verify else concurrency, emit))
        if emit.failed:
            raise typer.Exit(1)


def _outputs(files: Sequence[str], output_format: Format, output_dir: Path | None) -> list[Path | None]:
    """Return where each result goes, None for stdout; raises typer.BadParameter for what would mix or overwrite."""
    if files.count(STDIN) > 1:
        raise typer.BadParameter("stdin can be read once: give - once", param_hint="FILE")
    if output_dir is None:
        if len(files) > 1 and output_format in ("srt", "vtt"):
            message = f"{output_format} of several files would run together; add --output-dir DIR"
            raise typer.BadParameter(message, param_hint="--format")
        return [None] * len(files)
    names = ["stdin" if file == STDIN else Path(file).stem for file in files]
    for name, count in Counter(names).items():
        if count > 1:
            message = f"{count} files would be written to {name}{EXTENSIONS[output_format]}; transcribe them one by one"
            raise typer.BadParameter(message, param_hint="--output-dir")
    return [output_dir / f"{name}{EXTENSIONS[output_format]}" for name in names]


def _make_dir(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CommandError(f"--output-dir {path}: {error.strerror}") from None


class _Emitter:
    """Writes outcomes as they come, in order, and keeps what the summary needs."""

    def __init__(self, output_format: Format, outputs: Sequence[Path | None]) -> None:
        self.failed = False
        self.transcripts: list[Transcript] = []
        self.seconds = 0.0
        self._format: Format = output_format
        self._outputs = outputs

    def __call__(self, index: int, name: str, outcome: Outcome) -> None:
        """Write one file's outcome; those that failed to stderr."""
        if outcome.transcript is not None:
            self.transcripts.append(outcome.transcript)
            self.seconds += outcome.seconds
            for warning in outcome.transcript.warnings:
                say(f"warning: {name}: {warning}")
            self._write(index, outcome.transcript)
        if outcome.proof is not None:
            say(f"{name}: {outcome.proof}")
        if outcome.error is not None:
            self.failed = True
            show_error(f"{name}: {outcome.error}")

    def _write(self, index: int, transcript: Transcript) -> None:
        text, output = RENDER[self._format](transcript), self._outputs[index]
        if output is None:
            write_result(text)
            return
        try:
            output.write_text(text if text.endswith("\n") else text + "\n", encoding="utf-8")
        except OSError as error:
            self.failed = True
            show_error(f"{output}: {error.strerror}")
        else:
            say(f"wrote {output}")


async def _transcribe_all(files: Sequence[str], request: Request, at_once: int, emit: _Emitter) -> None:
    """Transcribe with at most `at_once` files on their way; Ctrl-C cancels their calls, so the server stops working on them."""
    gate = asyncio.Semaphore(at_once)
    client = triton.InferenceServerClient(request.endpoint, keepalive_options=KEEPALIVE)
    try:
        await _probe(client, request.endpoint)
        with FileSpinners() as spinners:

            async def one(file: str) -> Outcome:
                async with gate:
                    with spinners.file(file):
                        return await _transcribe_file(client, file, request)

            started = time.perf_counter()
            tasks = [asyncio.create_task(one(file)) for file in files]
            for index, (file, task) in enumerate(zip(files, tasks, strict=True)):
                emit(index, file, await task)
            elapsed = time.perf_counter() - started
    finally:
        await client.close()
    if emit.transcripts:
        # The second pass of --verify is not what a caller waits for.
        say(summary(emit.transcripts, emit.seconds if request.verify else elapsed))


async def _probe(client: triton.InferenceServerClient, endpoint: str) -> None:
    try:
        ready = await client.is_model_ready("transcribe", client_timeout=PROBE_SECONDS)
    except (InferenceServerException, ValueError):
        raise CommandError(
            f"--endpoint {endpoint}: no server answers there; start one with `transcriber serve -f FILE`, or give its address"
        ) from None
    if not ready:
        raise CommandError(f"--endpoint {endpoint}: the model `transcribe` is not ready there; see the server's log")


async def _transcribe_file(client: triton.InferenceServerClient, file: str, request: Request) -> Outcome:
    try:
        audio = await asyncio.to_thread(_read, file)
        transcript, seconds = await _infer(client, audio, request.options, request.timeout_seconds)
        if not request.verify:
            return Outcome(transcript, seconds)
        alone, alone_seconds = await _infer(client, audio, {**request.options, **TARGET_ALONE}, request.timeout_seconds)
    except CommandError as error:
        return Outcome(error=str(error))
    difference = first_difference(transcript, alone)
    if difference is not None:
        return Outcome(transcript, seconds, error=f"not exact: {difference}")
    count = len(_tokens(transcript))
    proof = f"exact: {count} tokens, the same as the target alone decodes; {alone_seconds / seconds:.2f} times its speed"
    return Outcome(transcript, seconds, proof=proof)


def _read(file: str) -> bytes:
    try:
        audio = sys.stdin.buffer.read() if file == STDIN else Path(file).read_bytes()
    except OSError as error:
        raise CommandError(error.strerror or str(error)) from None
    if len(audio) > MAX_MESSAGE_BYTES:
        raise CommandError(
            f"has {len(audio)} bytes, gRPC carries {MAX_MESSAGE_BYTES}; compress it (flac, opus) or send it in parts"
        )
    return audio


async def _infer(
    client: triton.InferenceServerClient,
    audio: bytes,
    options: Mapping[str, str | int | bool],
    timeout_seconds: float | None,
) -> tuple[Transcript, float]:
    """Send one request; returns the transcript and the seconds it took, raises CommandError."""
    inputs = [_string("AUDIO", audio), _string("OPTIONS", json.dumps(dict(options)).encode())]
    started = time.perf_counter()
    try:
        reply = await client.infer("transcribe", inputs, client_timeout=timeout_seconds)
    except InferenceServerException as error:
        raise _failure(error, timeout_seconds) from None
    seconds = time.perf_counter() - started
    result = reply.as_numpy("RESULT")
    if result is None:
        raise CommandError("the server's answer has no RESULT; is the model `transcribe` there this project's?")
    try:
        return Transcript.model_validate_json(result[0]), seconds
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in problem["loc"])
        raise CommandError(
            f"the server's RESULT is not a transcript: {where}: {problem['msg']}; does its version differ?"
        ) from None


def _string(name: str, value: bytes) -> triton.InferInput:
    tensor = triton.InferInput(name, [1], "BYTES")
    tensor.set_data_from_numpy(np.array([value], dtype=np.object_))
    return tensor


def _failure(error: InferenceServerException, timeout_seconds: float | None) -> CommandError:
    status, message = str(error.status()), " ".join(str(error.message()).split())
    if status == "StatusCode.DEADLINE_EXCEEDED":
        return CommandError(f"no answer within {timeout_seconds:g} s; give more with --timeout")
    if status == "StatusCode.UNAVAILABLE" and not message.endswith("]"):
        return CommandError(f"the server went away: {message}")
    return CommandError(message)


def _tokens(transcript: Transcript) -> list[int]:
    return [token for segment in transcript.segments for token in segment.tokens]


def first_difference(transcript: Transcript, alone: Transcript) -> str | None:
    """Name the first token that differs from what the target alone decoded; None where all are equal."""
    ours, theirs = _tokens(transcript), _tokens(alone)
    for index, (one, other) in enumerate(zip(ours, theirs, strict=False)):
        if one != other:
            return f"token {index} is {one}; the target alone decodes {other}"
    if len(ours) != len(theirs):
        return f"{len(ours)} tokens; the target alone decodes {len(theirs)}, the same up to token {min(len(ours), len(theirs)) - 1}"
    return None


def summary(transcripts: Sequence[Transcript], elapsed_seconds: float) -> str:
    """Say what was done: audio seconds per second, and how far speculation carried."""
    audio_seconds = sum(transcript.duration_seconds for transcript in transcripts)
    total = sum((transcript.speculation for transcript in transcripts), Speculation())
    files = f"{len(transcripts)} file{'s' if len(transcripts) != 1 else ''}"
    speed = f"{audio_seconds / elapsed_seconds:.2f} audio seconds per second"
    drafts = (
        f"acceptance {total.acceptance:.1%}, {total.tokens_per_cycle:.2f} tokens per cycle" if total.draft_tokens else "no drafts"
    )
    return f"{files}: {audio_seconds:.1f} s of audio in {elapsed_seconds:.1f} s, {speed}; {drafts}"
