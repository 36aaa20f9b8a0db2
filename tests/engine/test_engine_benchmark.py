"""The arithmetic behind the engine's benchmark: ratios, waits in line, the machine's limit, words at cuts, the report."""

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from benchmarks import gpu
from benchmarks.engine import __main__ as command
from benchmarks.engine.audio import LongFile
from benchmarks.engine.claims import claims
from benchmarks.engine.clips import Piece, closed_loop
from benchmarks.engine.cuts import errors_by_cuts
from benchmarks.engine.figures import clips_of, distance, flatness, most_differing, percentile, queued, ratios, speed
from benchmarks.engine.peers import openai_name
from benchmarks.engine.report import markdown
from benchmarks.engine.roofline import Counts, Machine, Shape, Stack, encoder_flops, least_by_part, limit_seconds, step_seconds
from benchmarks.engine.words import by_the_cut as harm
from benchmarks.engine.words import cut_errors, invented_per_minute, wrong_words

from transcriber_engine.audio import SAMPLE_RATE_HZ

BASE = Shape(512, 2048, encoder_layers=6, mel_bins=80, frames=1500, target=Stack(6, 51865), draft=Stack(2, 9799))
LAYER_WEIGHTS = 6 * 512**2 + 2 * 512 * 2048
TOKEN_FLOPS = 6 * (2 * LAYER_WEIGHTS + 4 * 1500 * 512) + 2 * 51865 * 512
MACHINE = Machine(flops=180e9, half_flops=360e9, read_bytes=35e9)


def record(peer: str, seconds: float, round_number: int = 0, concurrency: int = 1, **other: object) -> dict[str, object]:
    figures = {"kind": "clips", "workload": "English windows", "peer": peer, "concurrency": concurrency, "round": round_number}
    measured = {"windows": 2, "audio_seconds": 60.0, "seconds": seconds, "tokens": 200, "latencies": [seconds / 2] * 2}
    return {**figures, **measured, "figures": {}, "counts": None, "differing": {}, **other}


def test_a_ratio_is_taken_within_each_round_so_that_a_slow_round_does_not_change_it() -> None:
    theirs = [record("hf", 4.0, 0), record("hf", 40.0, 1), record("hf", 9.9, 2)]
    ours = [record("ours", 2.0, 0), record("ours", 20.0, 1)]
    assert ratios(theirs, ours) == [2.0, 2.0]


def test_ratios_are_of_seconds_a_window_whatever_the_number_of_windows() -> None:
    assert ratios([record("hf", 4.0)], [record("ours", 8.0, windows=16)]) == [4.0]


def test_ratios_can_be_of_a_figure_that_a_peer_tells_of_itself() -> None:
    off, on = ([record("ours", 9.0, figures={"decode_seconds": seconds})] for seconds in (3.0, 2.0))
    assert ratios(off, on, "decode_seconds") == [1.5]


def test_a_client_waits_from_when_it_has_its_last_answer() -> None:
    assert closed_loop([1.0, 2.0, 3.0, 4.0], 1) == [1.0, 1.0, 1.0, 1.0]
    assert closed_loop([1.0, 2.0, 3.0, 4.0], 2) == [1.0, 2.0, 2.0, 2.0]


def test_clients_of_a_peer_that_takes_one_window_at_a_time_stand_in_line() -> None:
    for_four = queued(record("fw", 3.0, latencies=[1.0, 2.0]), concurrency=4, windows=4)
    assert (for_four["seconds"], for_four["tokens"], for_four["audio_seconds"]) == (6.0, 400, 120.0)
    assert for_four["latencies"] == [1.0, 3.0, 4.0, 6.0]


def test_percentiles_are_values_that_were_measured() -> None:
    assert percentile([3.0, 1.0, 2.0], 50) == 2.0
    assert percentile([float(i) for i in range(1, 21)], 95) == 19.0
    assert percentile([5.0], 95) == 5.0


def test_speed_is_the_median_of_rounds_and_the_percentile_of_all_waits() -> None:
    fast = speed([record("ours", 1.0, 0), record("ours", 2.0, 1), record("ours", 4.0, 2)])
    assert (fast.windows_per_second, fast.tokens_per_second, fast.audio_seconds_per_second) == (1.0, 100.0, 30.0)
    assert (fast.p50_seconds, fast.p95_seconds) == (1.0, 2.0)


def test_the_worst_round_tells_how_many_windows_differ() -> None:
    runs = [record("ours", 1.0, differing={"hf": names}) for names in ([], ["a", "b"], None)]
    assert most_differing(runs, "hf") == 2
    assert most_differing(runs[2:], "hf") is None


def test_flops_of_an_encoded_window_are_those_of_whisper_base() -> None:
    assert encoder_flops(BASE) == pytest.approx(87.4e9, rel=0.01)


def test_a_step_of_one_row_is_bound_by_reading_and_one_of_many_tokens_by_computing() -> None:
    weights = 4 * (6 * LAYER_WEIGHTS + 51865 * 512)
    keys = 4 * 6 * 2 * 1500 * 512
    assert step_seconds(BASE, MACHINE, BASE.target, 1, 1) == pytest.approx((weights + keys) / 35e9)
    assert step_seconds(BASE, MACHINE, BASE.target, 16, 80) == pytest.approx(80 * TOKEN_FLOPS / 180e9)


def test_a_draft_in_half_precision_reads_half_the_bytes() -> None:
    half = replace(BASE.draft, half_layers=True, half_head=True, frame_bytes=2)
    full_seconds, half_seconds = (step_seconds(BASE, MACHINE, stack, 1, 1) for stack in (BASE.draft, half))
    assert half_seconds == pytest.approx(full_seconds / 2)


def test_a_draft_that_attends_to_every_second_frame_in_int8_reads_an_eighth_of_them() -> None:
    fewer = replace(BASE.draft, frame_bytes=1, frame_step=2)
    full_seconds, fewer_seconds = (step_seconds(BASE, MACHINE, stack, 16, 1) for stack in (BASE.draft, fewer))
    keys = 4 * 2 * 2 * 1500 * 512
    assert full_seconds - fewer_seconds == pytest.approx(7 / 8 * 16 * keys / 35e9)


def test_the_limit_adds_up_every_step_that_happened_and_parts_are_no_less() -> None:
    once = Counts.of(1, 0, [(1, 1)], [])
    more = Counts.of(1, 1, [(1, 1), (1, 5), (1, 5)], [(1, 1)] * 4)
    added = 2 * step_seconds(BASE, MACHINE, BASE.target, 1, 5) + 4 * step_seconds(BASE, MACHINE, BASE.draft, 1, 1)
    draft_keys = 2 * 2 * 1500 * 2 * 512**2 / 180e9
    grown = limit_seconds(BASE, MACHINE, more) - limit_seconds(BASE, MACHINE, once)
    assert grown == pytest.approx(added + draft_keys)
    assert sum(least_by_part(BASE, MACHINE, more).values()) >= limit_seconds(BASE, MACHINE, more)


def test_counts_survive_json() -> None:
    counts = Counts.of(3, 2, [(1, 5), (2, 9), (1, 5)], [(1, 1)])
    assert Counts.from_json(json.loads(json.dumps(counts.as_json()))) == counts


def test_distance_is_measured_time_over_the_limit_of_the_machine_as_it_was_then() -> None:
    counts = Counts.of(2, 0, [(1, 1)] * 200, [])
    least = limit_seconds(BASE, MACHINE, counts)
    run = record("ours", 3 * least, counts=counts.as_json(), machine=asdict(MACHINE))
    assert distance([run], BASE) == pytest.approx(3.0)
    slower = replace(MACHINE, flops=MACHINE.flops / 2, half_flops=MACHINE.half_flops / 2, read_bytes=MACHINE.read_bytes / 2)
    beside_others = record("ours", 6 * least, 1, counts=counts.as_json(), machine=asdict(slower))
    assert distance([beside_others], BASE) == pytest.approx(3.0)  # what slows the machine down does not count
    assert distance([run, record("ours", 6 * least, 1, counts=counts.as_json(), machine=None)], BASE) is None


def test_words_lost_and_doubled_next_to_a_cut_are_told_from_those_elsewhere() -> None:
    said = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen"
    whole = cut_errors(said, ["One two three four five six seven,", "eight nine ten eleven twelve thirteen fourteen."])
    assert (whole.said, whole.cuts, whole.lost_at_cuts, whole.doubled_at_cuts, whole.misheard) == (14, 1, 0, 0, 0)
    lost = cut_errors(said, ["one two three four five six", "eight nine ten eleven twelve fourteen"])
    assert (lost.lost_at_cuts, lost.lost_elsewhere, lost.doubled_at_cuts) == (1, 1, 0)
    doubled = cut_errors(
        said, ["one two three four five six seven", "seven eight nine ten eleven twelve thirteen thirteen fourteen"]
    )
    assert (doubled.doubled_at_cuts, doubled.doubled_elsewhere, doubled.lost_at_cuts) == (1, 1, 0)


def test_a_word_that_a_cut_halves_counts_as_doubled() -> None:
    halved = cut_errors("the old baker wonderful garden was here", ["the old baker wonder", "ful garden was here"])
    assert (halved.doubled_at_cuts, halved.misheard) == (1, 1)


@pytest.mark.parametrize(
    ("uncut", "by_the_cut"),
    [
        ("four five six seven eight nine ten", (1, 0)),
        ("four five six eight nine ten", (0, 0)),
        ("four five six sevens eight nine ten", (1, 0)),
        ("four five seven eight nine ten", (0, 0)),  # which of two neighbours is lost is a matter of the alignment
        ("four six seven eight nine ten", (1, 0)),  # what is lost further away is no excuse
    ],
)
def test_a_word_lost_at_a_cut_is_the_cuts_doing_unless_it_is_lost_without_the_cut_too(
    uncut: str, by_the_cut: tuple[int, int]
) -> None:
    said = "one two three four five six seven eight nine ten"
    [wrong] = wrong_words(said, ["one two three four five six", "eight nine ten"])
    also = wrong_words("four five six seven eight nine ten", [uncut])
    assert harm(wrong, also, skipped=3) == by_the_cut


def test_words_that_the_model_hears_as_more_words_with_and_without_the_cut_are_not_the_cuts_doing() -> None:
    said = "until the lamps were lit the captain read a letter"
    [wrong] = wrong_words(said, ["until the lamps were lit", "the cap and read a letter"])
    assert (wrong.cut, wrong.doubled, wrong.misheard) == (0, 1, 1)
    assert harm(wrong, wrong_words(said, ["until the lamps were lit the capped and read a letter"]), skipped=0) == (0, 0)
    assert harm(wrong, wrong_words(said, [said]), skipped=0) == (0, 1)


NUMBERS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
FILE = LongFile(
    np.arange(60 * SAMPLE_RATE_HZ, dtype=np.float32),
    tuple(f"sentence number {number}" for number in NUMBERS),
    tuple((second * SAMPLE_RATE_HZ, (second + 5) * SAMPLE_RATE_HZ) for second in range(0, 60, 6)),
)


def test_sentences_around_a_cut_are_whole_and_their_sound_lies_between_two_silences() -> None:
    assert FILE.sentences[FILE.around(30.2)] == ("sentence number five", "sentence number six", "sentence number seven")
    sound = FILE.sound(FILE.around(30.2)) / SAMPLE_RATE_HZ
    assert sound.shape[0] == (17 + 2 * 0.4) * SAMPLE_RATE_HZ
    assert (sound[0], sound[6400], sound[-1]) == (0, 24, 0)
    assert FILE.sentences[FILE.around(200.0)] == ()


def hearing(*texts: str | None) -> tuple[list[float], Callable[[np.ndarray], str | None]]:
    """A model that hears these texts one after another, and the seconds that it was given."""
    seconds: list[float] = []

    def hear(samples: np.ndarray) -> str | None:
        seconds.append(round(samples.shape[0] / SAMPLE_RATE_HZ, 1))
        return texts[len(seconds) - 1]

    return seconds, hear


WHOLE = "sentence number five sentence number six sentence number seven"


@pytest.mark.parametrize(
    ("heard", "lost"),
    [
        pytest.param([WHOLE, "sentence number five", "sentence number six"], 1, id="right without the cut"),
        pytest.param(
            [WHOLE.replace("sentence number six", "number six"), "sentence number five", "sentence number six"], 0, id="lost uncut"
        ),
        pytest.param([WHOLE, "sentence number five", "number six"], 0, id="lost alone"),
        pytest.param([WHOLE, "number five", "sentence number six"], 1, id="another lost"),
        pytest.param([None, None, None], 1, id="not heard again"),
    ],
)
def test_a_word_lost_at_a_cut_is_charged_to_it_if_it_is_right_wherever_the_sentence_is_heard_without_it(heard, lost) -> None:
    before, after = (" ".join(FILE.sentences[chosen]) for chosen in (slice(5), slice(5, None)))
    seconds, hear = hearing(*heard)
    pieces = [Piece(0.0, before), Piece(30.2, after.removeprefix("sentence "))]
    assert errors_by_cuts(FILE, pieces, hear) == {"lost_by_cuts": lost, "doubled_by_cuts": 0}
    assert seconds == [17.8, 5.8, 5.8]


@pytest.mark.parametrize(("later", "lost"), [("number one", 0), ("sentence number", 1), ("sentence number one", 1)])
def test_a_word_lost_at_a_cut_is_not_charged_to_it_where_its_sentence_loses_it_away_from_cuts_too(later: str, lost: int) -> None:
    sentences = ("a first one", "sentence number one", "another number two", "sentence number one", "a last one")
    file = replace(FILE, sentences=sentences, spans=FILE.spans[:5])
    pieces = [Piece(0.0, "a first one"), Piece(6.0, f"number one another number two {later} a last one")]
    assert errors_by_cuts(file, pieces, lambda _: None) == {"lost_by_cuts": lost, "doubled_by_cuts": 0}


def test_nothing_is_heard_again_where_no_word_at_a_cut_is_lost_or_doubled() -> None:
    seconds, hear = hearing()
    pieces = [Piece(0.0, FILE.said.removesuffix(" ten")), Piece(55.0, "tin")]
    assert errors_by_cuts(FILE, pieces, hear) == {"lost_by_cuts": 0, "doubled_by_cuts": 0}
    assert seconds == []


def test_what_is_wrong_at_a_cut_is_charged_to_it_where_no_whole_sentence_is_near() -> None:
    file = LongFile(np.zeros(60 * SAMPLE_RATE_HZ, np.float32), ("one two three four five six",), ((0, 60 * SAMPLE_RATE_HZ),))
    pieces = [Piece(0.0, "one two three"), Piece(29.0, "three four five six")]
    assert errors_by_cuts(file, pieces, hearing()[1]) == {"lost_by_cuts": 0, "doubled_by_cuts": 1}


@pytest.mark.parametrize(("by_cuts", "is_met"), [({"lost_by_cuts": 0, "doubled_by_cuts": 0}, True), ({}, False)])
def test_a_long_file_is_judged_by_what_its_cuts_do_and_by_all_that_is_wrong_at_them_where_that_is_not_known(
    by_cuts: dict[str, int], is_met: bool
) -> None:
    errors = {"said": 9, "cuts": 2, "lost_at_cuts": 1, "doubled_at_cuts": 0, **by_cuts}
    hour = {"kind": "hour", "speech": "sentences", "resident_bytes": [1, 1], "errors": errors}
    [claim] = [claim for claim in claims([hour]) if claim.claim.endswith("by cuts")]
    assert claim.is_met is is_met


def test_invented_words_are_counted_by_the_minute_without_punctuation() -> None:
    assert invented_per_minute("Thank you. - Thank you!", 30.0) == 8.0
    assert invented_per_minute(" ... ", 60.0) == 0.0


def test_memory_is_compared_after_the_first_tenth_with_the_end() -> None:
    assert flatness([1, 50, *[60] * 17, 61]) == (60.0, 60.5)
    assert flatness([7]) == (7.0, 7.0)


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("model.encoder.layers.3.self_attn.q_proj.weight", "encoder.blocks.3.attn.query.weight"),
        ("model.decoder.layers.0.encoder_attn_layer_norm.bias", "decoder.blocks.0.cross_attn_ln.bias"),
        ("model.decoder.layers.5.final_layer_norm.weight", "decoder.blocks.5.mlp_ln.weight"),
        ("model.decoder.embed_positions.weight", "decoder.positional_embedding"),
        ("model.encoder.layer_norm.weight", "encoder.ln_post.weight"),
        ("model.decoder.layer_norm.weight", "decoder.ln.weight"),
    ],
)
def test_tensors_have_the_names_that_openai_whisper_gives_them(theirs: str, ours: str) -> None:
    assert openai_name(theirs) == ours


def document(*records: dict[str, object]) -> command.Document:
    section = {
        "date": "a day",
        "rounds": 1,
        "command": "make bench",
        "seconds": 1.0,
        "interrupted": False,
        "records": list(records),
    }
    return {"about": {"cpu": "a CPU", "cores": 2, "python": "3", "versions": {}}, "sections": {"windows": section}}


def test_a_claim_says_whether_it_is_met_and_what_was_not_measured() -> None:
    runs = [record("hf", 5.0), record("ours", 2.0), record("fw", 2.0, differing={"hf": ["a"]})]
    found = {claim.claim: claim for claim in claims(runs)}
    assert found["Speed at 1 over Hugging Face greedy"].is_met is True
    assert found["Speed at 1 over faster-whisper fp32"].is_met is False
    assert found["Time that Triton adds at 16"].measured == "not measured"
    assert found["Time that Triton adds at 16"].is_met is None


def test_one_window_with_other_tokens_breaks_the_claim_of_exactness_and_is_named() -> None:
    runs = [record("ours", 2.0, differing={"ours-alone": []}), record("ours-triton", 2.0, differing={"ours-alone": ["reading"]})]
    exact = claims(runs)[0]
    assert exact.is_met is False
    assert "reading" in exact.measured


def test_the_report_is_written_from_any_part_of_the_records() -> None:
    assert "Not measured." in markdown(document())
    text = markdown(document(record("hf", 5.0), record("ours", 2.0), {"kind": "left out", "peer": "openai", "reason": "no module"}))
    assert "| Hugging Face greedy " in text
    assert "2.50× (2.50 to 2.50)" in text
    assert "- openai-whisper: no module" in text


def test_peers_that_take_one_window_at_a_time_have_a_row_for_more_clients_too() -> None:
    text = markdown(document(record("fw", 4.0), record("ours", 2.0), record("ours", 16.0, concurrency=16, windows=16)))
    at_16 = text.partition("### 16 at once")[2].partition("##")[0]
    assert "| faster-whisper " in at_16
    assert "2.00×" in at_16


def test_records_are_read_back_as_they_were_written(tmp_path: Path) -> None:
    written = document(record("hf", 5.0), record("ours", 2.0))
    command.write(written, tmp_path / "engine")
    assert command.read(tmp_path / "engine.json") == written
    assert clips_of(command.read(tmp_path / "engine.json")["sections"]["windows"]["records"], "English windows", "hf", 1)
    assert (tmp_path / "engine.png").stat().st_size > 1000


def test_a_name_that_does_not_exist_is_answered_with_those_that_do(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        command.parse(["--only", "windows,naps"])
    assert "no such name: naps; there are machine, windows, draft" in capsys.readouterr().err


@pytest.mark.usefixtures("one_thread")
def test_the_gpu_benchmark_runs_on_a_cpu_and_has_the_acceptance_that_it_is_told(tmp_path: Path) -> None:
    out = tmp_path / "gpu.json"
    options = ["--device", "cpu", "--shape", "tiny", "--batches", "2", "--drafts", "0,4", "--tokens", "40", "--acceptance", "1"]
    assert gpu.main([*options, "--out", str(out)]) == 0
    without, drafted = json.loads(out.read_text())["lines"]
    assert (without["acceptance"], without["tokens_per_cycle"], without["differing"]) == (0, 1, 0)
    assert (drafted["acceptance"], drafted["tokens_per_cycle"], drafted["differing"]) == (1, 5, 0)
    assert drafted["verify_seconds"] > 0
    assert drafted["draft_seconds"] > 0
