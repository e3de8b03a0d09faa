"""Tokenizers of Hugging Face transformers (an optional extra); nothing is downloaded unless requested."""

from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from lightning_modules.config.errors import UserError, first_line


def import_transformers(needed_by: str) -> ModuleType:
    try:
        import transformers
    except ModuleNotFoundError as error:
        raise UserError(f"{needed_by} needs transformers: pip install -e '.[text]'") from error
    return transformers


def folder_or_name(name: str) -> str:
    folder = Path(name).expanduser()
    return str(folder) if folder.is_dir() else name


@cache
def pretrained_tokenizer(name: str, download: bool = False) -> Any:
    """Load a tokenizer from a folder, the local Hugging Face cache or, with `download`, from Hugging Face.

    Raises UserError if transformers is not installed, or the tokenizer was not found.
    """
    tokenizers = import_transformers(f"data.tokenizer={name}").AutoTokenizer
    try:
        return tokenizers.from_pretrained(folder_or_name(name), local_files_only=not download, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise UserError(
            f"data.tokenizer={name}: found neither as a folder nor in the local Hugging Face cache; set "
            f"data.download=true to download it ({first_line(error)})"
        ) from error
