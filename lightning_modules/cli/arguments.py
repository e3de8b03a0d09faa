"""The arguments of a verb: targets and ``KEY=VALUE``, declared as the annotated fields of a dataclass.

>>> @dataclass
... class Compare:
...     targets: Annotated[list[str], "id, its first 6 or more characters, or name"]
...     metric: Annotated[str | None, "metric to compare"] = None
>>> parse(Compare, ["3e782338", "metric=val/loss"])
"""

import dataclasses
import sys
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from lightning_modules.config.errors import UserError, suggest

Arguments = TypeVar("Arguments")
POSITIONAL = ("targets", "target")  # fields that take the words without a key
OVERRIDES = "overrides"  # a field of this name takes every KEY=VALUE that is not another field


@dataclass(frozen=True)
class Verb:
    """A verb of the command line.

    Attributes:
        usage: what follows the name in the help, as in ``RUN [KEY=VALUE …]``.
        arguments: the dataclass that declares the arguments, with the description as its docstring.
        run: is called with an instance of it.
        examples: what follows ``touchstone NAME``.
        former: old spellings of keys and flags: ``{"--by": "by", "jobs": "sweep.jobs"}``.
    """

    name: str
    usage: str
    arguments: type
    run: Callable[[Any], None]
    examples: Sequence[str]
    former: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def __call__(self, words: Sequence[str] | None = None) -> None:
        """Parse the words (those of this process by default) and run the verb, or print its help."""
        words = sys.argv[1:] if words is None else words
        if {"--help", "-h"} & set(words):
            print(self.help())
        else:
            self.run(parse(self.arguments, words, self.former, f"see touchstone {self.name} --help"))

    def help(self) -> str:
        """Usage, description, every key with its default, and examples; no line is longer than 80 characters."""
        lines = [f"usage: touchstone {self.name} {self.usage}", "", *_wrapped(self.arguments.__doc__ or ""), ""]
        for key, field in fields_of(self.arguments).items():
            if field.text:
                shown = key if key in POSITIONAL or key == OVERRIDES else f"{key}={_shown(field.default)}"
                lines += _wrapped(f"  {shown:24} {field.text}", indent=27)
        lines += ["", "examples:", *(f"  touchstone {self.name} {example}" for example in self.examples)]
        return "\n".join(lines)


@dataclass(frozen=True)
class Field:
    """One argument: its type without the annotation, its default (`MISSING` where it is required) and its help."""

    type: Any
    default: Any
    text: str


def fields_of(arguments: type) -> dict[str, Field]:
    """The fields of the dataclass by the key on the command line: ``sweep__jobs`` is ``sweep.jobs``."""
    annotated = get_type_hints(arguments, include_extras=True)
    found = {}
    for field in dataclasses.fields(arguments):
        default = field.default
        if default is dataclasses.MISSING and field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        text = next((extra for extra in get_args(annotated[field.name])[1:] if isinstance(extra, str)), "")
        found[field.name.replace("__", ".").rstrip("_")] = Field(annotated[field.name], default, text)
    return found


def parse(
    arguments: type[Arguments], words: Sequence[str], former: Mapping[str, str] | None = None, see: str = ""
) -> Arguments:
    """The arguments that these words give. Raises UserError with every mistake in them."""
    fields, mistakes = fields_of(arguments), []
    values: dict[str, Any] = {}
    for word in words:
        try:
            _take(word, fields, values, former or {})
        except UserError as mistake:
            mistakes.append(str(mistake))
    for key, field in fields.items():
        if field.default is dataclasses.MISSING and key not in values and not mistakes:
            mistakes.append(f"{'RUN' if key in POSITIONAL else f'{key}=…'} is missing: {field.text}")
    if mistakes:
        raise UserError("\n".join([*mistakes, *([see] if see else [])]))
    names = {field.name.replace("__", ".").rstrip("_"): field.name for field in dataclasses.fields(arguments)}  # type: ignore[arg-type]
    return arguments(**{names[key]: value for key, value in values.items()})


def _take(word: str, fields: Mapping[str, Field], values: dict[str, Any], former: Mapping[str, str]) -> None:
    """Put the value of one word into `values`."""
    key, equals, value = word.partition("=")
    if key in former or word.startswith("-"):
        raise UserError(_new_form(word, fields, former))
    if not equals:
        _take_target(word, fields, values)
    elif key in fields and key not in POSITIONAL:
        values[key] = convert(key, value, fields[key].type)
    elif OVERRIDES in fields:
        values.setdefault(OVERRIDES, []).append(word)
    else:
        raise UserError(f"{word}: unknown key; {suggest(key, [name for name in fields if name not in POSITIONAL])}")


def _take_target(word: str, fields: Mapping[str, Field], values: dict[str, Any]) -> None:
    name = next((name for name in POSITIONAL if name in fields), None)
    if name is None or (name == "target" and name in values):
        raise UserError(
            f"{word}: expected KEY=VALUE; {suggest(word, [key for key in fields if key not in POSITIONAL])}"
        )
    if name == "target":
        values[name] = convert(name, word, fields[name].type)
    else:
        values.setdefault(name, []).append(word)


def _new_form(word: str, fields: Mapping[str, Field], former: Mapping[str, str]) -> str:
    """The message for a flag or key of an earlier version, or for an unknown flag."""
    key, _, value = word.partition("=")
    new = former.get(key, key.lstrip("-").replace("-", "_"))
    if "=" in new:
        return f"{key} is now written {new}"
    if new in fields:
        kind = fields[new].type
        example = value or ("true" if bool in (kind, *get_args(kind)) else "…")
        return f"{key} is now written {new}={example}"
    return f"{word}: unknown flag; arguments are KEY=VALUE"


def convert(key: str, text: str, kind: Any) -> Any:
    """The value of a key, of the declared type. Raises UserError where the text is none of that type."""
    from pydantic import TypeAdapter, ValidationError

    if not text.strip():
        raise UserError(f"{key}=: the value is empty; give one, or omit {key}")
    if bool in (kind, *get_args(kind)) and text not in ("true", "false"):
        raise UserError(f"{key}={text}: expected true or false")
    value: Any = text
    if _is_list(kind):
        value = [
            part.strip().strip("'\"") for part in text.removeprefix("[").removesuffix("]").split(",") if part.strip()
        ]
    try:
        return TypeAdapter(kind).validate_python(value)
    except ValidationError as error:
        reason = error.errors()[0]["msg"].split(", unable")[0].replace("Input should be", "expected")
        raise UserError(f"{text if key in POSITIONAL else f'{key}={text}'}: {reason}") from error


def _is_list(kind: Any) -> bool:
    return get_origin(kind) is list or any(_is_list(part) for part in get_args(kind) if not isinstance(part, str))


def _shown(default: Any) -> str:
    if isinstance(default, bool):
        return str(default).lower()
    return "…" if default is None or default is dataclasses.MISSING or default == [] else str(default)


def _wrapped(text: str, indent: int = 0) -> list[str]:
    if indent:
        return textwrap.wrap(text, 80, subsequent_indent=" " * indent, break_on_hyphens=False, drop_whitespace=True)
    return textwrap.wrap(" ".join(text.split()), 80)
