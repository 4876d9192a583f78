"""Align labels of words with the tokens of a tokenizer."""

from typing import Any

import numpy as np

from keras_memel.utils.types import Array


def align_labels(labels: Any, word_ids: Any, first_only: bool = False) -> Array:
    """Assign each token the label of its word.

    Tokenizers divide words into pieces. `word_ids` of a Hugging Face fast
    tokenizer returns the index of each token's word, and `None` for special
    tokens and padding. Pass the result to `analyze` as `labels`.

    Args:
        labels: Labels of the words of each text: lists of integers or of
            strings.
        word_ids: Index of the word of each token, or `None`, for each text. All
            texts must have the same number of tokens.
        first_only: Whether to label only the first token of each word.

    Returns:
        Labels, `(texts, tokens)`: int64, with -100 for tokens that get no
        label. If the labels are strings, an array of objects, with `None` for
        these tokens.

    Raises:
        ValueError: If the numbers of texts differ, texts have different
            numbers of tokens, or the label of a word is missing.

    Example:

    >>> tokenizer = ["[CLS]", "Ada", "Love", "##lace", "wrote", "[SEP]"]
    >>> align_labels([[1, 2, 0]], [[None, 0, 1, 1, 2, None]])
    array([[-100,    1,    2,    2,    0, -100]])
    """
    labels, word_ids = list(labels), [list(ids) for ids in word_ids]
    if len(labels) != len(word_ids):
        raise ValueError(
            "Arguments `labels` and `word_ids` must have the same number of "
            f"texts. Received: {len(labels)} and {len(word_ids)} texts"
        )
    lengths = sorted({len(ids) for ids in word_ids})
    if len(lengths) > 1:
        raise ValueError(
            "Argument `word_ids` must have the same number of tokens for each "
            "text: tokenize with padding. "
            f"Received: {lengths[0]} to {lengths[-1]} tokens"
        )
    rows: list[list[Any]] = []
    for number, (own, ids) in enumerate(zip(labels, word_ids)):
        own, row, before = list(own), [], None
        for word in ids:
            if word is not None and not 0 <= word < len(own):
                raise ValueError(
                    "Argument `labels` must have a label for each word. "
                    f"Received: {len(own)} labels for text {number}, and "
                    f"word {word}"
                )
            skipped = word is None or (first_only and word == before)
            row.append(None if skipped else own[word])
            before = word
        rows.append(row)
    told = [one for row in rows for one in row if one is not None]
    if any(isinstance(one, (str, bytes)) for one in told):
        found = np.full((len(rows), *lengths), None, dtype=object)
        for number, row in enumerate(rows):
            found[number] = row
        return found
    filled = [[-100 if one is None else one for one in row] for row in rows]
    return np.asarray(filled, "int64")
