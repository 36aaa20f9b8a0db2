"""The target in eight bits: its products are those of integers, and its tokens its own whatever is drafted or batched."""

import random
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from tests.engine.conftest import SpokenWindow
from tests.engine.test_exactness import decode, random_request
from tests.engine.toy import toy_pair
from transcriber_engine import quantized
from transcriber_engine.quantized import MOST_THREADS, ROWS_AT_ONCE, QuantizedLinear
from transcriber_engine.settings import EngineSettings
from transcriber_engine.weights import load_decoders, load_encoder
from transcriber_engine.window import WindowRequest

SHAPES = [(512, 512), (2048, 512), (512, 2048), (51865, 512), (384, 1300), (24, 16)]
COUNTS = [1, 2, 3, 4, 5, 7, 8, 12, 16, 17, 31, 33, 80, 129, ROWS_AT_ONCE, ROWS_AT_ONCE + 1, 2 * ROWS_AT_ONCE + 3]


def drawn(*shape: int, seed: int = 0) -> Tensor:
    """Rows of very different sizes, as activations are."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(*shape, generator=generator)
    return values * torch.logspace(-3, 3, shape[0])[torch.randperm(shape[0], generator=generator)].unsqueeze(-1)


def in_integers(weight: Tensor, bias: Tensor | None, x: Tensor) -> Tensor:
    """The product as it is defined, step by step."""
    weight_scale = weight.abs().amax(dim=1) / 127
    scale = x.abs().amax(dim=-1, keepdim=True) * (1 / 127)
    products = (x / scale).round().double() @ (weight / weight_scale[:, None]).round().double().t()  # exact: far below 2^53
    y = products.float() * weight_scale * scale
    return y if bias is None else y + bias


@pytest.mark.parametrize(("outputs", "inputs"), SHAPES)
def test_a_row_of_a_product_is_the_same_among_any_rows(outputs: int, inputs: int, threads: None) -> None:
    layer = QuantizedLinear(drawn(outputs, inputs), drawn(outputs, 1)[:, 0])
    counts = COUNTS if outputs < 10_000 else COUNTS[:-4:3]
    rows = drawn(max(counts), inputs, seed=1)
    alone = layer(rows[7:8])
    for count in counts:
        others = rows[:count].clone()
        others[count // 2] = rows[7]
        assert torch.equal(layer(others)[count // 2], alone[0]), count


@pytest.mark.parametrize(("outputs", "inputs"), SHAPES)
@pytest.mark.parametrize("with_bias", [True, False])
def test_a_product_is_that_of_integers_bit_for_bit(outputs: int, inputs: int, with_bias: bool) -> None:
    weight, x = drawn(outputs, inputs), drawn(6, inputs, seed=1).view(2, 3, inputs)
    bias = drawn(outputs, 1, seed=2)[:, 0] if with_bias else None
    assert torch.equal(QuantizedLinear(weight, bias)(x), in_integers(weight, bias, x))


def test_no_output_is_further_from_the_true_product_than_rounding_explains() -> None:
    weight, x = drawn(200, 512).double(), drawn(50, 512, seed=1).double()
    error = (QuantizedLinear(weight.float())(x.float()).double() - x @ weight.t()).abs()
    weight_step, step = weight.abs().amax(dim=1) / 127, x.abs().amax(dim=1, keepdim=True) / 127
    # Each weight is off by half a step at most, and so is each input.
    bound = weight_step / 2 * x.abs().sum(dim=1, keepdim=True) + step / 2 * weight.abs().sum(dim=1) + 512 / 4 * weight_step * step
    assert bool((error <= bound * 1.0001).all())


def test_rows_and_weights_of_zeros_give_the_bias_and_no_rows_give_none() -> None:
    weight, bias = drawn(5, 8), torch.arange(5.0)
    weight[3] = 0
    layer = QuantizedLinear(weight, bias)
    assert torch.equal(layer(torch.zeros(2, 8)), bias.expand(2, 5))
    assert torch.equal(layer(torch.ones(1, 8))[:, 3], bias[3:4])
    assert layer(torch.empty(0, 3, 8)).shape == (0, 3, 5)


def test_rows_that_do_not_lie_in_a_row_are_computed_like_those_that_do() -> None:
    layer, x = QuantizedLinear(drawn(5, 8)), drawn(8, 6)
    assert torch.equal(layer(x.t()), layer(x.t().contiguous()))


@pytest.mark.parametrize("rows", [1, 3, 80])
def test_kernels_for_cpus_whose_fast_ones_overflow_give_the_same_numbers(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    weight, x = drawn(300, 512), drawn(rows, 512, seed=1)
    usual = QuantizedLinear(weight)(x)
    monkeypatch.setattr(quantized, "_overflows", lambda: True)
    assert torch.equal(QuantizedLinear(weight)(x), usual)


def test_kernels_that_overflow_are_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def saturated(_names: None, feed: dict[str, np.ndarray]) -> list[np.ndarray]:
        return [np.full((len(feed["x"]), 1), 32 * 32767, np.int32)]

    monkeypatch.setattr(quantized, "_session", lambda _model, careful: SimpleNamespace(run=saturated))
    assert quantized._overflows.__wrapped__()


def test_a_product_has_few_threads_on_a_large_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 192)
    assert QuantizedLinear(drawn(5, 8)).session.get_session_options().intra_op_num_threads == MOST_THREADS


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("seed", range(2))
def test_tokens_of_ragged_batches_equal_those_of_the_quantised_target_alone(seed: int) -> None:
    rng = random.Random(seed)
    pair = toy_pair(seed, draft_noise=0.05, linear=QuantizedLinear)
    requests = [random_request(rng) for _ in range(24)]
    alone, _ = decode(pair, requests, slots=1, source="none", most=0)
    for source, slots, most in (("model", 16, 5), ("prompt_lookup", 3, 7)):
        order = rng.sample(range(len(requests)), len(requests))
        together, scheduler = decode(pair, [requests[i] for i in order], slots, source, most)
        assert [result.tokens for result in together] == [alone[i].tokens for i in order]
        assert scheduler.counters.accepted_tokens > 0


def test_whisper_base_in_eight_bits_says_the_same_with_a_draft_and_beside_others_as_alone(
    weights_dir: Path, spoken_windows: list[SpokenWindow]
) -> None:
    pair = load_decoders(weights_dir, "int8", "cpu")
    requests = [WindowRequest(window.hidden, window.language, timestamps=True, max_new_tokens=24) for window in spoken_windows[:3]]
    together, scheduler = decode(pair, requests, 3, "model", 5)
    alone, _ = decode(pair, requests, 1, "none", 0)
    assert [result.tokens for result in together] == [result.tokens for result in alone]
    assert scheduler.counters.accepted_tokens > 0


def test_the_encoder_in_eight_bits_hears_nearly_what_it_hears_in_float32(
    weights_dir: Path, spoken_windows: list[SpokenWindow]
) -> None:
    encoder, window = load_encoder(weights_dir, "int8", "cpu"), spoken_windows[0]
    assert not any(isinstance(module, nn.Linear) for module in encoder.modules())
    hidden = encoder(window.mel)[0]
    assert float(torch.cosine_similarity(hidden, window.hidden, dim=-1).mean()) > 0.99
    assert not torch.equal(hidden, window.hidden)


def test_eight_bits_on_a_gpu_are_refused_with_the_field_and_the_fix() -> None:
    with pytest.raises(ValidationError, match=r"precision\n.*int8 is for device cpu only; set precision to float16"):
        EngineSettings(device="cuda", precision="int8")
    assert EngineSettings(precision="int8").device == "cpu"
