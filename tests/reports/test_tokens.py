"""Tokens of each kind of vocabulary join to their text."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keras_memel.reports.tokens import readable

pytestmark = [pytest.mark.once, pytest.mark.quick]

WORDS = st.text(st.characters(codec="utf-8", exclude_characters="\u2581"))


def byte_letters():
    """Map each byte to the letter that represents it in GPT-2."""
    letters, more = {}, 0
    for byte in range(256):
        if 33 <= byte <= 126 or 161 <= byte <= 172 or byte >= 174:
            letters[byte] = chr(byte)
        else:
            letters[byte] = chr(256 + more)
            more += 1
    return letters


def cut(sequence, lengths):
    """Split a sequence into parts of these lengths and the rest."""
    at, parts = 0, []
    for length in lengths:
        parts.append(sequence[at : at + length])
        at += length
    return [part for part in [*parts, sequence[at:]] if part]


LENGTHS = st.lists(st.integers(1, 4), max_size=12)


@given(WORDS, LENGTHS)
def test_byte_pair_tokens_join_to_their_text(text, lengths):
    letters = byte_letters()
    # The text contains a space, which identifies the vocabulary.
    spelled = "".join(letters[byte] for byte in (text + " a").encode())
    tokens = cut(spelled, lengths)
    (pieces,) = readable([tokens])
    assert len(pieces) == len(tokens)
    assert "".join(pieces) == text + " a"


@given(WORDS, LENGTHS, st.sets(st.integers(0, 20)))
def test_sentence_pieces_join_to_their_text(text, lengths, as_bytes):
    tokens = []
    for number, part in enumerate(cut(" " + text, lengths)):
        if number and number in as_bytes:
            tokens += [f"<0x{byte:02X}>" for byte in part.encode()]
        else:
            tokens.append(part.replace(" ", "\u2581"))
    (pieces,) = readable([["<s>", *tokens, "</s>"]])
    assert len(pieces) == len(tokens) + 2
    assert "".join(pieces) == f"<s>{text}</s>"


def test_a_character_cut_in_two_is_shown_once():
    (pieces,) = readable([["\u0120na", "\u00c3", "\u00af", "ve"]])
    assert pieces == [" na", "", "\u00ef", "ve"]
    (pieces,) = readable([["\u2581na", "<0xC3>", "<0xAF>", "ve", "<0xC3>"]])
    assert pieces == ["na", "", "\u00ef", "ve", "\ufffd"]


def test_word_pieces_are_found_in_their_text():
    text = "\u00c9lan vital,  don't un-believable!"
    tokens = ["[CLS]", "elan", "vital", ",", "don", "'", "t", "un", "-"]
    tokens += ["believ", "##able", "!", "[SEP]"]
    (pieces,) = readable([tokens], [text])
    assert pieces[1:4] == ["\u00c9lan", " vital", ","]
    assert "".join(pieces) == f"[CLS] {text} [SEP]"
    # An unknown word is shown as in the text.
    unknown = ["[UNK]" if one == "vital" else one for one in tokens]
    (pieces,) = readable([unknown], [text])
    assert pieces[2] == " vital"
    assert "".join(pieces) == f"[CLS] {text} [SEP]"
    # Without the text, or with another text, words are separated by a space.
    for other in (None, "another text"):
        (pieces,) = readable([tokens], [other])
        assert "".join(pieces[-5:]) == " - believable ! [SEP]"


@pytest.mark.parametrize(
    ("tokens", "text"),
    [
        (["one", "two"], "one two"),
        (["one", " two"], "one two"),
        (list("one two"), "one two"),
        ([" un", "believ", "able"], " unbelievable"),
        (["#", "##", "\n"], "###\n"),
        ([], ""),
    ],
)
def test_other_tokens(tokens, text):
    (pieces,) = readable([tokens])
    assert "".join(pieces) == text
