"""Metrics that are computed from recorded ones: ``test/accuracy / model/params``, ``max(val/f1, val/auroc) - 0.5``.

Names contain slashes and dashes, so an operator is recognized by the spaces around it; a name with spaces stands in backticks.
"""

import ast
import math
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

from lightning_modules.comparison.run_reader import RunReader
from lightning_modules.config.errors import UserError, suggest

FUNCTIONS: dict[str, Callable[..., float]] = {"min": min, "max": max, "log": math.log}
OPERATORS: dict[type, Callable[..., float]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv,
    ast.Pow: operator.pow, ast.USub: operator.neg,
}  # fmt: skip
_TOKEN = re.compile(r"`(?P<quoted>[^`]+)`|(?P<syntax>[(),]|(?:\*\*|[-+*/])(?=\s|$))|(?P<word>[^\s(),`]+)")
_NUMBER = re.compile(r"-?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?", re.IGNORECASE)


class ExpressionReader:
    """A `RunReader` with expressions as further metrics."""

    def __init__(self, reader: RunReader) -> None:
        self._reader = reader

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reader, name)

    def metric(self, ids: Sequence[str], name: str) -> dict[str, float]:
        """run id -> value, for the runs that have every metric of the expression `name`."""
        if recorded := self._reader.metric(ids, name):
            return recorded
        known, expression = self._reader.metric_names(ids), Expression(name)
        if expression.names == [name]:
            _refuse_division_without_spaces(name, known)
            return {}
        if unknown := [one for one in expression.names if one not in known]:
            raise UserError(
                f"metric={name}: no finished run has the metric '{unknown[0]}'; {suggest(unknown[0], known)}"
            )
        values = {one: self._reader.metric(ids, one) for one in expression.names}
        complete = [run_id for run_id in ids if all(run_id in of_metric for of_metric in values.values())]
        return {run_id: expression({one: values[one][run_id] for one in values}) for run_id in complete}


def with_expressions(reader: RunReader) -> RunReader:
    """The reader with expressions as further metrics."""
    return cast(RunReader, ExpressionReader(reader))


class Expression:
    """An expression of metrics (`names`), called with their values; NaN where it is not defined, as at a division by zero.

    Raises UserError for anything but names, numbers, ``+ - * / **``, parentheses, min, max and log.
    """

    def __init__(self, text: str) -> None:
        self.text, self.names = text, list[str]()
        source = "".join(self._to_python(found) for found in _TOKEN.finditer(text)).strip()
        try:
            self._value = _compile(ast.parse(source, mode="eval").body)
        except (SyntaxError, RecursionError, ValueError) as error:
            raise UserError(
                f"metric={text}: expected metrics and numbers joined by + - * / ** with spaces around them, parentheses, "
                f"{', '.join(FUNCTIONS)}"
            ) from error

    def _to_python(self, found: re.Match[str]) -> str:
        """The Python for one token; a metric becomes a variable with its position in `names`."""
        word = found["word"] or ""
        if found["syntax"] or (word in FUNCTIONS and self.text[found.end() :].startswith("(")):
            return found["syntax"] or word
        if _NUMBER.fullmatch(word):
            return f" ({float(word)!r}) "
        self.names = list(dict.fromkeys([*self.names, found["quoted"] or word]))
        return f" metric_{self.names.index(found['quoted'] or word)} "

    def __call__(self, values: Mapping[str, float]) -> float:
        try:
            return float(self._value([values[name] for name in self.names]))
        except (ArithmeticError, ValueError, TypeError):  # the last: a complex root
            return math.nan


def _compile(node: ast.expr) -> Callable[[Sequence[float]], Any]:
    """The function of the metrics' values that a node stands for. Raises ValueError for one that is not evaluated here."""
    match node:
        case ast.Constant(float(number)):
            return lambda values: number
        case ast.Name(variable) if variable.startswith("metric_"):
            position = int(variable.removeprefix("metric_"))
            return lambda values: values[position]
        case ast.BinOp(left, operation, right) if type(operation) in OPERATORS:
            function, parts = OPERATORS[type(operation)], [left, right]
        case ast.UnaryOp(operation, operand) if type(operation) in OPERATORS:
            function, parts = OPERATORS[type(operation)], [operand]
        case ast.Call(ast.Name(name), [_, *more] as parts, []) if name in FUNCTIONS and bool(more) != (name == "log"):
            function = FUNCTIONS[name]
        case _:
            raise ValueError(ast.dump(node))
    inner = [_compile(part) for part in parts]
    return lambda values: function(*(one(values) for one in inner))


def _refuse_division_without_spaces(name: str, known: set[str]) -> None:
    for slash in (found.start() for found in re.finditer("/", name)):
        if name[:slash] in known and name[slash + 1 :] in known:
            spaced = f"{name[:slash]} / {name[slash + 1 :]}"
            raise UserError(f"metric={name}: a division needs spaces around it: '{spaced}'")
