"""The command line of verbs on a recorded run: ``RUN_ID KEY=VALUE …``."""

from collections.abc import Mapping, Sequence

from lightning_modules.errors import UserError, nearest


def read_words(words: Sequence[str], options: Mapping[str, str | None]) -> dict[str, str | None]:
    """The options with what the words set. Raises UserError for a word that sets none of them."""
    read = dict(options)
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or key not in options:
            wanted = f"write KEY=VALUE; {nearest(key, options)}" if not equals else nearest(key, options)
            raise UserError(f"{word}: there is no such option: {wanted}")
        if not value.strip():
            raise UserError(f"{key}=: the value is empty; give one, or leave the option out")
        read[key] = value
    return read


def truth(key: str, value: str | None) -> bool:
    """What ``true`` and ``false`` mean. Raises UserError for anything else."""
    if value not in ("true", "false"):
        raise UserError(f"{key}={value}: it can be: false, true")
    return value == "true"
