"""Animate measured rain and the forecast side by side, as a GIF."""

import datetime

import matplotlib.pyplot as plt
import numpy as np
from matplotlib import animation
from matplotlib import colors

from examples.paper.nowcasting import hko7
from examples.paper.nowcasting import model as networks

# A color-blind safe palette. Dry is white; pixels without data are gray.
LEVELS = (0.1, 0.5, 2, 5, 10, 30, 100)


def mosaic(model, part, batch):
    """Combine the patches of the time with most rain.

    Returns truth and forecast, `(frames, height, width)` in mm/h, with NaN
    where there is none, and the times. The forecast is NaN while frames are
    seen.
    """
    pictures = {}
    for start in part.starts:
        picture, place = part.place(start)
        pictures.setdefault(picture, []).append((start, place))

    def rain(patches):
        last = [part.sequence(start)[-1] for start, _ in patches]
        return np.nansum(hko7.pixel_to_rate(last))

    # Use about 100 of thousands of pictures, which are read quickly.
    stride = -(-len(pictures) // 100)
    patches = max(list(pictures.values())[::stride], key=rain)
    starts = [start for start, _ in patches]
    places = np.array([place for _, place in patches])
    places -= places.min(0)
    sequences = np.stack([part.sequence(start) for start in starts])
    seen, _ = part.read([part.starts.index(start) for start in starts])
    told = networks.forecast(model, seen, batch)[..., 0]
    frames, height, width = sequences.shape[1:]
    truth = np.full((frames, *places.max(0) + (height, width)), np.nan)
    forecast = truth.copy()
    for i, (row, column) in enumerate(places):
        here = np.s_[row : row + height, column : column + width]
        truth[:, *here] = hko7.pixel_to_rate(sequences[i])
        forecast[part.frames_in :, *here] = hko7.pixel_to_rate(
            np.clip(told[i], 0, 1)
        )
    return truth, forecast, part.when(starts[0])


def animate(model, part, batch, path, per_second=1.5, dpi=90):
    """Write a GIF of the test windows with most rain."""
    draw(*mosaic(model, part, batch), part, path, per_second, dpi)


def draw(truth, forecast, times, part, path, per_second=1.5, dpi=90):
    palette = plt.get_cmap("viridis_r").resampled(len(LEVELS) - 1)
    palette = palette.with_extremes(under="white", over=palette(1.0), bad="0.8")
    norm = colors.BoundaryNorm(LEVELS, palette.N)
    height, width = truth.shape[1:]
    figure, axes = plt.subplots(
        1,
        2,
        figsize=(7.2, 0.85 + 2.95 * height / width),
        layout="constrained",
    )
    images = []
    for axis, title in zip(axes, ("measured", "forecast")):
        images.append(
            axis.imshow(
                truth[0],
                cmap=palette,
                norm=norm,
                origin="lower" if part.south_first else "upper",
                interpolation="nearest",
            )
        )
        axis.set(xticks=[], yticks=[], title=title)
    note = axes[1].text(
        0.5, 0.5, "", transform=axes[1].transAxes, ha="center", va="center"
    )
    bar = figure.colorbar(images[0], ax=axes, extend="max", shrink=0.9)
    bar.set_label("mm/h")
    bar.set_ticks(LEVELS, labels=[f"{level:g}" for level in LEVELS])
    title = figure.suptitle("")

    def show(i):
        lead = i - part.frames_in + 1
        images[0].set_data(np.ma.masked_invalid(truth[i]))
        images[1].set_data(np.ma.masked_invalid(forecast[i]))
        minutes = abs(lead) * part.minutes
        unit = (
            f"{minutes / 60:g} h" if minutes % 60 == 0 else f"{minutes:g} min"
        )
        note.set_text("" if lead > 0 else "frames seen")
        now = times[i]
        stamp = (
            f"{now:%Y-%m-%d %H:%M} UTC"
            if isinstance(now, datetime.datetime)
            else f"frame {now}"
        )
        title.set_text(
            f"{stamp}, "
            + (f"{unit} ahead" if lead > 0 else "seen")
            + (" (synthetic)" if part.synthetic else "")
        )
        return images

    movie = animation.FuncAnimation(figure, show, frames=len(truth))
    movie.save(path, writer=animation.PillowWriter(per_second), dpi=dpi)
    plt.close(figure)
