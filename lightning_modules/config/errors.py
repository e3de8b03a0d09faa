"""UserError, the exception for a user's mistake: only its message is printed, and the exit code is 1; warnings."""

import errno
import logging
import sys
from collections.abc import Iterable
from difflib import get_close_matches


class UserError(Exception):
    """A wrong config, missing data, an unreachable server …: the message names the key or file and the alternatives.

    Args:
        step: the optimizer step of an error in training, so that of several ranks' errors the first is reported.
        transient: another attempt may succeed, as after a killed process, or with a server, a disk or memory.
    """

    def __init__(self, message: str, step: int = 0, transient: bool = False) -> None:
        super().__init__(message)
        self.step = step
        self.transient = transient


def first_line(error: BaseException) -> str:
    """The first line of an error's message; its type if it has none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def suggest(word: str, options: Iterable[str]) -> str:
    """Return ``did you mean 'a' or 'b'?``, or the list of all `options` if none is similar."""
    names = sorted({str(option) for option in options})
    return did_you_mean(word, names) or ("choose one of: " + ", ".join(names) if names else "none available")


def did_you_mean(word: str, options: Iterable[str]) -> str:
    """Return ``did you mean 'a' or 'b'?``, or an empty text if none is similar."""
    close = get_close_matches(word, sorted({str(option) for option in options}), n=3, cutoff=0.6)
    return "did you mean " + " or ".join(f"'{name}'" for name in close) + "?" if close else ""


def warn(text: str) -> None:
    """Print a warning on the terminal, and write it to the log of a recorded run."""
    print(text, file=sys.stderr, flush=True)
    if logging.getLogger().handlers:  # without handlers it would be printed again
        logging.getLogger(__name__).warning(text)


def disk_is_full(error: BaseException) -> bool:
    """Whether an error, or one in its chain of causes, says that the disk is full."""
    seen: set[int] = set()
    one: BaseException | None = error
    while one is not None and id(one) not in seen:
        seen.add(id(one))
        if getattr(one, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or "database or disk is full" in str(one):
            return True
        one = one.__cause__ or one.__context__
    return False
