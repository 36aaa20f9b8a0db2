"""From a window's tokens to its result: segments with times, and the judgement that there was no speech."""

from transcriber_engine.result import Segment, Speculation, WindowResult, compression_ratio
from transcriber_engine.scheduler import WindowTokens
from transcriber_engine.tokens import WhisperTokenizer

# openai/whisper's rule: silence is where the model says so and is unsure of the words it gives.
NO_SPEECH_PROBABILITY = 0.6
NO_SPEECH_LOGPROB = -1.0


def window_result(decoded: WindowTokens, tokenizer: WhisperTokenizer, window_seconds: float) -> WindowResult:
    """Build the result of a window; one judged to hold no speech has no segments."""
    silent = decoded.no_speech_prob > NO_SPEECH_PROBABILITY and decoded.avg_logprob < NO_SPEECH_LOGPROB
    found = [] if silent else tokenizer.segments(decoded.tokens, window_seconds)
    segments = tuple(
        Segment(
            id=number,
            start_seconds=round(segment.start_seconds, 3),
            end_seconds=round(segment.end_seconds, 3),
            text=segment.text,
            tokens=segment.tokens,
            avg_logprob=decoded.avg_logprob,
            no_speech_prob=decoded.no_speech_prob,
            compression_ratio=compression_ratio(segment.text),
        )
        for number, segment in enumerate(found)
    )
    speculation = Speculation(
        cycles=decoded.cycles,
        output_tokens=len(decoded.tokens) + 1,  # and the end of text
        draft_tokens=decoded.draft_tokens,
        accepted_tokens=decoded.accepted_tokens,
    )
    return WindowResult(language=decoded.language, segments=segments, speculation=speculation)
