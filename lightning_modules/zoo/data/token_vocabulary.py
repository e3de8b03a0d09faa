"""Vocabularies of token models: characters, or byte pairs (BPE), fitted on a training text and recorded with the model."""

import hashlib
import json
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lightning_modules.config.errors import UserError

MIN_BPE = 257  # the bytes, and a pair
UNKNOWN = "<unk>"


class TokenVocabulary(nn.Module):
    """Maps texts to token ids and back; as a preprocessing it takes ids int [B, T] and returns them as int64.

    `token_characters` int64 [V] is the number of characters of each token: those of a text add up to its length. Weights
    are only loaded beside the vocabulary that they were trained with.
    """

    token_characters: Tensor
    digest: Tensor
    unknown_id: int | None = None  # of the token that stands for what the training text does not have
    source = "data"  # where the tokens are from, for the message

    def __init__(self, token_characters: Sequence[int]) -> None:
        super().__init__()
        self.register_buffer("token_characters", torch.tensor(list(token_characters), dtype=torch.int64))
        digest = hashlib.sha256(json.dumps(self.recipe(), sort_keys=True).encode()).digest()
        self.register_buffer("digest", torch.tensor(list(digest), dtype=torch.uint8))

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *more: Any) -> None:
        saved = state_dict.get(f"{prefix}digest")
        if saved is not None and not torch.equal(saved.cpu(), self.digest.cpu()):
            raise UserError(
                f"{self.source} has another vocabulary than the weights were trained with; use the text of the training"
            )
        super()._load_from_state_dict(state_dict, prefix, *more)

    @property
    def size(self) -> int:
        """Number of tokens."""
        return len(self.token_characters)

    def forward(self, x: Tensor) -> Tensor:
        return x.long()

    @property
    @abstractmethod
    def tokens(self) -> list[str]:
        """The tokens by id."""

    @abstractmethod
    def to_ids(self, text: str) -> Tensor:
        """Return the token ids int32 [T] of a text."""

    @abstractmethod
    def to_text(self, ids: Tensor) -> str:
        """Return the text of token ids [T]."""

    @abstractmethod
    def recipe(self) -> dict[str, Any]:
        """Return the plain values from which ``hydra.utils.instantiate`` rebuilds this module."""

    def unknown(self, text: str) -> list[str]:
        """Return the characters of a text that have no token."""
        return []


class CharacterVocabulary(TokenVocabulary):
    """One token per character, in the order of `characters`, and with `unknown` one more for all others.

    Args:
        characters: the JSON of a text: OmegaConf would interpret ``${…}``.
    """

    def __init__(self, characters: str, unknown: bool = False) -> None:
        self.characters: str = json.loads(characters)
        count = len(self.characters)
        self.unknown_id = count if unknown else None
        super().__init__([1] * (count + unknown))

    def to_ids(self, text: str) -> Tensor:
        known, found = _code_points(self.characters), _code_points(text)
        order = known.argsort()
        ids = order[np.searchsorted(known, found, sorter=order).clip(max=len(known) - 1)]
        wrong = known[ids] != found
        if wrong.any() and self.unknown_id is None:
            raise UserError(f"the vocabulary lacks {' '.join(map(repr, self.unknown(text)[:10]))}")
        return torch.from_numpy(np.where(wrong, self.unknown_id or 0, ids).astype(np.int32))

    @property
    def tokens(self) -> list[str]:
        return [*self.characters, UNKNOWN][: self.size]

    def to_text(self, ids: Tensor) -> str:
        tokens = self.tokens
        return "".join(tokens[i] for i in ids.tolist())

    def unknown(self, text: str) -> list[str]:
        return sorted(set(text) - set(self.characters))

    def recipe(self) -> dict[str, Any]:
        characters = json.dumps(self.characters).replace("$", "\\u0024")
        return {"_target_": _name(self), "characters": characters, "unknown": self.unknown_id is not None}


class BytePairVocabulary(TokenVocabulary):
    """Byte-level BPE (Sennrich et al. 2016; Radford et al. 2019) of the library tokenizers: no text is unknown.

    Args:
        tokenizer: the JSON of a ``tokenizers.Tokenizer``.
    """

    def __init__(self, tokenizer: str) -> None:
        self.tokenizer = _tokenizers().Tokenizer.from_str(tokenizer)
        super().__init__([sum(map(_starts_character, token)) for token in self.tokens])

    @property
    def tokens(self) -> list[str]:
        return [str(self.tokenizer.id_to_token(i)) for i in range(self.tokenizer.get_vocab_size())]

    def to_ids(self, text: str) -> Tensor:
        return torch.tensor(self.tokenizer.encode(text).ids, dtype=torch.int32)

    def to_text(self, ids: Tensor) -> str:
        return str(self.tokenizer.decode(ids.tolist()))

    def recipe(self) -> dict[str, Any]:
        return {"_target_": _name(self), "tokenizer": self.tokenizer.to_str().replace("$", "\\u0024")}

    def __deepcopy__(self, memo: dict[int, Any]) -> "BytePairVocabulary":
        return BytePairVocabulary(self.tokenizer.to_str()).to(self.token_characters.device)


def fit_characters(text: str, others: str = "") -> CharacterVocabulary:
    """Return the sorted characters of a training text; with an unknown one if texts that it is tested on have others."""
    known = sorted(set(text))
    return CharacterVocabulary(json.dumps("".join(known)), unknown=not set(others) <= set(known))


def fit_byte_pairs(text: str, vocab_size: int) -> BytePairVocabulary:
    """Train a byte-level BPE of `vocab_size` tokens (fewer if the text is small). Raises UserError without the library."""
    library = _tokenizers()
    tokenizer = library.Tokenizer(library.models.BPE())
    tokenizer.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = library.decoders.ByteLevel()
    alphabet = library.pre_tokenizers.ByteLevel.alphabet()
    trainer = library.trainers.BpeTrainer(vocab_size=vocab_size, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator([text], trainer)
    return BytePairVocabulary(tokenizer.to_str())


def _name(module: nn.Module) -> str:
    return f"{type(module).__module__}.{type(module).__qualname__}"


def _code_points(text: str) -> np.ndarray:
    return np.frombuffer(text.encode("utf-32-le"), np.uint32)


def _starts_character(letter: str) -> bool:
    """Whether a letter of GPT-2's byte alphabet is the first byte of a UTF-8 character."""
    return _BYTES[letter] & 0xC0 != 0x80


_PRINTABLE = [*range(33, 127), *range(161, 173), *range(174, 256)]  # these bytes stand for themselves
_BYTES = {chr(b): b for b in _PRINTABLE} | {
    chr(256 + i): b for i, b in enumerate(b for b in range(256) if b not in _PRINTABLE)
}


def _tokenizers() -> Any:
    try:
        import tokenizers
    except ModuleNotFoundError as error:
        raise UserError("data.tokenizer=bpe needs tokenizers: pip install -e '.[text]'") from error
    return tokenizers
