"""The arguments of a verb: targets and ``KEY=VALUE``, declared as the annotated parameters of its function.

>>> @verb("RUN… [KEY=VALUE …]", ("3e782338 metric=val/loss",))
... def main(
...     targets: Annotated[list[str], "id, its first 6 or more characters, or name"],
...     metric: Annotated[str | None, "metric to compare"] = None,
... ) -> None:
...     "Compare runs."
>>> main(["3e782338", "metric=val/loss"])
"""

import functools
import inspect
import re
import sys
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, get_args, get_origin, get_type_hints

from lightning_modules.config.errors import UserError, suggest
from lightning_modules.config.plain import PlainDict

POSITIONAL = ("targets", "target")  # parameters that take the words without a key
MORE = "runs"  # a parameter of this name beside `target` takes the further words
OVERRIDES = "overrides"  # a parameter of this name takes every KEY=VALUE that is not another one
RUN_NAME = re.compile(r"[\w.]+=\S*( [\w.]+=\S*)+")  # of a trial
REQUIRED = inspect.Parameter.empty


class Argument(NamedTuple):
    """One argument: its parameter, its type, its default (`REQUIRED` if there is none) and its help."""

    parameter: str
    type: object
    default: object
    text: str


@dataclass(frozen=True)
class Verb:
    """A verb of the command line: a function whose docstring is the description.

    Attributes:
        usage: what follows the name in the help, as in ``RUN [KEY=VALUE …]``.
        examples: what follows ``touchstone NAME``.
        former: old spellings of keys and flags: ``{"--by": "by", "jobs": "sweep.jobs"}``.
    """

    function: Callable[..., object]
    usage: str
    examples: Sequence[str]
    former: Mapping[str, str]

    @property
    def name(self) -> str:
        return self.function.__module__.rpartition(".")[2]

    def __call__(self, words: Sequence[str] | None = None) -> object:
        """Parse the words (those of this process by default) and run the verb, whose result is plain data, or print its help."""
        words = sys.argv[1:] if words is None else words
        if {"--help", "-h"} & set(words):
            print(self.help())
            return None
        return self.function(**self.parse(words))

    @functools.cached_property
    def arguments(self) -> dict[str, Argument]:
        """By the key on the command line: the parameter ``sweep__jobs`` is ``sweep.jobs``, ``from_`` is ``from``."""
        hints = get_type_hints(self.function, include_extras=True)
        found = {}
        for name, parameter in inspect.signature(self.function).parameters.items():
            text = next(extra for extra in get_args(hints[name])[1:] if isinstance(extra, str))
            found[name.replace("__", ".").rstrip("_")] = Argument(name, hints[name], parameter.default, text)
        return found

    def help(self) -> str:
        """Usage, description, every key with its default, and examples; no line is longer than 80 characters."""
        description = " ".join((self.function.__doc__ or "").split())
        lines = [f"usage: touchstone {self.name} {self.usage}", "", *textwrap.wrap(description, 80), ""]
        for key, argument in self.arguments.items():
            shown = key if key in (*POSITIONAL, OVERRIDES) else f"{key}={_shown(argument.default)}"
            text = f"  {shown:24} {argument.text}"
            lines += textwrap.wrap(text, 80, subsequent_indent=" " * 27, break_on_hyphens=False)
        return "\n".join([*lines, "", "examples:", *(f"  touchstone {self.name} {one}" for one in self.examples)])

    def parse(self, words: Sequence[str]) -> dict[str, object]:
        """The function's arguments that these words give. Raises UserError with every mistake in them."""
        values: dict[str, object] = {}
        mistakes = []
        for word in words:
            try:
                self._take(word, values)
            except UserError as mistake:
                mistakes.append(str(mistake))
        missing = [
            key for key, argument in self.arguments.items() if argument.default is REQUIRED and key not in values
        ]
        if missing and not mistakes:
            key = missing[0]
            mistakes = [f"{'RUN' if key in POSITIONAL else f'{key}=…'} is missing: {self.arguments[key].text}"]
        if mistakes:
            raise UserError("\n".join([*mistakes, f"see touchstone {self.name} --help"]))
        return {self.arguments[key].parameter: value for key, value in values.items()}

    def _take(self, word: str, values: PlainDict) -> None:
        """Put the value of one word into `values`."""
        key, equals, value = word.partition("=")
        target = next((name for name in POSITIONAL if name in self.arguments), "")
        keys = [name for name in self.arguments if name != target]
        if key in self.former or word.startswith("-"):
            raise UserError(self._new_form(word))
        is_name = " " in key or (key not in keys and RUN_NAME.fullmatch(word))  # digits-convnet lr=1e-4, lr=0.01 seed=1
        if not equals or is_name:
            if target == "target" and target in values and MORE in self.arguments:
                values.setdefault(MORE, []).append(word)
                return
            if not target or (target == "target" and target in values):
                raise UserError(f"{word}: expected KEY=VALUE; {suggest(word, keys)}")
            if target == "target":
                values[target] = convert(target, word, self.arguments[target].type)
            else:
                values.setdefault(target, []).append(word)
        elif key in keys:
            values[key] = convert(key, value, self.arguments[key].type)
        elif OVERRIDES in self.arguments:
            values.setdefault(OVERRIDES, []).append(word)
        else:
            hint = " (a run of this name is given by its id)" if target else ""
            raise UserError(f"{word}: unknown key; {suggest(key, keys)}{hint}")

    def _new_form(self, word: str) -> str:
        """The message for a flag or key of an earlier version, or for an unknown flag."""
        key, _, value = word.partition("=")
        new = self.former.get(key, key.lstrip("-").replace("-", "_"))
        if "=" in new:
            return f"{key} is now written {new}"
        if new in POSITIONAL:
            return f"{key} is now written without a key: touchstone {self.name} {value or 'RUN'}"
        if new in self.arguments:
            kind = self.arguments[new].type
            example = value or ("true" if bool in (kind, *get_args(kind)) else "…")
            return f"{key} is now written {new}={example}"
        return f"{word}: unknown flag; arguments are KEY=VALUE"


def verb(
    usage: str, examples: Sequence[str], former: Mapping[str, str] | None = None
) -> Callable[[Callable[..., object]], Verb]:
    """Make a function the verb that is named like its module."""
    return lambda function: Verb(function, usage, examples, former or {})


def convert(key: str, text: str, kind: Any) -> object:
    """The value of a key, of the declared type. Raises UserError where the text is none of that type."""
    from pydantic import TypeAdapter, ValidationError

    if not text.strip():
        raise UserError(f"{key}=: the value is empty; give one, or omit {key}")
    if bool in (kind, *get_args(kind)) and text not in ("true", "false"):
        raise UserError(f"{key}={text}: expected true or false")
    value: object = text
    if _is_list(kind):
        parts = text.removeprefix("[").removesuffix("]").split(",")
        value = [part.strip().strip("'\"") for part in parts if part.strip()]
    try:
        return TypeAdapter(kind).validate_python(value)
    except ValidationError as error:
        reason = error.errors()[0]["msg"].split(", unable")[0].replace("Input should be", "expected")
        raise UserError(f"{text if key in POSITIONAL else f'{key}={text}'}: {reason}") from error


def _is_list(kind: object) -> bool:
    return get_origin(kind) is list or any(_is_list(part) for part in get_args(kind) if not isinstance(part, str))


def _shown(default: object) -> str:
    if isinstance(default, bool):
        return str(default).lower()
    return "…" if default is None or default is REQUIRED else str(default)
