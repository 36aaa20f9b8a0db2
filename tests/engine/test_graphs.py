"""What is captured on a GPU, on a CPU and not captured: the same buffers, buckets and cycles, and the same exactness."""

import random
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from tests.engine.test_exactness import decode, random_request
from tests.engine.toy import decoder_tensors, toy_config, toy_pair, toy_tokenizer
from transcriber_engine import row_grouping, slot_reader
from transcriber_engine.capture import Run, plainly
from transcriber_engine.decoder import Decoder
from transcriber_engine.decoding import DraftSource, PairDecoder
from transcriber_engine.draft_length import Costs
from transcriber_engine.graphs import GraphedDecoder, Shape, draft_buckets, make_decoder, row_buckets
from transcriber_engine.pair import DecoderPair, vocabulary
from transcriber_engine.row_grouping import RowGrouping
from transcriber_engine.rules import Vocabulary
from transcriber_engine.scheduler import Scheduler
from transcriber_engine.speculation import Row
from transcriber_engine.window import Job, WindowRequest, WindowTokens

pytestmark = pytest.mark.usefixtures("one_thread")


def graphed(
    pair: DecoderPair, requests: Sequence[WindowRequest], slots: int, source: DraftSource, most: int, costs: Costs | None = None
) -> tuple[list[WindowTokens], GraphedDecoder]:
    """Decode windows side by side by graphs; each must end well."""
    scheduler = Scheduler(pair, slots, source, most, costs)
    scheduler.decoder = decoder = GraphedDecoder(pair, slots, source, most)
    outcomes: dict[int, WindowTokens | BaseException] = {}
    for i, request in enumerate(requests):
        scheduler.submit(Job(request, lambda outcome, i=i: outcomes.__setitem__(i, outcome)))
    scheduler.run_until_idle()
    found = [outcomes[i] for i in range(len(requests))]
    assert all(isinstance(each, WindowTokens) for each in found), found
    return found, decoder  # type: ignore[return-value]


@pytest.mark.parametrize("seed", range(2))
def test_tokens_of_ragged_batches_equal_those_of_the_target_alone(seed: int) -> None:
    rng = random.Random(seed)
    pair = toy_pair(seed, draft_noise=rng.choice([0.0, 0.02, 0.05, 0.5]))
    requests = [replace(random_request(rng), temperature_fallback=rng.random() < 0.3, seed=i) for i in range(60)]
    alone, _ = decode(pair, requests, slots=1, source="none", most=0)
    rare = Costs(draft_base=1.0, draft_per_row=0.01, verify_base=0.8, verify_per_row=0.01, verify_per_token=0.3)
    for source, slots, most, costs in (("model", 5, 4, None), ("model", 11, 16, rare), ("prompt_lookup", 3, 7, None)):
        order = rng.sample(range(len(requests)), len(requests))
        together, decoder = graphed(pair, [requests[i] for i in order], slots, source, most, costs)
        assert [each.tokens for each in together] == [alone[i].tokens for i in order]
        assert [each.avg_logprob for each in together] == [alone[i].avg_logprob for i in order]
        assert [each.temperature for each in together] == [alone[i].temperature for i in order]
        assert len({shape.drafts for shape in decoder._runs}) > 1
    assert any(each.temperature for each in alone)


def row(slot: int, tokens: Sequence[int], **facts: object) -> Row:
    return Row(slot, list(tokens), 2, 30, timestamps=bool(facts.pop("timestamps", False)), draft_cap=4, **facts)  # type: ignore[arg-type]


def test_buckets_hold_every_number_of_rows_and_drafts_up_to_the_most() -> None:
    assert row_buckets(1) == (1,)
    assert row_buckets(11) == (1, 2, 4, 8, 11)
    assert row_buckets(200) == (1, 2, 4, 8, 16, 32, 48, 64, 128, 192, 200)
    assert draft_buckets(0) == (0,)
    assert draft_buckets(5) == (0, 2, 4, 5)
    assert draft_buckets(8) == (0, 2, 4, 6, 8)


def test_calibration_captures_every_cycle_once_and_replays_it_ever_after() -> None:
    pair = toy_pair(5)
    captured: list[Run] = []
    replayed: list[int] = []

    def capture(run: Run) -> Run:
        captured.append(run)
        number = len(captured)
        return lambda: (replayed.append(number), run())[1]  # type: ignore[func-returns-value]

    decoder = GraphedDecoder(pair, 3, "model", 4, capture)
    assert decoder.calibrate() is not None
    cycles = [shape for shape in decoder._runs if shape.verifying and (shape.drafting or not shape.drafts)]
    assert cycles == [
        Shape(rows, drafts, drafts > 0, True, timed) for rows in (3, 2, 1) for drafts in (4, 2, 0) for timed in (True, False)
    ]
    scheduler = Scheduler(pair, 3, "model", 4)
    scheduler.decoder = decoder
    before, outcomes = len(captured), []
    for i in range(9):
        scheduler.submit(Job(random_request(random.Random(i)), outcomes.append))
    replayed.clear()
    scheduler.run_until_idle()
    assert len(outcomes) == 9
    assert len(captured) == before
    assert sum(number <= len(cycles) for number in replayed) == scheduler.counters.cycles > 0
    assert set(replayed) - set(range(len(cycles) + 1)), "a window's encoding and prompt are replayed, too"


def test_a_draft_that_lags_after_cycles_without_it_catches_up_and_drafts_as_if_it_had_not() -> None:
    pair = toy_pair(6, draft_noise=0.0)
    decoder = GraphedDecoder(pair, 2, "model", 4)
    decoder.admit(0, random_request(random.Random(6)).hidden, with_draft=True)
    tokens = [pair.tokenizer.start_of_transcript, 1, 1, 2, 4, 6, 8]
    decoder.prefill(0, tokens, 0)
    lagging = row(0, tokens)
    _ = decoder.cycle([lagging, row(1, tokens[:2])], [0, 0])
    assert lagging.draft_length == 0
    [drafts], [verified] = decoder.cycle([lagging], [4])
    assert lagging.draft_length == len(tokens) - 2
    assert drafts == verified.choices[:4]


def test_a_row_of_one_token_drafts_nothing_and_its_neighbour_does() -> None:
    pair = toy_pair(7, draft_noise=0.0)
    decoder, alone = (GraphedDecoder(pair, 2, "model", 4) for _ in range(2))
    hidden = random_request(random.Random(7)).hidden
    for each, slots in ((decoder, (0, 1)), (alone, (0,))):
        for slot in slots:
            each.admit(slot, hidden, with_draft=True)
    start = pair.tokenizer.start_of_transcript
    drafts, verified = decoder.cycle([row(1, [start, 1, 2]), row(0, [start])], [4, 4])
    assert [len(each) for each in drafts] == [4, 0]
    assert [len(each.choices) for each in verified] == [5, 1]
    assert alone.cycle([row(0, [start])], [0])[1] == verified[1:]
    assert all(bool(each.isfinite().all()) for each in (*decoder.cache.self_values, *decoder._draft_cache.self_values))  # type: ignore[union-attr]


def test_drafts_that_are_given_are_verified_in_place_of_the_model_s() -> None:
    pair = toy_pair(8)
    decoder, plain = GraphedDecoder(pair, 1, "model", 4), PairDecoder(pair, 1, "model", 4)
    hidden = random_request(random.Random(8)).hidden
    start = pair.tokenizer.start_of_transcript
    for each in (decoder, plain):
        each.admit(0, hidden, with_draft=True)
        each.prefill(0, [start, 1], 0)
    [drafts], verified = decoder.cycle([row(0, [start, 1, 2])], [3], given=[[9, 10, 11]])
    assert drafts == [9, 10, 11]
    assert verified == plain.verify([row(0, [start, 1, 2])], [[9, 10, 11]])
    assert verified == decoder.verify([row(0, [start, 1, 2])], [[9, 10, 11]])


def test_a_pair_on_a_cpu_is_decoded_without_graphs() -> None:
    assert type(make_decoder(toy_pair(1), 1, "model", 2)) is PairDecoder


class AsksNothing(TorchDispatchMode):
    """Fails where a graph of kernels could not be captured: at a value that Python wants, and at a copy to or from the device."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        found = func(*args, **(kwargs or {}))
        devices = {t.device.type for t in (*args, found) if isinstance(t, torch.Tensor) and t.dim() > 0}
        assert devices <= {"cuda"}, f"{func} on {devices}"
        assert "lift" not in str(func), f"{func} makes a tensor of Python's numbers"
        return found


def fake_pair() -> DecoderPair:
    """A pair on a GPU that is not there: shapes and devices without numbers."""
    config, tokenizer = toy_config(), toy_tokenizer()
    words = vocabulary(config, tokenizer, torch.device("cpu"))
    on_gpu = {name: t.to("cuda") for name, t in decoder_tensors(config, 0).items()}
    fields = {name: getattr(words, name) for name in Vocabulary.__dataclass_fields__}
    moved = Vocabulary(
        **{
            n: torch.empty(each.shape, dtype=each.dtype, device="cuda") if isinstance(each, torch.Tensor) else each
            for n, each in fields.items()
        }
    )
    return DecoderPair(config, tokenizer, moved, Decoder(config, on_gpu, 2), Decoder(config, on_gpu, 2))


def test_a_prompt_longer_than_is_read_at_once_leaves_what_one_that_is_read_whole_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slot_reader, "PROMPT_WIDTH", 2)
    monkeypatch.setattr(slot_reader, "WIDEST", 32)
    pair = toy_pair(9)
    graphs, plain = GraphedDecoder(pair, 2, "model", 4), PairDecoder(pair, 2, "model", 4)
    start = pair.tokenizer.start_of_transcript
    tokens = [*([1, 2, 4, 6] * 9)[:35], start, 1, 2]  # to the last position but two
    for at in (35, 0):
        hidden = random_request(random.Random(9 + at)).hidden
        scores = [each.prefill(1, tokens, at) for each in (graphs, plain) if each.admit(1, hidden, with_draft=True) is None]
        assert torch.equal(*scores)
        for caches in zip(graphs.cache.self_values, plain.cache.self_values, strict=True):
            assert torch.equal(*(each[1, :, : len(tokens)] for each in caches))
        cycles = [each.cycle([row(1, tokens)], [4]) for each in (graphs, plain)]
        assert cycles[0] == cycles[1]


def test_rows_that_fill_up_what_is_multiplied_together_change_nothing() -> None:
    pair = toy_pair(10)
    pair.target._compiled = None  # what is compiled for a CPU fills nothing up
    requests = [random_request(random.Random(i)) for i in range(9)]
    expected, _ = graphed(pair, requests, 3, "model", 4)
    pair.target.rows_at_once = 8  # as on a GPU, where it is 128
    assert graphed(pair, requests, 3, "model", 4)[0] == expected


@pytest.mark.parametrize(
    "shape",
    [
        Shape(4, 4, True, True, True),
        Shape(4, 0, False, True, False),
        Shape(2, 2, False, True, True),
        Shape(1, 2, True, False, False),
    ],
)
def test_what_is_captured_asks_the_device_nothing_and_brings_it_nothing(shape: Shape, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_grouping, "measure", lambda *_: RowGrouping(16, 16))
    monkeypatch.setattr(row_grouping, "_measured", {})
    monkeypatch.setattr(Vocabulary, "of_head", lambda self, _: self)  # of which the values are asked for, once, at the start
    with FakeTensorMode():
        decoder = GraphedDecoder(fake_pair(), 4, "model", 4, plainly)
        with AsksNothing():
            decoder._compute(shape)


def test_what_is_captured_of_a_window_asks_the_device_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_grouping, "measure", lambda *_: RowGrouping(16, 16))
    monkeypatch.setattr(row_grouping, "_measured", {})
    monkeypatch.setattr(Vocabulary, "of_head", lambda self, _: self)
    with FakeTensorMode():
        decoder = GraphedDecoder(fake_pair(), 4, "model", 4, plainly)
        with AsksNothing():
            decoder._reader._lay_out()
            for shape in decoder._reader._states:
                decoder._reader._read(shape)


CORE = (
    "pair",
    "decoder",
    "cache",
    "attention",
    "linear",
    "ragged",
    "rules",
    "head",
    "speculation",
    "decoding",
    "graphs",
    "scheduler",
    "window",
)
ELSEWHERE = ("pydantic", "tokenizers", "safetensors", "onnx", "onnxruntime", "llvmlite", "av", "transformers", "triton")


def test_the_core_is_imported_where_there_is_nothing_but_torch_and_numpy() -> None:
    blocked = f"import sys; sys.modules.update(dict.fromkeys({ELSEWHERE!r}))"
    imports = "; ".join(f"import transcriber_engine.{name}" for name in CORE)
    done = subprocess.run([sys.executable, "-c", f"{blocked}; {imports}"], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
