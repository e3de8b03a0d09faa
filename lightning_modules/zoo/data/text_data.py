"""Base datamodule of texts; subclasses read the texts and their targets."""

import hashlib
import warnings
from abc import abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lightning_modules.config.bounds import Count, bounded
from lightning_modules.config.errors import UserError
from lightning_modules.data.files import data_root
from lightning_modules.data.fingerprint import tensor_digest
from lightning_modules.data.in_memory import InMemoryData, RawDataset
from lightning_modules.data.preprocess import SampleSource
from lightning_modules.zoo.data.vocabulary import (
    Vocabulary,
    build_word_ids,
    check_tokenizer,
    decode,
    encode,
    fit_vocabulary_ids,
    is_pretrained,
    load_tokenizer,
    pretrained_ids,
)


@dataclass
class Texts:
    """Texts with targets int64 [N] or float32 [N]; `test` is an official test part, `val` indices of a validation part."""

    texts: list[str]
    y: Tensor
    test: "Texts | None" = None
    class_names: list[str] | None = None
    val: Tensor | None = None


class TextData(InMemoryData):
    """int32 [L], word ids in order of first appearance, zero-padded; L is the longest text, or `max_length`.

    The raw ids are lossless; the vocabulary of the model is fitted on the training part (`min_count`, `max_words`).

    Args:
        root: data folder; default the environment's TOUCHSTONE_DATA, else ``data/`` of the project.
        tokenizer: "words", "kim", "spaces", or the folder or name of a Hugging Face tokenizer.
        max_length: words per text; longer texts are truncated and counted in `num_truncated_texts`.
        min_count: words that are rarer in the training part become the unknown word.
        max_words: vocabulary size, keeping the most frequent words; null keeps all.
        download: allow downloading a tokenizer from Hugging Face.
    """

    domain = "text"

    @bounded
    def __init__(
        self,
        *,
        root: str | Path | None = None,
        tokenizer: str = "words",
        max_length: Count | None = None,
        min_count: Count = 1,
        max_words: Count | None = None,
        download: bool = False,
        **settings: Any,
    ) -> None:
        check_tokenizer(tokenizer)
        self.root = data_root(root)
        self.tokenizer, self.download = tokenizer, download
        self.max_length, self.min_count, self.max_words = max_length, min_count, max_words
        self.words: list[str] = []
        self.num_truncated_texts = 0
        super().__init__(**settings)

    @abstractmethod
    def read(self) -> Texts:
        """Find and read the texts. Raises UserError if they are missing or damaged."""

    def load(self) -> RawDataset:
        """Read the texts and encode them."""
        given = self.read()
        cut = load_tokenizer(self.tokenizer, self.download)
        parts = [[cut(text) for text in part.texts] for part in (given, given.test) if part is not None]
        ids = build_word_ids(text for part in parts for text in part)
        self.words = list(ids)
        longest = max((len(text) for part in parts for text in part), default=0)
        length = max(1, min(longest, self.max_length or longest))
        self.num_truncated_texts = sum(len(text) > length for part in parts for text in part)
        if self.num_truncated_texts:
            total = sum(len(part) for part in parts)
            cut_texts = f"data.max_length={length} truncates {self.num_truncated_texts} of {total} texts"
            warnings.warn(f"{cut_texts}; the longest has {longest} words", stacklevel=2)
        x, *rest = (encode(part, ids, length) for part in parts)
        test = (rest[0], given.test.y) if given.test is not None else None
        content = "\0".join(self.words) + tensor_digest(x, given.y, *(test or ()))
        digest = hashlib.sha256(content.encode()).hexdigest()
        return RawDataset(x, given.y, test=test, class_names=given.class_names, val=given.val, content=digest)

    def build_preprocess(self, x: SampleSource, train: Tensor) -> nn.Module:
        """Map to the vocabulary of the training part, or to the ids of a pretrained tokenizer."""
        count, length = len(self.words), x.shape[1]
        if is_pretrained(self.tokenizer):
            ids = pretrained_ids(self.words, self.tokenizer, self.download)
        else:
            ids = fit_vocabulary_ids(x.index_select(0, train), count, self.min_count, self.max_words)
        return Vocabulary(self.words, ids, self.tokenizer, length)

    def model_settings(self) -> dict[str, object]:
        """Return the arguments a text model takes from the data: vocabulary size and pretrained tokenizer."""
        self.setup()
        assert isinstance(self.preprocess, Vocabulary)
        named = {"name": self.tokenizer} if is_pretrained(self.tokenizer) else {}
        return {"vocab_size": self.preprocess.size, **named}

    @property
    def unknown_id(self) -> int:
        """The raw id of a word that is not in the corpus, used by transforms that hide words."""
        return len(self.words) + 1

    def sample_text(self, x: Tensor) -> str:
        """Return the words of one raw sample."""
        return decode(x, self.words)


def encode_classes(labels: list[str]) -> tuple[Tensor, list[str]]:
    """Return class indices int64 [N] and the sorted class names."""
    names = sorted(set(labels))
    number = {name: i for i, name in enumerate(names)}
    return torch.tensor([number[label] for label in labels]), names


def missing_files_error(what: str, looked: list[Path], get: str) -> UserError:
    """Return the error for missing files: searched paths and how to get the data set."""
    places = "\n".join(f"  {place}" for place in looked)
    return UserError(
        f"{what}: the texts were not found; searched\n{places}\n{get}\ndata.root or TOUCHSTONE_DATA sets another folder"
    )
