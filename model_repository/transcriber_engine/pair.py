"""A target's decoder and its draft's, with what both share.

This module and what decodes with it (decoder, caches, rules, speculation, graphs, scheduler) import torch and numpy alone: they can
be carried to a machine that has nothing else. What reads files or talks to users comes from modules that they name for types only.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from transcriber_engine.decoder import Decoder
from transcriber_engine.rules import Vocabulary

if TYPE_CHECKING:
    from transcriber_engine.model_config import ModelConfig
    from transcriber_engine.tokens import WhisperTokenizer

MAX_INITIAL_TIMESTAMP_STEPS = 50  # openai/whisper: the first words start within a second of the window's start


@dataclass(frozen=True)
class DecoderPair:
    """The target, its draft or None, and what both share."""

    config: "ModelConfig"
    tokenizer: "WhisperTokenizer"
    vocabulary: Vocabulary
    target: Decoder
    draft: Decoder | None


def vocabulary(config: "ModelConfig", tokenizer: "WhisperTokenizer", device: torch.device) -> Vocabulary:
    """Gather what the rules speak of."""
    end = tokenizer.end_of_text

    def text(ids: tuple[int, ...]) -> Tensor:
        return torch.tensor([i for i in ids if i < end], dtype=torch.long, device=device)

    def special(ids: tuple[int, ...]) -> Tensor:
        return torch.tensor([i - end for i in ids if i >= end], dtype=torch.long, device=device)

    return Vocabulary(
        size=config.vocab_size,
        text_ids=end,
        end_of_text=end,
        no_timestamps=tokenizer.no_timestamps,
        timestamp_begin=tokenizer.timestamp_begin,
        suppressed_text=text(config.suppress_tokens),
        suppressed_special=special(config.suppress_tokens),
        begin_suppressed_text=text(config.begin_suppress_tokens),
        begin_suppressed_special=special(config.begin_suppress_tokens),
        max_initial_timestamp=MAX_INITIAL_TIMESTAMP_STEPS,
    )
