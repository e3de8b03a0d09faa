"""Parallel text for translation: pairs of sentences in batches of similar length. Longer than 200 lines: two data sets."""

import gzip
import hashlib
import json
import zlib
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from annotated_types import Ge, Le
from torch import Tensor
from torch.utils.data import DataLoader

from lightning_modules.config.bounds import Count, bounded
from lightning_modules.config.errors import UserError, first_line, warn
from lightning_modules.data.batch_sampler import BatchSampler, Order
from lightning_modules.data.files import data_root
from lightning_modules.data.fingerprint import tensor_digest
from lightning_modules.data.in_memory import Batch, BatchDataset, InMemoryData, RawDataset
from lightning_modules.data.preprocess import SampleSource
from lightning_modules.data.split import split
from lightning_modules.zoo.data.sentence_pairs import (
    PAD,
    SPECIAL,
    SentencePairs,
    decoder_input,
    fit_words,
    from_bytes,
    pad,
    to_bytes,
)
from lightning_modules.zoo.data.text_data import missing_files_error
from lightning_modules.zoo.data.token_vocabulary import TokenVocabulary, fit_byte_pairs
from lightning_modules.zoo.task.token_metrics import IGNORED

Pairs = list[tuple[str, str]]


class BucketSampler(BatchSampler):
    """A `BatchSampler` whose batches have samples of similar length: the order is sorted by length within pools.

    A pool is `pool` batches; then the batches are shuffled. A sequential order is sorted as a whole.
    """

    def __init__(self, indices: Tensor, lengths: Tensor, pool: int, *args: Any, **settings: Any) -> None:
        super().__init__(indices, *args, **settings)
        self.lengths, self.pool = lengths, pool

    def _ordered(self) -> Tensor:
        ordered, step = super()._ordered(), self.batch_size * self.world_size
        if self.drop_last:  # before sorting: else the longest would never be trained on
            ordered = ordered[: len(ordered) // step * step]
        size = len(ordered) if self.order == "sequential" else step * self.pool
        ordered = torch.cat([part[self.lengths[part].argsort(stable=True)] for part in ordered.split(max(1, size))])
        whole = len(ordered) // step  # a last, smaller batch stays the last
        if self.order == "sequential" or whole < 2:
            return ordered
        stream = [self.seed, self.epoch, 1] if self.order == "shuffled" else [self.seed, 1]
        shuffled = torch.from_numpy(np.random.RandomState(stream).permutation(whole))
        batches = ordered[: whole * step].reshape(whole, step)[shuffled].flatten()
        return torch.cat([batches, ordered[whole * step :]])


class PairBatches(BatchDataset):
    """Batches without the columns that all of their samples pad; with the UTF-8 of the target texts in evaluation."""

    def __init__(self, x: SampleSource, y: Tensor, references: Tensor | None) -> None:
        super().__init__(x, y)
        self.references = references

    def __getitem__(self, index: Tensor) -> Batch:
        batch = super().__getitem__(index)
        width = int((batch["x"] != PAD).any(1).any(0).sum())
        batch |= {"x": batch["x"][:, :, :width], "y": batch["y"][:, :width]}
        if self.references is not None:
            batch["reference"] = self.references.index_select(0, index)
        return batch


class ParallelText(InMemoryData):
    """int32 [2, T], see `SentencePairs`; y, int32 [T], is the target and EOS, padded with -100.

    Each part is two files with a sentence a line, ``train.de`` and ``train.en``, also gzipped. Without files of their own,
    validation and test are split off by their fractions. Pairs with an empty side are left out, and training pairs that are
    longer than `max_length`; held-out ones are truncated, but compared to the whole text. Warnings count both.

    Args:
        path: folder of the files; relative to the data root or absolute.
        source, target: suffixes of the files of the two languages.
        train, val, test: names of the parts' files; null: none.
        root: data folder; default the environment's TOUCHSTONE_DATA, else ``data/`` of the project.
        tokenizer: ``words``, or ``bpe``: `vocab_size` byte pairs of each language. Fitted on the training part.
        min_count: words that occur less often are unknown.
        lowercase: whether texts are lower-cased, also those that metrics are computed with.
        max_length: tokens of a sentence, with its end; null: the longest.
        pool: batches whose samples are sorted by length together; 1: no sorting across batches.
        others: as in `InMemoryData`; without classes.
    """

    domain = "text"
    hint = (
        "data.path names a folder; data.train, data.source and data.target its files; data.val=null and data.test=null: none "
        "of that part"
    )

    @bounded
    def __init__(
        self,
        *,
        path: str = "parallel",
        source: str = "de",
        target: str = "en",
        train: str = "train",
        val: str | None = "val",
        test: str | None = "test",
        root: str | Path | None = None,
        tokenizer: Literal["words", "bpe"] = "words",
        vocab_size: Annotated[int, Ge(257)] = 8000,
        min_count: Count = 1,
        lowercase: bool = False,
        max_length: Annotated[int, Ge(2)] | None = None,
        pool: Count = 100,
        **settings: Any,
    ) -> None:
        self.folder, self.name = data_root(root) / Path(path).expanduser(), Path(path).name
        self.source, self.target, self.parts = source, target, {"train": train, "val": val, "test": test}
        self.tokenizer, self.vocab_size, self.min_count, self.lowercase = tokenizer, vocab_size, min_count, lowercase
        self.max_length, self.pool = max_length, pool
        super().__init__(**{"test_fraction": 0.0, **settings})
        if self.plan.per_class:
            raise UserError("data.per_class: sentences have no classes; use data.fraction")
        if self.device == "trainer":
            raise UserError("data.device=trainer: batches of sentences have different lengths; use data.device=cpu")

    # --- reading -----------------------------------------------------------------------------------------------
    def read(self, part: str) -> Pairs | None:
        """Return the pairs of a part; None if it has no file. Raises UserError for missing and damaged files."""
        if (name := self.parts[part]) is None:
            return None
        first, second = (self._find(f"{name}.{suffix}") for suffix in (self.source, self.target))
        texts = _lines(first), _lines(second)
        if len(texts[0]) != len(texts[1]):
            raise UserError(
                f"{second} has {len(texts[1])} lines, but {first} has {len(texts[0])}: expected pairs of lines"
            )
        pairs = list(zip(*texts, strict=True))
        empty = [number for number, pair in enumerate(pairs, 1) if not all(text.strip() for text in pair)]
        if len(empty) == len(pairs):
            raise UserError(f"{first} has no pair of sentences")
        if empty:
            warn(f"{first}: {len(empty)} pairs with an empty side are left out; the first is on line {empty[0]}")
        return [pair for pair in pairs if all(text.strip() for text in pair)]

    def _find(self, name: str) -> Path:
        places = [self.folder / name, self.folder / f"{name}.gz"]
        if (found := next((place for place in places if place.is_file()), None)) is None:
            raise missing_files_error(f"data={self.name}", places, self.hint)
        return found

    def load(self) -> RawDataset:
        """Read the pairs, fit the vocabularies on the training part, and encode all."""
        train, val, test = (self.read(part) for part in self.parts)
        pool = [*(train or []), *(val or [])]
        official = torch.arange(len(train or []), len(pool)) if val is not None else None
        self._splits = split(torch.zeros(len(pool)), self.plan, None if test is None else len(test), official)
        columns = [list(zip(*pairs, strict=True)) for pairs in (pool, *([test] if test is not None else []))]
        cased = [[[text.lower() if self.lowercase else text for text in side] for side in both] for both in columns]
        trained = self._splits["train"].tolist()
        source, target = (self._fit_vocabulary([side[i] for i in trained]) for side in cased[0])
        self.pairs = SentencePairs(source, target, self.lowercase)
        ids = [(self.pairs.source_ids(both[0]), self.pairs.target_ids(both[1])) for both in cased]
        longest = max(len(row) for both in ids for side in both for row in side)
        self.length = min(self.max_length or longest, longest)
        self._check(ids)
        arrays = [self._pad(*both) for both in ids]
        self.references = [to_bytes(both[1]) for both in cased]
        content = json.dumps([source.tokens, target.tokens]) + tensor_digest(*chain(*arrays), *self.references)
        return RawDataset(
            *arrays[0],
            test=arrays[1] if len(arrays) > 1 else None,
            content=hashlib.sha256(content.encode()).hexdigest(),
        )

    def _fit_vocabulary(self, texts: Sequence[str]) -> TokenVocabulary:
        bpe = self.tokenizer == "bpe"
        vocabulary = fit_byte_pairs("\n".join(texts), self.vocab_size) if bpe else fit_words(texts, self.min_count)
        vocabulary.source = str(self.folder)
        return vocabulary

    def _check(self, ids: Sequence[tuple[list[Tensor], list[Tensor]]]) -> None:
        """Leave training pairs out that are too long; warn of them, and of what is truncated or unknown in other parts."""
        long = [torch.tensor([max(map(len, pair)) > self.length for pair in zip(*both, strict=True)]) for both in ids]
        train, held = self._splits["train"], self._splits["val"]
        held = torch.cat([held, self._splits["test"]]) if len(ids) == 1 else held  # of the pool
        self._splits["train"] = kept = train[~long[0][train]]
        left_out, cut = len(train) - len(kept), int(long[0][held].sum()) + sum(int(part.sum()) for part in long[1:])
        if not len(kept):
            raise UserError(f"data.max_length={self.length}: all {len(train)} training pairs are longer")
        if left_out or cut:
            warn(
                f"{self.folder}: {left_out} training pairs longer than data.max_length={self.length} tokens are left out, {cut} "
                "of validation and test truncated"
            )
        held_out = torch.cat(
            [*(ids[0][0][i] for i in held.tolist()), *(row for both in ids[1:] for row in both[0]), kept[:0]]
        )
        if count := int((held_out == self.pairs.unknown_source).sum()):
            warn(
                f"{self.folder}: {count} of {len(held_out)} source tokens of val and test are unknown to the training part"
            )

    def _pad(self, source: list[Tensor], target: list[Tensor]) -> tuple[Tensor, Tensor]:
        y = pad(target, self.length)
        return torch.stack([pad(source, self.length), decoder_input(y)], 1), y.where(y != PAD, IGNORED)

    # --- the data set ------------------------------------------------------------------------------------------
    def build_split(self, arrays: RawDataset) -> dict[str, Tensor]:
        """Return the split on whose training part the vocabularies were fitted."""
        return self._splits

    def build_preprocess(self, x: SampleSource, train: Tensor) -> SentencePairs:
        """Return the vocabularies, which are recorded with the model."""
        return self.pairs

    def _describe_classes(self, arrays: RawDataset, train: Tensor) -> None:
        self.num_classes, self.class_names, self.class_counts = None, None, None
        self.num_targets = self.pairs.target.size + SPECIAL  # outputs of a model

    def model_settings(self) -> dict[str, int]:
        """Return the size of the source vocabulary, which models need beside the shapes."""
        return {"num_sources": self.pairs.source.size + SPECIAL}

    def sample_text(self, x: Tensor) -> str:
        """Return the source text of one raw sample."""
        return self.pairs.source.to_text(x[0][x[0] >= SPECIAL] - SPECIAL)

    def reference(self, part: str, index: int) -> str:
        """Return the target text of a sample."""
        return from_bytes(self._references(part)[index])

    def _references(self, part: str) -> Tensor:
        return self.references[part == "test" and len(self.references) > 1]

    def _loader(
        self, x: SampleSource, y: Tensor, part: str, batch_size: int, order: Order, **how: Any
    ) -> DataLoader[Batch]:
        share = (self.trainer.distributed_sampler_kwargs if self.trainer else None) or {}  # None: one process
        ranks = {"rank": share.get("rank", 0), "world_size": share.get("num_replicas", 1)}
        tokens = (x.index_select(0, torch.arange(len(x))) != PAD).sum(2)
        # by the source, then by the target: upwards and downwards in turn, so that neighbours are similar in both
        lengths = tokens[:, 0] * 2**20 + tokens[:, 1] * (1 - 2 * (tokens[:, 0] % 2))
        return DataLoader(
            PairBatches(x, y, None if part == "train" else self._references(part)),
            batch_size=None,
            sampler=BucketSampler(self.splits[part], lengths, self.pool, batch_size, order, self.seed, **ranks, **how),
            generator=torch.Generator(),  # its own: a loader draws a seed for its workers from the global one
        )


def _lines(path: Path) -> list[str]:
    try:
        content = path.read_bytes()
        text = (gzip.decompress(content) if path.suffix == ".gz" else content).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise UserError(f"{path}, line {line}: expected UTF-8 ({error.reason})") from error
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path} cannot be read: {first_line(error)}") from error
    lines = text.replace("\r\n", "\n").split("\n")
    return lines if lines[-1] else lines[:-1]


class Multi30k(ParallelText):
    """Multi30k task 1 (Elliott et al. 2016): 29,000, 1,014 and 1,000 captions of images in English, German and French."""

    hint = "They are data/task1/raw/*.gz of the repository multi30k/dataset"

    def __init__(self, *, path: str = "multi30k", test: str | None = "test_2016_flickr", **settings: Any) -> None:
        super().__init__(path=path, test=test, **settings)


class SequencePairs(ParallelText):
    """Generated: strings of letters and their copy, or reversed; no two are equal.

    Args:
        kind: what the target is.
        count: of pairs; a tenth is validation, a tenth test.
        letters: size of the alphabet.
        longest: letters of the longest; the shortest has one.
    """

    @bounded
    def __init__(
        self,
        *,
        kind: Literal["copy", "reverse"] = "reverse",
        count: Annotated[int, Ge(20)] = 5000,
        letters: Annotated[int, Ge(2), Le(26)] = 10,
        longest: Count = 8,
        **settings: Any,
    ) -> None:
        self.kind, self.count, self.letters, self.longest = kind, count, letters, longest
        super().__init__(path=kind, val=None, test=None, **{"test_fraction": 0.1, **settings})

    def read(self, part: str) -> Pairs | None:
        if part != "train":
            return None
        possible = sum(self.letters**length for length in range(1, self.longest + 1))
        if self.count > possible // 2:
            raise UserError(f"data.count={self.count}: there are {possible} strings; use more letters or longer ones")
        random, found = np.random.RandomState([self.plan.split_seed, 30]), dict[str, None]()
        while len(found) < self.count:
            drawn = random.randint(self.letters, size=random.randint(1, self.longest + 1))
            found[" ".join(chr(ord("a") + letter) for letter in drawn)] = None
        return [(text, text if self.kind == "copy" else text[::-1]) for text in found]
