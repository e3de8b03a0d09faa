"""Inputs and outputs of a LightningModule that is not one of ours, by name, as it is served and exported."""

import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.model_helpers import is_overridden
from pytorch_lightning.utilities.seed import isolate_rng
from torch import Tensor, nn

from lightning_modules.compat.lightning import has_trainer
from lightning_modules.config.errors import UserError
from lightning_modules.task.task_spec import in_precision, output_tolerance

_SINGLE = "value"  # the name of an output that is one tensor
ModelValues = np.ndarray | dict[str, np.ndarray]  # an array, or arrays by name


class NamedForward(nn.Module):
    """Tensors -> tensors by name, with a row for each sample: ``forward`` of a task, or where it fails ``predict_step``.

    Raises UserError if neither gives such outputs for ``example_input_array``.

    Attributes:
        example: ``example_input_array``, by the names of the arguments of ``forward``.
    """

    def __init__(self, task: pl.LightningModule) -> None:
        super().__init__()
        self.task, self.step, reasons = task, "", []
        steps = [step for step in ("forward", "predict_step") if is_overridden(step, task)]
        if not steps:
            raise UserError("the task has no forward and no predict_step")
        self.given: object = task.example_input_array
        self.example = _name_inputs(task, self.given)
        for self.step in steps:
            try:
                self.outputs(self.example)
                return
            except Exception as error:  # the code of a user
                reasons.append(f"{self.step} {error if isinstance(error, UserError) else f'fails: {error!r}'}"[:300])
        raise UserError("; ".join(reasons))

    def outputs(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The outputs in evaluation mode, on the CPU."""
        given = [in_precision(self.task, inputs[name].to(x.dtype)) for name, x in self.example.items()]
        with evaluation_mode(self.task):
            found = self(*(x.to(self.task.device) for x in given))
        return {name: (x.float() if x.is_floating_point() else x).cpu() for name, x in found.items()}

    def predict(self, model_input: Any, params: object = None) -> ModelValues:
        """What MLflow calls: as `outputs`, with an array for a single tensor, else arrays by name."""
        named = model_input if len(self.example) > 1 else dict.fromkeys(self.example, model_input)
        return as_arrays(self.outputs({name: torch.as_tensor(np.asarray(named[name])) for name in self.example}))

    def example_arrays(self, count: int = 4) -> ModelValues:
        """`example` in the form that `predict` takes."""
        arrays = {name: x[:count].numpy() for name, x in self.example.items()}
        return arrays if len(arrays) > 1 else next(iter(arrays.values()))

    def forward(self, *inputs: Tensor) -> dict[str, Tensor]:
        tensor, named = isinstance(self.given, Tensor), isinstance(self.given, Mapping)
        batch: Any = dict(zip(self.example, inputs, strict=True)) if named else inputs[0] if tensor else inputs
        if self.step == "predict_step":
            return _name_outputs(self.task.predict_step(batch, 0), inputs[0].shape[0])
        return _name_outputs(self.task(**batch) if named else self.task(*inputs), inputs[0].shape[0])


def as_arrays(outputs: Mapping[str, Tensor]) -> ModelValues:
    """An array for a single tensor, else arrays by name."""
    arrays = {name: output.numpy() for name, output in outputs.items()}
    return arrays[_SINGLE] if list(arrays) == [_SINGLE] else arrays


def _name_inputs(task: pl.LightningModule, given: object) -> dict[str, Tensor]:
    values = list(
        given.values() if isinstance(given, Mapping) else given if isinstance(given, list | tuple) else [given]
    )
    if not values or not all(isinstance(value, Tensor) and value.ndim for value in values):
        raise UserError("the task has no example_input_array (a tensor, or a tuple or dict of tensors)")
    names = list(given) if isinstance(given, Mapping) else list(inspect.signature(task.forward).parameters)
    return {names[i] if i < len(names) else f"input_{i}": value for i, value in enumerate(values)}


def _name_outputs(found: object, count: int) -> dict[str, Tensor]:
    """The outputs of a dict, or ``output_0`` and on of a tuple. Raises UserError unless they have `count` rows."""
    named = {f"output_{i}": value for i, value in enumerate(found)} if isinstance(found, list | tuple) else found
    named = {_SINGLE: found} if isinstance(found, Tensor) else named
    if not isinstance(named, Mapping) or not named:
        raise UserError(f"returns a {type(found).__name__}, not tensors")
    for name, value in named.items():
        if not isinstance(value, Tensor) or not value.ndim or value.shape[0] != count:
            raise UserError(f"returns '{name}', which is no tensor with a row for each sample")
    return {str(name): value for name, value in named.items()}


@contextmanager
def evaluation_mode(task: pl.LightningModule) -> Iterator[None]:
    """The task in evaluation mode without its trainer, so that it logs nothing, without gradients and with fixed random
    numbers; afterwards each part is as before.
    """
    training = [part for part in task.modules() if part.training]
    trainer = task.trainer if has_trainer(task) else None
    task.trainer = None
    try:
        with isolate_rng(include_cuda=False), torch.no_grad():
            torch.default_generator.manual_seed(0)
            task.eval()
            yield
    finally:
        task.trainer = trainer
        for part in training:
            part.training = True


def require_same_module_outputs(trained: pl.LightningModule, rebuilt: pl.LightningModule, where: str) -> None:
    """Raise UserError if the outputs for ``example_input_array`` differ."""
    known, again = NamedForward(trained), NamedForward(rebuilt)
    expected, found = known.outputs(known.example), again.outputs(known.example)
    for name, output in expected.items():
        finite = output[output.isfinite()].double().abs()
        atol = output_tolerance(trained) * float(finite.max()) if len(finite) else 0.0
        same = name in found and found[name].shape == output.shape
        if not same or not torch.allclose(found[name], output, rtol=0, atol=atol, equal_nan=True):
            raise UserError(
                f"{where} is not the trained one: rebuilt from its config and weights, it gives other outputs for "
                "example_input_array. Everything that they depend on must be an argument, a parameter or a persistent "
                "buffer"
            )
