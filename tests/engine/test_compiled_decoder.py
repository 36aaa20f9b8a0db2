"""The compiled decoder: what torch's layers compute, each token on its own, whatever is run with it or was before."""

import pytest
import torch
from torch import Tensor

from tests.engine.toy import decoder_tensors, toy_config
from transcriber_engine import attention
from transcriber_engine.cache import SlotCache
from transcriber_engine.compiled_decoder import ROOM, CompiledDecoder
from transcriber_engine.decoder import Decoder, MakeLinear
from transcriber_engine.linear import DraftLinear, InvariantLinear, compiled_kernel
from transcriber_engine.ragged import RaggedTokens

CPU = torch.device("cpu")
SLOTS = 5
CONFIG = toy_config()
KINDS: list[MakeLinear] = [InvariantLinear, *([DraftLinear] if compiled_kernel(paired=True) else [])]
Rows = list[tuple[int, int, list[int]]]  # slot, first position, tokens


def decoder_of(linear: MakeLinear = InvariantLinear) -> Decoder:
    decoder = Decoder(CONFIG, decoder_tensors(CONFIG, 3), 2, linear=linear, approximate=linear is DraftLinear)
    assert isinstance(decoder._compiled, CompiledDecoder)
    return decoder


def filled(decoder: Decoder, seed: int = 0) -> SlotCache:
    cache, random = decoder.allocate(SLOTS), torch.Generator().manual_seed(seed)
    for slot in range(SLOTS):
        decoder.admit(cache, slot, torch.randn(CONFIG.max_source_positions, CONFIG.d_model, generator=random))
    return cache


def run(decoder: Decoder, cache: SlotCache, rows: Rows) -> Tensor:
    return decoder(cache, RaggedTokens.of_rows(rows, CPU))  # type: ignore[no-any-return]


def by_torch(decoder: Decoder, cache: SlotCache, rows: Rows) -> Tensor:
    """The same by the layers as they stand in decoder.py, of frames that are no integers."""
    plain = decoder_of(InvariantLinear)
    plain._compiled = None
    own = plain.allocate(SLOTS)
    for i in range(len(own.cross_keys)):
        keys, values = cache.cross_keys[i].float(), cache.cross_values[i].float()
        if cache.cross_scales:
            key_scales, value_scales = cache.cross_scales[i]
            keys, values = keys * key_scales[..., None], values * value_scales[:, :, None]
        own.cross_keys[i][..., : keys.shape[3]], own.cross_values[i][:, :, : values.shape[2]] = keys, values
    frames = cache.cross_values[0].shape[2]
    views = [tuple(each[..., :frames] for each in own.cross_keys), tuple(each[:, :, :frames] for each in own.cross_values)]
    return run(plain, SlotCache(own.self_keys, own.self_values, *views, ()), rows)


@pytest.mark.parametrize("linear", KINDS)
@pytest.mark.parametrize(
    "rows",
    [
        [(3, 0, [1, 2, 3, 4])],
        [(4, 0, [9]), (0, 0, [5]), (2, 0, [6])],
        [(1, 0, [1, 2, 3]), (3, 0, [4, 5, 6]), (0, 0, [7])],
        [(slot, 0, list(range(30))) for slot in range(SLOTS)],
    ],
)
def test_it_computes_what_the_layers_say(rows: Rows, linear: MakeLinear) -> None:
    decoder = decoder_of(linear)
    cache = filled(decoder)
    found, meant = run(decoder, cache, rows), by_torch(decoder, cache, rows)
    assert (found - meant).abs().max() < (1e-4 if linear is InvariantLinear else 0.1)  # of layer norms: about 1 each


def test_a_token_comes_out_alike_alone_and_among_any_others() -> None:
    decoder = decoder_of()
    together = run(decoder, filled(decoder), [(slot, 0, [slot, 7, 8, 9]) for slot in range(SLOTS)])
    for slot in range(SLOTS):
        cache = filled(decoder)
        alone = [run(decoder, cache, [(slot, i, [token])])[0] for i, token in enumerate([slot, 7, 8, 9])]
        assert torch.equal(torch.stack(alone), together[4 * slot : 4 * slot + 4])


def test_the_number_of_threads_changes_nothing() -> None:
    decoder, rows, before = decoder_of(), [(slot, 0, [slot, 7, 8, 9]) for slot in range(SLOTS)], torch.get_num_threads()
    found = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        found.append(run(decoder, filled(decoder), rows))
    torch.set_num_threads(before)
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


def test_results_are_the_callers_own_and_more_tokens_than_there_was_room_for_change_nothing() -> None:
    decoder, rows = decoder_of(), [(1, 0, [1, 2, 3])]
    cache = filled(decoder)
    first = run(decoder, cache, rows)
    kept = first.clone()
    many = [(slot, 0, list(range(ROOM // 2))) for slot in range(SLOTS)]
    meant = by_torch(decoder, cache, many)
    assert (run(decoder, cache, many) - meant).abs().max() < 1e-4
    assert torch.equal(first, kept)
    assert torch.equal(run(decoder, cache, rows), kept)


def test_each_cache_is_its_own() -> None:
    decoder, rows = decoder_of(), [(1, 0, [1, 2, 3])]
    one, other = filled(decoder, seed=1), filled(decoder, seed=2)
    before = run(decoder, one, rows)
    assert not torch.equal(run(decoder, other, rows), before)
    assert torch.equal(run(decoder, one, rows), before)


def test_who_observes_is_shown_what_torch_s_layers_would_show() -> None:
    decoder, rows = decoder_of(), [(1, 0, [1, 2, 3])]
    shown: list[list[tuple[int, Tensor]]] = []
    for compiled in (decoder._compiled, None):
        decoder._compiled = compiled
        shown.append([])
        decoder(filled(decoder), RaggedTokens.of_rows(rows, CPU), lambda *query: shown[-1].append(query))
    assert [layer for layer, _ in shown[0]] == [layer for layer, _ in shown[1]] == [0, 1]
    for (_, one), (_, other) in zip(*shown, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-5)


def test_keys_past_the_end_of_the_cache_touch_nobody_else_s() -> None:
    """Rows that only fill a batch up stand anywhere."""
    decoder = decoder_of()
    cache = filled(decoder)
    end = cache.self_values[0].shape[2]
    run(decoder, cache, [(1, end - 2, [1, 2, 3, 4, 5, 6])])
    for layer in range(2):
        assert not cache.self_values[layer][2].any()
        assert not cache.self_keys[layer][2].any()


def test_where_something_is_not_compiled_the_layers_are_torch_s(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "compiled_kernel", lambda *_: None)
    decoder = Decoder(CONFIG, decoder_tensors(CONFIG, 3), 2)
    assert decoder._compiled is None
    assert run(decoder, filled(decoder), [(1, 0, [1, 2, 3])]).shape == (3, CONFIG.d_model)
