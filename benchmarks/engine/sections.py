"""What is measured, section by section; each writes flat records as it goes, so that what was measured before Ctrl-C is kept."""

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any, Final

from benchmarks.engine import audio
from benchmarks.engine.child import Child, ChildError
from benchmarks.engine.clips import Clip, FileRun, Run
from benchmarks.engine.cuts import errors_by_cuts
from benchmarks.engine.lineup import ENTRANTS, LIMITED, start
from benchmarks.engine.roofline import Machine
from benchmarks.engine.words import cut_errors, invented_per_minute

from transcriber_engine.audio import Samples

Record = dict[str, Any]
FILE_PEERS: Final = ("ours-files", "ours-triton", "fw", "fw-batch", "fw-int8-batch")
TOLD_ONCE_AT: Final = 4  # clients, between the two that claims speak of
RESIDENT_SAMPLES: Final = 60  # of a long run, kept for the report
NOISE_OPTIONS: Final[Mapping[str, tuple[tuple[str, Mapping[str, Any]], ...]]] = {
    "ours-files": (
        ("guards off, no VAD", {"voice_activity_detection": "none"}),
        ("guards on, no VAD", {"voice_activity_detection": "none", "hallucination_guards": True}),
        ("guards off, VAD", {"voice_activity_detection": "silero"}),
        ("guards on, VAD", {"voice_activity_detection": "silero", "hallucination_guards": True}),
    ),
    "fw": (("no VAD", {"vad_filter": False}), ("VAD", {"vad_filter": True})),
}


@dataclass(frozen=True)
class Sizes:
    """How much is measured."""

    rounds: int = 3
    windows: int = 8  # distinct ones; at concurrency 16 each is sent twice
    draft_windows: int = 4
    file_seconds: float = 600
    hour_seconds: float = 3600
    noise_seconds: float = 60
    cycles: int = 10_000


QUICK: Final = Sizes(rounds=1, windows=2, draft_windows=1, file_seconds=60, hour_seconds=90, noise_seconds=20, cycles=1000)


@dataclass
class Bench:
    """What the sections share: sizes, who takes part, where weights lie, what was heard first, and where records go."""

    sizes: Sizes
    peers: Sequence[str]
    weights: Path
    folder: Path
    record: Callable[[Record], None]
    tokens: dict[tuple[str, str], tuple[int, ...]] = field(default_factory=dict)  # (peer, clip) -> what it heard first
    _running: dict[str, Child] = field(default_factory=dict)
    _failed: set[str] = field(default_factory=set)

    @contextmanager
    def children(self) -> Any:
        """End, after a section, the processes that it started."""
        with ExitStack() as stack:
            stack.callback(self._close)
            yield

    def call(self, name: str, method: str, *arguments: Any) -> Any:
        """Have a peer do something; None, once said why, where it cannot."""
        if name in self._failed:
            return None
        try:
            if name not in self._running:
                self._running[name] = start(name, self.weights, self.folder)
            return self._running[name].call(method, *arguments)
        except ChildError as error:
            self._failed.add(name)
            say(f"  left out: {error}")
            self.record({"kind": "left out", "peer": name, "reason": str(error).removeprefix(f"{name}: ").splitlines()[0]})
            return None

    def takes_part(self, names: Iterable[str]) -> list[str]:
        """Return who of these was chosen."""
        return [name for name in names if name in self.peers]

    def _close(self) -> None:
        for child in self._running.values():
            child.close()
        self._running.clear()


def say(line: str) -> None:
    """Tell how far it is."""
    print(line, file=sys.stderr, flush=True)


def run_clips(
    bench: Bench, workload: str, peer: str, clips: Sequence[Clip], concurrency: int, number: int, machine: Machine | None = None
) -> None:
    """Have a peer transcribe, and record what it took, whether it heard what it must, and what the machine did just before."""
    run: Run | None = bench.call(peer, "transcribe", clips, concurrency)
    if run is None:
        return
    heard = {(peer, clip.name): answer.tokens for clip, answer in zip(clips, run.answers, strict=True)}
    for key, tokens in heard.items():
        bench.tokens.setdefault(key, tokens)
    record = {
        "kind": "clips",
        "workload": workload,
        "peer": peer,
        "concurrency": concurrency,
        "round": number,
        "windows": len(clips),
        "audio_seconds": round(sum(clip.seconds for clip in clips), 3),
        "seconds": round(run.seconds, 4),
        "tokens": sum(len(answer.tokens) for answer in run.answers),
        "latencies": [round(answer.seconds, 4) for answer in run.answers],
        "figures": {name: round(value, 4) for name, value in run.figures.items()},
        "counts": None if run.counts is None else run.counts.as_json(),
        "machine": None if machine is None else asdict(machine),
        "differing": {other: differing(bench, peer, other, clips, run) for other in ("hf", ENTRANTS[peer].exact_to) if other},
    }
    bench.record(record)
    say(f"  round {number + 1}: {ENTRANTS[peer].title} at {concurrency}: {run.seconds / len(clips):.2f} s a window")


def differing(bench: Bench, peer: str, other: str, clips: Sequence[Clip], run: Run) -> list[str] | None:
    """Name the clips in which a peer heard other tokens than another had; None where that has not heard them."""
    pairs = list(zip(clips, run.answers, strict=True))
    if peer == other or any((other, clip.name) not in bench.tokens for clip, _ in pairs):
        return None
    return sorted({clip.name for clip, answer in pairs if answer.tokens != bench.tokens[other, clip.name]})


def measure_machine(bench: Bench) -> None:
    """Measure what the machine can do, and note the dimensions that its limit follows from."""
    with meter() as measured:
        machine = measured()
    shape = bench.call("ours", "shape")
    if shape is not None:
        bench.record({"kind": "shape", **asdict(shape)})
    bench.record({"kind": "machine", **asdict(machine)})


@contextmanager
def meter() -> Iterator[Callable[[], Machine]]:
    """Measure what the machine can do, as often as asked, in a process of its own."""
    with Child("machine", "benchmarks.engine.machine:Meter", {}) as child:

        def measured() -> Machine:
            found: Machine = child.call("measure")
            rates = f"{found.flops / 1e9:.0f} GFLOP/s, {found.half_flops / 1e9:.0f} in bfloat16, {found.read_bytes / 1e9:.1f} GB/s"
            say(f"  the machine: {rates}")
            return found

        yield measured


def measure_windows(bench: Bench) -> None:
    """English windows of 30 s under every peer, at 1, 4 and 16, round after round."""
    eight = audio.english(bench.sizes.windows)
    plan = [(name, 1, eight) for name in ("hf", "ours-alone", "ours", "hf-assisted", "fw", "openai")]
    plan += [(name, 1, eight) for name in ("fw-int8", "ours-int8-alone", "ours-int8")]
    plan += [(name, 4, eight) for name in ("hf-batch", "fw-batch", "fw-int8-batch", "ours", "ours-triton", "ours-int8")]
    names = ("hf-batch", "fw-batch", "fw-int8-batch", "ours-alone", "ours", "ours-triton", "ours-int8")
    plan += [(name, 16, [*eight, *eight]) for name in names]
    with meter() as measured:
        run_plan(bench, "English windows", plan, measured)
    for name in bench.takes_part(dict.fromkeys(name for name, _, _ in plan)):
        peak = bench.call(name, "peak_bytes")
        if peak is not None:
            bench.record({"kind": "memory", "peer": name, "peak_bytes": peak})


def run_plan(
    bench: Bench,
    workload: str,
    plan: Sequence[tuple[str, int, Sequence[Clip]]],
    measured: Callable[[], Machine] | None = None,
) -> None:
    """Warm everybody up on a window, then run the plan's lines in turn, every round; what no claim rests on, in the first alone.

    `measured` tells what the machine can do, just before each run that is held against its limit.
    """
    chosen = [(name, concurrency, clips) for name, concurrency, clips in plan if name in bench.peers]
    for name in dict.fromkeys(name for name, _, _ in chosen):
        say(f"  starting {ENTRANTS[name].title}")
        clips = next(clips for other, _, clips in chosen if other == name)
        bench.call(name, "transcribe", clips[:1], 1)
    for number in range(bench.sizes.rounds):
        for name, concurrency, clips in chosen:
            if number == 0 or not (ENTRANTS[name].once or concurrency == TOLD_ONCE_AT):
                machine = measured() if measured is not None and name in LIMITED else None
                run_clips(bench, workload, name, clips, concurrency, number, machine)


def measure_draft(bench: Bench) -> None:
    """Our engine with and without its draft on what suits the draft, on what does not, and with one that is always wrong."""
    count = bench.sizes.draft_windows
    for workload, clips, names in (
        ("real English", audio.real_english(count), ("ours-alone", "ours", "ours-wrong")),
        ("other languages", audio.other_languages(count), ("hf", "ours-alone", "ours", "ours-wrong")),
    ):
        full = [clips[i % len(clips)] for i in range(16)]
        plan = [(name, concurrency, clips if concurrency == 1 else full) for concurrency in (1, 16) for name in names]
        run_plan(bench, workload, [line for line in plan if line[:2] != ("hf", 16)])


def measure_short(bench: Bench) -> None:
    """Single phrases of one to five seconds in nine languages, all clients at once; every peer pays for a whole window."""
    clips = audio.short(bench.sizes.windows)
    one = [(name, 1, clips) for name in ("hf", "ours-alone", "ours", "fw", "fw-int8")]
    run_plan(bench, "short clips", [*one, *((name, 16, clips) for name in ("ours", "ours-triton"))])


def measure_file(bench: Bench) -> None:
    """A file of ten minutes, cut by each peer in its own way, on speech."""
    file = audio.long_file(bench.sizes.file_seconds, seed=1)
    for name in bench.takes_part(FILE_PEERS):
        options = {"vad_filter": True} if name.startswith("fw") else {}
        run: FileRun | None = bench.call(name, "transcribe_file", file.samples, "en", options)
        if run is not None:
            record_file(bench, "file", name, file, run)


def measure_hour(bench: Bench) -> None:
    """A file of an hour through our pipeline: what its memory does, and what the cuts do to its words."""
    file = audio.long_file(bench.sizes.hour_seconds, seed=2)
    run: FileRun | None = bench.call("ours-files", "transcribe_file", file.samples, "en", {})
    if run is None:
        return

    def hear(samples: Samples) -> str | None:
        heard: FileRun | None = bench.call("ours-files", "transcribe_file", samples, "en", {"voice_activity_detection": "none"})
        return None if heard is None else heard.text

    record_file(bench, "hour", "ours-files", file, run, errors_by_cuts(file, run.pieces, hear))


def record_file(bench: Bench, kind: str, peer: str, file: audio.LongFile, run: FileRun, by_cuts: Record | None = None) -> None:
    """Record what a peer made of a long file; only ours tells where it cut."""
    errors = asdict(cut_errors(file.said, [piece.text for piece in run.pieces])) | (by_cuts or {})
    every = max(len(run.resident_bytes) // RESIDENT_SAMPLES, 1)
    bench.record(
        {
            "kind": kind, "peer": peer, "speech": audio.long_file_speech(),
            "audio_seconds": round(file.seconds, 1), "seconds": round(run.seconds, 3),
            "pieces": len(run.pieces), "errors": errors, "resident_bytes": list(run.resident_bytes[::every]),
        }
    )  # fmt: skip
    say(f"  {ENTRANTS[peer].title}: {file.seconds:.0f} s of audio in {run.seconds:.1f} s; {errors}")


def measure_noise(bench: Bench) -> None:
    """Sounds in which nobody speaks: every word is invented."""
    for sound, make in audio.NO_SPEECH.items():
        samples = make(bench.sizes.noise_seconds)
        for name in bench.takes_part(NOISE_OPTIONS):
            for setting, options in NOISE_OPTIONS[name]:
                run: FileRun | None = bench.call(name, "transcribe_file", samples, "en", options)
                if run is None:
                    continue
                words = invented_per_minute(run.text, bench.sizes.noise_seconds)
                bench.record({"kind": "noise", "sound": sound, "peer": name, "setting": setting, "words_per_minute": words})
                say(f"  {sound}, {ENTRANTS[name].title}, {setting}: {words:.0f} invented words a minute")


def measure_cycles(bench: Bench) -> None:
    """Ten thousand cycles of the engine in miniature."""
    with Child("cycles", "benchmarks.engine.endurance:Endurance", {}) as child:
        bench.record({"kind": "cycles", **child.call("run", bench.sizes.cycles)})


def measure_profile(bench: Bench) -> None:
    """Where the engine's time goes, at 1 and at 16."""
    clips = audio.english(bench.sizes.windows)
    with Child("profile", "benchmarks.engine.profile:Profiled", {"weights": str(bench.weights), "draft": True}) as child:
        child.call("transcribe", clips[:1], 1)
        for concurrency, sent in ((1, clips), (16, [clips[i % len(clips)] for i in range(16)])):
            told = child.call("profile", sent, concurrency)
            bench.record({"kind": "profile", "concurrency": concurrency, "windows": len(sent), **told})


SECTIONS: Final[Mapping[str, tuple[str, Callable[[Bench], None]]]] = {
    "machine": ("what the machine can do", measure_machine),
    "windows": ("every peer on English windows at 1, 4 and 16", measure_windows),
    "draft": ("our draft on and off, and at its worst", measure_draft),
    "short": ("short clips in nine languages", measure_short),
    "file": ("a file of ten minutes", measure_file),
    "hour": ("a file of an hour: memory, words at cuts", measure_hour),
    "noise": ("silence, noise and tones: invented words", measure_noise),
    "cycles": ("memory over ten thousand cycles", measure_cycles),
    "profile": ("where our time goes", measure_profile),
}


def measure(name: str, bench: Bench) -> float:
    """Run a section and return its seconds."""
    title, run = SECTIONS[name]
    say(f"{name}: {title}")
    began = perf_counter()
    with bench.children():
        run(bench)
    return perf_counter() - began
