"""Whisper's audio encoder: 30 seconds of log-mel to 1500 frames of hidden state."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from transcriber_engine.linear import PackedLinear

if TYPE_CHECKING:
    from transcriber_engine.model_config import ModelConfig


class SelfAttention(nn.Module):
    """Bidirectional attention under Hugging Face's parameter names; keys have no bias in Whisper."""

    def __init__(self, d_model: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q_proj = nn.Linear(d_model, d_model)
        self.k_proj = nn.Linear(d_model, d_model, bias=False)
        self.v_proj = nn.Linear(d_model, d_model)
        self.out_proj = nn.Linear(d_model, d_model)

    def forward(self, x: Tensor) -> Tensor:
        """Attend: [B, T, d_model] -> [B, T, d_model]."""
        batch, frames, d_model = x.shape
        head_dim = d_model // self.heads

        def split(projected: Tensor) -> Tensor:
            return projected.view(batch, frames, self.heads, head_dim).transpose(1, 2)

        # Whisper is sensitive to the order in half precision: scale the query before the product, not the scores after it.
        query = split(self.q_proj(x) * head_dim**-0.5)
        mixed = F.scaled_dot_product_attention(query, split(self.k_proj(x)), split(self.v_proj(x)), scale=1.0)
        return self.out_proj(mixed.transpose(1, 2).reshape(batch, frames, d_model))  # type: ignore[no-any-return]


class EncoderLayer(nn.Module):
    """Pre-norm transformer layer."""

    def __init__(self, d_model: int, heads: int, ffn_dim: int) -> None:
        super().__init__()
        self.self_attn = SelfAttention(d_model, heads)
        self.self_attn_layer_norm = nn.LayerNorm(d_model)
        self.fc1 = nn.Linear(d_model, ffn_dim)
        self.activation: Callable[[Tensor], Tensor] = F.gelu
        self.fc2 = nn.Linear(ffn_dim, d_model)
        self.final_layer_norm = nn.LayerNorm(d_model)

    def forward(self, x: Tensor) -> Tensor:
        """One layer: [B, T, d_model] -> [B, T, d_model]."""
        x = x + self.self_attn(self.self_attn_layer_norm(x))
        return x + self.fc2(self.activation(self.fc1(self.final_layer_norm(x))))  # type: ignore[no-any-return]


class Encoder(nn.Module):
    """Log-mel [B, num_mel_bins, 3000] to hidden states [B, 1500, d_model]."""

    def __init__(self, config: "ModelConfig") -> None:
        super().__init__()
        d_model = config.d_model
        self.conv1 = nn.Conv1d(config.num_mel_bins, d_model, kernel_size=3, padding=1)
        self.conv2 = nn.Conv1d(d_model, d_model, kernel_size=3, stride=2, padding=1)
        self.embed_positions = nn.Embedding(config.max_source_positions, d_model)
        self.layers = nn.ModuleList(
            EncoderLayer(d_model, config.encoder_attention_heads, config.encoder_ffn_dim) for _ in range(config.encoder_layers)
        )
        self.layer_norm = nn.LayerNorm(d_model)

    @classmethod
    def from_tensors(cls, config: "ModelConfig", tensors: Mapping[str, Tensor]) -> "Encoder":
        """Build from tensors named `model.encoder.…`; raises RuntimeError naming every missing or unexpected tensor."""
        prefix = "model.encoder."
        with torch.device("meta"):
            encoder = cls(config)
        encoder.load_state_dict({name.removeprefix(prefix): tensor for name, tensor in tensors.items()}, assign=True)
        return encoder.eval().requires_grad_(requires_grad=False)

    def pack(self) -> None:
        """Have oneDNN multiply, with weights packed once: an eighth faster, and no longer exportable."""
        rows = self.embed_positions.num_embeddings
        for layer in self.layers:
            assert isinstance(layer, EncoderLayer)
            attention = layer.self_attn
            for name, linear in list(attention.named_children()):
                setattr(attention, name, PackedLinear(linear, rows=rows))  # type: ignore[arg-type]
            layer.fc1 = PackedLinear(layer.fc1, rows=rows, gelu=True)  # type: ignore[assignment]
            layer.activation = _unchanged
            layer.fc2 = PackedLinear(layer.fc2, rows=rows)  # type: ignore[assignment]

    def forward(self, mel: Tensor) -> Tensor:
        """Encode: [B, num_mel_bins, 3000] -> [B, 1500, d_model]."""
        x = F.gelu(self.conv1(mel))
        x = F.gelu(self.conv2(x)).transpose(1, 2)
        x = x + self.embed_positions.weight
        for layer in self.layers:
            x = layer(x)
        return self.layer_norm(x)  # type: ignore[no-any-return]


def _unchanged(x: Tensor) -> Tensor:
    return x
