"""Whisper's text decoder over slot caches: ragged rows of one batch, each at its own position."""

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from transcriber_engine.cache import SlotCache
from transcriber_engine.linear import InvariantLinear
from transcriber_engine.model_config import ModelConfig
from transcriber_engine.row_grouping import row_grouping

ATTENTION_KEYS = 48, 448, 1500  # what attention is measured with: few, the most of self-attention, those of a window


def attend(query: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
    """Attention whose rows do not depend on the number of query rows.

    query [B, heads, Q, head_dim] (already scaled), keys and values [B, heads, T, head_dim], mask [B, 1, Q, T] of bool or None.
    """
    heads, head_dim = query.shape[1], query.shape[3]
    grouping = row_grouping(
        ("attention", heads, head_dim, query.dtype, query.device), lambda rows: _mix_of_equal_rows(heads, head_dim, rows, query)
    )
    rows = [query.contiguous()] if mask is None else [query.contiguous(), mask]  # strides choose kernels, too
    return grouping.apply(lambda group, shown=None: _mix(group, keys, values, shown), *rows)


def _mix(query: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
    return F.scaled_dot_product_attention(query, keys, values, attn_mask=mask, scale=1.0)


def _mix_of_equal_rows(heads: int, head_dim: int, rows: int, like: Tensor) -> Tensor:
    """[rows, heads, n]: one query in every row, over several numbers of keys side by side."""
    query = torch.linspace(-1, 1, head_dim).to(like).expand(1, heads, rows, -1).contiguous()
    pairs = [torch.linspace(-1, 1, heads * keys * head_dim).to(like).view(1, heads, keys, -1).sin() for keys in ATTENTION_KEYS]
    return torch.cat([_mix(query, pair, pair, None)[0] for pair in pairs], dim=-1).transpose(0, 1)


class DecoderLayer(nn.Module):
    """Pre-norm layer: causal self-attention, cross-attention to the encoder's frames, feed-forward."""

    def __init__(self, tensors: Mapping[str, Tensor], prefix: str, heads: int) -> None:
        super().__init__()

        def norm(name: str) -> tuple[Tensor, Tensor]:
            return tensors[f"{prefix}.{name}.weight"], tensors[f"{prefix}.{name}.bias"]

        def linear(*names: str) -> InvariantLinear:
            weights = [tensors[f"{prefix}.{name}.weight"] for name in names]
            biases = [
                tensors.get(f"{prefix}.{name}.bias", torch.zeros_like(w[:, 0]))  # keys have no bias in Whisper
                for name, w in zip(names, weights, strict=True)
            ]
            return InvariantLinear(torch.cat(weights), torch.cat(biases))

        self.heads = heads
        self.self_attn_norm = norm("self_attn_layer_norm")
        self.self_qkv = linear("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
        self.self_out = linear("self_attn.out_proj")
        self.cross_attn_norm = norm("encoder_attn_layer_norm")
        self.cross_query = linear("encoder_attn.q_proj")
        self.cross_kv = linear("encoder_attn.k_proj", "encoder_attn.v_proj")
        self.cross_out = linear("encoder_attn.out_proj")
        self.ffn_norm = norm("final_layer_norm")
        self.fc1 = linear("fc1")
        self.fc2 = linear("fc2")
        self.d_model = self.self_out.outputs
        self.scale = (self.d_model // heads) ** -0.5

    def norm(self, x: Tensor, parameters: tuple[Tensor, Tensor]) -> Tensor:
        """Layer norm over the last dimension."""
        return F.layer_norm(x, (self.d_model,), *parameters)

    def split(self, x: Tensor) -> Tensor:
        """[B, Q, d_model] -> [B, heads, Q, head_dim]."""
        return x.view(*x.shape[:2], self.heads, -1).transpose(1, 2)

    def merge(self, x: Tensor) -> Tensor:
        """[B, heads, Q, head_dim] -> [B, Q, d_model]."""
        return x.transpose(1, 2).flatten(2)

    def self_attention(self, x: Tensor, keys: Tensor, values: Tensor, slots: Tensor, positions: Tensor, mask: Tensor) -> Tensor:
        """Write the new keys and values at `positions` [B, Q] of `slots` [B], then attend to all that the mask shows."""
        query, key, value = self.self_qkv(self.norm(x, self.self_attn_norm)).split(self.d_model, dim=-1)
        by_position = (*x.shape[:2], self.heads, -1)
        keys[slots[:, None], :, positions] = key.reshape(by_position)
        values[slots[:, None], :, positions] = value.reshape(by_position)
        limit = mask.shape[-1]
        mixed = attend(self.split(query * self.scale), keys[:, :, :limit][slots], values[:, :, :limit][slots], mask[:, None])
        return self.self_out(self.merge(mixed))  # type: ignore[no-any-return]

    def cross_attention(self, x: Tensor, keys: Tensor, values: Tensor, slots: Tensor, rows: Sequence[int]) -> Tensor:
        """Attend to the encoder's frames of each row."""
        query = self.split(self.cross_query(self.norm(x, self.cross_attn_norm)) * self.scale)
        if x.is_cuda:
            mixed = attend(query, keys[slots], values[slots], None)
        else:
            # A gather would copy 1500 frames a row and layer, as many bytes as attention itself reads: take views, row by row.
            mixed = torch.cat([attend(query[i : i + 1], keys[s : s + 1], values[s : s + 1], None) for i, s in enumerate(rows)])
        return self.cross_out(self.merge(mixed))  # type: ignore[no-any-return]

    def feed_forward(self, x: Tensor) -> Tensor:
        """[B, Q, d_model] -> [B, Q, d_model]."""
        return self.fc2(F.gelu(self.fc1(self.norm(x, self.ffn_norm))))  # type: ignore[no-any-return]


class Decoder(nn.Module):
    """A stack of decoder layers with tied embeddings; the target's and a distilled draft's differ in layers alone."""

    def __init__(self, config: ModelConfig, tensors: Mapping[str, Tensor], layers: int, head_ids: Tensor | None = None) -> None:
        """Build from tensors named `model.decoder.…`, already of their type and on their device; KeyError names a missing one.

        With `head_ids` only those ids can be said: a draft needs few to be right often, and the head is most of its cost.
        """
        super().__init__()
        prefix = "model.decoder"
        self.config = config
        self.heads = config.decoder_attention_heads
        self.head_dim = config.d_model // self.heads
        self.layers = nn.ModuleList(DecoderLayer(tensors, f"{prefix}.layers.{i}", self.heads) for i in range(layers))
        self.embed_tokens = tensors[f"{prefix}.embed_tokens.weight"]
        self.embed_positions = tensors[f"{prefix}.embed_positions.weight"]
        self.layer_norm = tensors[f"{prefix}.layer_norm.weight"], tensors[f"{prefix}.layer_norm.bias"]
        self.head_ids = head_ids
        self.head = InvariantLinear(self.embed_tokens if head_ids is None else self.embed_tokens[head_ids])

    def allocate(self, slots: int) -> SlotCache:
        """Allocate this decoder's caches for `slots` rows."""
        return SlotCache.allocate(
            len(self.layers),
            slots,
            self.heads,
            self.head_dim,
            self.config.max_target_positions,
            self.config.max_source_positions,
            self.embed_tokens.dtype,
            self.embed_tokens.device,
        )

    def admit(self, cache: SlotCache, slot: int, hidden: Tensor) -> None:
        """Fill the cross-attention cache of a slot from the encoder's hidden states [frames, d_model]."""
        for i, layer in enumerate(self.layers):
            key, value = layer.cross_kv(hidden.to(self.embed_tokens.dtype)).split(self.config.d_model, dim=-1)  # type: ignore[operator]
            cache.cross_keys[i][slot] = key.view(-1, self.heads, self.head_dim).transpose(0, 1)
            cache.cross_values[i][slot] = value.view(-1, self.heads, self.head_dim).transpose(0, 1)

    def forward(self, cache: SlotCache, rows: Sequence[int], tokens: Tensor, starts: Tensor, key_limit: int) -> Tensor:
        """Run `tokens` [B, Q], which stand at positions `starts[b] + arange(Q)` of slot `rows[b]`; returns hidden [B, Q, d_model].

        `key_limit` bounds the keys read: at least the largest start + Q.
        """
        slots = torch.tensor(rows, device=tokens.device)
        positions = starts[:, None] + torch.arange(tokens.shape[1], device=tokens.device)
        last = self.embed_positions.shape[0] - 1
        x = self.embed_tokens[tokens] + self.embed_positions[positions.clamp(max=last)]
        mask = torch.arange(key_limit, device=tokens.device) <= positions[:, :, None]
        for i, layer in enumerate(self.layers):
            assert isinstance(layer, DecoderLayer)
            x = x + layer.self_attention(x, cache.self_keys[i], cache.self_values[i], slots, positions, mask)
            x = x + layer.cross_attention(x, cache.cross_keys[i], cache.cross_values[i], slots, rows)
            x = x + layer.feed_forward(x)
        return F.layer_norm(x, (self.config.d_model,), *self.layer_norm)

    def logits(self, hidden: Tensor) -> Tensor:
        """Scores over the vocabulary in float32: [..., d_model] -> [..., vocab_size]; -inf for ids the head leaves out."""
        scores: Tensor = self.head(hidden).float()
        if self.head_ids is None:
            return scores
        everything = scores.new_full((*hidden.shape[:-1], self.config.vocab_size), float("-inf"))
        everything[..., self.head_ids] = scores
        return everything
