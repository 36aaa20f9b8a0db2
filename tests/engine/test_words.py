"""Which tokens make a word, in languages with and without spaces, and what times a word may have."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from transcriber_engine.result import Word
from transcriber_engine.tokens import TextSegment, WhisperTokenizer
from transcriber_engine.words import merge_punctuation, natural_times, split_words, whole_characters


@pytest.fixture(scope="module")
def tokenizer(whisper_base: Path) -> WhisperTokenizer:
    return WhisperTokenizer.read(whisper_base / "tokenizer.json")


@pytest.fixture(scope="module")
def encoder(whisper_base: Path) -> Tokenizer:
    return Tokenizer.from_file(str(whisper_base / "tokenizer.json"))


def texts(pieces):
    return [piece.text for piece in pieces]


def spoken(*words: tuple[str, float, float]) -> list[Word]:
    return [Word(word=text, start_seconds=start, end_seconds=end, probability=0.5) for text, start, end in words]


def times(words) -> list[tuple[str, float, float]]:
    return [(word.word, word.start_seconds, word.end_seconds) for word in words]


def segment(start: float, end: float) -> TextSegment:
    return TextSegment(start, end, (), "")


@pytest.mark.parametrize(
    ("language", "text", "expected"),
    [
        ("en", " It was unbelievable, wasn't it?", [" It", " was", " unbelievable", ",", " wasn't", " it", "?"]),
        ("de", " Häuser (alt) für 5,50 €", [" Häuser", " (alt", ")", " für", " 5", ",50", " €"]),
        ("ja", "色は匂へど、散りぬる", ["色", "は", "匂", "へ", "ど", "、", "散", "り", "ぬ", "る"]),
        ("zh", "鼷鼠", ["鼷", "鼠"]),
        ("hi", " नमस्ते दुनिया", [" नमस्ते", " दुनिया"]),
    ],
)
def test_text_is_split_at_spaces_and_punctuation_or_into_characters(tokenizer, encoder, language, text, expected):
    tokens = encoder.encode(text, add_special_tokens=False).ids
    pieces = split_words(tokenizer, tokens, language)
    assert texts(pieces) == expected
    assert sum(piece.tokens for piece in pieces) == len(tokens)


def test_character_of_several_tokens_is_not_broken(tokenizer, encoder):
    tokens = encoder.encode("𠮷🏳️", add_special_tokens=False).ids
    assert len(tokens) > 3
    pieces = whole_characters(tokenizer, tokens)
    assert "".join(texts(pieces)) == "𠮷🏳️"
    assert not any("\ufffd" in piece.text for piece in pieces)


@given(tokens=st.lists(st.integers(0, 50256), max_size=12), language=st.sampled_from(["en", "ja"]))
def test_any_tokens_give_pieces_with_all_of_the_tokens_and_all_of_the_text(tokenizer, tokens, language):
    pieces = split_words(tokenizer, tokens, language)
    assert "".join(texts(pieces)) == tokenizer.text(tokens)
    assert sum(piece.tokens for piece in pieces) == len(tokens)


@pytest.mark.parametrize(
    ("pieces", "expected"),
    [
        ([" Yes", ",", " she", " said", "."], [" Yes,", " she", " said."]),
        ([' "', "Stop", "!", '"'], [' "Stop!"']),
        ([" (", "very", ")", " -", " well"], [" (very)", " - well"]),
        ([" Ça", " va", " ?"], [" Ça", " va ?"]),
        (["。", "色", "、"], ["。", "色、"]),
        ([" end", ' "'], [" end", ' "']),
    ],
)
def test_punctuation_goes_with_its_word(pieces, expected):
    words = spoken(*((piece, i, i + 1) for i, piece in enumerate(pieces)))
    assert [word.word for word in merge_punctuation(words)] == expected


def test_word_does_not_get_the_time_of_its_punctuation():
    merged = merge_punctuation(spoken((" (", 0.0, 0.5), ("so", 0.5, 0.7), (",", 0.7, 1.9)))
    assert times(merged) == [(" (so,", 0.5, 0.7)]


STEADY = [(f" w{i}", i / 2, i / 2 + 0.5) for i in range(8)]  # half a second each: the longest natural word is a second


def test_pause_after_a_sentence_is_taken_from_the_word_that_follows():
    words = spoken(*STEADY, (".", 4.0, 4.1), (" After", 4.1, 7.0), (" it", 7.0, 7.4))
    [natural] = natural_times([segment(0, 7.4)], [words])
    assert times(natural)[-3:] == [(" w7.", 3.5, 4.0), (" After", 6.0, 7.0), (" it", 7.0, 7.4)]


def test_pause_before_the_first_words_is_taken_from_them():
    first, second = spoken(*STEADY), spoken((" Well", 4.0, 7.0), (" then", 7.0, 9.5))
    _, natural = natural_times([segment(0, 4), segment(4, 9.5)], [first, second])
    assert times(natural) == [(" Well", 7.5, 8.5), (" then", 8.5, 9.5)]


def test_first_and_last_word_far_beyond_their_segment_are_brought_to_its_times():
    words = spoken((" a", 1.0, 2.2), *((f" w{i}", 2.2 + i / 2, 2.7 + i / 2) for i in range(6)), (" z", 5.2, 9.0))
    [natural] = natural_times([segment(1.8, 5.9)], [words])
    assert times(natural)[0] == (" a", 1.7, 2.2)  # no shorter than a typical word
    assert times(natural)[-1] == (" z", 5.2, 5.9)


def test_short_words_at_the_borders_of_their_segment_are_not_made_longer():
    words = spoken((" a", 1.0, 1.6), (" b", 1.6, 2.3), (" c", 2.3, 3.0), (" d", 3.0, 3.7), (" z", 3.7, 4.3))
    assert natural_times([segment(1.55, 3.75)], [words]) == (tuple(words),)


def test_words_of_usual_length_keep_their_times():
    words = spoken(*STEADY)
    assert natural_times([segment(0, 4.0)], [words]) == (tuple(words),)


def test_segments_without_words_stay_without():
    assert natural_times([segment(0, 1), segment(1, 2)], [[], []]) == ((), ())


@given(
    st.lists(
        st.lists(st.tuples(st.sampled_from([" a", " be", ".", ",", ' "', "ce"]), st.integers(0, 200)), max_size=6), max_size=4
    ),
    st.lists(st.integers(0, 3000), min_size=8, max_size=8).map(sorted),
)
def test_times_of_words_never_go_back_and_stay_within_what_alignment_found(lengths, borders):
    now, words, segments = 0, [], []
    for number, own in enumerate(lengths):
        placed = []
        for text, length in own:
            placed.append((text, now / 50, (now + length) / 50))
            now += length
        words.append(spoken(*placed))
        segments.append(segment(borders[2 * number] / 50, borders[2 * number + 1] / 50))
    natural = natural_times(segments, words)
    flat = [second for each in natural for word in each for second in (word.start_seconds, word.end_seconds)]
    assert flat == sorted(flat)
    assert all(0 <= second <= round(now / 50, 3) for second in flat)
    assert ["".join(word.word for word in own) for own in natural] == ["".join(text for text, _ in own) for own in lengths]
