"""Vocabularies of token models: characters, or byte pairs (BPE), fitted on a training text and recorded with the model."""

import hashlib
import json
from collections.abc import Sequence
from types import ModuleType

import numpy as np
import torch
from torch import Tensor, nn

from lightning_modules.config.errors import UserError
from lightning_modules.config.plain import PlainDict


class TokenVocabulary(nn.Module):
    """Maps texts to token ids and back; as a preprocessing it takes ids int [B, T] and returns them as int64.

    `token_characters` counts the characters of each token; those of a text add up to its length. Weights are only loaded
    beside the vocabulary that they were trained with.
    """

    token_characters: Tensor
    digest: Tensor
    unknown_id: int | None = None  # of the token that stands for what the training text does not have
    source = "data"  # where the text is from, for the message

    def __init__(self, tokens: Sequence[str], token_characters: Sequence[int]) -> None:
        super().__init__()
        self.tokens, self.size = list(tokens), len(tokens)
        self.register_buffer("token_characters", torch.tensor(list(token_characters), dtype=torch.int64))
        digest = hashlib.sha256(json.dumps(self.tokens).encode()).digest()
        self.register_buffer("digest", torch.tensor(list(digest), dtype=torch.uint8))
        self.register_load_state_dict_pre_hook(_refuse_other_vocabulary)

    def forward(self, x: Tensor) -> Tensor:
        return x.long()

    def to_ids(self, text: str) -> Tensor:
        """Return the token ids int32 [T] of a text."""
        raise NotImplementedError

    def to_text(self, ids: Tensor) -> str:
        """Return the text of token ids [T]."""
        raise NotImplementedError

    def unknown(self, text: str) -> list[str]:
        """Return the characters of a text that have no token."""
        return []

    def recipe(self) -> PlainDict:
        """Return the plain values from which ``hydra.utils.instantiate`` rebuilds this module; no ``$``, as in ``${…}``."""
        return {"_target_": f"{type(self).__module__}.{type(self).__qualname__}"}


def _refuse_other_vocabulary(module: TokenVocabulary, state_dict: PlainDict, prefix: str, *_: object) -> None:
    saved = state_dict.get(f"{prefix}digest")
    if saved is not None and not torch.equal(saved.cpu(), module.digest.cpu()):
        raise UserError(f"{module.source} has another vocabulary than the weights were trained with; use the same text")


class CharacterVocabulary(TokenVocabulary):
    """One token per character, in the order of `characters` (JSON), and with `unknown` one more for all others."""

    def __init__(self, characters: str, unknown: bool = False) -> None:
        self.characters: str = json.loads(characters)
        self.unknown_id = len(self.characters) if unknown else None
        tokens = [*self.characters, *["<unk>"] * unknown]
        super().__init__(tokens, [1] * len(tokens))

    def to_ids(self, text: str) -> Tensor:
        known, found = (np.frombuffer(part.encode("utf-32-le"), np.uint32) for part in (self.characters, text))
        order = known.argsort()
        ids = order[np.searchsorted(known, found, sorter=order).clip(max=len(known) - 1)]
        wrong = known[ids] != found
        if wrong.any() and self.unknown_id is None:
            raise UserError(f"the vocabulary lacks {' '.join(map(repr, self.unknown(text)[:10]))}")
        return torch.from_numpy(np.where(wrong, self.unknown_id or 0, ids).astype(np.int32))

    def to_text(self, ids: Tensor) -> str:
        return "".join(self.tokens[i] for i in ids.tolist())

    def unknown(self, text: str) -> list[str]:
        return sorted(set(text) - set(self.characters))

    def recipe(self) -> PlainDict:
        characters = json.dumps(self.characters).replace("$", "\\u0024")
        return {**super().recipe(), "characters": characters, "unknown": self.unknown_id is not None}


class BytePairVocabulary(TokenVocabulary):
    """Byte-level BPE (Radford et al. 2019), from the JSON of a ``tokenizers.Tokenizer``: no text is unknown."""

    def __init__(self, tokenizer: str) -> None:
        self.tokenizer = _tokenizers().Tokenizer.from_str(tokenizer)
        tokens = [str(self.tokenizer.id_to_token(i)) for i in range(self.tokenizer.get_vocab_size())]
        # a character starts at each byte that is not 10xxxxxx in UTF-8
        super().__init__(tokens, [sum(_BYTES[letter] & 0xC0 != 0x80 for letter in token) for token in tokens])

    def to_ids(self, text: str) -> Tensor:
        return torch.tensor(self.tokenizer.encode(text).ids, dtype=torch.int32)

    def to_text(self, ids: Tensor) -> str:
        return str(self.tokenizer.decode(ids.tolist()))

    def recipe(self) -> PlainDict:
        return {**super().recipe(), "tokenizer": self.tokenizer.to_str().replace("$", "\\u0024")}


def fit_characters(text: str, others: str = "") -> CharacterVocabulary:
    """Return the sorted characters of a training text; with an unknown one if texts that it is tested on have others."""
    known = sorted(set(text))
    return CharacterVocabulary(json.dumps("".join(known)), unknown=not set(others) <= set(known))


def fit_byte_pairs(text: str, vocab_size: int) -> BytePairVocabulary:
    """Train a byte-level BPE of `vocab_size` tokens (fewer if the text is small). Raises UserError without the library."""
    tokenizer = _tokenizers().ByteLevelBPETokenizer()
    tokenizer.train_from_iterator([text], vocab_size=vocab_size, show_progress=False)
    return BytePairVocabulary(tokenizer.to_str())


# GPT-2's alphabet: a letter for each byte, printable ones for themselves
_PRINTABLE = [*range(33, 127), *range(161, 173), *range(174, 256)]
_OTHERS = [byte for byte in range(256) if byte not in _PRINTABLE]
_BYTES = {chr(byte): byte for byte in _PRINTABLE} | {chr(256 + i): byte for i, byte in enumerate(_OTHERS)}


def _tokenizers() -> ModuleType:
    try:
        import tokenizers
    except ModuleNotFoundError as error:
        raise UserError("data.tokenizer=bpe needs tokenizers: pip install -e '.[text]'") from error
    return tokenizers
