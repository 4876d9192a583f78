"""Analyze a data set in parts, on several processes, and merge the reports.

    python examples/analyze_parts.py --out parts

Each finished part is saved. If you stop the script and start it again, it
resumes with the missing parts.
"""

import argparse
import concurrent.futures
import functools
import multiprocessing
import os
import pathlib

os.environ.setdefault("KERAS_BACKEND", "torch")
# Processes share the cores: more threads than cores wait for one another.
os.environ.setdefault("OMP_NUM_THREADS", "1")

DIGITS = 1797


def data():
    import sklearn.datasets

    return sklearn.datasets.load_digits(return_X_y=True)


def analyze_part(file, model_file, start, stop):
    """Analyze a part of the inputs, unless its file exists, in any process."""
    import keras

    import keras_memel

    if file.exists():  # `Report.save` writes complete files only.
        return False
    images, labels = data()
    report = keras_memel.analyze(
        keras.saving.load_model(model_file),
        images[start:stop] / 16,
        labels[start:stop],
        "hidden",
        keep="inputs",
        pool=10_000,
        verbose=0,
    )
    report.save(file)
    return True


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=pathlib.Path, default="parts")
    parser.add_argument("--parts", type=int, default=4)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument(
        "--dry-run", action="store_true", help="print the plan, and stop"
    )
    arguments = parser.parse_args()
    if not 1 <= arguments.parts <= DIGITS:
        parser.error(
            f"--parts must be at least 1, and at most {DIGITS}. Received: "
            f"{arguments.parts}"
        )
    if arguments.workers < 1:
        parser.error(
            f"--workers must be at least 1. Received: {arguments.workers}"
        )
    if arguments.dry_run:
        print(f"sizes     {DIGITS:,} digits, a layer of 64 neurons")
        print(f"parts     {arguments.parts}, by {arguments.workers} processes")
        print(
            "files     model.keras, a file part_*.npz per part, neurons.html "
            f"in {arguments.out}"
        )
        return
    out = arguments.out
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        parser.error(f"--out must be a folder to write to. {error}")

    import keras

    import keras_memel

    images, labels = data()
    model_file = out / "model.keras"
    if not model_file.exists():
        keras.utils.set_random_seed(0)
        model = keras.Sequential(
            [
                keras.Input((64,)),
                keras.layers.Dense(64, "relu", name="hidden"),
                keras.layers.Dense(10),
            ]
        )
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile("adam", loss)
        model.fit(images / 16, labels, epochs=5, verbose=0)
        model.save(model_file)

    ends = [
        len(images) * n // arguments.parts for n in range(arguments.parts + 1)
    ]
    files = [out / f"part_{n}.npz" for n in range(arguments.parts)]
    # You can use any executor: those of Dask and Ray have the same methods.
    with concurrent.futures.ProcessPoolExecutor(
        arguments.workers, multiprocessing.get_context("spawn")
    ) as workers:
        done = [
            workers.submit(analyze_part, file, model_file, start, stop)
            for file, start, stop in zip(files, ends[:-1], ends[1:])
        ]
        new = sum(one.result() for one in done)
    print(f"{new} parts analyzed, {len(files) - new} found")

    report = functools.reduce(
        keras_memel.Report.merge, map(keras_memel.Report.load, files)
    )
    report.summary()
    report.to_html(out / "neurons.html", title="Digits, in parts")


if __name__ == "__main__":
    main()
