"""What happens once for a window, captured as cycles are: a decoder lays out its encoding in a slot, and reads its prompt there."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Final, NamedTuple

import torch
from torch import Tensor

from transcriber_engine.cache import SlotCache
from transcriber_engine.capture import Capture, Run, bring
from transcriber_engine.decoder import Decoder
from transcriber_engine.ragged import RaggedTokens

PROMPT_WIDTH: Final = 4  # tokens of a prompt with nothing before it; so many of several rows are read together
TOGETHER: Final = (1, 4, 32)  # rows
WIDEST: Final = 128  # tokens of one row: what was said before, or what a draft missed


class Unread(NamedTuple):
    """Tokens that stand in a slot from position `start` on, and were not read yet."""

    slot: int
    start: int
    tokens: Sequence[int]


class SlotReader:
    """Fills slots of one decoder's cache. What stands past the tokens that it read is garbage, as `SlotCache` allows."""

    def __init__(self, decoder: Decoder, cache: SlotCache, capture: Capture) -> None:
        """Allocate what graphs read and write; they are captured by `capture_all`, or when they are needed first."""
        self._decoder, self._cache, self._capture = decoder, cache, capture
        weights, config = decoder.embed_tokens, decoder.config
        self._slot = torch.zeros(1, dtype=torch.long, device=weights.device)
        self._frames = weights.new_zeros(config.max_source_positions, config.d_model)
        shapes = [(rows, PROMPT_WIDTH) for rows in TOGETHER] + [(1, WIDEST)]
        self._states = {
            (rows, width): torch.zeros(rows, 2 + width, dtype=torch.long, device=weights.device) for rows, width in shapes
        }
        self._hidden = weights.new_zeros(TOGETHER[-1], config.d_model)  # after the first of each row's tokens
        self._runs: dict[tuple[int, int] | None, Run] = {}

    def admit(self, slot: int, hidden: Tensor) -> None:
        """Lay out the keys and values of a window's encoding [frames, d_model] in a slot."""
        self._slot.fill_(slot)
        self._frames.copy_(hidden)
        self._captured(None)()

    def read(self, rows: Sequence[Unread]) -> list[Tensor]:
        """Read tokens of different slots; the hidden state [d_model] after the first of each row's."""
        firsts: dict[int, Tensor] = {}
        short = [row for row in rows if len(row.tokens) <= PROMPT_WIDTH]
        for begin in range(0, len(short), TOGETHER[-1]):
            group = short[begin : begin + TOGETHER[-1]]
            firsts |= zip((row.slot for row in group), self._read_together(group, PROMPT_WIDTH), strict=True)
        for slot, start, tokens in (row for row in rows if len(row.tokens) > PROMPT_WIDTH):
            for i in range(0, len(tokens), WIDEST):
                hidden = self._read_together([Unread(slot, start + i, tokens[i : i + WIDEST])], WIDEST)
                firsts.setdefault(slot, hidden[0])
        return [firsts[row.slot] for row in rows]

    def capture_all(self) -> None:
        """Capture everything, the largest first."""
        for shape in (*sorted(self._states, key=lambda shape: -shape[0] * shape[1]), None):
            self._captured(shape)

    def _read_together(self, rows: Sequence[Unread], width: int) -> Tensor:
        """Read at most as many tokens of each row; [rows, d_model]. The last row fills up: what it writes twice is the same."""
        together = next(count for count in TOGETHER if count >= len(rows))
        filled = [*rows, *[rows[-1]] * (together - len(rows))]
        state = [[slot, start, *tokens, *[0] * (width - len(tokens))] for slot, start, tokens in filled]
        bring(self._states[together, width], torch.tensor(state))
        self._captured((together, width))()
        return self._hidden[: len(rows)].clone()

    def _captured(self, shape: tuple[int, int] | None) -> Run:
        """Return what reads so many rows of so many tokens, or with None lays out an encoding."""
        if shape not in self._runs:
            self._runs[shape] = self._capture(partial(self._read, shape) if shape else self._lay_out)
        return self._runs[shape]

    def _lay_out(self) -> None:
        """Do what `Decoder.admit` does, for a slot that the device knows."""
        decoder, cache = self._decoder, self._cache
        for layer, keys, values in zip(decoder.layers, cache.cross_keys, cache.cross_values, strict=True):
            both = layer.cross_kv(self._frames)  # type: ignore[operator]
            key, value = both.view(len(both), 2, decoder.heads, decoder.head_dim).unbind(dim=1)
            keys[self._slot] = key.permute(1, 2, 0)
            values[self._slot] = value.transpose(0, 1)

    def _read(self, shape: tuple[int, int]) -> None:
        slots, starts, ids = torch.split(self._states[shape], [1, 1, shape[1]], dim=1)
        tokens = RaggedTokens.of_equal_rows(slots[:, 0].contiguous(), ids, starts[:, 0].contiguous())
        last = self._cache.self_values[0].shape[2] - 1  # where what fills up may stand, past all that a row commits
        hidden = self._decoder(self._cache, replace(tokens, positions=tokens.positions.clamp(max=last)))
        self._hidden[: shape[0]].copy_(hidden.unflatten(0, shape)[:, 0])
