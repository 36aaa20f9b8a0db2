"""Loads the weights folder of a repository into an encoder, a target decoder and, where there is one, a draft decoder."""

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from transcriber_engine.decoder import Decoder
from transcriber_engine.encoder import Encoder
from transcriber_engine.model_config import DRAFT_FILE, TARGET_FILE, TOKENIZER_FILE, ModelConfig
from transcriber_engine.rules import Vocabulary
from transcriber_engine.tokens import WhisperTokenizer

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
DRAFT_TEXT_IDS = 8192
MAX_INITIAL_TIMESTAMP_STEPS = 50  # openai/whisper: the first words start within a second of the window's start


@dataclass(frozen=True)
class DecoderPair:
    """The target, its draft or None, and what both share."""

    config: ModelConfig
    tokenizer: WhisperTokenizer
    vocabulary: Vocabulary
    target: Decoder
    draft: Decoder | None


def load_encoder(weights_dir: Path, precision: str, device: str) -> Encoder:
    """Load the encoder; raises FileNotFoundError, or RuntimeError naming missing tensors."""
    tensors = _tensors(weights_dir / TARGET_FILE, "model.encoder.", precision, device)
    return Encoder.from_tensors(ModelConfig.read(weights_dir), tensors)


def load_decoders(weights_dir: Path, precision: str, device: str, *, with_draft: bool = True) -> DecoderPair:
    """Load the target's decoder and its draft's; raises FileNotFoundError, or KeyError naming a missing tensor."""
    config = ModelConfig.read(weights_dir)
    tokenizer = WhisperTokenizer.read(weights_dir / TOKENIZER_FILE)
    tensors = _tensors(weights_dir / TARGET_FILE, "model.decoder.", precision, device)
    target = Decoder(config, tensors, config.decoder_layers)
    draft = None
    if with_draft and config.draft_decoder_layers:
        shared = {name: tensor for name, tensor in tensors.items() if ".layers." not in name}
        own = _tensors(weights_dir / DRAFT_FILE, "model.decoder.", precision, device)
        draft = Decoder(config, shared | own, config.draft_decoder_layers, draft_head_ids(config, tokenizer, device))
    return DecoderPair(config, tokenizer, vocabulary(config, tokenizer, torch.device(device)), target, draft)


def draft_head_ids(config: ModelConfig, tokenizer: WhisperTokenizer, device: str) -> Tensor:
    """Return the ids a draft may say: the first text ids, which byte-pair merging numbered by frequency, and all special ones."""
    text = torch.arange(min(DRAFT_TEXT_IDS, tokenizer.end_of_text))
    return torch.cat([text, torch.arange(tokenizer.end_of_text, config.vocab_size)]).to(device)


def vocabulary(config: ModelConfig, tokenizer: WhisperTokenizer, device: torch.device) -> Vocabulary:
    """Build the masks that the rules apply."""

    def mask(ids: tuple[int, ...]) -> Tensor:
        marked = torch.zeros(config.vocab_size, dtype=torch.bool, device=device)
        marked[list(ids)] = True
        return marked

    return Vocabulary(
        end_of_text=tokenizer.end_of_text,
        no_timestamps=tokenizer.no_timestamps,
        timestamp_begin=tokenizer.timestamp_begin,
        suppressed=mask(config.suppress_tokens),
        begin_suppressed=mask(config.begin_suppress_tokens),
        max_initial_timestamp=MAX_INITIAL_TIMESTAMP_STEPS,
    )


def _tensors(path: Path, prefix: str, precision: str, device: str) -> dict[str, Tensor]:
    tensors = load_file(path).items()
    return {name: tensor.to(device, DTYPES[precision]) for name, tensor in tensors if name.startswith(prefix)}
