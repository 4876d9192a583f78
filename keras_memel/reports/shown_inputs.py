"""Convert inputs to the form that the neuron page shows."""

import base64
import struct
import zlib
from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any
from typing import NamedTuple

import keras
import numpy as np

from keras_memel.reports import tokens
from keras_memel.utils.conversion import as_numpy
from keras_memel.utils.types import Array

KINDS = ("text", "image", "series")
# An axis of at most this size may be the channel axis of an image.
_CHANNELS = 16


class Shown(NamedTuple):
    """Converted inputs.

    Attributes:
        kind: One of `KINDS`.
        inputs: Converted input by number: a text, a list of pieces of a text,
            a PNG (or one per channel) in base64, or an array `(steps,
            channels)`.
        channels: Number of channels, 0 for texts.
        limits: Values of black and white, or the lowest and highest value.
        sizes: Height and width of each image.
    """

    kind: str
    inputs: dict[int, Any]
    channels: int = 0
    limits: tuple[float, float] = (0.0, 0.0)
    sizes: dict[int, tuple[int, int]] | None = None


def checked(inputs: Any, number: int, argument: str = "inputs") -> Any:
    """Return inputs that can be indexed by number, or raise.

    Args:
        inputs: As in `Report.to_html`.
        number: Number of analyzed inputs.
        argument: Name of the argument.
    """
    inputs = getattr(inputs, "iloc", inputs)
    if isinstance(inputs, Mapping):
        # The report has kept these inputs, by number.
        if all(isinstance(key, (int, np.integer)) for key in inputs):
            return inputs
        raise ValueError(
            f"Argument `{argument}` must contain one entry to show per input: "
            "a list of texts or of tokens, or one array of images or series. "
            "Pass the texts, or one value of the dictionary, with `tokenize=` "
            f"for token ids. Received: a {type(inputs).__name__} with the keys "
            f"{list(inputs)}"
        )
    if not (hasattr(inputs, "__len__") or hasattr(inputs, "obj")):
        raise ValueError(
            f"Argument `{argument}` must be a sequence, which can be indexed "
            "by number: pass `list(inputs)`. "
            f"Received: {type(inputs).__name__}"
        )
    size = len(inputs.obj) if hasattr(inputs, "obj") else len(inputs)
    if size < number:
        raise ValueError(
            f"Argument `{argument}` must contain the {number} inputs that "
            f"were analyzed, in their order. Received: {size} inputs"
        )
    return inputs


def convert(
    inputs: Any,
    numbers: Sequence[int],
    kind: str,
    tokenize: Callable[[Any], Sequence[str]] | None,
) -> Shown | None:
    """Convert the inputs that the page shows.

    Args:
        inputs: Result of `checked`.
        numbers: Numbers of the inputs to convert.
        kind: As in `Report.to_html`.
        tokenize: As in `Report.to_html`.

    Returns:
        `Shown`; `None` without inputs to show.

    Raises:
        ValueError: If an input is not of the kind, or does not match the
            others.
    """
    if isinstance(inputs, Mapping):
        numbers = [number for number in numbers if number in inputs]
    given = {number: _of_tensor(inputs[number]) for number in numbers}
    if not given:
        return None
    if tokenize is not None and kind in ("auto", "text"):
        return Shown("text", _texts(given, tokenize))
    first = next(iter(given.values()))
    if kind == "auto":
        kind = _kind(first)
    if kind == "text":
        return Shown("text", _texts(given, None))
    arrays = {number: _numbers(one, number) for number, one in given.items()}
    return _images(arrays) if kind == "image" else _series(arrays)


def _of_tensor(one: Any) -> Any:
    if hasattr(one, "shape"):
        return as_numpy(one)
    if isinstance(one, (list, tuple)) and any(
        hasattr(i, "detach") for i in one
    ):
        return np.stack([as_numpy(i) for i in one])
    return one


def _kind(first: Any) -> str:
    if _is_text(first):
        return "text"
    shape: tuple[int, ...] = ()
    if not isinstance(first, dict):
        shape = np.shape(first)
    if len(shape) == 1 or (len(shape) == 2 and shape[1] <= 4):
        return "series"
    if len(shape) in (2, 3):
        return "image"
    raise ValueError(
        "Argument `inputs` must contain texts, lists of tokens, images "
        "(height, width), (height, width, channels) or (channels, height, "
        "width), or series (steps,) or (steps, channels). "
        "Pass the inputs in the form to show, or `tokenize=`. "
        f"Received: {type(first).__name__} of shape {shape}"
    )


def _is_text(one: Any) -> bool:
    if isinstance(one, (str, bytes)):
        return True
    if isinstance(one, (list, tuple)):
        return not one or isinstance(one[0], (str, bytes))
    return getattr(one, "dtype", np.dtype(int)).kind in "OSU"


def _texts(
    given: dict[int, Any], tokenize: Callable[[Any], Sequence[str]] | None
) -> dict[int, Any]:
    whole: dict[int, str | None] = {}
    pieces: dict[int, list[str]] = {}
    for number, one in given.items():
        text = _text(one) if _is_text(one) and np.ndim(one) == 0 else None
        whole[number] = text
        if tokenize is not None:
            one = tokenize(one if text is None else text)
        elif text is not None:
            continue
        if not _is_text(one) or np.ndim(one) == 0:
            raise ValueError(
                "Argument `tokenize` must return a list of strings. Received: "
                f"{one!r:.80} for input {number}"
                if tokenize is not None
                else "Argument `inputs` must contain texts or lists of tokens "
                f"for kind='text'. Received: input {number}: {one!r:.80}"
            )
        pieces[number] = [_text(token) for token in one]
    joined = tokens.readable(
        list(pieces.values()), [whole[number] for number in pieces]
    )
    found: dict[int, Any] = dict(zip(pieces, joined))
    return {number: found.get(number, whole[number]) for number in given}


def _text(one: Any) -> str:
    if isinstance(one, np.ndarray):
        one = one.item()
    return (
        one.decode("utf-8", "replace") if isinstance(one, bytes) else str(one)
    )


def _numbers(one: Any, number: int) -> Array:
    try:
        values = np.asarray(one)
        if values.dtype.kind not in "biufO":  # NumPy would convert some texts.
            raise TypeError
        if values.dtype.kind == "O":
            values = values.astype("float64")
    except (TypeError, ValueError):
        raise ValueError(
            "Argument `inputs` must contain numbers for images and series. "
            "Read image files into arrays first. "
            f"Received: input {number}: {one!r:.80}"
        ) from None
    return values


def _images(arrays: dict[int, Array]) -> Shown:
    pictures = {}
    for number, values in arrays.items():
        picture = pictures[number] = _channels_last(values, number)
        if not picture.size or not np.isfinite(picture).any():
            raise ValueError(
                "Argument `inputs` must contain images with at least one "
                "finite pixel. "
                f"Received: input {number} of shape {values.shape}, without one"
            )
    channels = {picture.shape[2] for picture in pictures.values()}
    if len(channels) > 1:
        raise ValueError(
            "Argument `inputs` must contain images with the same number of "
            f"channels. Received: images of {sorted(channels)} channels"
        )
    kinds = {picture.dtype for picture in pictures.values()}
    low, high = _limits(pictures.values(), kinds)
    one = channels.pop()
    found: dict[int, Any] = {}
    for number, picture in pictures.items():
        whole = picture
        if picture.dtype != np.uint8:
            share = (picture.astype("float64") - low) / ((high - low) or 1.0)
            share = np.nan_to_num(share, nan=0.0)
            whole = np.rint(255 * np.clip(share, 0, 1)).astype("uint8")
        if one in (1, 3):
            found[number] = png(whole)
        else:
            found[number] = [png(whole[:, :, [c]]) for c in range(one)]
    sizes = {number: picture.shape[:2] for number, picture in pictures.items()}
    return Shown("image", found, one, (low, high), sizes)


def _limits(arrays: Any, kinds: set[Any]) -> tuple[float, float]:
    """Return one range for all images: a usual range that contains them."""
    if kinds == {np.dtype("uint8")}:
        return 0.0, 255.0
    arrays = list(arrays)
    with np.errstate(all="ignore"):
        finite = [one[np.isfinite(one)] for one in arrays]
    low = min((float(one.min()) for one in finite if one.size), default=0.0)
    high = max((float(one.max()) for one in finite if one.size), default=1.0)
    for usual in ((0.0, 1.0), (-1.0, 1.0)):
        if usual[0] <= low and high <= usual[1]:
            return usual
    return low, high


def _channels_last(values: Array, number: int) -> Array:
    if values.ndim == 2:
        return values[..., None]
    if values.ndim == 3:
        first, last = values.shape[0] <= _CHANNELS, values.shape[2] <= _CHANNELS
        if first and last:
            first = keras.config.image_data_format() == "channels_first"
            last = not first
        if last:
            return values
        if first:
            return np.moveaxis(values, 0, 2)
    raise ValueError(
        "Argument `inputs` must contain images (height, width), (height, "
        "width, channels) or (channels, height, width) with at most "
        f"{_CHANNELS} channels. Pass single frames of a video. "
        f"Received: input {number} of shape {values.shape}"
    )


def png(picture: Array) -> str:
    """Encode a uint8 image, `(height, width, 1 or 3)`, as PNG in base64."""
    height, width, channels = picture.shape
    rows = np.zeros((height, 1 + width * channels), "uint8")  # PNG filter 0
    rows[:, 1:] = picture.reshape(height, -1)
    color = 0 if channels == 1 else 2
    header = struct.pack(">IIBBBBB", width, height, 8, color, 0, 0, 0)
    parts = [b"\x89PNG\r\n\x1a\n"]
    for name, content in (
        (b"IHDR", header),
        (b"IDAT", zlib.compress(rows.tobytes(), 1)),
        (b"IEND", b""),
    ):
        check = zlib.crc32(name + content)
        parts.append(struct.pack(">I", len(content)) + name + content)
        parts.append(struct.pack(">I", check))
    return base64.b64encode(b"".join(parts)).decode()


def _series(arrays: dict[int, Array]) -> Shown:
    found = {}
    for number, values in arrays.items():
        if values.ndim not in (1, 2) or not values.size:
            raise ValueError(
                "Argument `inputs` must contain series (steps,) or (steps, "
                "channels), with at least one step. "
                f"Received: input {number} of shape {values.shape}"
            )
        found[number] = values.reshape(len(values), -1).astype("float32")
    channels = {series.shape[1] for series in found.values()}
    if len(channels) > 1:
        raise ValueError(
            "Argument `inputs` must contain series with the same number of "
            f"channels. Received: series of {sorted(channels)} channels"
        )
    every = np.concatenate([series.ravel() for series in found.values()])
    every = every[np.isfinite(every)]
    limits = (0.0, 1.0)
    if every.size:
        limits = float(every.min()), float(every.max())
    return Shown("series", found, channels.pop(), limits)
