"""Wildcards (PS3.4 C.2.2.2.4) and the folding of person names. Pure."""

import re
import unicodedata
from functools import lru_cache

WILDCARDS = re.compile(r"[*?]")


def is_universal(pattern: str) -> bool:
    """Whether a pattern matches everything: empty, or nothing but asterisks."""
    return not pattern.strip("*")


def matches_pattern(pattern: str, text: str) -> bool:
    """Whether the whole text matches: `*` stands for any characters, `?` for one."""
    if not WILDCARDS.search(pattern):
        return pattern == text
    return _compile(pattern).fullmatch(text) is not None


@lru_cache(maxsize=4096)
def _compile(pattern: str) -> re.Pattern[str]:
    """Linear in the text for each asterisk: the shortest run before a piece always suffices, so it is never retried.

    A plain `.*` for each asterisk would let a query of a few dozen bytes keep a processor busy for hours.
    """
    head, *middle = ("".join("." if character == "?" else re.escape(character) for character in piece) for piece in pattern.split("*"))
    if not middle:
        return re.compile(head, re.DOTALL)
    *inner, tail = middle
    return re.compile(head + "".join(f"(?>.*?{piece})" for piece in inner if piece) + ".*" + tail, re.DOTALL)


def fold(text: str) -> str:
    """Without case and accents, as names are compared (PS3.4 C.2.2.2.1: the archive's choice).

    The same as `lower(strip_accents(text))` in DuckDB.
    """
    if text.isascii():
        return text.lower()
    bare = (character for character in unicodedata.normalize("NFD", text) if not unicodedata.category(character).startswith("M"))
    return "".join(map(_lower, unicodedata.normalize("NFC", "".join(bare))))


def _lower(character: str) -> str:
    lower = character.lower()
    return lower if len(lower) == 1 else character


def fold_name_group(group: str) -> str:
    """One component group of a PN, folded; spaces around components and trailing empty components are insignificant."""
    return "^".join(component.strip(" ") for component in fold(group).split("^")).rstrip("^")
