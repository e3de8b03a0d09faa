"""Feature-based distillation: hooks that capture features, and regressors that map a student's to a teacher's width."""

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_modules.compression.distillation.losses import hint_loss
from lightning_modules.compression.stage import StateDict
from lightning_modules.config.errors import UserError, suggest
from lightning_modules.config.plain import PlainDict


class FeatureHooks:
    """Captures the latest outputs of some layers of a network by forward hooks.

    Raises UserError for an unknown layer, with suggestions.
    """

    def __init__(self, model: nn.Module, layers: Sequence[str], whose: str) -> None:
        known = dict(model.named_modules())
        for name in layers:
            if name not in known or not name:
                raise UserError(f"{whose} has no layer '{name}': {suggest(name, [n for n in known if n])}")
        self.model, self.layers = model, list(layers)
        self._seen: dict[str, Tensor] = {}
        self._handles = [known[name].register_forward_hook(self._keep(name)) for name in self.layers]

    def _keep(self, name: str) -> Callable[..., None]:
        seen = self._seen  # not self: a copy of the network then copies no more than this function

        def keep(module: nn.Module, inputs: object, output: Tensor | tuple[Tensor, ...]) -> None:
            seen[name] = output[0] if isinstance(output, tuple) else output

        return keep

    def take(self) -> list[Tensor]:
        """The features of the last forward pass, in the order of `layers`; they are then dropped."""
        found = [self._seen[name] for name in self.layers]
        self._seen.clear()
        return found

    def remove(self) -> None:
        """Remove the hooks."""
        for handle in self._handles:
            handle.remove()
        self._handles = []
        self._seen.clear()


def match_spatial_size(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Feature maps [B, C, H, W] averaged down to the smaller of the two sizes."""
    size = (min(student.shape[2], teacher.shape[2]), min(student.shape[3], teacher.shape[3]))
    student, teacher = (a if a.shape[2:] == size else F.adaptive_avg_pool2d(a, size) for a in (student, teacher))
    return student, teacher


def make_regressor(student: Tensor, teacher: Tensor) -> nn.Module:
    """A linear map from a student's features to a teacher's width (Romero et al. 2015, section 2.2, 1x1 instead of kxk).

    Feature maps [B, C, H, W] and signals [B, C, L] of equal length get a 1x1 convolution, tokens [B, T, D] and vectors
    [B, D] a linear layer. Raises UserError for other pairs of shapes.
    """
    s, t = student.shape, teacher.shape
    if len(s) == len(t) == 4:
        return nn.Conv2d(s[1], t[1], 1)
    if len(s) == len(t) == 2 or (len(s) == len(t) == 3 and s[1] == t[1]):
        return nn.Linear(s[-1], t[-1])
    if len(s) == len(t) == 3 and s[2] == t[2]:
        return nn.Conv1d(s[1], t[1], 1)
    raise UserError(f"cannot map features of shape {list(s[1:])} to {list(t[1:])}; choose layers of similar shapes")


@torch.no_grad()
def check_layers(student: nn.Module, teacher: nn.Module, layers: Mapping[str, str], term: str, example: Tensor) -> None:
    """Raise UserError if a layer does not exist, or if `term` cannot compare the layers' features."""
    copy = deepcopy(student).cpu().eval()
    own = FeatureHooks(copy, list(layers), "the student")
    theirs = FeatureHooks(teacher, list(layers.values()), "the teacher")
    try:
        copy(example.cpu()), teacher(example.cpu())
        for (a, b), s, t in zip(layers.items(), own.take(), theirs.take(), strict=True):
            maps = s.ndim == t.ndim == 4
            if term == "attention" and not maps:
                raise UserError(f"layers {a}: {b}: attention transfer compares feature maps [B, C, H, W]")
            if term == "hints":
                with torch.random.fork_rng(devices=[]):
                    make_regressor(*(match_spatial_size(s, t) if maps else (s, t)))
    finally:
        theirs.remove()


class HintRegressors:
    """One regressor for each pair of layers, created from the shapes of the first features.

    They are created again when the widths change, as after structured pruning. Under DDP all ranks use the same seed
    and average their gradients.
    """

    def __init__(self, lr: float) -> None:
        self.lr, self.seed = lr, 0
        self.shapes: list[list[int]] = []
        self.regressors = nn.ModuleList()
        self._optimizer: torch.optim.Optimizer | None = None
        self._waiting: PlainDict | None = None

    def loss(self, student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
        """Half the mean squared difference after the regressor, averaged over the pairs of layers."""
        pairs = [
            match_spatial_size(s, t) if s.ndim == t.ndim == 4 else (s, t) for s, t in zip(student, teacher, strict=True)
        ]
        shapes = [[*s.shape[1:], *t.shape[1:]] for s, t in pairs]
        if shapes != self.shapes:
            self._make(pairs, shapes)
        found = [hint_loss(layer(s), t) for layer, (s, t) in zip(self.regressors, pairs, strict=True)]
        return torch.stack(found).mean()

    def _make(self, pairs: Sequence[tuple[Tensor, Tensor]], shapes: list[list[int]]) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            self.regressors = nn.ModuleList(make_regressor(s, t) for s, t in pairs).to(pairs[0][0].device)
        self._optimizer = torch.optim.Adam(self.regressors.parameters(), lr=self.lr)
        self.shapes = shapes
        if self._waiting and self._waiting["shapes"] == shapes:
            self.regressors.load_state_dict(self._waiting["regressors"])
            self._optimizer.load_state_dict(self._waiting["optimizer"])
        self._waiting = None

    def step(self) -> None:
        """Take an optimizer step with the regressors' gradients."""
        if self._optimizer is None:
            return
        if dist.is_available() and dist.is_initialized():
            for parameter in self.regressors.parameters():
                if parameter.grad is not None:
                    dist.all_reduce(parameter.grad)
                    parameter.grad /= dist.get_world_size()
        self._optimizer.step()
        self._optimizer.zero_grad()

    def state_dict(self) -> StateDict:
        """Tensors and plain values; empty before the first step."""
        if self._optimizer is None:
            return self._waiting or {}
        own = {"regressors": dict(self.regressors.state_dict()), "optimizer": self._optimizer.state_dict()}
        return {"shapes": self.shapes, **own}

    def load_state_dict(self, state: StateDict) -> None:
        """Keep the state until the regressors are created."""
        self._waiting, self._optimizer, self.shapes = state or None, None, []
