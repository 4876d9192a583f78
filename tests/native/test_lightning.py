"""The callback of Lightning logs what `readings` reads."""

import keras
import pytest

from keras_memel import readings
from keras_memel.monitoring.callbacks import lightning_callback

if keras.backend.backend() != "torch":
    pytest.skip("PyTorch modules need PyTorch", allow_module_level=True)

import torch
from torch import nn

from keras_memel import TorchMEmeL

lightning = pytest.importorskip("lightning.pytorch")

pytestmark = pytest.mark.filterwarnings("ignore")


class Regression(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(4, 8), TorchMEmeL("rate", late_start=1), nn.Linear(8, 1)
        )

    def training_step(self, batch):
        return self.net(batch).square().mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.01)


def test_logs_the_readings(tmp_path):
    model = Regression()
    trainer = lightning.Trainer(
        accelerator="cpu",
        max_epochs=2,
        log_every_n_steps=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
        callbacks=[lightning_callback()],
    )
    trainer.fit(model, torch.utils.data.DataLoader(torch.randn(12, 4), 4))
    assert int(model.net[1].steps) == 6
    expected = readings(model)
    assert set(expected) == {
        f"net.1/{name}"
        for name in ("inhibited_rate", "target_rate", "threshold")
    }
    for name, value in expected.items():
        assert float(trainer.logged_metrics[name]) == pytest.approx(value), name
