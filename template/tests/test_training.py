"""The parts do what a training needs; `make train` is the whole."""

import pytorch_lightning as pl
import torch
from mylab.data import Digits
from mylab.task import DigitClassifier


def test_a_network_maps_images_to_ten_scores() -> None:
    assert DigitClassifier(hidden=4)(torch.zeros(3, 64)).shape == (3, 10)


def test_the_splits_have_no_image_in_common() -> None:
    data = Digits()
    data.setup("fit")
    parts = [set(part.indices) for part in (data.train, data.val, data.test)]
    assert [len(part) for part in parts] == [900, 447, 450] and not set.intersection(*parts)


def test_three_epochs_learn_most_digits() -> None:
    pl.seed_everything(0)
    trainer = pl.Trainer(
        max_epochs=3, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False
    )
    task, data = DigitClassifier(), Digits()
    trainer.fit(task, data)
    assert trainer.validate(task, data, verbose=False)[0]["val_accuracy"] > 0.8
