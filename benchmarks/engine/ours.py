"""Our engine as a peer: encoder and scheduler in one process, driven window by window; and the whole pipeline for long files."""

import io
import wave
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from time import perf_counter, process_time
from typing import Any, Final

import numpy as np
import torch
from benchmarks.engine.child import THREADS, ResidentSamples
from benchmarks.engine.clips import Answer, Clip, FileRun, Piece, Run
from benchmarks.engine.roofline import Counts, Shape, Stack
from benchmarks.pipeline import Pipeline
from torch import Tensor

from transcriber_engine.audio import SAMPLE_RATE_HZ, Samples
from transcriber_engine.decoding import PairDecoder
from transcriber_engine.head import DraftHead, ScreenedHead
from transcriber_engine.mel import log_mel
from transcriber_engine.pair import DecoderPair
from transcriber_engine.scheduler import Scheduler
from transcriber_engine.settings import EngineSettings, Options
from transcriber_engine.speculation import Row, Verified
from transcriber_engine.weights import load_decoders, load_encoder
from transcriber_engine.window import Job, WindowRequest, WindowTokens

SLOTS: Final = 16
MAX_DRAFT_TOKENS: Final = 8


class Watched:
    """Counts and times what a scheduler's decoder does, from outside; and makes every draft a wrong one where that is wanted."""

    def __init__(self, decoder: PairDecoder, *, wrong: bool) -> None:
        self.verified: list[tuple[int, int]] = []
        self.drafted: list[tuple[int, int]] = []
        self.admit_seconds = self.draft_seconds = self.verify_seconds = 0.0
        self._wrong = wrong
        self._words = decoder.pair.tokenizer.end_of_text
        self._admit, self._propose, self._verify = decoder.admit, decoder.propose, decoder.verify
        decoder.admit, decoder.propose, decoder.verify = self.admit, self.propose, self.verify  # type: ignore[method-assign]

    def admit(self, slot: int, hidden: Tensor, *, with_draft: bool) -> None:
        """Lay out a window's keys and values."""
        began = perf_counter()
        self._admit(slot, hidden, with_draft=with_draft)
        self.admit_seconds += perf_counter() - began

    def propose(self, rows: Sequence[Row], counts: Sequence[int]) -> list[list[int]]:
        """Draft."""
        began = perf_counter()
        drafts = self._propose(rows, counts)
        self.draft_seconds += perf_counter() - began
        still_drafting = [sum(count > step for count in counts) for step in range(max(counts))]
        self.drafted += [(left, left) for left in still_drafting]
        return [[(token + 1) % self._words for token in draft] for draft in drafts] if self._wrong else drafts

    def verify(self, rows: Sequence[Row], drafts: Sequence[Sequence[int]]) -> list[Verified]:
        """Verify."""
        began = perf_counter()
        verified = self._verify(rows, drafts)
        self.verify_seconds += perf_counter() - began
        self.verified.append((len(rows), sum(len(draft) + 1 for draft in drafts)))
        return verified


class Ours:
    """The engine as it is served, less Triton: without a draft, with it, or with a draft that is always wrong."""

    def __init__(self, weights: str, *, draft: bool, precision: str = "float32", wrong: bool = False) -> None:
        torch.set_num_threads(THREADS)
        folder = Path(weights)
        self.encoder = load_encoder(folder, precision, "cpu")
        self.pair = load_decoders(folder, precision, "cpu", with_draft=draft)
        self.scheduler = Scheduler(self.pair, SLOTS, "model" if draft else "none", MAX_DRAFT_TOKENS)
        self.scheduler.calibrate()
        self.wrong = wrong

    def shape(self) -> Shape:
        """Tell the dimensions that the machine's limit follows from."""
        return shape_of(self.pair)

    @torch.inference_mode()
    def transcribe(self, clips: Sequence[Clip], concurrency: int) -> Run:
        """Encode a window as soon as a client sends it, and decode while nobody does."""
        watched = Watched(self.scheduler.decoder, wrong=self.wrong)
        try:
            return self._transcribe(clips, concurrency, watched)
        finally:
            for name in ("admit", "propose", "verify"):
                delattr(self.scheduler.decoder, name)  # the methods of the class again

    def close(self) -> None:
        """Nothing is held."""

    def _transcribe(self, clips: Sequence[Clip], concurrency: int, watched: Watched) -> Run:
        began, cpu_began = perf_counter(), process_time()
        outcomes: dict[int, tuple[float, WindowTokens | BaseException]] = {}
        sent_seconds: dict[int, float] = {}
        free_clients = deque([0.0] * concurrency)  # since when each has its answer
        encode_seconds = step_seconds = 0.0

        def done(number: int, outcome: WindowTokens | BaseException) -> None:
            outcomes[number] = (perf_counter() - began, outcome)
            free_clients.append(outcomes[number][0])

        while len(outcomes) < len(clips):
            while free_clients and len(sent_seconds) < len(clips):
                number = len(sent_seconds)
                sent_seconds[number] = free_clients.popleft()
                at = perf_counter()
                request = self._request(clips[number])
                encode_seconds += perf_counter() - at
                self.scheduler.submit(Job(request, lambda outcome, n=number: done(n, outcome)))
            at = perf_counter()
            self.scheduler.step()
            step_seconds += perf_counter() - at
        seconds = perf_counter() - began
        answers = [self._answer(*outcomes[i], sent_seconds[i]) for i in range(len(clips))]
        tokens = [outcome for _, outcome in outcomes.values() if isinstance(outcome, WindowTokens)]
        figures = {
            "encode_seconds": encode_seconds,  # log-mel and encoder
            "decode_seconds": step_seconds,
            "admit_seconds": watched.admit_seconds,
            "draft_seconds": watched.draft_seconds,
            "verify_seconds": watched.verify_seconds,
            "cpu_seconds": process_time() - cpu_began,
            "row_cycles": sum(t.cycles for t in tokens),
            "output_tokens": sum(t.output_tokens for t in tokens),
            "draft_tokens": sum(t.draft_tokens for t in tokens),
            "accepted_tokens": sum(t.accepted_tokens for t in tokens),
        }
        drafts = self.scheduler.decoder.max_draft_tokens > 0
        counts = Counts.of(len(clips), len(clips) if drafts else 0, watched.verified, watched.drafted)
        return Run(seconds, tuple(answers), figures, counts)

    def _request(self, clip: Clip) -> WindowRequest:
        mel = torch.from_numpy(log_mel(clip.samples, self.pair.config.num_mel_bins))
        hidden = self.encoder(mel[None].to(self.encoder.conv1.weight))[0]
        return WindowRequest(hidden, language=clip.language, audio_seconds=clip.seconds, max_draft_tokens=MAX_DRAFT_TOKENS)

    def _answer(self, done_seconds: float, outcome: WindowTokens | BaseException, sent_seconds: float) -> Answer:
        if isinstance(outcome, BaseException):
            raise outcome
        return Answer(outcome.tokens, self.pair.tokenizer.text(outcome.tokens).strip(), done_seconds - sent_seconds)


def shape_of(pair: DecoderPair) -> Shape:
    """Return the dimensions of a pair, and what of it is kept in half precision."""
    config = pair.config
    target = Stack(
        config.decoder_layers,
        config.vocab_size,
        half_head=isinstance(pair.target.head, ScreenedHead),
        frame_bytes=pair.target.frames_dtype.itemsize,
    )
    draft = Stack(0, 0)
    if pair.draft is not None:
        half, frames = isinstance(pair.draft.head, DraftHead), (pair.draft.frames_dtype.itemsize, pair.draft.frame_step)
        draft = Stack(len(pair.draft.layers), pair.draft.head.ids, half, half, *frames)
    return Shape(
        config.d_model,
        config.decoder_ffn_dim,
        config.encoder_layers,
        config.num_mel_bins,
        config.max_source_positions,
        target,
        draft,
    )


class OursForFiles:
    """The path of a request through the served models, in one process: decoding the file, speech detection, windows, stitching."""

    def __init__(self, weights: str) -> None:
        torch.set_num_threads(THREADS)
        self.pipeline = Pipeline(Path(weights), EngineSettings(slots=SLOTS, draft="model", max_draft_tokens=MAX_DRAFT_TOKENS))
        self.pipeline.scheduler.calibrate()
        self.pipeline.__enter__()

    def transcribe_file(self, samples: Samples, language: str, options: Mapping[str, Any]) -> FileRun:
        """Transcribe a file; without timestamps a segment is a window, so that the pieces tell where it was cut."""
        audio = wav(samples)
        began = perf_counter()
        with ResidentSamples() as memory:
            transcript = self.pipeline.transcribe(audio, Options(language=language, **{"timestamps": "none"} | dict(options)))
        pieces = tuple(Piece(segment.start_seconds, segment.text) for segment in transcript.segments)
        return FileRun(perf_counter() - began, pieces, tuple(memory.bytes))

    def close(self) -> None:
        """Stop the engine's thread."""
        self.pipeline.__exit__(None, None, None)


def wav(samples: Samples) -> bytes:
    """A file of the samples in 16 bit."""
    target = io.BytesIO()
    with wave.open(target, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(SAMPLE_RATE_HZ)
        file.writeframes((samples.clip(-1, 1) * 32767).astype(np.int16).tobytes())
    return target.getvalue()
