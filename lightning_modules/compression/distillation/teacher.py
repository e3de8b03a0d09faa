"""Teachers: one or several trained networks, loaded from the store or a file, and a cache of their logits."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lightning_modules.compression.stage import StateDict
from lightning_modules.config.errors import UserError


@dataclass
class TeacherMember:
    """One teacher of an ensemble.

    Attributes:
        teacher_uri: its name in the config.
        network: floats [B, *input_shape] -> logits [B, K].
        preprocess: raw samples to floats; None: the student's.
        input_shape, num_outputs, kind, class_names: what it was trained for; None if unknown.
    """

    teacher_uri: str
    network: nn.Module
    preprocess: nn.Module | None
    input_shape: tuple[int, ...]
    num_outputs: int
    kind: str | None = None
    class_names: list[str] | None = None


class Teacher:
    """An ensemble of one or more teachers. It is not part of the student's state dict or optimizer."""

    def __init__(self, members: Sequence[TeacherMember]) -> None:
        self.members = list(members)
        self._modules = nn.ModuleList(
            m for member in members for m in (member.network, member.preprocess) if m is not None
        )
        self._modules.requires_grad_(False).eval()

    @torch.no_grad()
    def logits(self, x: Tensor, preprocess: Callable[[Tensor], Tensor]) -> Tensor:
        """Logits [M, B, K] of raw samples; `preprocess` is the student's."""
        return torch.stack([member.network((member.preprocess or preprocess)(x)) for member in self.members])

    def to(self, device: torch.device) -> None:
        """Move all members to a device."""
        self._modules.to(device)

    def check_shapes(self, input_shape: Sequence[int], num_outputs: int) -> None:
        """Raise UserError if a member's input shape or number of outputs differs from the student's."""
        for m in self.members:
            if m.num_outputs != num_outputs:
                raise UserError(
                    f"teacher={m.teacher_uri} has {m.num_outputs} outputs, but the student has {num_outputs}"
                )
            if m.input_shape != tuple(input_shape):
                raise UserError(
                    f"teacher={m.teacher_uri} takes samples of shape {list(m.input_shape)}, but the student takes "
                    f"{list(input_shape)}"
                )

    def check_classes(self, kind: str | None, class_names: Sequence[str] | None) -> None:
        """Raise UserError if a member was trained for another kind of task or for other classes."""
        for m in self.members:
            if m.kind and m.kind != kind:
                raise UserError(f"teacher={m.teacher_uri} was trained for {m.kind}, but the student's task is {kind}")
            if m.class_names and class_names and m.class_names != list(class_names):
                theirs, own = ", ".join(m.class_names[:6]), ", ".join(list(class_names)[:6])
                raise UserError(f"teacher={m.teacher_uri} has the classes {theirs} …, but the student has {own} …")


def output_classes(task: object) -> tuple[str, list[str] | None]:
    """The kind of a task's outputs, and the names of their classes: of a language model the tokens."""
    if vocabulary := getattr(task, "vocabulary", None):
        return "multiclass", vocabulary.tokens
    return getattr(task, "kind", "regression"), getattr(task, "class_names", None)


def load_teacher(
    teacher_uri: str | Sequence[str], weights: str | None, input_shape: Sequence[int], num_outputs: int
) -> Teacher:
    """Load a teacher or an ensemble.

    Args:
        teacher_uri: ``runs:/RUN``, or a run's id or name (its best weights); ``models:/NAME/VERSION``, ``models:/NAME@ALIAS``
            or ``models:/m-…``; ``torchvision:NAME``.
        weights: the file of a torchvision network, or the name of torchvision's weights in torch.hub's cache.
        input_shape, num_outputs: of the student, for a torchvision network.

    Raises UserError if one is missing, damaged, or contains code.
    """
    names = [teacher_uri] if isinstance(teacher_uri, str) else [str(name) for name in teacher_uri]
    if weights and not any(name.startswith("torchvision:") for name in names):
        raise UserError(f"weights={weights}: only teacher=torchvision:NAME takes a file of weights")
    members = []
    for name in names:
        is_torchvision = name.startswith("torchvision:")
        members.append(
            _load_torchvision(name, weights, input_shape, num_outputs) if is_torchvision else _load_from_store(name)
        )
    return Teacher(members)


def _load_from_store(teacher_uri: str) -> TeacherMember:
    from lightning_modules.run.serve import load_task, model_weights
    from lightning_modules.task.task_spec import model_shapes
    from lightning_modules.tracking.resume import best_checkpoint
    from lightning_modules.tracking.store import find_run, open_store

    store = open_store()
    if teacher_uri.startswith("models:/"):
        path = model_weights(store, teacher_uri)
    else:
        path = best_checkpoint(store, find_run(store, teacher_uri.removeprefix("runs:/").strip("/")))
    task = load_task(path)
    return TeacherMember(
        teacher_uri, task.model, task.preprocess, *model_shapes(task.task_spec),
        *output_classes(task),
    )  # fmt: skip


def _load_torchvision(
    teacher_uri: str, weights: str | None, input_shape: Sequence[int], num_outputs: int
) -> TeacherMember:
    """A torchvision network with the student's inputs; its file must contain the head for the student's classes."""
    from lightning_modules.zoo.model.image_classifiers import TorchvisionClassifier, weights_file
    from lightning_modules.zoo.model.pretrained import read_state_dict

    name = teacher_uri.removeprefix("torchvision:")
    if not weights:
        raise UserError(f"teacher={teacher_uri} needs trained weights: weights=FILE")
    network = TorchvisionClassifier(input_shape, num_outputs, name, weights=weights)
    read = read_state_dict(weights_file(name, weights))
    head = network.network.get_submodule(network.heads[-1]).weight
    if not any(key.endswith(f"{network.heads[-1]}.weight") and t.shape == head.shape for key, t in read.items()):
        raise UserError(f"teacher={teacher_uri}: {weights} has no head for the student's {num_outputs} classes")
    return TeacherMember(teacher_uri, network, None, tuple(input_shape), num_outputs)


class LogitCache:
    """Logits [M, N, K] of M teachers by sample index; N is the highest index so far + 1, NaN: not computed yet.

    They are part of the stage's state, so that a resumed run uses identical numbers: the last bits of a teacher's logits
    depend on the other samples of a batch.
    """

    def __init__(self) -> None:
        self.logits: Tensor | None = None
        self.computed = 0  # number of samples whose logits were computed

    def look_up(self, batch: dict[str, Tensor], compute: Callable[[Tensor], Tensor]) -> Tensor:
        """The logits [M, B, K] of a batch; `compute` maps raw samples that are not cached to their logits."""
        index = batch["index"]
        known = torch.empty(1, 0, 1) if self.logits is None else self.logits
        known = known.to(index.device)
        new = torch.ones_like(index, dtype=torch.bool)
        inside = index < known.shape[1]
        new[inside] = known[0, index[inside], 0].isnan()
        if new.any():
            found = compute(batch["x"][new]).float()
            size = max(known.shape[1], int(index.max()) + 1)
            grown = found.new_full((len(found), size, found.shape[2]), torch.nan)
            grown[:, : known.shape[1]] = known
            grown[:, index[new]] = found
            known, self.computed = grown, self.computed + int(new.sum())
        self.logits = known
        return known.index_select(1, index)

    def state_dict(self) -> StateDict:
        return {} if self.logits is None else {"logits": self.logits.cpu()}

    def load_state_dict(self, state: StateDict) -> None:
        self.logits = state.get("logits")
