"""What stands before a window's text: hotwords and the text before, within the room that the model leaves them."""

import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit

from tests.engine.toy import SPECIAL
from transcriber_engine.errors import RequestError
from transcriber_engine.settings import Options
from transcriber_engine.tokens import PROMPT_TOKENS, WhisperTokenizer

WORDS = [f"w{i}" for i in range(300)]


@pytest.fixture(scope="module")
def tokenizer() -> WhisperTokenizer:
    words = Tokenizer(WordLevel({name: i for i, name in enumerate(WORDS + SPECIAL)}, unk_token="w0"))
    words.pre_tokenizer = WhitespaceSplit()
    return WhisperTokenizer(words)


def said_before(tokenizer: WhisperTokenizer, previous_text: str | None, hotwords: str | None) -> list[str] | None:
    """The words between the mark of what came before and the start of the transcript; None without a mark."""
    ids = tokenizer.prompt("de", "translate", timestamps=False, previous_text=previous_text, hotwords=hotwords)
    start = ids.index(tokenizer.start_of_transcript)
    assert len(ids) - start == 4
    if start == 0:
        return None
    assert ids[0] == tokenizer.start_of_previous
    return [WORDS[i] for i in ids[1:start]]


@pytest.mark.parametrize(
    ("previous_text", "hotwords", "expected"),
    [
        (None, None, None),
        (" ", "\n", None),
        ("w1 w2", None, ["w1", "w2"]),
        (None, "w7", ["w7"]),
        ("w1 w2", " w7 w8 ", ["w7", "w8", "w1", "w2"]),
        (" ".join(WORDS), None, WORDS[-PROMPT_TOKENS:]),
        (" ".join(WORDS), "w7 w8", ["w7", "w8", *WORDS[-PROMPT_TOKENS + 2 :]]),
        ("w1 w2", " ".join(WORDS[:PROMPT_TOKENS]), WORDS[:PROMPT_TOKENS]),
        ("w1 w2", " ".join(WORDS[: PROMPT_TOKENS - 1]), [*WORDS[: PROMPT_TOKENS - 1], "w2"]),
    ],
)
def test_hotwords_come_first_and_whole_and_of_the_text_before_the_end_is_kept(tokenizer, previous_text, hotwords, expected):
    assert said_before(tokenizer, previous_text, hotwords) == expected


def test_hotwords_that_do_not_fit_are_refused_by_name(tokenizer):
    tokenizer.check_hotwords(" ".join(WORDS[:PROMPT_TOKENS]))
    with pytest.raises(RequestError, match=r"OPTIONS.hotwords: are 224 tokens, at most 223 fit; send fewer words"):
        tokenizer.check_hotwords(" ".join(WORDS[: PROMPT_TOKENS + 1]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ('{"hotwords": "%s"}' % ("x" * 1001), "OPTIONS.hotwords: String should have at most 1000 characters"),
        ('{"temperature_fallback": "yes"}', "OPTIONS.temperature_fallback: Input should be a valid boolean"),
        ('{"hallucination_guards": 1}', "OPTIONS.hallucination_guards: Input should be a valid boolean"),
        ('{"condition_on_previous_text": null, "seed": -1}', "OPTIONS.seed: Input should be greater than or equal to 0"),
        ('{"seed": 2147483648}', "OPTIONS.seed: Input should be less than or equal to 2147483647"),
        ('{"deadline_seconds": 0}', "OPTIONS.deadline_seconds: Input should be greater than 0"),
        ('{"deadline_seconds": Infinity}', "OPTIONS.deadline_seconds: Input should be a finite number"),
        ('{"timestamps": "syllable"}', "OPTIONS.timestamps: Input should be 'none', 'segment' or 'word'"),
    ],
)
def test_an_option_of_another_kind_is_refused_by_name(options, message):
    with pytest.raises(RequestError) as refusal:
        Options.parse(options)
    assert str(refusal.value) == message
