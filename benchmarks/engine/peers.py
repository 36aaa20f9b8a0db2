"""The other engines, all told the same: the language, no timestamps, greedy, no temperature fallback, at most 224 tokens."""

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any, Final

import torch
from benchmarks.engine.child import THREADS
from benchmarks.engine.clips import Answer, Clip, FileRun, Piece, Run, closed_loop

from transcriber_engine.audio import SAMPLE_RATE_HZ, Samples
from transcriber_engine.mel import WINDOW_SAMPLES
from transcriber_engine.model_config import DRAFT_FILE, TARGET_FILE, TOKENIZER_FILE, ModelConfig
from transcriber_engine.tokens import WhisperTokenizer

MAX_NEW_TOKENS: Final = 224
Decoded = tuple[Sequence[int], str]  # token ids, text


def in_groups(
    clips: Sequence[Clip], concurrency: int, group: int, transcribe: Callable[[Sequence[Clip]], Sequence[Decoded]], end_of_text: int
) -> Run:
    """Transcribe `group` clips at a time while `concurrency` clients wait for theirs."""
    began = perf_counter()
    decoded: list[Decoded] = []
    done_seconds: list[float] = []
    for start in range(0, len(clips), group):
        decoded += transcribe(clips[start : start + group])
        done_seconds += [perf_counter() - began] * (len(decoded) - len(done_seconds))
    waits = closed_loop(done_seconds, concurrency)
    answers = [
        Answer(tuple(t for t in tokens if t < end_of_text), text.strip(), wait)
        for (tokens, text), wait in zip(decoded, waits, strict=True)
    ]
    return Run(done_seconds[-1], tuple(answers))


class HuggingFace:
    """transformers' own generation loop: its static batch, or one window at a time, alone or with our draft as its assistant."""

    def __init__(self, weights: str, *, batched: bool, assisted: bool) -> None:
        from transformers import WhisperFeatureExtractor
        from transformers.utils import logging

        torch.set_num_threads(THREADS)
        logging.set_verbosity_error()
        folder = Path(weights)
        self.config = ModelConfig.read(folder)
        self.tokenizer = WhisperTokenizer.read(folder / TOKENIZER_FILE)
        self.model = _conditional_generation(folder)
        self.assistant = _assistant(folder) if assisted else None
        self.features = WhisperFeatureExtractor(feature_size=self.config.num_mel_bins)
        self.batched = batched

    @torch.inference_mode()
    def transcribe(self, clips: Sequence[Clip], concurrency: int) -> Run:
        """Transcribe; a static batch waits for its longest window, and holds windows of one prompt alone."""
        return in_groups(clips, concurrency, concurrency if self.batched else 1, self._generate, self.tokenizer.end_of_text)

    def close(self) -> None:
        """Nothing is held."""

    def _generate(self, clips: Sequence[Clip]) -> list[Decoded]:
        from transformers import GenerationConfig, GenerationMixin
        from transformers.modeling_outputs import BaseModelOutput

        audio = [clip.samples for clip in clips]
        mel = self.features(audio, sampling_rate=SAMPLE_RATE_HZ, return_tensors="pt").input_features
        hidden = self.model.model.encoder(mel).last_hidden_state
        end = self.tokenizer.end_of_text
        prompts = [self.tokenizer.prompt(clip.language, "transcribe", timestamps=False, previous_text=None) for clip in clips]
        length = len(prompts[0])
        # Whisper's own `generate` passes these rules on to this same loop; with an assistant it would leave one of them out.
        sequences = GenerationMixin.generate(
            self.model,
            encoder_outputs=BaseModelOutput(last_hidden_state=hidden),
            decoder_input_ids=torch.tensor(prompts),
            logits_processor=_processors(self.config, length),
            generation_config=GenerationConfig(
                do_sample=False, max_new_tokens=MAX_NEW_TOKENS, eos_token_id=end, pad_token_id=end,
                decoder_start_token_id=self.tokenizer.start_of_transcript,
            ),
            **({} if self.assistant is None else {"assistant_model": self.assistant}),
        )  # fmt: skip
        generated = [row[length:] for row in sequences.tolist()]
        return [(tokens, self.tokenizer.text(tokens)) for tokens in generated]


def _processors(config: ModelConfig, prompt_length: int) -> Any:
    from transformers.generation.logits_process import (
        LogitsProcessorList,
        SuppressTokensAtBeginLogitsProcessor,
        SuppressTokensLogitsProcessor,
    )

    return LogitsProcessorList(
        [
            SuppressTokensAtBeginLogitsProcessor(list(config.begin_suppress_tokens), begin_index=prompt_length),
            SuppressTokensLogitsProcessor(list(config.suppress_tokens)),
        ]
    )


def _whisper_config(config: ModelConfig, decoder_layers: int) -> Any:
    from transformers import WhisperConfig

    dimensions = config.model_dump(exclude={"suppress_tokens", "begin_suppress_tokens", "draft_decoder_layers", "decoder_layers"})
    special = {"pad_token_id": 50257, "bos_token_id": 50257, "eos_token_id": 50257, "decoder_start_token_id": 50258}
    return WhisperConfig(**dimensions, decoder_layers=decoder_layers, **special)


def _conditional_generation(folder: Path) -> Any:
    from safetensors.torch import load_file
    from transformers import WhisperForConditionalGeneration

    config = ModelConfig.read(folder)
    model = WhisperForConditionalGeneration(_whisper_config(config, config.decoder_layers))
    state = {name: tensor.float() for name, tensor in load_file(folder / TARGET_FILE).items()}
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert (missing, unexpected) == (["proj_out.weight"], []), (missing, unexpected)
    model.tie_weights()
    return model.eval()


def _assistant(folder: Path) -> Any:
    """Our draft as transformers takes one that shares the target's encoder: a decoder alone."""
    from safetensors.torch import load_file
    from transformers import WhisperForCausalLM

    config = ModelConfig.read(folder)
    model = WhisperForCausalLM(_whisper_config(config, config.draft_decoder_layers))
    target = {n: t for n, t in load_file(folder / TARGET_FILE).items() if n.startswith("model.decoder.") and ".layers." not in n}
    state = {name: tensor.float() for name, tensor in (target | load_file(folder / DRAFT_FILE)).items()}
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert (missing, unexpected) == (["proj_out.weight"], []), (missing, unexpected)
    model.tie_weights()
    return model.eval()


class FasterWhisper:
    """faster-whisper on CTranslate2; one window at a time, or its batched pipeline with the windows told as clips of one file."""

    def __init__(self, model: str, compute_type: str, *, batched: bool) -> None:
        from faster_whisper import BatchedInferencePipeline, WhisperModel

        self.model = WhisperModel(model, device="cpu", compute_type=compute_type, cpu_threads=THREADS, num_workers=1)
        self.pipeline = BatchedInferencePipeline(self.model) if batched else None
        self.end_of_text = self.model.hf_tokenizer.token_to_id("<|endoftext|>")

    def transcribe(self, clips: Sequence[Clip], concurrency: int) -> Run:
        """Transcribe; the batched pipeline takes as many windows of one language together as clients wait."""
        one = self._single if self.pipeline is None else self._batch
        return in_groups(clips, concurrency, 1 if self.pipeline is None else concurrency, one, self.end_of_text)

    def transcribe_file(self, samples: Samples, language: str, options: Mapping[str, object]) -> FileRun:
        """Transcribe a long file; options are those of its `transcribe`."""
        began = perf_counter()
        model = self.model if self.pipeline is None else self.pipeline
        segments, _ = model.transcribe(
            samples, language=language, beam_size=1, temperature=0.0, condition_on_previous_text=False, **options
        )
        pieces = tuple(Piece(segment.start, segment.text) for segment in segments)
        return FileRun(perf_counter() - began, pieces)

    def close(self) -> None:
        """Nothing is held."""

    def _options(self, clip: Clip) -> dict[str, Any]:
        greedy = {"beam_size": 1, "temperature": 0.0, "condition_on_previous_text": False, "without_timestamps": True}
        return {**greedy, "language": clip.language, "vad_filter": False, "no_speech_threshold": None}

    def _single(self, clips: Sequence[Clip]) -> list[Decoded]:
        [clip] = clips
        segments = list(self.model.transcribe(clip.samples, max_new_tokens=MAX_NEW_TOKENS, **self._options(clip))[0])
        return [([t for s in segments for t in s.tokens], "".join(s.text for s in segments))]

    def _batch(self, clips: Sequence[Clip]) -> list[Decoded]:
        import numpy as np

        assert self.pipeline is not None
        assert len({clip.language for clip in clips}) == 1, "its batches are of one language"
        ends = np.cumsum([clip.samples.shape[0] for clip in clips]).tolist()
        times = [{"start": s / SAMPLE_RATE_HZ, "end": e / SAMPLE_RATE_HZ} for s, e in zip([0, *ends[:-1]], ends, strict=True)]
        segments, _ = self.pipeline.transcribe(
            np.concatenate([clip.samples for clip in clips]),
            batch_size=len(clips),
            clip_timestamps=times,
            max_new_tokens=MAX_NEW_TOKENS,
            **self._options(clips[0]),
        )
        heard: list[Decoded] = [([], "") for _ in clips]
        for segment in segments:
            middle = (segment.start + segment.end) / 2 * SAMPLE_RATE_HZ
            at = next((i for i, end in enumerate(ends) if middle < end), len(ends) - 1)
            heard[at] = [*heard[at][0], *segment.tokens], heard[at][1] + segment.text
        return heard


class OpenAIWhisper:
    """openai/whisper with the same weights under its names; raises ImportError where `make bench` did not install it."""

    def __init__(self, weights: str, packages: str) -> None:
        sys.path.append(packages)
        import whisper

        torch.set_num_threads(THREADS)
        self.whisper = whisper
        folder = Path(weights)
        self.tokenizer = WhisperTokenizer.read(folder / TOKENIZER_FILE)
        self.model = _openai_model(folder)

    @torch.inference_mode()
    def transcribe(self, clips: Sequence[Clip], concurrency: int) -> Run:
        """Transcribe one window at a time."""
        return in_groups(clips, concurrency, 1, self._decode, self.tokenizer.end_of_text)

    def close(self) -> None:
        """Nothing is held."""

    def _decode(self, clips: Sequence[Clip]) -> list[Decoded]:
        [clip] = clips
        mel = self.whisper.log_mel_spectrogram(torch.from_numpy(clip.samples), padding=WINDOW_SAMPLES - clip.samples.shape[0])
        options = self.whisper.DecodingOptions(language=clip.language, without_timestamps=True, fp16=False, temperature=0.0)
        result = self.whisper.decode(self.model, mel[:, :3000], options)
        return [(result.tokens, result.text)]


def _openai_model(folder: Path) -> Any:
    from safetensors.torch import load_file
    from whisper.model import ModelDimensions, Whisper

    c = ModelConfig.read(folder)
    model = Whisper(
        ModelDimensions(
            n_mels=c.num_mel_bins, n_audio_ctx=c.max_source_positions, n_audio_state=c.d_model,
            n_audio_head=c.encoder_attention_heads, n_audio_layer=c.encoder_layers, n_vocab=c.vocab_size,
            n_text_ctx=c.max_target_positions, n_text_state=c.d_model, n_text_head=c.decoder_attention_heads,
            n_text_layer=c.decoder_layers,
        )
    )  # fmt: skip
    state = {openai_name(name): tensor.float() for name, tensor in load_file(folder / TARGET_FILE).items()}
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert not unexpected, unexpected
    assert all("mask" in name for name in missing), missing
    return model.eval()


OPENAI_NAMES: Final = (
    ("model.", ""), ("layers.", "blocks."), ("self_attn_layer_norm", "attn_ln"), ("encoder_attn_layer_norm", "cross_attn_ln"),
    ("final_layer_norm", "mlp_ln"), ("self_attn.", "attn."), ("encoder_attn.", "cross_attn."), ("q_proj", "query"),
    ("k_proj", "key"), ("v_proj", "value"), ("out_proj", "out"), ("fc1", "mlp.0"), ("fc2", "mlp.2"),
    ("embed_tokens", "token_embedding"), ("embed_positions.weight", "positional_embedding"),
    ("encoder.layer_norm", "encoder.ln_post"), ("decoder.layer_norm", "decoder.ln"),
)  # fmt: skip


def openai_name(name: str) -> str:
    """Return what openai/whisper calls a tensor of transformers."""
    for theirs, ours in OPENAI_NAMES:
        name = name.replace(theirs, ours, 1)
    return name
