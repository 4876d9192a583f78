"""Store the value of each neuron at each token of one text."""

import dataclasses

import numpy as np

from keras_memel.utils import arguments
from keras_memel.utils.optional_imports import need
from keras_memel.utils.types import Array
from keras_memel.utils.types import Table


@dataclasses.dataclass(frozen=True, repr=False)
class PromptReport:
    """Activations of one prompt, token by token.

    Attributes:
        tokens: Tokens as the tokenizer writes them, such as "##ing" or
            "Ġthe"; without a tokenizer, token ids or positions.
        activations: Values by path of the layer, float32 `(tokens, neurons)`.
        generated_from: Index of the first token that the model generated;
            `None` without generated tokens.
        reference: Mean and standard deviation of each neuron in a report, by
            path of the layer, `(neurons,)` each; `None` without a report.

    Example:

    >>> found = PromptReport(
    ...     ["a", "b", "c"], {"hidden": np.array([[0.0, 1], [0, 1], [3, 1]])}
    ... )
    >>> found
    <PromptReport of 3 tokens, neurons {'hidden': 2}>
    >>> found.to_dataframe(top=1)[["neuron", "token", "activation"]].values
    array([[0, 'c', 3.0]], dtype=object)
    """

    tokens: list[str]
    activations: dict[str, Array]
    generated_from: int | None = None
    reference: dict[str, tuple[Array, Array]] | None = None

    def deviations(self, layer: str) -> Array:
        """Compute the deviations of the values of a layer from their means.

        Args:
            layer: Path of the layer.

        Returns:
            `(value - mean) / deviation`, signed, `(tokens, neurons)`; its
            square is the monosemantic scale `phi`. Mean and standard deviation
            come from the report that was passed to `prompt` or, without one,
            from the tokens of this prompt. The result is NaN for a neuron that
            does not vary there, and for a single token without a report.

        Raises:
            ValueError: If `layer` is not in `activations`.

        Example:

        >>> values = np.array([[0], [0], [3]])
        >>> found = PromptReport(["a", "b", "c"], {"z": values})
        >>> found.deviations("z").round(2).ravel().tolist()
        [-0.58, -0.58, 1.15]
        """
        if layer not in self.activations:
            raise ValueError(
                f"Argument `layer` must be one of {list(self.activations)}. "
                f"Received: layer={layer!r}"
            )
        values = self.activations[layer].astype("float64")
        if self.reference is not None:
            mean, deviation = self.reference[layer]
        elif len(values) > 1:
            mean, deviation = values.mean(0), values.std(0, ddof=1)
            # The deviation of a constant is 0, despite rounding errors.
            deviation = np.where(values.max(0) > values.min(0), deviation, 0.0)
        else:
            mean, deviation = values[0], np.zeros(values.shape[1])
        with np.errstate(invalid="ignore", divide="ignore"):
            found = (values - mean) / deviation
        return np.where(deviation > 0, found, np.nan)

    def to_dataframe(self, top: int | None = None) -> Table:
        """Return a table with one row per neuron, largest deviation first.

        Args:
            top: Number of rows to return; `None` for all neurons.

        Returns:
            `pandas.DataFrame` with `layer`, `neuron`, and the token where the
            neuron deviates most: `position` and `token`, `activation`,
            `deviation` (signed, as in `deviations`), and `generated`, whether
            the model generated this token. Rows are sorted by the absolute
            deviation, largest first; neurons without a deviation come last.

        Raises:
            ImportError: If pandas is missing.
            ValueError: If `top` is not an integer of at least 1, or `None`.

        Example:

        >>> values = np.array([[0.0, 1], [0, 1], [3, 1]])
        >>> found = PromptReport(["a", "b", "c"], {"z": values}, 2)
        >>> table = found.to_dataframe()
        >>> table[["neuron", "token", "generated"]].values.tolist()
        [[0, 'c', True], [1, 'a', False]]
        """
        pd = need("pandas", "report", "`to_dataframe`")

        if top is not None:
            top = arguments.integer("top", top, "at least 1, or None", 1)
        tables = []
        for layer, values in self.activations.items():
            deviations = self.deviations(layer)
            size = np.nan_to_num(np.abs(deviations), nan=-1.0)
            at, neurons = size.argmax(0), np.arange(values.shape[1])
            start = self.generated_from
            tables.append(
                pd.DataFrame(
                    {
                        "layer": layer,
                        "neuron": neurons,
                        "position": at,
                        "token": np.array(self.tokens, dtype=object)[at],
                        "activation": values[at, neurons],
                        "deviation": deviations[at, neurons],
                        "generated": at >= start
                        if start is not None
                        else np.zeros(len(at), bool),
                    }
                )
            )
        table = pd.concat(tables, ignore_index=True)
        table = table.sort_values(
            "deviation",
            ascending=False,
            key=np.abs,
            na_position="last",
            kind="stable",
            ignore_index=True,
        )
        return table if top is None else table.head(top)

    def __repr__(self) -> str:
        made = ""
        if self.generated_from is not None:
            made = f", {len(self.tokens) - self.generated_from} generated"
        sizes = {path: v.shape[1] for path, v in self.activations.items()}
        return (
            f"<PromptReport of {len(self.tokens)} tokens{made}, neurons "
            f"{sizes}>"
        )
