"""Fuzzy semantic matching of person names (PS3.4 C.2.2.2.1.1: what it means is the archive's choice). Pure.

Each word of the key has to be found among the words of the name, in whatever component and order: as its beginning, or with a
mistake or two in it. "jon smit" finds "SMITH^JOHN" and "Smit^Jonathan".
"""

import re
from functools import lru_cache

from pacs_core.dicom.patterns import fold, matches_pattern

# What parts words; the same expression is used in SQL, where the names of several values stand in one text.
SEPARATORS = r"[\^= ,.'\\-]+"
_SEPARATORS = re.compile(SEPARATORS)
_ONE_MISTAKE, _TWO_MISTAKES = 4, 8  # letters of a word from which on so many are forgiven


def words_of(name: str) -> tuple[str, ...]:
    """The words of a name or of a key, without case and accents. Wildcards stay what they are."""
    return tuple(word for word in _SEPARATORS.split(fold(name)) if word)


@lru_cache(maxsize=4096)
def mistakes_allowed(word: str) -> int:
    """How many letters may be wrong, missing, too many or swapped with their neighbour."""
    if "*" in word or "?" in word:
        return 0
    return (len(word) >= _ONE_MISTAKE) + (len(word) >= _TWO_MISTAKES)


def finds(words: tuple[str, ...], name: str) -> bool:
    """Whether every word of a key is among the words of a name."""
    candidates = words_of(name)
    return all(any(_is_like(word, candidate) for candidate in candidates) for word in words)


def _is_like(word: str, candidate: str) -> bool:
    if matches_pattern(word + "*", candidate):
        return True
    allowed = mistakes_allowed(word)
    return abs(len(word) - len(candidate)) <= allowed and _distance(word, candidate) <= allowed


def _distance(first: str, second: str) -> int:
    """Insertions, deletions, substitutions and swaps of neighbours that lead from one to the other, no letter being touched twice."""
    before: list[int] = []
    last = list(range(len(second) + 1))
    for row, letter in enumerate(first, start=1):
        current = [row]
        for column, other in enumerate(second, start=1):
            cost = min(last[column] + 1, current[-1] + 1, last[column - 1] + (letter != other))
            if row > 1 and column > 1 and letter == second[column - 2] and first[row - 2] == other:
                cost = min(cost, before[column - 2] + 1)
            current.append(cost)
        before, last = last, current
    return last[-1]
