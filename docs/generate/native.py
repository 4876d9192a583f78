"""Write the table of docs/native.md, from benchmarks/results/native_torch.json.

python docs/generate/native.py
"""

import json
import pathlib

ROOT = pathlib.Path(__file__).parents[2]
BEGIN = "<!-- Begin of docs/generate/native.py. -->\n"
END = "<!-- End of docs/generate/native.py. -->\n"


def page(root=ROOT):
    """The whole text of docs/native.md, its table that of the results."""
    text = (root / "docs" / "native.md").read_text(encoding="utf-8")
    before, rest = text.split(BEGIN)
    _, after = rest.split(END)
    return before + BEGIN + table(root) + END + after


def table(root):
    file = root / "benchmarks" / "results" / "native_torch.json"
    control, *rows = json.loads(file.read_text(encoding="utf-8"))
    lines = ["", "| inserted | added time, % |", "|---|--:|"]
    for row in (*rows, control):
        low, high = row["quartiles"]
        layer = row["layer"].replace("'", '"')
        name = "none (control)" if row is control else f"`{layer}`"
        share = f"{row['extra_percent']:+.1f} ({low:+.1f} to {high:+.1f})"
        lines.append(f"| {name} | {share} |")
    return "\n".join([*lines, "", ""])


if __name__ == "__main__":
    (ROOT / "docs" / "native.md").write_text(page(), encoding="utf-8")
