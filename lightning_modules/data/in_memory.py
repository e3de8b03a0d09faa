"""Base datamodule of our data sets, in memory or decoded by workers. Longer than 200 lines: one class and its settings."""

import math
from abc import abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import pytorch_lightning as pl
import torch
from annotated_types import Ge, Gt, Le, Lt
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from lightning_modules.config.bounds import Count, Seed, Whole, bounded
from lightning_modules.config.errors import UserError
from lightning_modules.data.augmented_copies import add_augmented, append_training_samples
from lightning_modules.data.batch_sampler import BatchSampler, Order
from lightning_modules.data.files import cache_folder
from lightning_modules.data.fingerprint import cached_digest, combine_fingerprint, tensor_digest
from lightning_modules.data.labels import check_classes, check_part_classes
from lightning_modules.data.preprocess import SampleSource
from lightning_modules.data.split import SplitPlan, drop_excluded, split

Batch = dict[str, Tensor]
BatchSize = Annotated[int, Ge(1), Lt(2**31)]
Share = Annotated[float, Ge(0), Lt(1)]


@dataclass
class RawDataset:
    """A raw data set, as returned by `load`.

    `x` is raw [N, …]; `y` is int64 [N] (classes) or float32 [N] or [N, D] (regression, multilabel). `test` is
    the official test part, `val` the indices of an official validation part in `x`. `files` are the source files, by
    which the content hash is cached. `content` is that hash, if it does not have to be computed from `x` and `y`.
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
        if not isinstance(index, Tensor):  # Lightning has replaced our sampler
            raise UserError(
                "trainer.overfit_batches cannot be used with this data: use data.per_class or data.fraction"
            )
        index = index.to(self.y.device, non_blocking=True)
        # up to 20x faster than x[index]
        return {"x": self.x.index_select(0, index), "y": self.y.index_select(0, index), "index": index}


class InMemoryData(pl.LightningDataModule):
    """A data set with its split, sample order, preprocessing and fingerprint; subclasses implement `load`.

    Args:
        batch_size: samples per process and step.
        eval_batch_size: the same for validation and test; default the larger of `batch_size` and 512.
        val_fraction: of all samples (if a fold is the test part, of the others); 0 means no validation part.
        test_fraction: of all samples; only without an official test part.
        split_seed: seed of the split and the subsample.
        seed: seed of the order of the training samples.
        order: "shuffled" (a new permutation each epoch), "fixed" (one permutation for all epochs), "sequential", or
            "balanced" (drawn with replacement, every class equally often, as with WeightedRandomSampler).
        drop_last: drop the last, smaller training batch.
        eval_drop_last: drop the last, smaller batch of validation and test.
        watch_test: evaluate the test part at each validation, logged as ``test/<metric>``; never used for selection.
        folds, fold: stratified k-fold; the fold is the test part, or validation if there is an official test part.
        fraction, per_class: train on a stratified fraction, or on this many samples per class.
        exclude: list of samples to leave out of training and validation, see `split.py`; with `exclude_test` also of
            the test part.
        augmented: folder of augmented copies of training samples to train on as well, see `augmented_copies.py`.
        expected_fingerprint: refuse to run with other data, another split or another preprocessing.
        device: "trainer" keeps the data set on the Trainer's device, so that no batch is transferred; "cpu" in
            main memory, from which batches go to a GPU through pinned memory. Results are identical.
        cache_dir: for hashes and slow reading; default the user's cache folder.

    Raises UserError if arguments are out of range or contradict each other.
    """

    name: str
    domain: str = "table"  # image, series, audio, text, interactions: how a sample is displayed
    chunk: int = 1  # training batches concatenated to one item of the loader
    drop_single: bool = False  # drop a last training batch of one sample
    num_workers: int = 0
    columns: list[str] | None = None  # feature names of a table, set by `setup`

    @bounded
    def __init__(
        self,
        *,
        batch_size: BatchSize = 64,
        eval_batch_size: BatchSize | None = None,
        val_fraction: Share = 0.1,
        test_fraction: Share = 0.2,
        split_seed: Seed = 0,
        seed: Seed = 0,
        order: Order = "shuffled",
        drop_last: bool = False,
        eval_drop_last: bool = False,
        watch_test: bool = False,
        folds: Annotated[int, Ge(2)] | None = None,
        fold: Whole | None = None,
        fraction: Annotated[float, Gt(0), Le(1)] = 1.0,
        per_class: Count | None = None,
        exclude: str | Path | None = None,
        exclude_test: bool = False,
        augmented: str | Path | None = None,
        expected_fingerprint: str | None = None,
        device: Literal["cpu", "trainer"] = "cpu",
        cache_dir: str | Path | None = None,
    ) -> None:
        super().__init__()
        self.batch_size, self.eval_batch_size = batch_size, eval_batch_size
        self.plan = SplitPlan(val_fraction, test_fraction, split_seed, folds, fold, fraction, per_class)
        self.seed = seed
        self.order: Order = order
        self.drop_last, self.eval_drop_last = drop_last, eval_drop_last
        self.watch_test = watch_test
        self.exclude, self.exclude_test = exclude, exclude_test
        self.augmented = augmented
        self.expected_fingerprint = expected_fingerprint
        self.device = device
        self.cache_dir = cache_folder(cache_dir)
        # on the Trainer's device, by the identity of the raw samples
        self._on_device: dict[int, tuple[Tensor, Tensor]] = {}
        self._arrays: RawDataset | None = None
        self._fingerprint: str | None = None

    def sample_text(self, x: Tensor) -> str:
        """Return one raw sample as text, for data that cannot be plotted."""
        values, most = x.flatten(), 60
        return " ".join(f"{value:.4g}" for value in values[:most].tolist()) + " …" * (len(values) > most)

    @abstractmethod
    def load(self) -> RawDataset:
        """Read or generate the whole data set; all heavy work is here."""

    def extra_training_samples(self) -> tuple[Tensor, Tensor] | None:
        """Return additional raw training samples x [M, …] and targets y [M], which take no part in the split."""
        return None

    def build_preprocess(self, x: SampleSource, train: Tensor) -> nn.Module:
        """Return the module that maps raw samples to model input; it may be fitted on ``x[train]`` only."""
        return nn.Identity()

    def build_split(self, arrays: RawDataset) -> dict[str, Tensor]:
        """Return the sorted indices of "train", "val" and "test"."""
        test_count = None if arrays.test is None else len(arrays.test[1])
        return split(arrays.y, self.plan, test_count, arrays.val, arrays.class_names)

    def setup(self, stage: str | None = None) -> None:
        """Load, split and fit the preprocessing; only the first call has an effect.

        Raises UserError if the data are missing or damaged, the split is impossible, or the fingerprint differs.
        """
        if self._arrays is not None:
            return
        arrays = self.load()
        if self.device == "trainer" and not isinstance(arrays.x, Tensor):
            raise UserError(
                f"data.device=trainer: {self.name} is decoded from files; use data.in_memory=true to decode it once, "
                "or data.device=cpu"
            )
        y_test = None if arrays.test is None else arrays.test[1]
        check_classes(arrays.y, y_test, arrays.class_names)
        self.splits = self.build_split(arrays)
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
        if self.order == "balanced" and (self.num_classes is None or arrays.y.ndim != 1):
            raise UserError(f"data.order=balanced: {self.name} has no classes; use shuffled")
        self._arrays = arrays
        if self.expected_fingerprint and self.expected_fingerprint != self.fingerprint():
            self._arrays = None
            raise UserError(
                f"data fingerprint mismatch: data.expected_fingerprint={self.expected_fingerprint}, but {self.name} with this "
                f"split and preprocessing has {self.fingerprint()}"
            )

    def _check_parts(self) -> None:
        """Raise UserError if dropping leaves a part without batches, or there is no test part to watch."""
        dropped = [("batch_size", "drop_last", "train", self.batch_size)] if self.drop_last else []
        if self.eval_drop_last:
            dropped += [("eval_batch_size", "eval_drop_last", part, self._eval_size) for part in ("val", "test")]
        for key, switch, part, size in dropped:
            samples = len(self.splits[part])
            if samples < size and (samples or part == "train"):
                name = {"train": "training", "val": "validation"}.get(part, part)
                raise UserError(
                    f"data.{key}={size} is more than the {samples} {name} samples, and data.{switch}=true "
                    f"drops the only batch: lower data.{key} or set data.{switch}=false"
                )
        if self.watch_test and not len(self.splits["test"]):
            raise UserError("data.watch_test=true, but there is no test part: set data.test_fraction or data.folds")

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
        """Return the sha256 (hex) of all raw values, the split and the preprocessing; calls `setup`."""
        if self._fingerprint is None:
            arrays = self.arrays
            self._fingerprint = combine_fingerprint(self._content(arrays), self.splits, self.preprocess)
        return self._fingerprint

    def content_fingerprint(self) -> str:
        """Return the sha256 (hex) of all raw values; calls `setup`."""
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
        """The raw data set; calls `setup`."""
        self.setup()
        assert self._arrays is not None
        return self._arrays

    @property
    def in_memory(self) -> bool:
        """Whether batches are read from memory, rather than decoded from files."""
        return isinstance(self.arrays.x, Tensor)

    @property
    def bytes_per_sample(self) -> int:
        """Raw bytes of one sample."""
        return math.prod(self.input_shape) * self.arrays.x.dtype.itemsize

    def steps_per_epoch(self, shares: int = 1) -> int:
        """Return the training batches per epoch of each of `shares` processes, independent of `chunk`."""
        how: Any = {"drop_last": self.drop_last, "drop_single": self.drop_single}
        return len(BatchSampler(self.splits["train"], self.batch_size, world_size=shares, **how))

    @property
    def bytes_in_memory(self) -> int:
        """Raw bytes of all samples and targets, including an official test part."""
        sets = [(self.arrays.x, self.arrays.y), *([self.arrays.test] if self.arrays.test else [])]
        return sum(len(x) * self.bytes_per_sample + y.nbytes for x, y in sets)

    def _to_device(self, device: torch.device, x: SampleSource, y: Tensor) -> tuple[Tensor, Tensor]:
        """Return samples and targets on `device`; they are moved once."""
        assert isinstance(x, Tensor)  # checked by `setup`
        if id(x) not in self._on_device:
            self._on_device[id(x)] = x.to(device), y.to(device)
        return self._on_device[id(x)]

    def example(self, count: int) -> Tensor:
        """Return the first `count` raw samples, [count, *input_shape]."""
        return self.arrays.x.index_select(0, torch.arange(count))

    def train_batch(self, count: int) -> Batch:
        """Return a batch of the first `count` training samples."""
        return BatchDataset(self.arrays.x, self.arrays.y)[self.splits["train"][:count]]

    def train_dataloader(self) -> DataLoader[Batch]:
        """Batches of the training part; `chunk` consecutive ones are concatenated to one item."""
        how: Any = {"drop_last": self.drop_last, "chunk": self.chunk, "drop_single": self.drop_single}
        if self.order == "balanced":
            how["labels"] = self.arrays.y[self.splits["train"]]
        return self._loader(self.arrays.x, self.arrays.y, "train", self.batch_size, self.order, **how)

    def val_parts(self) -> tuple[str, ...]:
        """Return the parts evaluated at validation, in the order of the loaders: with `watch_test` also the test part."""
        fitting = self.trainer is None or self.trainer.state.fn == "fit"
        val = ("val",) if len(self.splits["val"]) else ()
        return (*val, "test") if self.watch_test and fitting else val

    def val_dataloader(self) -> DataLoader[Batch] | list[object]:
        """Batches of the validation part in order, or a list with one loader for each of `val_parts`."""
        self.setup()
        return [self._eval_loader(part) for part in self.val_parts()] if self.watch_test else self._eval_loader("val")

    def test_dataloader(self) -> DataLoader[Batch] | list[object]:
        """Batches of the test part in order, or no loader if the part is empty."""
        return self._eval_loader("test")

    @property
    def _eval_size(self) -> int:
        return self.eval_batch_size or max(self.batch_size, 512)

    def _eval_loader(self, part: str) -> DataLoader[Batch] | list[object]:
        pool = self.arrays.x, self.arrays.y
        x, y = (self.arrays.test or pool) if part == "test" else pool
        if not len(self.splits[part]):
            return []
        return self._loader(x, y, part, self._eval_size, "sequential", drop_last=self.eval_drop_last)

    def _loader(
        self, x: SampleSource, y: Tensor, part: str, batch_size: int, order: Order, **how: Any
    ) -> DataLoader[Batch]:
        share = (self.trainer.distributed_sampler_kwargs if self.trainer else None) or {}  # None: one process
        device = self.trainer.strategy.root_device if self.trainer else torch.device("cpu")
        if self.device == "trainer":
            x, y = self._to_device(device, x, y)
        ranks = {"rank": share.get("rank", 0), "world_size": share.get("num_replicas", 1)}
        return DataLoader(
            BatchDataset(x, y),
            batch_size=None,
            sampler=BatchSampler(self.splits[part], batch_size, order, self.seed, **ranks, **how),
            generator=torch.Generator(),  # its own: a loader draws a seed for its workers from the global one
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
            pin_memory=device.type == "cuda" and self.device == "cpu",
        )
