"""Compare labels of positions with the positions of a layer."""


def fits_positions(
    shape: tuple[int, ...], sizes: tuple[int | None, ...], path: str
) -> None:
    """Raise unless labels are one per input or position.

    Args:
        shape: Shape of the labels.
        sizes: Sizes of the inputs and the positions; `None` where a size is
            unknown.
        path: Path of the layer.
    """
    known = sizes[: len(shape)]
    if len(known) < len(shape) or any(
        size is not None and size != own for own, size in zip(shape, known)
    ):
        raise ValueError(
            "Argument `labels` must have one label per input, or one per "
            "position (one column per label needs multi_label=True). "
            f"Received: labels of shape {shape} for layer {path!r}, whose "
            f"samples are {sizes}"
        )
