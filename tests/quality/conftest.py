"""Small sets in memory whose faults are known."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from lightning_modules.data.in_memory import InMemoryData, RawDataset
from lightning_modules.zoo.data.image_datasets import Digits


class Made(InMemoryData):
    """Whatever samples a test gives."""

    name = "made"

    def __init__(self, arrays: RawDataset, domain: str = "table", **settings: Any) -> None:
        self.made, self.domain = arrays, domain
        super().__init__(**settings)

    def load(self) -> RawDataset:
        return self.made

    def sample_text(self, x: Tensor) -> str:
        return " ".join(f"w{word}" for word in x.tolist() if word)


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
    monkeypatch.delenv("TOUCHSTONE_DATA", raising=False)


@pytest.fixture
def made() -> Callable[..., InMemoryData]:
    """Build a datamodule of these samples and labels."""

    def build(x: Tensor, y: Tensor, domain: str = "table", test: Any = None, **settings: Any) -> InMemoryData:
        data = Made(RawDataset(x, y, test=test), domain, **settings)
        data.setup()
        return data

    return build


@pytest.fixture(scope="session")
def digits() -> RawDataset:
    return Digits().load()


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
