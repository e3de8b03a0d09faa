"""Any text file for language modelling: one stream of tokens, and windows of equal length from it."""

import gzip
import hashlib
import json
import math
import zlib
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from annotated_types import Ge
from torch import Tensor

from lightning_modules.config.bounds import Count, bounded
from lightning_modules.config.errors import UserError, first_line, warn
from lightning_modules.data.files import data_root
from lightning_modules.data.fingerprint import tensor_digest
from lightning_modules.data.in_memory import InMemoryData, RawDataset
from lightning_modules.data.preprocess import SampleSource
from lightning_modules.data.text_encoding import check_encoding
from lightning_modules.zoo.data.text_data import missing_files_error
from lightning_modules.zoo.data.token_vocabulary import TokenVocabulary, fit_byte_pairs, fit_characters


class PackedText(InMemoryData):
    """int32 [block], consecutive tokens; y, int32 [block], are the tokens that follow each of them.

    The text is split in its order: training, then validation, then test; no window crosses a border. Only the tokens are in
    memory: windows are views of them.

    Args:
        path: the file, also gzipped as `path`.gz; relative to the data root or absolute.
        root: data folder; default the environment's TOUCHSTONE_DATA, else ``data/`` of the project.
        block: tokens in a window.
        stride: tokens between the starts of two training windows; null: `block`, so that each token is a target once an
            epoch. Windows of validation and test do not overlap. An incomplete last window of a part is left out.
        tokenizer: ``characters``, or ``bpe``: `vocab_size` byte pairs. Both are fitted on the training text only.
        encoding: of the file.
        fraction: share of the training text that is used, from its start.
        others: as in `InMemoryData`; without folds and classes.
    """

    domain = "text"
    hint = "data.path names a text file"

    @bounded
    def __init__(
        self,
        *,
        path: str = "text.txt",
        root: str | Path | None = None,
        block: Count = 64,
        stride: Count | None = None,
        tokenizer: Literal["characters", "bpe"] = "characters",
        vocab_size: Annotated[int, Ge(257)] = 1024,
        encoding: str = "utf-8",
        **settings: Any,
    ) -> None:
        check_encoding(encoding)
        self.path, self.name = data_root(root) / Path(path).expanduser(), Path(path).stem
        self.block, self.stride, self._step = block, stride or block, math.gcd(block, stride or block)
        self.tokenizer, self.vocab_size, self.encoding = tokenizer, vocab_size, encoding
        super().__init__(**{"test_fraction": 0.0, **settings})
        if self.plan.folds or self.plan.per_class:
            raise UserError("data.folds and data.per_class: a text is split in its order; use data.fraction")

    def read(self) -> str:
        """Return the text. Raises UserError if the file is missing, damaged, empty or in another encoding."""
        places = [self.path, self.path.with_name(f"{self.path.name}.gz")]
        if (path := next((place for place in places if place.is_file()), None)) is None:
            raise missing_files_error(f"data={self.name}", places, self.hint)
        try:
            content = path.read_bytes()
            text = (gzip.decompress(content) if path.suffix == ".gz" else content).decode(self.encoding)
        except UnicodeDecodeError as error:
            where = f"byte {error.start}: {error.reason}"
            raise UserError(f"{path} is not {self.encoding} ({where}); set data.encoding, as in cp1252") from error
        except (OSError, EOFError, zlib.error) as error:
            raise UserError(f"{path} cannot be read: {first_line(error)}") from error
        if not text.strip():
            raise UserError(f"{path} is empty: expected a text")
        return text.removeprefix("\ufeff")

    def load(self) -> RawDataset:
        """Read the text, fit the vocabulary on its training part, and encode each part."""
        parts = self._split_text(self.read())
        self.vocabulary = self._fit_vocabulary(parts["train"], parts["val"] + parts["test"])
        ids = {part: self.vocabulary.to_ids(text) for part, text in parts.items()}
        for part, tokens in ids.items():
            if len(tokens) <= self.block and (part == "train" or parts[part]):
                raise UserError(
                    f"{self.path}: the {part} part has {len(tokens)} tokens, too few for a window of data.block={self.block} "
                    f"and its next token; use a longer text, a smaller data.block or other data.{part}_fraction"
                )
        self.num_tokens = {part: max(0, len(tokens) - 1) // self.block * self.block for part, tokens in ids.items()}
        self._streams = [torch.cat([t[i : i + self.num_tokens[part]] for part, t in ids.items()]) for i in (0, 1)]
        x, y = map(self._windows, self._streams)
        content = json.dumps(self.vocabulary.tokens) + tensor_digest(*ids.values())
        return RawDataset(x, y, content=hashlib.sha256(content.encode()).hexdigest())

    def _split_text(self, text: str) -> dict[str, str]:
        val, test = self.plan.val_fraction, self.plan.test_fraction
        trained, validated = int(len(text) * (1 - val - test)), int(len(text) * (1 - test))
        used = max(1, int(trained * self.plan.fraction))
        return {"train": text[:used], "val": text[trained:validated], "test": text[validated:]}

    def _fit_vocabulary(self, text: str, held_out: str) -> TokenVocabulary:
        bpe = self.tokenizer == "bpe"
        vocabulary = fit_byte_pairs(text, self.vocab_size) if bpe else fit_characters(text, held_out)
        vocabulary.source = str(self.path)
        if unknown := vocabulary.unknown(held_out):
            listed = " ".join(map(repr, unknown[:10])) + " …" * (len(unknown) > 10)
            warn(f"{self.path}: train lacks {len(unknown)} characters of val and test, now unknown: {listed}")
        return vocabulary

    def _windows(self, stream: Tensor) -> Tensor:
        """Windows [N, block] of a stream of tokens, as views."""
        return stream.unfold(0, self.block, self._step)

    def build_split(self, arrays: RawDataset) -> dict[str, Tensor]:
        """Return the windows of each part."""
        first, splits = 0, {}
        for part, count in self.num_tokens.items():
            stride, last = self.stride if part == "train" else self.block, first + count - self.block
            splits[part] = torch.arange(first, last + 1, stride) // self._step if count else torch.arange(0)
            first += count
        return splits

    def build_preprocess(self, x: SampleSource, train: Tensor) -> TokenVocabulary:
        """Return the vocabulary, which is recorded with the model."""
        return self.vocabulary

    def _describe_classes(self, arrays: RawDataset, train: Tensor) -> None:
        self.num_classes, self.class_names, self.class_counts = None, None, None
        self.num_targets = self.vocabulary.size  # outputs of a model

    def _to_device(self, device: torch.device, x: SampleSource, y: Tensor) -> tuple[Tensor, Tensor]:
        """Move the tokens, not their windows."""
        if id(x) not in self._on_device:
            inputs, targets = self._streams
            self._on_device[id(x)] = self._windows(inputs.to(device)), self._windows(targets.to(device))
        return self._on_device[id(x)]

    @property
    def bytes_in_memory(self) -> int:
        """Bytes of the tokens and of their targets."""
        return sum(stream.nbytes for stream in self._streams)

    def sample_text(self, x: Tensor) -> str:
        """Return the text of one raw sample."""
        return self.vocabulary.to_text(x)


class TinyShakespeare(PackedText):
    """Karpathy's tiny_shakespeare: 1,115,394 characters of 65 kinds from Shakespeare's plays."""

    hint = "It is data/tinyshakespeare/input.txt of the repository karpathy/char-rnn"

    def __init__(self, *, path: str = "tiny_shakespeare/input.txt", **settings: Any) -> None:
        super().__init__(path=path, **settings)
        self.name = "tiny_shakespeare"
