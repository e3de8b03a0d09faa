"""From a text to its words: ways of cutting that need no fitting, or the pieces of a Hugging Face tokenizer."""

import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from lightning_modules.config.errors import UserError, suggest

Tokenizer = Callable[[str], list[str]]

_WORD_OR_PUNCTUATION = re.compile(r"'(?:s|t|m|d|re|ve|ll|em)\b|\w+(?:['’]\w+)*|[^\w\s]")
_DROPPED_CHARACTERS = re.compile(r"[^A-Za-z0-9(),!?'`]")
_CONTRACTION = re.compile(r"(?=n't|'s|'ve|'re|'d|'ll)")
_PUNCTUATION = re.compile(r"([(),!?])")


def words(text: str) -> list[str]:
    """Lower-case words, which keep an apostrophe within them, and each mark of punctuation by itself."""
    return _WORD_OR_PUNCTUATION.findall(text.lower())


def kim2014(text: str) -> list[str]:
    """As Kim 2014 cleans sentences: letters, digits and ``(),!?'`` are kept.

    Endings such as 's and n't are parted from their words, and the marks ``(),!?`` stand alone. Full stops are lost
    with it, and so are the ends of most sentences.
    """
    parted = _CONTRACTION.sub(" ", _DROPPED_CHARACTERS.sub(" ", text))
    return _PUNCTUATION.sub(r" \1 ", parted).lower().split()


def whitespace(text: str) -> list[str]:
    """What stands between white space, as it is."""
    return text.split()


TOKENIZERS: dict[str, Tokenizer] = {"words": words, "kim": kim2014, "spaces": whitespace}


def is_pretrained(name: str) -> bool:
    """Whether `name` is a folder or a name at Hugging Face rather than one of `TOKENIZERS`."""
    return name not in TOKENIZERS and ("/" in name or Path(name).expanduser().is_dir())


def load_tokenizer(name: str, download: bool = False) -> Tokenizer:
    """The way of cutting called `name`, or the pieces of a pretrained tokenizer, without its special tokens.

    Raises:
        UserError: there is none of that name, or it is not on this machine.
    """
    if name in TOKENIZERS:
        return TOKENIZERS[name]
    if not is_pretrained(name):
        raise UserError(
            f"data.tokenizer={name}: {suggest(name, TOKENIZERS)} (or the folder of a Hugging Face tokenizer)"
        )
    pretrained = pretrained_tokenizer(name, download)
    return lambda text: [str(piece) for piece in pretrained.tokenize(text)]


@cache
def pretrained_tokenizer(name: str, download: bool = False) -> Any:
    """The tokenizer in a folder, in the local Hugging Face cache or, where `download` says so, at Hugging Face.

    Raises:
        UserError: transformers is not installed, or the tokenizer is not there.
    """
    try:
        from transformers import AutoTokenizer
    except ModuleNotFoundError as error:
        raise UserError(f"data.tokenizer={name} needs transformers: pip install -e '.[text]'") from error
    place = str(Path(name).expanduser()) if Path(name).expanduser().is_dir() else name
    try:
        return AutoTokenizer.from_pretrained(place, local_files_only=not download, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise UserError(
            f"data.tokenizer={name}: no tokenizer in a folder of that name, nor in the local Hugging Face cache, and "
            f"nothing is downloaded unless data.download=true ({str(error).splitlines()[0]})"
        ) from error
