"""A decoder's forward pass on a CPU as one run of compiled steps, with neither Python nor an allocation between them.

The steps are those of `Decoder.forward`, in its order, over buffers that are there once. They stand in a table; a call writes into
it what differs from the last: how many tokens there are, and where they stand.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Final

import numpy as np
import torch
from torch import Tensor

from transcriber_engine import attention, attention_kernel, linear_kernel, row_kernel
from transcriber_engine.cache import SlotCache
from transcriber_engine.linear import compiled_kernel
from transcriber_engine.linear_kernel import Panels, share_out
from transcriber_engine.ragged import RaggedTokens
from transcriber_engine.sequence import Sequence as StepSequence
from transcriber_engine.vector_code import Team, host_vectors, torch_openmp

if TYPE_CHECKING:
    from transcriber_engine.decoder import DecoderLayer

ROOM: Final = 64  # tokens that there is room for at first
Parameters = tuple[Tensor, Tensor]


def _columns(arguments: Sequence[str]) -> dict[str, int]:
    """Where a step's arguments stand in its row of the table: after its function."""
    return {name: 1 + i for i, name in enumerate(arguments)}


LINEAR: Final = _columns(linear_kernel.ARGUMENTS)
ATTENTION: Final = _columns(attention_kernel.ARGUMENTS)
ROWS: Final = _columns(row_kernel.ARGUMENTS)
WORDS: Final = 1 + max(len(columns) for columns in (LINEAR, ATTENTION, ROWS))
NEXT_TASK: Final = 1  # of all of them


class CompiledDecoder:
    """The layers of one decoder, for one thread at a time."""

    def __init__(self, layers: Sequence["DecoderLayer"], final_norm: Parameters, frames_dtype: torch.dtype) -> None:
        """Compile what is needed; ValueError says what is missing for such layers, or on this machine."""
        first = layers[0]
        self.layers, self.final_norm = layers, final_norm
        self.heads, self.d_model = first.heads, first.d_model
        panels, vectors, openmp = getattr(first.fc1, "panels", None), host_vectors(), torch_openmp()
        attend = [attention.compiled_kernel(self.d_model // self.heads, each) for each in (torch.float32, frames_dtype)]
        if panels is None or vectors is None or openmp is None or attend[0] is None or attend[1] is None:
            raise ValueError("products or attention are not compiled")
        if any(width % vectors.lanes for width in (self.d_model, panels.outputs)):
            raise ValueError(f"rows of {self.d_model} and {panels.outputs} are no multiples of {vectors.lanes}")
        self.paired: bool = panels.kernel.shape.paired
        self.ffn: int = panels.outputs
        self._self_attend, self._cross_attend = attend[0], attend[1]
        self._sequence = StepSequence(openmp)
        self._room = 0
        self._cache: SlotCache | None = None
        self._make_room(ROOM)

    def __call__(
        self, slots: SlotCache, x: Tensor, tokens: RaggedTokens, observe: Callable[[int, Tensor], None] | None = None
    ) -> Tensor:
        """Run N tokens, embedded as `x` [N, d_model]: hidden states [N, d_model]; `observe` as in `Decoder.forward`."""
        count = len(x)
        if count > self._room:
            self._make_room(count)
        if slots is not self._cache:
            self._attend_to(slots)
        self._x[:count] = x
        hidden = torch.empty(count, self.d_model)
        self._place(count, tokens)
        self._table[-1, ROWS["out"]] = hidden.data_ptr()
        self._sequence.run(self._table)
        if observe is not None:
            for i, queries in enumerate(self._queries):
                observe(i, queries[:count].view(count, self.heads, -1))
        return hidden

    def _place(self, count: int, tokens: RaggedTokens) -> None:
        """Write into the table how many tokens there are, and where they stand."""
        table, rows = self._table, len(tokens.row_starts)
        table[:, NEXT_TASK] = 0
        table[self._row_steps, ROWS["tasks"]] = count
        for name, words in share_out(count, table[self._linear_steps, LINEAR["panels"]]).items():
            table[self._linear_steps, LINEAR[name]] = words
        firsts = [block.first_token + i * block.width for block in tokens.blocks for i in range(block.rows)]
        self._firsts = np.array([*firsts, count])
        self._visible = tokens.visible.contiguous()
        self._slots = torch.arange(rows) if tokens.row_slots is None else tokens.row_slots.contiguous()
        for steps in (self._self_steps, self._cross_steps):
            table[steps, ATTENTION["tasks"]] = rows * self.heads
            table[steps, ATTENTION["firsts"]] = self._firsts.ctypes.data
            table[steps, ATTENTION["slots"]] = self._slots.data_ptr()
        table[self._self_steps, ATTENTION["visible"]] = self._visible.data_ptr()

    def _attend_to(self, slots: SlotCache) -> None:
        """Write a cache's places into the table. The cache is held, so that none that comes after it can have its addresses."""
        self._cache = slots
        for steps, keys, values in (
            (self._self_steps, slots.self_keys, slots.self_values),
            (self._cross_steps, slots.cross_keys, slots.cross_values),
        ):
            for step, keys_t, value in zip(steps, keys, values, strict=True):
                words = {"keys_t": keys_t.data_ptr(), "values": value.data_ptr(), "keys": value.shape[2]}
                for kind, tensor in (("key", keys_t), ("value", value)):
                    words |= zip((f"{kind}_slot", f"{kind}_head", f"{kind}_row"), tensor.stride(), strict=False)
                for name, word in words.items():
                    self._table[step, ATTENTION[name]] = word
        for step, scales in zip(self._cross_steps, slots.cross_scales, strict=False):
            for name, scale in zip(("key_scales", "value_scales"), scales, strict=True):
                self._table[step, ATTENTION[name]] = scale.data_ptr()

    def _make_room(self, room: int) -> None:
        """Allocate buffers for so many tokens, and write the table anew."""
        d = self.d_model
        read = torch.bfloat16 if self.paired else torch.float32  # what the layers' products read
        self._room, self._cache = room, None
        self._x, self._normed, self._qkv = torch.empty(room, d), torch.empty(room, d, dtype=read), torch.empty(room, 3 * d)
        self._queries = [torch.empty(room, d) for _ in self.layers]
        self._mixed = torch.empty(room, d)
        self._mixed_read = torch.empty(room, d, dtype=read) if self.paired else self._mixed
        self._wide, self._wide_read = torch.empty(room, self.ffn), torch.empty(room, self.ffn, dtype=read)
        self._steps: list[list[int]] = []
        self._teams: list[Team] = []  # held, since with a team goes the code that an address is of
        self._row_steps, self._linear_steps, self._self_steps, self._cross_steps = ([] for _ in range(4))  # type: ignore[var-annotated]
        for i, layer in enumerate(self.layers):
            self._write_layer(layer, self._queries[i])
        self._norm(self.final_norm, torch.empty(0))
        self._table = np.array(self._steps)

    def _write_layer(self, layer: "DecoderLayer", queries: Tensor) -> None:
        self._norm(layer.self_attn_norm, self._normed)
        self._linear(self._normed, layer.self_qkv, self._qkv)
        self._attend(self._self_steps, self._self_attend, self._qkv, new=self._qkv)
        self._linear(self._read_mixed(), layer.self_out, self._x, adds=True)
        self._norm(layer.cross_attn_norm, self._normed)
        self._linear(self._normed, layer.cross_query, queries)
        self._attend(self._cross_steps, self._cross_attend, queries)
        self._linear(self._read_mixed(), layer.cross_out, self._x, adds=True)
        self._norm(layer.ffn_norm, self._normed)
        self._linear(self._normed, layer.fc1, self._wide)
        self._rows("gelu", self._wide, self._wide_read)
        self._linear(self._wide_read, layer.fc2, self._x, adds=True)

    def _norm(self, parameters: Parameters, out: Tensor) -> None:
        self._rows("norm", self._x, out, weight=parameters[0].data_ptr(), bias=parameters[1].data_ptr())

    def _read_mixed(self) -> Tensor:
        """Return what attention mixed, as products read it."""
        if self.paired:
            self._rows("round", self._mixed, self._mixed_read)
        return self._mixed_read

    def _rows(self, function: row_kernel.Function, rows: Tensor, out: Tensor, **words: int) -> None:
        kernel = _row_kernel(function, rounded=out.dtype == torch.bfloat16)
        words |= {"size": rows.shape[1], "rows": rows.data_ptr(), "out": out.data_ptr()}
        self._write(self._row_steps, kernel.team, ROWS, words)

    def _linear(self, rows: Tensor, layer: object, out: Tensor, *, adds: bool = False) -> None:
        panels: Panels = layer.panels  # type: ignore[attr-defined]
        kernel = compiled_kernel(paired=self.paired, adds=True) if adds else panels.kernel
        assert kernel is not None
        self._write(self._linear_steps, kernel.team, LINEAR, panels.words(rows, out))

    def _attend(self, steps: list[int], kernel: attention_kernel.Kernel, query: Tensor, new: Tensor | None = None) -> None:
        words = {"heads": self.heads, "query": query.data_ptr(), "query_row": query.shape[1]}
        words |= {"out": self._mixed.data_ptr(), "out_row": self.d_model}
        if new is not None:
            keys, values = (new[:, i * self.d_model :] for i in (1, 2))
            words |= {"new_keys": keys.data_ptr(), "new_values": values.data_ptr()}
        self._write(steps, kernel.team, ATTENTION, words)

    def _write(self, steps: list[int], team: Team, columns: Mapping[str, int], words: Mapping[str, int]) -> None:
        row = [team.address] + [0] * (WORDS - 1)
        self._teams.append(team)
        for name, word in words.items():
            row[columns[name]] = word
        steps.append(len(self._steps))
        self._steps.append(row)


@cache
def _row_kernel(function: row_kernel.Function, *, rounded: bool) -> row_kernel.Kernel:
    vectors, openmp = host_vectors(), torch_openmp()
    assert vectors is not None
    assert openmp is not None
    return row_kernel.Kernel(row_kernel.Shape(function, vectors.lanes, rounded), openmp)
