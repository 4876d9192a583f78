"""Models of Hugging Face: Trainer, checkpointing, generate, PEFT."""

import keras
import pytest

from keras_memel import LogPenalty
from keras_memel import MEmeL
from keras_memel import Rate
from keras_memel import insert
from keras_memel import inserted
from keras_memel import restore
from keras_memel import strip
from keras_memel.monitoring.callbacks import trainer_callback

if keras.backend.backend() != "torch":
    pytest.skip("PyTorch modules need PyTorch", allow_module_level=True)

import torch

transformers = pytest.importorskip("transformers")

pytestmark = pytest.mark.filterwarnings("ignore")


def bert(seed=0):
    torch.manual_seed(seed)
    return transformers.BertForSequenceClassification(
        transformers.BertConfig(
            vocab_size=40,
            hidden_size=16,
            num_hidden_layers=4,
            num_attention_heads=2,
            intermediate_size=16,
            max_position_embeddings=8,
        )
    )


def neox():
    torch.manual_seed(0)
    return transformers.GPTNeoXForCausalLM(
        transformers.GPTNeoXConfig(
            vocab_size=40,
            hidden_size=16,
            num_hidden_layers=4,
            num_attention_heads=2,
            intermediate_size=16,
            max_position_embeddings=32,
        )
    )


def rows(number=16):
    random = torch.Generator().manual_seed(0)
    found = []
    for index in range(number):
        mask = torch.ones(8, dtype=torch.long)
        mask[3 + index % 6 :] = 0
        ids = torch.randint(1, 40, (8,), generator=random)
        found.append(
            {
                "input_ids": ids,
                "attention_mask": mask,
                "labels": torch.tensor(index % 2),
            }
        )
    return found


def trainer(model, folder, epochs=2, callbacks=None, **kwargs):
    return transformers.Trainer(
        model=model,
        args=transformers.TrainingArguments(
            output_dir=str(folder),
            num_train_epochs=epochs,
            per_device_train_batch_size=4,
            report_to=[],
            use_cpu=True,
            disable_tqdm=True,
            save_strategy="epoch",
            logging_steps=2,
            **kwargs,
        ),
        train_dataset=rows(),
        callbacks=callbacks,
    )


def test_trainer_counts_what_the_mask_leaves_and_resumes(tmp_path):
    model = bert()
    parameters = sum(p.numel() for p in model.parameters())
    insert(model, "middle:2", MEmeL("rate", axis=-1, late_start=1))
    whole = trainer(model, tmp_path, callbacks=[trainer_callback()])
    whole.train()
    masks = sum(int(row["attention_mask"].sum()) for row in rows())
    for found in inserted(model).values():
        assert float(found.count[0]) == 2 * masks
        assert float(found.steps) == 8
    assert sum(p.numel() for p in model.parameters()) == parameters
    name = "bert.encoder.layer.1/inhibited_rate"
    assert all(name in log for log in whole.state.log_history[:-1])

    again = insert(bert(), "middle:2", MEmeL("rate", axis=-1, late_start=1))
    (first,) = tmp_path.glob("checkpoint-4")
    trainer(again, tmp_path / "again").train(resume_from_checkpoint=str(first))
    expected = model.state_dict()
    for key, value in again.state_dict().items():
        assert torch.equal(value, expected[key]), key


@pytest.mark.parametrize("reentrant", [False, True])
def test_gradient_checkpointing_changes_nothing(reentrant):
    states = []
    for checkpointed in (False, True):
        model = insert(bert(), "middle:2", MEmeL(axis=-1, late_start=1))
        if checkpointed:
            model.gradient_checkpointing_enable({"use_reentrant": reentrant})
        model.train()
        torch.manual_seed(0)
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        batch = {k: torch.stack([r[k] for r in rows()]) for k in rows()[0]}
        for _ in range(8):
            model(**batch).loss.backward()
        states.append(model.state_dict())
        assert float(next(iter(inserted(model).values())).steps) == 8
    for name, value in states[0].items():
        assert torch.equal(value, states[1][name]), name


def test_a_pretrained_model_comes_back(tmp_path):
    model = insert(bert(), "middle:2", MEmeL(Rate(0.1), axis=-1, late_start=1))
    batch = {k: torch.stack([r[k] for r in rows()]) for k in rows()[0]}
    for _ in range(3):
        model(**batch).loss.backward()
    model.save_pretrained(tmp_path)
    again = transformers.BertForSequenceClassification.from_pretrained(tmp_path)
    restore(again, tmp_path)
    expected = model.state_dict()
    found = again.state_dict()
    assert list(found) == list(expected)
    for name, value in expected.items():
        assert torch.equal(found[name], value), name
    strip(again)
    assert not hasattr(again.config, "keras_memel")


def test_a_language_model_trains_and_generates():
    model = neox()
    l2e = MEmeL(Rate(0.02), LogPenalty(0.01), axis=-1, late_start=1)
    insert(model, "middle:2", l2e)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
    ids = torch.randint(0, 40, (4, 12))
    losses = []
    for _ in range(10):
        optimizer.zero_grad()
        loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]
    before = {k: v.clone() for k, v in model.state_dict().items()}
    model.eval()
    model.generate(ids[:, :3], max_new_tokens=4, do_sample=False)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name
    model.train()
    mask = torch.ones(4, 3, dtype=torch.long)
    model.generate(
        ids[:, :3], attention_mask=mask, max_new_tokens=4, do_sample=False
    )


def test_swin_whose_layers_return_tuples_in_some_versions():
    torch.manual_seed(0)
    model = transformers.SwinForImageClassification(
        transformers.SwinConfig(
            image_size=16,
            patch_size=2,
            embed_dim=8,
            depths=[2, 2],
            num_heads=[1, 2],
            window_size=4,
            num_labels=3,
        )
    ).eval()
    x = torch.randn(2, 3, 16, 16)
    before = model(pixel_values=x).logits
    insert(model, "blocks.*", MEmeL(axis=-1, late_start=1))
    model.train()
    for _ in range(3):
        model(pixel_values=x).logits.sum().backward()
    places = {
        f"{s}.blocks.{b}": n for s, n in ((0, 64), (1, 16)) for b in (0, 1)
    }
    found = inserted(model)
    assert len(found) == len(places)
    for path, places_of in places.items():
        (memel,) = (m for key, m in found.items() if key.endswith(path))
        assert float(memel.count[0]) == 3 * 2 * places_of
        assert float(memel.inhibited_rate) > 0
    assert torch.equal(strip(model).eval()(pixel_values=x).logits, before)


def test_adapters_first(tmp_path):
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(target_modules=["query"], r=2)
    model = peft.get_peft_model(bert(), config)
    insert(model, "encoder.layer.[12]", MEmeL(axis=-1, late_start=0))
    batch = {k: torch.stack([r[k] for r in rows()]) for k in rows()[0]}
    model(**batch).loss.backward()
    masks = int(batch["attention_mask"].sum())
    assert {float(m.count[0]) for m in inserted(model).values()} == {masks}
    with pytest.raises(ValueError, match="adapter"):
        insert(model, "layer.0.**.query.base_layer", MEmeL(axis=-1))


def test_adapters_after_an_insertion():
    peft = pytest.importorskip("peft")
    model = insert(bert(), "layer.1.**.query", MEmeL(axis=-1, late_start=0))
    model = peft.get_peft_model(
        model, peft.LoraConfig(target_modules=["query"], r=2)
    )
    batch = {k: torch.stack([r[k] for r in rows()]) for k in rows()[0]}
    with pytest.warns(UserWarning, match="adapter"):
        model(**batch)


def test_the_examples(capsys):
    from examples.native import bert_trainer
    from examples.native import neox_l2e

    assert bert_trainer.main(rows=64, epochs=1) == {2}
    losses, steps = neox_l2e.main(steps=12)
    assert steps == {12}
    assert losses[-1] < losses[0]
    assert "inhibited_rate" in capsys.readouterr().out
