"""Fixtures of the tests that read data sets: a cache of their own, and sets that are generated or installed."""

import os
from pathlib import Path

import pytest

from lightning_modules.zoo.data.generated_datasets import MNIST1D
from lightning_modules.zoo.data.image_datasets import DEBIAN_FOLDER


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    monkeypatch.delenv("TOUCHSTONE_DATA", raising=False)
    return folder / "touchstone"


@pytest.fixture(scope="session")
def mnist1d_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache in which MNIST-1D has been generated."""
    folder = tmp_path_factory.mktemp("mnist1d")
    MNIST1D(cache_dir=folder).load()
    return folder


@pytest.fixture(scope="session")
def fashion_mnist() -> Path:
    """The folder of Debian's package dataset-fashion-mnist; CI must have it."""
    if not (DEBIAN_FOLDER / "train-images-idx3-ubyte.gz").is_file():
        reason = f"needs Fashion-MNIST in {DEBIAN_FOLDER}: apt-get install dataset-fashion-mnist"
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(reason)
    return DEBIAN_FOLDER
