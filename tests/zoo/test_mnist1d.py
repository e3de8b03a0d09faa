import random
from pathlib import Path

import numpy as np
import pytest
import torch
from mnist1d.data import get_dataset_args, make_dataset

from lightning_modules.zoo.data.generated_datasets import MNIST1D


def numpy_state() -> np.ndarray:
    return np.random.get_state(legacy=False)["state"]["key"].copy()


@pytest.fixture(scope="module")
def made() -> dict:
    return make_dataset(get_dataset_args())


def test_it_equals_the_authors_set(made: dict, mnist1d_cache: Path) -> None:
    assert len(list(mnist1d_cache.glob("*.npz"))) == 1
    arrays = MNIST1D(cache_dir=mnist1d_cache).load()
    assert arrays.test is not None
    assert torch.equal(torch.as_tensor(made["x"], dtype=torch.float32), arrays.x)  # type: ignore[arg-type]
    assert torch.equal(torch.as_tensor(made["x_test"], dtype=torch.float32), arrays.test[0])  # type: ignore[arg-type]
    assert arrays.y.tolist() == made["y"].tolist()
    assert arrays.test[1].tolist() == made["y_test"].tolist()


def test_its_batches_are_the_papers_slices(made: dict, mnist1d_cache: Path) -> None:
    data = MNIST1D(cache_dir=mnist1d_cache, batch_size=100, val_fraction=0, order="sequential")
    batches = list(data.train_dataloader())
    assert len(batches) == 40
    assert torch.equal(batches[7]["x"], torch.as_tensor(made["x"][700:800], dtype=torch.float32))
    assert torch.equal(data.preprocess(batches[7]["x"]), batches[7]["x"])


def test_shuffled_positions_are_the_papers_permutation(made: dict, mnist1d_cache: Path) -> None:
    state = np.random.get_state()
    np.random.seed(42)
    order = np.random.permutation(40)
    np.random.set_state(state)
    arrays = MNIST1D(cache_dir=mnist1d_cache, shuffle_positions=True).load()
    assert arrays.test is not None
    assert torch.equal(torch.as_tensor(made["x_test"][:, order], dtype=torch.float32), arrays.test[0])  # type: ignore[arg-type]
    assert torch.equal(torch.as_tensor(made["x"][:, order], dtype=torch.float32), arrays.x)  # type: ignore[arg-type]


@pytest.mark.slow
def test_a_damaged_cache_is_generated_again_and_leaves_the_global_generators_alone(
    made: dict, mnist1d_cache: Path, tmp_path: Path
) -> None:
    (whole,) = mnist1d_cache.glob("*.npz")
    (tmp_path / whole.name).write_bytes(whole.read_bytes()[:1000])
    random.seed(1)
    np.random.seed(1)  # the authors' package seeds both with 42
    states = random.getstate(), numpy_state(), torch.get_rng_state()
    assert MNIST1D(cache_dir=tmp_path).load().y.tolist() == made["y"].tolist()
    assert (tmp_path / whole.name).stat().st_size == whole.stat().st_size
    assert random.getstate() == states[0]
    assert np.array_equal(numpy_state(), states[1])
    assert torch.equal(torch.get_rng_state(), states[2])
