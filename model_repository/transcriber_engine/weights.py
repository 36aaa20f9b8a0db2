"""Loads the weights folder of a repository into an encoder, a target decoder and, where there is one, a draft decoder."""

from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from transcriber_engine.decoder import Decoder, MakeLinear
from transcriber_engine.encoder import Encoder
from transcriber_engine.head import DraftHead, FullHead, Head, ScreenedHead
from transcriber_engine.linear import DraftLinear, InvariantLinear, PlainLinear, compiled_kernel, packs
from transcriber_engine.memory import keep_freed_memory
from transcriber_engine.model_config import DRAFT_FILE, TARGET_FILE, TOKENIZER_FILE, ModelConfig
from transcriber_engine.pair import DecoderPair, vocabulary
from transcriber_engine.rules import Vocabulary
from transcriber_engine.tokens import WhisperTokenizer

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16, "int8": torch.float32}
"""By precision, what is loaded and computed in; int8 is what linear layers are quantised to, and float32 the rest."""
DRAFT_TEXT_IDS = 8192


def load_encoder(weights_dir: Path, precision: str, device: str, *, for_export: bool = False) -> Encoder:
    """Load the encoder, as fast as it gets here, or as torch can export it; RuntimeError names what tensors are missing."""
    if device == "cpu":
        keep_freed_memory()
    tensors = _tensors(weights_dir / TARGET_FILE, "model.encoder.", precision, device)
    encoder = Encoder.from_tensors(ModelConfig.read(weights_dir), tensors)
    if precision == "int8":
        from transcriber_engine.quantized import quantize_linears  # here, since no other precision needs ONNX Runtime

        quantize_linears(encoder)
    elif precision == "float32" and not for_export and packs(encoder.conv1.weight):
        encoder.pack()
    return encoder


def load_decoders(weights_dir: Path, precision: str, device: str, *, with_draft: bool = True) -> DecoderPair:
    """Load the target's decoder and its draft's; raises FileNotFoundError, or KeyError naming a missing tensor."""
    config = ModelConfig.read(weights_dir)
    tokenizer = WhisperTokenizer.read(weights_dir / TOKENIZER_FILE)
    tensors = _tensors(weights_dir / TARGET_FILE, "model.decoder.", precision, device)
    linear = make_linear(precision)
    words = vocabulary(config, tokenizer, torch.device(device))
    embeddings = tensors["model.decoder.embed_tokens.weight"]
    rounded = precision == "int8"
    target = Decoder(config, tensors, config.decoder_layers, target_head(embeddings, words, linear), linear, approximate=rounded)
    draft = None
    if with_draft and config.draft_decoder_layers:
        shared = {name: tensor for name, tensor in tensors.items() if ".layers." not in name}
        own = _tensors(weights_dir / DRAFT_FILE, "model.decoder.", precision, device)
        fast = draft_linear(precision, device)
        head = draft_head(embeddings[draft_head_ids(config, tokenizer, device)], words, fast)
        draft = Decoder(config, shared | own, config.draft_decoder_layers, head, fast, approximate=rounded or fast is DraftLinear)
    return DecoderPair(config, tokenizer, words, target, draft)


def make_linear(precision: str) -> MakeLinear:
    """Return what makes a decoder's linear layers of their weights in a precision."""
    if precision != "int8":
        return InvariantLinear
    from transcriber_engine.quantized import QuantizedLinear  # here, since no other precision needs ONNX Runtime

    return QuantizedLinear


def draft_linear(precision: str, device: str) -> MakeLinear:
    """Return the same for a draft: the fastest there is, for what a draft computes need not be exact."""
    if precision == "float32" and device == "cpu" and compiled_kernel(paired=True):
        return DraftLinear
    return PlainLinear if device == "cuda" else make_linear(precision)


def draft_head(weight: Tensor, words: Vocabulary, linear: MakeLinear) -> Head:
    """Return a draft's head over the ids of `draft_head_ids`, the fastest there is."""
    if linear is DraftLinear and (kernel := compiled_kernel(paired=True, surveyed=True)):
        return DraftHead(weight, words.of_head(len(weight)), kernel)
    return FullHead(weight, linear)


def target_head(embeddings: Tensor, words: Vocabulary, linear: MakeLinear) -> Head:
    """Return the head over all ids that is fastest here; each finds the argmax itself."""
    exact = linear is InvariantLinear and embeddings.dtype == torch.float32 and not embeddings.is_cuda
    if exact and (kernel := compiled_kernel(paired=True, surveyed=True)):
        return ScreenedHead(embeddings, words, linear, kernel)
    return FullHead(embeddings, linear)


def draft_head_ids(config: ModelConfig, tokenizer: WhisperTokenizer, device: str) -> Tensor:
    """Return the ids a draft may say: the first text ids, which byte-pair merging numbered by frequency, and all special ones.

    A draft needs few ids to be right often, and its head is most of its cost.
    """
    text = torch.arange(min(DRAFT_TEXT_IDS, tokenizer.end_of_text))
    return torch.cat([text, torch.arange(tokenizer.end_of_text, config.vocab_size)]).to(device)


def _tensors(path: Path, prefix: str, precision: str, device: str) -> dict[str, Tensor]:
    tensors = load_file(path).items()
    return {name: tensor.to(device, DTYPES[precision]) for name, tensor in tensors if name.startswith(prefix)}
