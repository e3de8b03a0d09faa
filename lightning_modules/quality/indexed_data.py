"""The samples of any LightningDataModule by index, read once into memory: for `data inspect` and for copies on disk."""

from typing import Any

import psutil
import torch
from omegaconf import DictConfig
from pytorch_lightning.utilities.combined_loader import CombinedLoader
from pytorch_lightning.utilities.model_helpers import is_overridden
from torch import Tensor
from torch.utils.data import BatchSampler, IterableDataset, RandomSampler, SequentialSampler, SubsetRandomSampler

from lightning_modules.config.errors import UserError, first_line
from lightning_modules.data.in_memory import InMemoryData, RawDataset
from lightning_modules.run.data_adapter import RunData, open_data
from lightning_modules.task.batches import as_dict

_CHUNK, _READ_TWICE = 256, 32  # samples


def read_by_index(cfg: DictConfig) -> InMemoryData:
    """A datamodule of ours, or all samples of another's. Raises UserError if these have no index, or are not (x, y)."""
    data = open_data(cfg)
    samples = data.own or IndexedData(data)
    samples.setup()
    return samples


class IndexedData(InMemoryData):
    """The samples of another's datamodule as its loaders collate them; its parts are those of its loaders."""

    def __init__(self, data: RunData) -> None:
        super().__init__(val_fraction=0, test_fraction=0)
        self.name, self._module = data.name, data.module

    def load(self) -> RawDataset:
        self._module.prepare_data()
        self._module.setup("fit")
        train, val = self._read_part("train"), self._read_part("val")
        self._module.setup("test")
        (x, y), test = self._joined([*train, *val]), self._read_part("test")
        names, held_out = getattr(self._module, "class_names", None), sum(len(part) for _, part in val)
        official = torch.arange(len(y) - held_out, len(y)) if val else None
        return RawDataset(x, y, self._joined(test) if test else None, list(names) if names else None, official)

    def _read_part(self, part: str) -> list[tuple[Tensor, Tensor]]:
        hook = f"{part}_dataloader"
        loaders = getattr(self._module, hook)() if is_overridden(hook, self._module) else []
        return [self._read(hook, loader) for loader in CombinedLoader(loaders).flattened]

    def _read(self, hook: str, loader: object) -> tuple[Tensor, Tensor]:
        index = self._index_of(hook, loader)
        first, again = self._rows(hook, loader, index[:_READ_TWICE]), self._rows(hook, loader, index[:_READ_TWICE])
        if first[0].shape != again[0].shape or not torch.equal(first[0].nan_to_num(), again[0].nan_to_num()):
            raise UserError(
                f"data={self.name}: the samples of {hook} differ each time they are read: choose settings of the datamodule "
                "without random transforms"
            )
        if 2 * (size := len(index) * first[0][0].nbytes) > psutil.virtual_memory().available:  # parts are concatenated
            raise UserError(
                f"data={self.name}: the {size / 1e9:.1f} GB of {hook} do not fit twice into the free memory"
            )
        return self._joined([self._rows(hook, loader, index[i : i + _CHUNK]) for i in range(0, len(index), _CHUNK)])

    def _joined(self, found: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
        if len({(x.shape[1:], x.dtype, y.shape[1:], y.dtype) for x, y in found}) != 1:
            raise UserError(f"data={self.name}: its loaders give no samples, or samples of different shapes or types")
        return torch.cat([x for x, _ in found]), torch.cat([y for _, y in found])

    def _index_of(self, hook: str, loader: object) -> list[int]:
        """The indices of the samples that a loader draws from."""
        dataset, batches = getattr(loader, "dataset", None), getattr(loader, "batch_sampler", None)
        sampler = batches.sampler if type(batches) is BatchSampler else batches
        everything = isinstance(sampler, SequentialSampler | RandomSampler)
        index = range(len(dataset)) if everything else getattr(sampler, "indices", ())  # type: ignore[arg-type]
        if index and (everything or isinstance(sampler, SubsetRandomSampler)):
            return [int(i) for i in index]
        stream = isinstance(dataset, IterableDataset)
        kind = "stream" if stream else type(loader).__name__
        found = f"{kind} ({type(dataset if stream else sampler).__name__})"
        raise UserError(
            f"data={self.name}: {hook} gives a {found}, whose samples have no index; expected a DataLoader of a map-style "
            "dataset that is not empty, in order, shuffled or of a subset"
        )

    def _rows(self, hook: str, loader: Any, index: list[int]) -> tuple[Tensor, Tensor]:
        try:
            batch = loader.collate_fn([loader.dataset[i] for i in index])
        except Exception as error:  # the code of a user
            reason = f"{type(error).__name__}: {first_line(error)}"
            raise UserError(f"data={self.name}: samples {index[0]} to {index[-1]} of {hook}: {reason}") from error
        found = as_dict(batch)
        x, y = found["x"], found["y"]
        if y.ndim > 2 or (y.ndim == 2 and y.shape == x.shape):
            raise UserError(
                f"data={self.name}: expected a class or values for each sample, but targets of {hook} are {list(y.shape)}"
            )
        x = x if x.ndim > 1 else x[:, None]
        return x.detach().cpu(), (y.float() if y.is_floating_point() or y.ndim == 2 else y.long()).detach().cpu()
