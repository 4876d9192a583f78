"""Join tokens to the text that they come from.

Each kind of tokenizer marks the start of words in its own way:

    byte-pair on bytes (GPT-2)   "Ġ" represents a space, and each character
                                   a byte
    SentencePiece                "▁" represents a space, "<0xC3>" a byte
    WordPiece (BERT)             "##" continues a word
    tokens that contain spaces   no mark

Each token becomes one piece, so that the pieces of a text join to the text.
"""

import codecs
import functools
import re
import unicodedata
from collections.abc import Sequence

_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")
# Patterns of a token that represents an unknown word, and of a word.
_UNKNOWN = re.compile(r"\[UNK\]|<unk>")
_WORD = re.compile(r"\s*(\w+|\S)")
# Pattern of control tokens such as "[CLS]", "<s>" and "<|endoftext|>".
_SPECIAL = re.compile(r"\[[A-Z0-9_]+\]|<\|?[A-Za-z0-9_/:-]+\|?>")


def readable(
    texts: Sequence[Sequence[str]],
    originals: Sequence[str | None] | None = None,
) -> list[list[str]]:
    """Return the pieces of each text, one per token.

    Args:
        texts: Tokens of each text, all from one tokenizer.
        originals: Original text of each list of tokens, or `None` where it is
            unknown. WordPiece tokens do not record the position of spaces.

    Example:

    >>> readable([["Ġun", "believ", "able", "Ġna", "Ã¯", "ve"]])
    [[' un', 'believ', 'able', ' na', 'ï', 've']]
    >>> readable([["▁na", "<0xC3>", "<0xAF>", "ve"]])
    [['na', '', 'ï', 've']]
    >>> readable([["[CLS]", "it", "'", "s", "play", "##ing"]], ["It's playing"])
    [['[CLS] ', 'It', "'", 's', ' play', 'ing']]
    """
    known = originals if originals is not None else [None] * len(texts)
    # Each token is checked once: a vocabulary is smaller than its texts.
    every = {token for text in texts for token in text}
    if any("\u0120" in token or "\u010a" in token for token in every):
        return [_of_bytes(text) for text in texts]
    if any("\u2581" in token for token in every):
        return [_of_sentence_pieces(text) for text in texts]
    plain = any(token != token.strip() for token in every)
    if not plain and any(re.match(r"##\w", token) for token in every):
        return [
            _aligned(text, original) or _of_word_pieces(text)
            for text, original in zip(texts, known)
        ]
    if plain or all(len(token) <= 1 for token in every):
        return [list(text) for text in texts]
    return [
        _aligned(text, original) or _of_words(text)
        for text, original in zip(texts, known)
    ]


@functools.cache
def _byte_of() -> dict[str, int]:
    """Return the byte of each character of GPT-2's byte alphabet."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    found = {chr(byte): byte for byte in printable}
    others = [byte for byte in range(256) if byte not in printable]
    return found | {chr(256 + n): byte for n, byte in enumerate(others)}


def _of_bytes(text: Sequence[str]) -> list[str]:
    table = _byte_of()
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    pieces = []
    for token in text:
        if all(letter in table for letter in token):
            # The decoder delays an incomplete character until its last byte.
            pieces.append(decoder.decode(bytes(table[x] for x in token)))
        else:
            pieces.append(decoder.decode(b"", final=True) + token)
            decoder.reset()
    return _closed(pieces, decoder)


def _closed(pieces: list[str], decoder: codecs.IncrementalDecoder) -> list[str]:
    rest = decoder.decode(b"", final=True)
    if rest and pieces:
        pieces[-1] += rest
    return pieces


def _of_sentence_pieces(text: Sequence[str]) -> list[str]:
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    pieces, begun = [], False
    for token in text:
        byte = _BYTE.fullmatch(token)
        if byte:
            pieces.append(decoder.decode(bytes([int(byte[1], 16)])))
            begun = True
            continue
        piece = token.replace("\u2581", " ")
        if not begun and not _SPECIAL.fullmatch(token):
            # The tokenizer adds a space before the text.
            piece, begun = piece.removeprefix(" "), True
        pieces.append(decoder.decode(b"", final=True) + piece)
        decoder.reset()
    return _closed(pieces, decoder)


def _of_word_pieces(text: Sequence[str]) -> list[str]:
    pieces = []
    for number, token in enumerate(text):
        inner = re.match(r"##(?=\w)", token)
        space = "" if inner or not number else " "
        pieces.append(space + (token[2:] if inner else token))
    return pieces


def _of_words(text: Sequence[str]) -> list[str]:
    return [
        f" {token}" if number else token for number, token in enumerate(text)
    ]


def _aligned(text: Sequence[str], original: str | None) -> list[str] | None:
    """Cut a text into the pieces of its tokens; `None` if one is missing."""
    if original is None:
        return None
    at, pieces = 0, []
    for token in text:
        if _UNKNOWN.fullmatch(token) and (word := _WORD.match(original, at)):
            pieces.append(word[0])
            at = word.end()
            continue
        wanted = _folded(re.sub(r"^##(?=\w)", "", token))
        start = at
        while start < len(original) and original[start].isspace():
            start += 1
        stop, found = start, ""
        while stop < len(original) and len(found) < len(wanted):
            found += _folded(original[stop])
            stop += 1
        # The piece includes accents that follow their letter.
        while stop < len(original) and not _folded(original[stop]):
            stop += 1
        if wanted and found == wanted:
            pieces.append(original[at:stop])
            at = stop
        elif _SPECIAL.fullmatch(token):
            pieces.append(f" {token}" if pieces else f"{token} ")
        else:
            return None
    return pieces


def _folded(text: str) -> str:
    """Convert to lower case without accents, as uncased vocabularies do."""
    parts = unicodedata.normalize("NFD", text.lower())
    return "".join(one for one in parts if unicodedata.category(one) != "Mn")
