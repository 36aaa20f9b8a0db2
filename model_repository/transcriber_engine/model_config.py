"""The shape of a Whisper pair and the files of its weights folder, as a build writes them and the engine reads them."""

from pathlib import Path
from typing import Annotated, Final, Self

from pydantic import BaseModel, ConfigDict, Field

MODEL_CONFIG_FILE: Final = "model.json"
TOKENIZER_FILE: Final = "tokenizer.json"
TARGET_FILE: Final = "target.safetensors"
DRAFT_FILE: Final = "draft.safetensors"

Positive = Annotated[int, Field(ge=1)]
Index = Annotated[int, Field(ge=0)]


class ModelConfig(BaseModel):
    """`weights/model.json`: dimensions under their Hugging Face names, the target's own suppression lists and alignment heads.

    Tensor names in `target.safetensors` and `draft.safetensors` are those of transformers' `WhisperForConditionalGeneration`
    (`model.encoder.…`, `model.decoder.…`); the output head is tied to `model.decoder.embed_tokens.weight` and not stored.
    `draft.safetensors` holds only what differs from the target: what it leaves out, the draft takes from the target.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    vocab_size: Positive
    d_model: Positive
    encoder_layers: Positive
    decoder_layers: Positive
    encoder_attention_heads: Positive
    decoder_attention_heads: Positive
    encoder_ffn_dim: Positive
    decoder_ffn_dim: Positive
    num_mel_bins: Positive
    max_source_positions: Positive = 1500
    max_target_positions: Positive = 448
    suppress_tokens: tuple[int, ...] = ()
    begin_suppress_tokens: tuple[int, ...] = ()
    alignment_heads: tuple[tuple[Index, Index], ...] = ()  # (layer, head) of cross-attention that follows speech; (): not known
    draft_decoder_layers: Annotated[int, Field(ge=0)] = 0  # 0: the repository has no draft model

    @property
    def heads_that_align(self) -> tuple[tuple[int, int], ...]:
        """Heads to take the times of words from; where none are known, all of the upper half of layers, as openai/whisper."""
        upper = range(self.decoder_layers // 2, self.decoder_layers)
        return self.alignment_heads or tuple((layer, head) for layer in upper for head in range(self.decoder_attention_heads))

    @classmethod
    def read(cls, weights_dir: Path) -> Self:
        """Read `model.json` of a weights folder; raises pydantic's ValidationError, which names the field."""
        return cls.model_validate_json((weights_dir / MODEL_CONFIG_FILE).read_bytes())
