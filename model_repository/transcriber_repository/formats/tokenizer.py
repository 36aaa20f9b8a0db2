"""`tokenizer.json`, mended where files in circulation are not whole."""

import json
from typing import Final

BYTES: Final = 256  # the first ids of a byte-level vocabulary; the one after them is what the first merge makes


def with_first_merge(content: bytes) -> bytes:
    """Return a `tokenizer.json` that has the first merge of its byte-pair encoding, which those beside CTranslate2 models lack.

    Whisper's joins a space and a "t". Without it " the" is encoded as a space and "the", ids that the model was not trained to read
    together, so that prompts and hotwords say less. A file that has it, or has no merges, is returned byte for byte.
    """
    tokenizer = json.loads(content)
    vocabulary, merges = tokenizer["model"]["vocab"], tokenizer["model"].get("merges")
    if not merges:
        return content
    made = next((token for token, index in vocabulary.items() if index == BYTES), "")
    merge = " ".join(made) if isinstance(merges[0], str) else [*made]
    if len(made) != 2 or merge in merges:
        return content
    merges.insert(0, merge)
    return json.dumps(tokenizer, ensure_ascii=False, indent=2).encode()
