"""The datamodule of every set that is indexed by whole batches: in memory, or decoded by workers."""

import math
from abc import abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from lightning_modules.config.errors import UserError, suggest
from lightning_modules.data.augmented_copies import add_augmented, append_training_samples
from lightning_modules.data.batch_sampler import ORDERS, BatchSampler, Order
from lightning_modules.data.exclude import drop_excluded
from lightning_modules.data.fingerprint import cached_digest, combine_fingerprint, tensor_digest
from lightning_modules.data.labels import check_classes, check_part_classes
from lightning_modules.data.paths import cache_folder
from lightning_modules.data.preprocess import SampleSource
from lightning_modules.data.split import SplitPlan, check_number, split

Batch = dict[str, Tensor]


@dataclass
class RawDataset:
    """A set as `load` finds it.

    `x` is raw [N, …]; `y` is int64 [N] (classes) or float32 [N] or [N, D] (regression, multilabel). `test` is
    the official test part, `val` the indices of an official validation part in `x`. `files` are what was
    read: the content's hash is remembered by them. `content` is that hash where it follows from something else.
    """

    x: SampleSource
    y: Tensor
    test: tuple[SampleSource, Tensor] | None = None
    class_names: list[str] | None = None
    val: Tensor | None = None
    files: tuple[Path, ...] = ()
    content: str | None = None


class BatchDataset(Dataset[Batch]):
    """Returns the whole batch of an index tensor: {"x": [B, …], "y": [B] or [B, D], "index": int64 [B]}."""

    def __init__(self, x: SampleSource, y: Tensor) -> None:
        self.x = x
        self.y = y

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, index: Tensor) -> Batch:
        if not isinstance(index, Tensor):  # Lightning has put a sampler of its own in the place of ours
            raise UserError(
                "trainer.overfit_batches cannot be used with this data: use data.per_class or data.fraction"
            )
        index = index.to(self.y.device, non_blocking=True)
        # index_select is up to 20x faster than x[index] here
        return {"x": self.x.index_select(0, index), "y": self.y.index_select(0, index), "index": index}


def identity_collate(batch: Batch) -> Batch:
    """Collate nothing: the data set returns whole batches."""
    return batch


class InMemoryData(pl.LightningDataModule):
    """A set with its split, order, preprocessing and fingerprint; subclasses implement `load`.

    Args:
        batch_size: samples per process and step.
        eval_batch_size: the same for validation and test; default the larger of `batch_size` and 512.
        val_fraction: of the whole set; of the rest where a fold is the test part; 0 means no validation part.
        test_fraction: of the whole set, only where it has no official test part.
        split_seed: the split and the sub-sample are a function of this and of the labels.
        seed: the order of the training samples is a function of this and of the epoch.
        order: "shuffled" anew in each epoch, "fixed" (one permutation for all) or "sequential".
        drop_last: leave out the last, smaller batch of training.
        eval_drop_last: leave out the last, smaller batch of validation and test too.
        watch_test: measure the test part at each validation, as ``test/<metric>`` by step; nothing is chosen by it.
        folds, fold: stratified k-fold; the fold is the test part, or validation where the test part
            is official.
        fraction, per_class: train on a stratified share, or on so many of each class.
        exclude: a list of samples that neither train nor validate, see `exclude.py`; with `exclude_test` nor test.
        augmented: a folder of augmented copies, see `augmented_copies.py`: those of training samples are trained on too.
        expected_fingerprint: refuse to run on other data, another split or another preprocessing.
        device: "trainer" keeps a set that is in memory on the Trainer's device, so that no batch is transferred; "cpu" in
            main memory, from which batches go to a GPU through pinned memory. The numbers are the same.
        cache_dir: where slow reading and hashes are kept; default the user's cache folder.

    Raises:
        UserError: with all mistakes in the arguments at once.
    """

    name: str
    domain: str = "table"  # image, series, audio, text, interactions: how a sample is shown
    chunk: int = 1  # training batches that the loader concatenates to one item
    drop_single: bool = False  # leave out a last training batch of one sample
    num_workers: int = 0
    columns: list[str] | None = None  # names of the features of a table, known after `setup`

    def __init__(
        self,
        *,
        batch_size: int = 64,
        eval_batch_size: int | None = None,
        val_fraction: float = 0.1,
        test_fraction: float = 0.2,
        split_seed: int = 0,
        seed: int = 0,
        order: Order = "shuffled",
        drop_last: bool = False,
        eval_drop_last: bool = False,
        watch_test: bool = False,
        folds: int | None = None,
        fold: int | None = None,
        fraction: float = 1.0,
        per_class: int | None = None,
        exclude: str | Path | None = None,
        exclude_test: bool = False,
        augmented: str | Path | None = None,
        expected_fingerprint: str | None = None,
        device: Literal["cpu", "trainer"] = "cpu",
        cache_dir: str | Path | None = None,
    ) -> None:
        super().__init__()
        self.batch_size = batch_size
        self.eval_batch_size = eval_batch_size
        self.plan = SplitPlan(val_fraction, test_fraction, split_seed, folds, fold, fraction, per_class)
        self.seed = seed
        self.order: Order = order
        self.drop_last = drop_last
        self.eval_drop_last = eval_drop_last
        self.watch_test = watch_test
        self.exclude, self.exclude_test = exclude, exclude_test
        self.augmented = augmented
        self.expected_fingerprint = expected_fingerprint
        self.device = device
        self.cache_dir = cache_folder(cache_dir)
        self._on_device: dict[
            int, tuple[Tensor, Tensor]
        ] = {}  # on the Trainer's device, by the identity of the raw samples
        self._arrays: RawDataset | None = None
        self._fingerprint: str | None = None
        if problems := self.problems():
            raise UserError("\n".join(problems))

    def sample_text(self, x: Tensor) -> str:
        """One raw sample in words, where a picture of it says nothing."""
        values, most = x.flatten(), 60
        return " ".join(f"{value:.4g}" for value in values[:most].tolist()) + " …" * (len(values) > most)

    @abstractmethod
    def load(self) -> RawDataset:
        """Read or generate the whole set; all heavy work is here."""

    def extra_training_samples(self) -> tuple[Tensor, Tensor] | None:
        """Raw samples x [M, …] and targets y [M] beside those of the set, which are in no other part."""
        return None

    def build_preprocess(self, x: SampleSource, train: Tensor) -> nn.Module:
        """Return what maps raw samples to model input; may be fitted on ``x[train]`` only."""
        return nn.Identity()

    def problems(self) -> list[str]:
        """Return every mistake in the arguments, each naming its key; subclasses add theirs."""
        found = self.plan.problems()
        found += check_number("batch_size", self.batch_size, True, lambda v: 1 <= v < 2**31, "from 1 to 2**31 - 1")
        if self.eval_batch_size is not None:
            found += check_number(
                "eval_batch_size", self.eval_batch_size, True, lambda v: 1 <= v < 2**31, "from 1 to 2**31 - 1"
            )
        found += check_number("seed", self.seed, True, lambda v: 0 <= v < 2**32, "in [0, 2**32)")
        if self.order not in ORDERS:
            found.append(f"data.order={self.order}: {suggest(str(self.order), ORDERS)}")
        if self.device not in ("cpu", "trainer"):
            found.append(f"data.device={self.device}: expected cpu or trainer")
        for key in ("drop_last", "eval_drop_last", "watch_test", "exclude_test"):
            if not isinstance(value := getattr(self, key), bool):
                found.append(f"data.{key}={value}: expected true or false")
        return found

    def setup(self, stage: str | None = None) -> None:
        """Load, split and fit the preprocessing once; later calls do nothing.

        Raises:
            UserError: the set is missing or damaged, the split is impossible, or the fingerprint is another.
        """
        if self._arrays is not None:
            return
        arrays = self.load()
        if self.device == "trainer" and not isinstance(arrays.x, Tensor):
            raise UserError(
                f"data.device=trainer: {self.name} is decoded from files; expected a data set that is kept in memory "
                "(data.in_memory=true decodes it once), or data.device=cpu"
            )
        y_test = None if arrays.test is None else arrays.test[1]
        check_classes(arrays.y, y_test, arrays.class_names)
        test_count = None if y_test is None else len(y_test)
        self.splits = split(arrays.y, self.plan, test_count, arrays.val, arrays.class_names)
        if self.exclude:
            self.splits = drop_excluded(
                self.splits, self.exclude, arrays.test is not None, self.exclude_test, lambda: self._content(arrays)
            )
        self._check_parts()
        labels = {
            part: (y_test if part == "test" and y_test is not None else arrays.y)[i] for part, i in self.splits.items()
        }
        check_part_classes(labels, arrays.class_names)
        self.input_shape = tuple(arrays.x.shape[1:])
        self.num_targets = arrays.y.shape[1] if arrays.y.ndim == 2 else 1
        self.preprocess = self.build_preprocess(arrays.x, self.splits["train"])
        if self.augmented:
            folder = Path(self.augmented).expanduser()
            arrays, self.splits = add_augmented(arrays, self.splits, folder, self._content(arrays))
        if more := self.extra_training_samples():
            content = f"{self._content(arrays)} {tensor_digest(*more)}"
            arrays, self.splits = append_training_samples(arrays, self.splits, *more, content)
        self._describe_classes(arrays, self.splits["train"])
        self._arrays = arrays
        if self.expected_fingerprint and self.expected_fingerprint != self.fingerprint():
            self._arrays = None
            raise UserError(
                f"not the expected data: data.expected_fingerprint={self.expected_fingerprint}, but "
                f"the fingerprint of {self.name} with this split and preprocessing is {self.fingerprint()}"
            )

    def _check_parts(self) -> None:
        """Raise UserError where dropping would leave a part without a batch, or where there is nothing to watch."""
        dropped = [("batch_size", "drop_last", "train", self.batch_size)] if self.drop_last else []
        if self.eval_drop_last:
            dropped += [("eval_batch_size", "eval_drop_last", part, self._eval_size) for part in ("val", "test")]
        for key, switch, part, size in dropped:
            samples = len(self.splits[part])
            if samples < size and (samples or part == "train"):
                spoken = {"train": "training", "val": "validation"}.get(part, part)
                raise UserError(
                    f"data.{key}={size} is more than the {samples} {spoken} samples, and data.{switch}=true "
                    "leaves out the only batch: lower one or set the other to false"
                )
        if self.watch_test and not len(self.splits["test"]):
            raise UserError("data.watch_test=true, but there is no test part: data.test_fraction=0.2, or folds")

    def _describe_classes(self, arrays: RawDataset, train: Tensor) -> None:
        self.num_classes: int | None = None
        self.class_names: list[str] | None = None
        self.class_counts: Tensor | None = None
        if arrays.y.is_floating_point():
            return
        highest = max(int(y.max()) for y in (arrays.y, *(arrays.test or ())[1:]))
        self.class_names = arrays.class_names or [str(label) for label in range(highest + 1)]
        self.num_classes = len(self.class_names)
        self.class_counts = arrays.y[train].bincount(minlength=self.num_classes)

    def fingerprint(self) -> str:
        """Return the sha256 (hex) over all raw values, the split and the preprocessing; calls `setup`."""
        if self._fingerprint is None:
            arrays = self.arrays
            self._fingerprint = combine_fingerprint(self._content(arrays), self.splits, self.preprocess)
        return self._fingerprint

    def content_fingerprint(self) -> str:
        """Return the sha256 (hex) over all raw values alone; calls `setup`."""
        return self._content(self.arrays)

    def _content(self, arrays: RawDataset) -> str:
        if arrays.content is not None:
            return arrays.content
        tensors = [t for t in (arrays.x, arrays.y, *(arrays.test or ())) if isinstance(t, Tensor)]
        if not arrays.files:
            return tensor_digest(*tensors)
        kind = f"{self.name} {[(str(t.dtype), tuple(t.shape)) for t in tensors]}"
        return cached_digest(self.cache_dir, kind, arrays.files, lambda: tensor_digest(*tensors))

    @property
    def arrays(self) -> RawDataset:
        """The raw set; calls `setup`."""
        self.setup()
        assert self._arrays is not None
        return self._arrays

    @property
    def in_memory(self) -> bool:
        """Whether whole batches are read from memory, or decoded from files."""
        return isinstance(self.arrays.x, Tensor)

    @property
    def bytes_per_sample(self) -> int:
        """Raw bytes of one sample."""
        return math.prod(self.input_shape) * self.arrays.x.dtype.itemsize

    def steps_per_epoch(self, shares: int = 1) -> int:
        """Training batches of an epoch, whatever `chunk` is, of each of the processes that the samples are shared out to."""
        order = BatchSampler(
            self.splits["train"],
            self.batch_size,
            drop_last=self.drop_last,
            world_size=shares,
            drop_single=self.drop_single,
        )
        return len(order)

    @property
    def bytes_in_memory(self) -> int:
        """Raw bytes of all samples and targets, those of an official test part included."""
        sets = [(self.arrays.x, self.arrays.y), *([self.arrays.test] if self.arrays.test else [])]
        return sum(len(x) * self.bytes_per_sample + y.nbytes for x, y in sets)

    def _to_device(self, device: torch.device, x: SampleSource, y: Tensor) -> tuple[Tensor, Tensor]:
        """Samples and targets on `device`; they are moved once."""
        assert isinstance(x, Tensor)  # `setup` refuses other sets
        if id(x) not in self._on_device:
            self._on_device[id(x)] = x.to(device), y.to(device)
        return self._on_device[id(x)]

    def example(self, count: int) -> Tensor:
        """Return the first `count` raw samples, [count, *input_shape]."""
        return self.arrays.x.index_select(0, torch.arange(count))

    def train_dataloader(self) -> DataLoader[Batch]:
        """Batches of the training part; `chunk` consecutive ones are concatenated to one item."""
        arrays = self.arrays
        how: Any = {"drop_last": self.drop_last, "chunk": self.chunk, "drop_single": self.drop_single}
        return self._loader(arrays.x, arrays.y, "train", self.batch_size, self.order, **how)

    def val_parts(self) -> tuple[str, ...]:
        """The parts that a validation measures, in the order of its loaders: the test part while training, if watched."""
        fitting = self.trainer is None or self.trainer.state.fn == "fit"
        val = ("val",) if len(self.splits["val"]) else ()
        return (*val, "test") if self.watch_test and fitting else val

    def val_dataloader(self) -> DataLoader[Batch] | list[Any]:
        """Batches of the validation part in its order, or a list with a loader for each of `val_parts`."""
        loaders = {"val": self._val_loader, "test": self.test_dataloader}
        self.setup()
        return [loaders[part]() for part in self.val_parts()] if self.watch_test else self._val_loader()

    def test_dataloader(self) -> DataLoader[Batch] | list[Any]:
        """Batches of the test part in its order, or no loader where that part is empty."""
        x, y = self.arrays.test or (self.arrays.x, self.arrays.y)
        return self._eval_loader(x, y, "test")

    def _val_loader(self) -> DataLoader[Batch] | list[Any]:
        return self._eval_loader(self.arrays.x, self.arrays.y, "val")

    @property
    def _eval_size(self) -> int:
        return self.eval_batch_size or max(self.batch_size, 512)

    def _eval_loader(self, x: SampleSource, y: Tensor, part: str) -> DataLoader[Batch] | list[Any]:
        if not len(self.splits[part]):
            return []
        return self._loader(x, y, part, self._eval_size, drop_last=self.eval_drop_last)

    def _loader(
        self,
        x: SampleSource,
        y: Tensor,
        part: str,
        batch_size: int,
        order: Order = "sequential",
        drop_last: bool = False,
        chunk: int = 1,
        drop_single: bool = False,
    ) -> DataLoader[Batch]:
        share = (self.trainer.distributed_sampler_kwargs if self.trainer else None) or {}  # none: one process
        device = self.trainer.strategy.root_device if self.trainer else torch.device("cpu")
        if self.device == "trainer":
            x, y = self._to_device(device, x, y)
        rank, world_size = share.get("rank", 0), share.get("num_replicas", 1)
        sampler = BatchSampler(
            self.splits[part], batch_size, order, self.seed, drop_last, rank, world_size, chunk, drop_single
        )
        # a generator of its own, as a loader draws a seed for its workers from the global one at each start
        own: Any = {"generator": torch.Generator(), "num_workers": self.num_workers, "collate_fn": identity_collate}
        own["persistent_workers"] = self.num_workers > 0
        own["pin_memory"] = device.type == "cuda" and self.device == "cpu"
        return DataLoader(BatchDataset(x, y), batch_size=None, sampler=sampler, **own)
