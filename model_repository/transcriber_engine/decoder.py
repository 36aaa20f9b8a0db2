"""Whisper's text decoder over slot caches: ragged rows of one batch, each at its own position."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from transcriber_engine.attention import attend
from transcriber_engine.cache import SlotCache
from transcriber_engine.head import FullHead, Head
from transcriber_engine.linear import DraftLinear, InvariantLinear, PlainLinear, unpacked_product
from transcriber_engine.ragged import RaggedTokens
from transcriber_engine.row_grouping import FIXED
from transcriber_engine.rules import Scores, Vocabulary

if TYPE_CHECKING:
    from transcriber_engine.compiled_decoder import CompiledDecoder
    from transcriber_engine.model_config import ModelConfig

INT8_MOST: Final = 127
FRAME_STEP: Final = 2
"""Of so many frames, 20 ms apart, a draft attends to one: half the work, for a fortieth of its tokens a cycle."""
MakeLinear = Callable[[Tensor, Tensor | None], nn.Module]
ObserveQuery = Callable[[int, Tensor], None]
"""Is shown the number of a layer and its cross-attention queries [N, heads, head_dim], scaled."""


class DecoderLayer(nn.Module):
    """Pre-norm layer: causal self-attention, cross-attention to the encoder's frames, feed-forward."""

    def __init__(self, tensors: Mapping[str, Tensor], prefix: str, heads: int, linear: MakeLinear) -> None:
        super().__init__()

        def norm(name: str) -> tuple[Tensor, Tensor]:
            return tensors[f"{prefix}.{name}.weight"], tensors[f"{prefix}.{name}.bias"]

        def weights(name: str) -> tuple[Tensor, Tensor]:
            weight = tensors[f"{prefix}.{name}.weight"]
            bias = tensors.get(f"{prefix}.{name}.bias")  # keys have no bias in Whisper
            return weight, torch.zeros_like(weight[:, 0]) if bias is None else bias

        def fused(*parts: tuple[Tensor, Tensor], linear: MakeLinear = linear) -> nn.Module:
            return linear(torch.cat([weight for weight, _ in parts]), torch.cat([bias for _, bias in parts]))

        def query(name: str) -> tuple[Tensor, Tensor]:
            # The scale is a power of two (of 64 dimensions a head), so that it may as well be in the weights, bit for bit.
            weight, bias = weights(name)
            scale = (weight.shape[0] // heads) ** -0.5
            return weight * scale, bias * scale

        self.heads = heads
        self.d_model = weights("fc1")[0].shape[1]
        self.self_attn_norm = norm("self_attn_layer_norm")
        self.self_qkv = fused(query("self_attn.q_proj"), weights("self_attn.k_proj"), weights("self_attn.v_proj"))
        self.self_out = fused(weights("self_attn.out_proj"))
        self.cross_attn_norm = norm("encoder_attn_layer_norm")
        self.cross_query = fused(query("encoder_attn.q_proj"))
        # Of a window's frames, which are always as many: libraries, which choose by that, have nothing to choose on a GPU.
        kv_linear = PlainLinear if self.self_attn_norm[0].is_cuda else linear
        self.cross_kv = fused(weights("encoder_attn.k_proj"), weights("encoder_attn.v_proj"), linear=kv_linear)
        self.cross_out = fused(weights("encoder_attn.out_proj"))
        self.ffn_norm = norm("final_layer_norm")
        self.fc1 = fused(weights("fc1"))
        self.fc2 = fused(weights("fc2"))

    def norm(self, x: Tensor, parameters: tuple[Tensor, Tensor]) -> Tensor:
        """Layer norm over the last dimension."""
        return F.layer_norm(x, (self.d_model,), *parameters)

    def split(self, x: Tensor) -> Tensor:
        """[N, d_model] -> [N, heads, head_dim]."""
        return x.view(x.shape[0], self.heads, -1)

    def self_attention(self, x: Tensor, keys: Tensor, values: Tensor, tokens: RaggedTokens) -> Tensor:
        """Write the new keys and values where the tokens stand, then attend from each to all of its row up to it."""
        query, key, value = self.self_qkv(self.norm(x, self.self_attn_norm)).split(self.d_model, dim=-1)
        count = len(tokens.ids)
        keys[tokens.slots, :, :, tokens.positions] = self.split(key[:count])
        values[tokens.slots, :, tokens.positions] = self.split(value[:count])
        return self.self_out(_attend(self.split(query), keys, values, tokens, tokens.visible))  # type: ignore[no-any-return]

    def cross_query_of(self, x: Tensor) -> Tensor:
        """Queries of the encoder's frames, scaled: [N, d_model] -> [N, heads, head_dim]."""
        return self.split(self.cross_query(self.norm(x, self.cross_attn_norm)))

    def cross_attention(self, query: Tensor, keys: Tensor, values: Tensor, tokens: RaggedTokens) -> Tensor:
        """Attend to the encoder's frames of each row: [N, heads, head_dim] -> [N, d_model]."""
        return self.cross_out(_attend(query, keys, values, tokens, None))  # type: ignore[no-any-return]

    def feed_forward(self, x: Tensor) -> Tensor:
        """[N, d_model] -> [N, d_model]."""
        return self.fc2(F.gelu(self.fc1(self.norm(x, self.ffn_norm))))  # type: ignore[no-any-return]


def _attend(query: Tensor, keys: Tensor, values: Tensor, tokens: RaggedTokens, visible: Tensor | None) -> Tensor:
    """Attend, block by block of rows of one width: [N, heads, head_dim] -> [N, d_model]; `visible` [B] as in `attend`.

    What fills the rows up, after those of the tokens, comes out as anything.
    """
    mixed = [
        attend(
            block.of_tokens(query),
            keys,
            values,
            None if tokens.row_slots is None else block.of_rows(tokens.row_slots),
            None if visible is None else block.of_rows(visible),
        ).flatten(2)
        for block in tokens.blocks
    ]
    flat = [each.flatten(0, 1) for each in mixed]
    if len(query) > len(tokens.ids):
        flat.append(query[len(tokens.ids) :].flatten(1))
    return torch.cat(flat) if len(flat) > 1 else flat[0]


class Decoder(nn.Module):
    """A stack of decoder layers with tied embeddings; the target's and a distilled draft's differ in layers alone."""

    def __init__(
        self,
        config: "ModelConfig",
        tensors: Mapping[str, Tensor],
        layers: int,
        head: Head | None = None,
        linear: MakeLinear = InvariantLinear,
        *,
        approximate: bool = False,
    ) -> None:
        """Build from tensors named `model.decoder.…`, already of their type and on their device; KeyError names a missing one.

        Without a `head` all ids are scored in full. `linear` makes the layers' products of a weight and a bias. An `approximate`
        decoder of float32 on a CPU keeps what it attends to of the audio in bfloat16; one of `DraftLinear` in int8, and of every
        second frame alone.
        """
        super().__init__()
        prefix = "model.decoder"
        self.config = config
        self.heads = config.decoder_attention_heads
        self.head_dim = config.d_model // self.heads
        self.layers = nn.ModuleList(DecoderLayer(tensors, f"{prefix}.layers.{i}", self.heads, linear) for i in range(layers))
        self.embed_tokens = tensors[f"{prefix}.embed_tokens.weight"]
        self.embed_positions = tensors[f"{prefix}.embed_positions.weight"]
        self.layer_norm = tensors[f"{prefix}.layer_norm.weight"], tensors[f"{prefix}.layer_norm.bias"]
        # A draft's layers are compiled or not at all; what of them reads int8 is compiled too.
        is_compiled_draft = approximate and linear is DraftLinear
        self.frames_dtype = self.embed_tokens.dtype if not approximate else torch.int8 if is_compiled_draft else torch.bfloat16
        self.frame_step = FRAME_STEP if is_compiled_draft else 1
        self._embedding_product = unpacked_product(self.embed_tokens)
        self.head = FullHead(self.embed_tokens, linear) if head is None else head
        self._compiled = _compiled(list(self.layers), self.layer_norm, self.frames_dtype)  # type: ignore[arg-type]
        # Where a product always has as many rows (linear.py), they are filled up once, not before each of them.
        self.rows_at_once = FIXED[0] if linear is InvariantLinear and self.embed_tokens.is_cuda else 1

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self.embed_tokens.device

    def allocate(self, slots: int) -> SlotCache:
        """Allocate this decoder's caches for `slots` rows."""
        return SlotCache.allocate(
            len(self.layers),
            slots,
            self.heads,
            self.head_dim,
            self.config.max_target_positions,
            -(-self.config.max_source_positions // self.frame_step),
            self.embed_tokens.dtype,
            self.frames_dtype,
            self.device,
        )

    def admit(self, cache: SlotCache, slot: int, hidden: Tensor) -> None:
        """Fill the cross-attention cache of a slot from the encoder's hidden states [frames, d_model]."""
        d_model, hidden = self.config.d_model, hidden[:: self.frame_step]
        for i, layer in enumerate(self.layers):
            pair: Tensor = layer.cross_kv(hidden.to(self.embed_tokens.dtype))  # type: ignore[operator]  # [frames, 2 d_model]
            if cache.cross_scales:
                scales = pair.abs().amax(dim=0).clamp_min(torch.finfo().tiny) / INT8_MOST
                for kept, own in zip(cache.cross_scales[i], torch.split(scales, d_model), strict=True):
                    kept[slot] = own.view(self.heads, -1)
                pair = (pair / scales).round_()
            key, value = torch.split(pair.to(self.frames_dtype), d_model, dim=-1)
            keys_t = cache.cross_keys[i][slot]
            if keys_t.is_contiguous():  # as a matrix, of its own type: torch transposes that four times as fast
                keys_t.view(d_model, -1).copy_(key.contiguous().t())
            else:
                keys_t.copy_(key.view(-1, self.heads, self.head_dim).permute(1, 2, 0))
            cache.cross_values[i][slot] = value.view(-1, self.heads, self.head_dim).transpose(0, 1)

    def forward(self, cache: SlotCache, tokens: RaggedTokens, observe: ObserveQuery | None = None) -> Tensor:
        """Run N tokens; returns hidden [N, d_model]."""
        last = self.embed_positions.shape[0] - 1
        x = self.embed_tokens[tokens.ids] + self.embed_positions[tokens.positions.clamp(max=last)]
        if self._compiled is not None:
            return self._compiled(cache, x, tokens, observe)
        count = len(x)
        if missing := -count % self.rows_at_once:
            x = F.pad(x, (0, 0, 0, missing), value=1)
        for i, layer in enumerate(self.layers):
            assert isinstance(layer, DecoderLayer)
            x = x + layer.self_attention(x, cache.self_keys[i], cache.self_values[i], tokens)
            query = layer.cross_query_of(x)
            if observe is not None:
                observe(i, query[:count])
            x = x + layer.cross_attention(query, cache.cross_keys[i], cache.cross_values[i], tokens)
            x = x + layer.feed_forward(x)
        return F.layer_norm(x[:count], (self.config.d_model,), *self.layer_norm)

    def score(self, hidden: Tensor, vocabulary: Vocabulary, opening: Tensor | None, *, with_mass: bool) -> Scores:
        """Score what may be said after hidden states [N, d_model]; see `rules.split_scores`."""
        scores: Scores = self.head(hidden, vocabulary, opening, with_mass=with_mass)
        return scores

    def logits(self, hidden: Tensor) -> Tensor:
        """Score the whole vocabulary after one position, in float32: [d_model] -> [vocab_size]."""
        return self._embedding_product(hidden[None], self.embed_tokens)[0].float()


def _compiled(layers: list[DecoderLayer], final_norm: tuple[Tensor, Tensor], frames_dtype: torch.dtype) -> "CompiledDecoder | None":
    """Return the layers as one run of compiled steps, or None where they have to be torch's."""
    try:
        from transcriber_engine.compiled_decoder import CompiledDecoder

        return CompiledDecoder(layers, final_norm, frames_dtype)
    except (ImportError, ValueError):
        return None
