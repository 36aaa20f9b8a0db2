"""Whisper's special tokens, for tokenizers of a few words."""


def special_tokens(*languages: str) -> list[str]:
    """Those that stand between the text and the timestamps, in Whisper's order."""
    return [
        "<|endoftext|>",
        "<|startoftranscript|>",
        *(f"<|{language}|>" for language in languages),
        "<|translate|>",
        "<|transcribe|>",
        "<|startoflm|>",
        "<|startofprev|>",
        "<|nospeech|>",
        "<|notimestamps|>",
    ]
