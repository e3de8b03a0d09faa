"""Tokenizers: rule-based ones that need no fitting, and those of Hugging Face."""

import re
from collections.abc import Callable
from pathlib import Path

from lightning_modules.config.errors import UserError, suggest
from lightning_modules.model.hf_text_classifier import pretrained_tokenizer

Tokenizer = Callable[[str], list[str]]

_WORD_OR_PUNCTUATION = re.compile(r"'(?:s|t|m|d|re|ve|ll|em)\b|\w+(?:['’]\w+)*|[^\w\s]")
_DROPPED_CHARACTERS = re.compile(r"[^A-Za-z0-9(),!?'`]")
_CONTRACTION = re.compile(r"(?=n't|'s|'ve|'re|'d|'ll)")
_PUNCTUATION = re.compile(r"([(),!?])")


def words(text: str) -> list[str]:
    """Return lower-case words (inner apostrophes are kept) and punctuation marks."""
    return _WORD_OR_PUNCTUATION.findall(text.lower())


def kim2014(text: str) -> list[str]:
    """Return lower-case words, cleaned as in Kim 2014: letters, digits and ``(),!?'`` are kept.

    Contractions such as 's and n't and the marks ``(),!?`` are separate words. Full stops are dropped, and with them
    the ends of most sentences.
    """
    parted = _CONTRACTION.sub(" ", _DROPPED_CHARACTERS.sub(" ", text))
    return _PUNCTUATION.sub(r" \1 ", parted).lower().split()


def whitespace(text: str) -> list[str]:
    """Return the text split at white space."""
    return text.split()


TOKENIZERS: dict[str, Tokenizer] = {"words": words, "kim": kim2014, "spaces": whitespace}


def is_pretrained(name: str) -> bool:
    """Return whether `name` is a folder or a Hugging Face name, rather than one of `TOKENIZERS`."""
    return name not in TOKENIZERS and ("/" in name or Path(name).expanduser().is_dir())


def check_tokenizer(name: str) -> None:
    """Raise UserError if there is no tokenizer of that name."""
    if name not in TOKENIZERS and not is_pretrained(name):
        raise UserError(f"data.tokenizer={name}: {suggest(name, TOKENIZERS)} (or a Hugging Face tokenizer)")


def load_tokenizer(name: str, download: bool = False) -> Tokenizer:
    """Return the tokenizer `name`, or that of a pretrained tokenizer (without special tokens).

    Raises:
        UserError: there is no tokenizer of that name, or it is not available locally.
    """
    check_tokenizer(name)
    if name in TOKENIZERS:
        return TOKENIZERS[name]
    pretrained = pretrained_tokenizer(name, download)
    return lambda text: [str(piece) for piece in pretrained.tokenize(text)]
