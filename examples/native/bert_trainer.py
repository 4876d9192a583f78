"""Fine-tune a small BERT of Hugging Face with the Trainer and MEmeL.

The model is random and the task is made here: does a text hold a given word?

    python examples/native/bert_trainer.py
"""

import argparse
import os
import tempfile

os.environ["KERAS_BACKEND"] = "torch"

import torch
import transformers

from keras_memel import MEmeL
from keras_memel import insert
from keras_memel import inserted
from keras_memel import readings
from keras_memel import strip
from keras_memel.monitoring.callbacks import trainer_callback

VOCABULARY, LENGTH, WORD = 60, 16, 7


def texts(number, seed):
    random = torch.Generator().manual_seed(seed)
    rows = []
    for _ in range(number):
        length = int(torch.randint(6, LENGTH + 1, (), generator=random))
        ids = torch.randint(8, VOCABULARY, (LENGTH,), generator=random)
        label = int(torch.rand((), generator=random) < 0.5)
        if label:
            ids[int(torch.randint(length, (), generator=random))] = WORD
        mask = (torch.arange(LENGTH) < length).long()
        ids = ids * mask
        rows.append({"input_ids": ids, "attention_mask": mask, "labels": label})
    return rows


def main(rows=1024, epochs=3):
    transformers.set_seed(0)
    model = transformers.BertForSequenceClassification(
        transformers.BertConfig(
            vocab_size=VOCABULARY,
            hidden_size=32,
            num_hidden_layers=4,
            num_attention_heads=4,
            intermediate_size=64,
            max_position_embeddings=LENGTH,
        )
    )
    insert(model, "middle:2", MEmeL("rate", axis=-1))
    with tempfile.TemporaryDirectory() as folder:
        trainer = transformers.Trainer(
            model=model,
            args=transformers.TrainingArguments(
                output_dir=folder,
                num_train_epochs=epochs,
                per_device_train_batch_size=32,
                learning_rate=1e-3,
                report_to=[],
                logging_steps=20,
                save_strategy="no",
            ),
            train_dataset=texts(rows, seed=0),
            eval_dataset=texts(rows // 4, seed=1),
            callbacks=[trainer_callback()],
        )
        trainer.train()
        print("validation loss:", trainer.evaluate()["eval_loss"])
    for name, value in readings(model).items():
        print(f"{name}: {value:.4g}")
    steps = {int(memel.steps) for memel in inserted(model).values()}
    strip(model)
    return steps


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1024)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument(
        "--dry-run", action="store_true", help="print the plan, and stop"
    )
    options = parser.parse_args()
    words = vars(options)
    dry_run = words.pop("dry_run")
    for name, value in words.items():
        if value < 1:
            parser.error(f"--{name} must be at least 1. Received: {value}")
    if dry_run:
        print("arms      MEmeL, seed 0")
        print(
            f"sizes     {options.rows} texts of up to {LENGTH} tokens, "
            f"{options.epochs} epochs, a BERT of 4 layers of width 32"
        )
        print("files     none")
    else:
        main(**words)
