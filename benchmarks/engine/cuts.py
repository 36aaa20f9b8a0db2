"""What the cuts of a long file do to its words, apart from what the model mishears however the audio is cut."""

from collections.abc import Callable, Sequence
from itertools import accumulate, pairwise

from benchmarks.engine.audio import LongFile
from benchmarks.engine.clips import Piece
from benchmarks.engine.words import by_the_cut, words_of, wrong_words

from transcriber_engine.audio import Samples


def errors_by_cuts(file: LongFile, pieces: Sequence[Piece], hear: Callable[[Samples], str | None]) -> dict[str, int]:
    """Count the words that are lost and doubled at cuts and come out right wherever the same speech is heard without the cut.

    That is wherever the sentence comes again in the file away from cuts, and where `hear` is given the sentences around the cut,
    and the one alone. `hear` transcribes at most 30 s as one window; None where it cannot, and then that excuses nothing.
    """
    before = [0, *accumulate(len(words_of(sentence)) for sentence in file.sentences)]
    everywhere = wrong_words(file.said, [piece.text for piece in pieces])
    away = [wrong for wrong in everywhere if wrong.cut is None]
    lost = doubled = 0
    for wrong in everywhere:
        if wrong.cut is None or not wrong.lost + wrong.doubled:
            continue
        own = [i for i, (first, end) in enumerate(pairwise(before)) if first <= wrong.said_end and wrong.said_start <= end]
        again = [(i, j) for i in own for j, sentence in enumerate(file.sentences) if j != i and sentence == file.sentences[i]]
        left = [(wrong.lost, wrong.doubled), *(by_the_cut(wrong, away, before[i] - before[j]) for i, j in again)]
        around = file.around(pieces[wrong.cut + 1].start_seconds)
        alone = [slice(i, i + 1) for i in own if around.start <= i < around.stop]
        for chosen in [around, *alone] if file.sentences[around] else []:
            text = hear(file.sound(chosen))
            if text is not None:
                left.append(by_the_cut(wrong, wrong_words(" ".join(file.sentences[chosen]), [text]), before[chosen.start]))
        least = min(left, key=sum)
        lost, doubled = lost + least[0], doubled + least[1]
    return {"lost_by_cuts": lost, "doubled_by_cuts": doubled}
