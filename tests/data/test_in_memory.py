import json
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from lightning_modules.config.errors import UserError
from lightning_modules.zoo.data.generated_datasets import MNIST1D
from lightning_modules.zoo.data.image_datasets import Digits


def test_a_batch_names_its_samples() -> None:
    data = Digits(batch_size=50, seed=1)
    data.setup()
    raw = data.arrays
    for batch in data.train_dataloader():
        assert batch["x"].dtype == torch.uint8
        assert batch["y"].dtype == batch["index"].dtype == torch.int64
        assert isinstance(raw.x, Tensor)
        assert torch.equal(batch["x"], raw.x[batch["index"]])
        assert torch.equal(batch["y"], raw.y[batch["index"]])


def test_the_set_is_described_after_setup() -> None:
    data = Digits()
    data.setup()
    data.setup("fit")
    assert (data.num_classes, data.num_targets, data.input_shape) == (10, 1, (1, 8, 8))
    assert data.class_names == [str(digit) for digit in range(10)]
    assert data.class_counts is not None
    assert data.class_counts.sum() == len(data.splits["train"])
    assert data.name == "digits"


def test_evaluation_is_in_the_order_of_the_split() -> None:
    data = Digits(eval_batch_size=100)
    data.chunk = 3
    for part, loader in (("val", data.val_dataloader()), ("test", data.test_dataloader())):
        batches = list(loader)
        assert torch.equal(torch.cat([batch["index"] for batch in batches]), data.splits[part])
        assert len(batches[0]["y"]) == 100


def test_a_missing_part_has_no_loader() -> None:
    data = Digits(val_fraction=0, test_fraction=0)
    assert data.val_dataloader() == data.test_dataloader() == []
    assert sum(len(batch["y"]) for batch in data.train_dataloader()) == 1797


def test_a_chunk_of_the_loader_splits_into_the_same_batches() -> None:
    plain, chunked = Digits(batch_size=30), Digits(batch_size=30)
    chunked.chunk = 4
    batches = [batch["x"] for batch in plain.train_dataloader()]
    again = [x for item in chunked.train_dataloader() for x in item["x"].split(30)]
    assert all(torch.equal(a, b) for a, b in zip(batches, again, strict=True))


def test_preprocessing_is_fitted_on_the_training_part_alone() -> None:
    data = Digits(per_class=10)
    data.setup()
    train = next(iter(Digits(per_class=10, batch_size=100).train_dataloader()))["x"]
    scaled = data.preprocess(train)
    assert scaled.dtype == torch.float32
    assert abs(float(scaled.mean())) < 1e-5
    assert abs(float(scaled.std(correction=0)) - 1) < 1e-5
    other = Digits(per_class=20)
    other.setup()
    assert not torch.equal(data.preprocess.get_buffer("shift"), other.preprocess.get_buffer("shift"))


def test_a_batch_that_drop_last_would_leave_out_is_an_error() -> None:
    with pytest.raises(UserError, match=r"data.batch_size=5000 is more than the 1258 training samples"):
        Digits(batch_size=5000, drop_last=True).setup()


class Recorder(pl.LightningModule):
    """A real module that only notes which samples it was shown, one list per epoch."""

    def __init__(self, notes: Path | None = None) -> None:
        super().__init__()
        self.layer = nn.Linear(40, 10)
        self.notes = notes
        self.seen: list[list[int]] = []

    def training_step(self, batch: dict[str, Tensor], batch_index: int) -> Tensor:
        if batch_index == 0:
            self.seen.append([])
        self.seen[-1] += batch["index"].tolist()
        return nn.functional.cross_entropy(self.layer(batch["x"]), batch["y"])

    def on_train_end(self) -> None:
        if self.notes:
            (self.notes / f"{self.global_rank}.json").write_text(json.dumps(self.seen))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)


def fit(data: pl.LightningDataModule, notes: Path | None = None, **settings: Any) -> list[list[int]]:
    module = Recorder(notes)
    off = dict.fromkeys(("logger", "enable_progress_bar", "enable_model_summary", "enable_checkpointing"), False)
    whole: dict[str, Any] = {"accelerator": "cpu", "use_distributed_sampler": False, **off, **settings}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # a forked process that starts OpenMP threads like its parent did hangs for ever
    try:
        pl.Trainer(**whole).fit(module, datamodule=data)
    finally:
        torch.set_num_threads(threads)
    return module.seen


def test_lightning_tells_the_order_its_epoch(mnist1d_cache: Path) -> None:
    first, second = fit(MNIST1D(batch_size=500, seed=4, cache_dir=mnist1d_cache), max_epochs=2)
    assert sorted(first) == sorted(second)
    assert first != second


def test_two_processes_together_see_the_batches_of_one(mnist1d_cache: Path, tmp_path: Path) -> None:
    one = fit(MNIST1D(batch_size=400, seed=4, cache_dir=mnist1d_cache), max_epochs=2)
    two = MNIST1D(batch_size=200, seed=4, cache_dir=mnist1d_cache)
    fit(two, tmp_path, max_epochs=2, strategy="ddp_fork", devices=2)
    ranks = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)]
    for epoch, whole in enumerate(one):
        assert torch.tensor([rank[epoch] for rank in ranks]).T.flatten().tolist() == whole


def test_lightnings_overfit_batches_is_refused_with_the_alternative(mnist1d_cache: Path) -> None:
    with pytest.raises(UserError, match=r"use data.per_class"):
        fit(MNIST1D(cache_dir=mnist1d_cache), max_epochs=1, overfit_batches=2)


def test_a_sample_in_words_is_short_however_large_it_is() -> None:
    data = Digits()
    assert data.sample_text(torch.tensor([1.0, 0.25])) == "1 0.25"
    assert len(data.sample_text(torch.ones(3, 224, 224)).split()) == 61
