"""How long the parts of decoding take on a GPU, and which kernels take it: what `python -m benchmarks.gpu_check --times` prints."""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

import torch

from transcriber_engine import attention as attending
from transcriber_engine.capture import CudaCapture, plainly
from transcriber_engine.decoding import PairDecoder
from transcriber_engine.graphs import GraphedDecoder, Shape
from transcriber_engine.speculation import Row

REPETITIONS: Final = 20


@contextmanager
def torch_s_attention() -> Iterator[None]:
    """Have attention be torch's own kernel meanwhile, as where ours does not compile."""
    ours, attending.gpu_kernel = attending.gpu_kernel, lambda _: None  # type: ignore[assignment]
    try:
        yield
    finally:
        attending.gpu_kernel = ours


def best_seconds(run: Callable[[], object], repetitions: int = REPETITIONS) -> float:
    """Return the shortest of some runs, the first not counted; each is waited for."""
    seconds = []
    for _ in range(repetitions + 1):
        began = time.perf_counter()
        run()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - began)
    return min(seconds[1:])


def milliseconds(run: Callable[[], object]) -> float:
    """Return `best_seconds` for a reader."""
    return round(1e3 * best_seconds(run), 3)


def cycle_times(graphed: GraphedDecoder, eager: PairDecoder, rows: int, drafts: int) -> dict[str, float]:
    """Milliseconds of a cycle in the middle of a window: captured, its kernels alone, and not captured."""
    prompt, middle = [graphed.pair.tokenizer.start_of_transcript] * 4, 54
    states = [
        Row(slot, prompt + [9] * 50, 4, 200, timestamps=True, draft_cap=drafts, draft_length=middle - 2) for slot in range(rows)
    ]
    untimed = graphed._captured(Shape(rows, drafts, drafting=drafts > 0, verifying=True, timed=False))
    captured = milliseconds(lambda: graphed.cycle(states, [drafts] * rows))
    kernels = graphed._captured(Shape(rows, drafts, drafting=drafts > 0, verifying=True, timed=True))
    return {
        "captured": captured,
        "kernels alone": milliseconds(kernels),
        "without timestamps": milliseconds(untimed),
        "not captured": milliseconds(lambda: eager.cycle(states, [drafts] * rows)),
    }


def opening_times(graphed: PairDecoder, eager: PairDecoder) -> dict[str, dict[str, float]]:
    """Milliseconds of what happens once for a window."""
    config, start = graphed.pair.config, graphed.pair.tokenizer.start_of_transcript
    hidden = torch.randn(config.max_source_positions, config.d_model, device=graphed.device)
    previous = [5] * min(200, config.max_target_positions - 8)
    return {
        name: {
            "admit": milliseconds(lambda d=decoder: d.admit(0, hidden, with_draft=True)),  # type: ignore[misc]
            "16 prompts": milliseconds(lambda d=decoder: d.read_prompts([(s, [start] * 4, 0) for s in range(min(16, d.slots))])),  # type: ignore[misc]
            "prompt": milliseconds(lambda d=decoder: d.prefill(0, [start] * 4, 0)),  # type: ignore[misc]
            "with 200 tokens before": milliseconds(lambda d=decoder: d.prefill(0, [*previous, *[start] * 4], len(previous))),  # type: ignore[misc]
        }
        for name, decoder in (("captured", graphed), ("not captured", eager))
    }


@torch.inference_mode()
def attention_check(decoder: PairDecoder, rows: int, queries: int) -> dict[str, object]:
    """Microseconds of a layer's attention to frames and to text by our kernel and by torch's, and whether ours is exact.

    Exact is what does not change when a query is alone; `error` is the largest from what float32 gives of the same values.
    """
    cache, device = decoder.cache, decoder.device
    heads, head_dim = cache.cross_keys[0].shape[1:3]
    generator = torch.Generator(device).manual_seed(rows)
    shape = (rows, queries, heads, head_dim)
    query = torch.randn(shape, generator=generator, device=device).to(cache.cross_keys[0].dtype)
    visible = torch.full((rows,), min(100, cache.self_values[0].shape[2] - queries), device=device)
    found: dict[str, object] = {}
    for name, keys, values, shown in (
        ("frames", cache.cross_keys, cache.cross_values, None),
        ("text", cache.self_keys, cache.self_values, visible),
    ):
        for layer in range(2):
            for each in (keys[layer], values[layer]):
                each.copy_(torch.randn(each.shape, generator=generator, device=device))
        mixed = attending.attend(query, keys[0], values[0], None, shown)
        last = None if shown is None else shown[-1:] + queries - 1
        slot = torch.tensor([rows - 1], device=device)
        alone = attending.attend(query[-1:, -1:].contiguous(), keys[0], values[0], slot, last)
        with torch_s_attention():
            wide = [each.float() for each in (query, keys[0], values[0])]
            expected = attending.attend(wide[0], wide[1], wide[2], None, shown)

        def all_layers(keys=keys, values=values, shown=shown) -> None:  # type: ignore[no-untyped-def] # noqa: ANN001
            for k, v in zip(keys, values, strict=True):
                attending.attend(query, k, v, None, shown)

        capture = CudaCapture() if device.type == "cuda" else plainly
        ours = capture(all_layers)
        with torch_s_attention():
            theirs = capture(all_layers)
        found[name] = {
            "ours_us": round(1e3 * milliseconds(ours) / len(keys), 1),
            "torch_us": round(1e3 * milliseconds(theirs) / len(keys), 1),
            "error": round(float((mixed.float() - expected).abs().max()), 6),
            "exact": torch.equal(alone[0, 0], mixed[-1, -1]),
        }
    return found


def kernels_of(run: Callable[[], object], most: int = 14) -> list[str]:
    """Return which kernels take the time of what a GPU is given: microseconds, how many, and their names."""
    run()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        run()
        torch.cuda.synchronize()
    kernels = sorted(profile.key_averages(), key=lambda each: -each.self_device_time_total)
    total = f"{sum(each.self_device_time_total for each in kernels):.0f} us, {sum(each.count for each in kernels)} kernels"
    return [total, *(f"{each.self_device_time_total:.0f} us, {each.count}: {each.key[:90]}" for each in kernels[:most])]


def show(**part: object) -> None:
    """Print a part of the report now, so that what comes later cannot lose it."""
    print(json.dumps(part), flush=True)


def show_times(graphed: GraphedDecoder, slots: int) -> None:
    """Print how long the parts take, in milliseconds where nothing else is said."""
    eager = PairDecoder(graphed.pair, slots, "model", 8)
    show(opening=opening_times(graphed, eager))
    for rows in sorted({1, slots}):
        for drafts in (0, 8):
            show(rows=rows, drafts=drafts, cycle=cycle_times(graphed, eager, rows, drafts))
    for rows in sorted({1, slots}):
        for queries in (1, 9):
            show(rows=rows, queries=queries, attention=attention_check(eager, rows, queries))
    if graphed.device.type == "cuda":
        for rows, drafts in ((1, 0), (slots, 0), (slots, 8)):
            run = graphed._captured(Shape(rows, drafts, drafting=drafts > 0, verifying=True, timed=False))
            show(rows=rows, drafts=drafts, kernels=kernels_of(run))
        show(kernels_of_a_prompt=kernels_of(graphed._reader._captured((1, 4))))
        show(kernels_of_admission=kernels_of(graphed._reader._captured(None)))
