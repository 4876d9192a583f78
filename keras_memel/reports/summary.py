"""Print the most notable neurons as text: `Report.summary`."""

from collections.abc import Callable
from typing import TYPE_CHECKING
from typing import Any

if TYPE_CHECKING:
    from keras_memel.reports.report import Report


def show(report: "Report", top: int, print_fn: Callable[[str], Any]) -> None:
    """Print the summary. Arguments as in `Report.summary`."""
    frame = report.to_dataframe()
    print_fn(f"{report.inputs:,} inputs, {len(frame):,} neurons")
    if report.labels and not report.split:
        print_fn(
            "Labels and scores come from the same inputs (an old file), so "
            "the scores are too high by chance."
        )
    for path, layer in report.layers.items():
        rows = frame[frame["layer"] == path]
        flags = {
            "dead": int(layer.dead.sum()),
            "dormant": int(layer.dormant().sum()),
            "with values that are not finite": int((layer.nonfinite > 0).sum()),
        }
        said = "".join(f", {n:,} {flag}" for flag, n in flags.items() if n)
        print_fn(
            f"\n{path}: {len(layer):,} neurons of "
            f"{int(layer.count.max()):,} values{said}"
        )
        if (layer.ranked < layer.count).any():
            print_fn(
                "  quantiles and detection from a uniform sample of "
                f"{int(layer.ranked.max()):,} values"
            )
        shown = ["neuron", "ms_50", "ms_99", "ms_max", "over_threshold"]
        by = "ms_max"
        if report.labels:
            by = "roc_auc"
            shown += ["label", "direction", "ms_on_label", by]
            shown += ["p_corrected", "f1", "f1_baseline"]
            shown += ["false_killing_rate"]
        best = rows.sort_values(by, ascending=False)[shown].head(top)
        print_fn(best.to_string(index=False, float_format="{:.3g}".format))
