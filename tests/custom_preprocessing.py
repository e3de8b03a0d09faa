"""Data with preprocessing of a user's own, and a network, in a module that can be imported."""

from typing import Any

import torch
from torch import Tensor, nn

from lightning_modules.data.preprocess import Affine, SampleSource
from lightning_modules.zoo.data.image_datasets import Digits


class Sharpen(nn.Module):
    """Rebuilt from the attribute named like its argument."""

    def __init__(self, power: float = 1.0) -> None:
        super().__init__()
        self.power = power

    def forward(self, x: Tensor) -> Tensor:
        return x.float().div(16).pow(self.power)


class Centre(nn.Module):
    """Rebuilt by its own ``recipe``; what it measured is a buffer."""

    def __init__(self, shape: list[int]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(shape))

    def forward(self, x: Tensor) -> Tensor:
        return x.float() / 16 - self.mean

    def recipe(self) -> dict[str, Any]:
        return {"_target_": f"{__name__}.Centre", "shape": list(self.mean.shape)}


class LogAffine(Affine):
    """Not what the class that it derives from is."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.float().log1p())


class Hidden(nn.Module):
    """Does not tell its argument."""

    def __init__(self, power: float) -> None:
        super().__init__()
        self._exponent = power

    def forward(self, x: Tensor) -> Tensor:
        return x.float().pow(self._exponent)


class Forgetful(nn.Module):
    """A recipe that is not the module."""

    def __init__(self, power: float = 1.0) -> None:
        super().__init__()
        self._exponent = power

    def forward(self, x: Tensor) -> Tensor:
        return x.float().pow(self._exponent)

    def recipe(self) -> dict[str, Any]:
        return {"_target_": f"{__name__}.Forgetful"}


class Warming(nn.Module):
    """A network whose temperature, which no checkpoint holds, rises while it is trained."""

    def __init__(self, input_shape: Any, num_outputs: int) -> None:
        super().__init__()
        self.layer = nn.Linear(64, num_outputs)
        self.temperature = 1.0

    def forward(self, x: Tensor) -> Tensor:
        self.temperature += 0.1 * self.training
        return self.layer(x.flatten(1)) * self.temperature


def fitted(shape: Any) -> nn.Module:
    centre = Centre(list(shape))
    centre.mean += 0.5
    return centre


class OwnDigits(Digits):
    """Digits with a preprocessing by name."""

    def __init__(self, preprocessing: str, **settings: Any) -> None:
        self.preprocessing = preprocessing
        super().__init__(**settings)

    def build_preprocess(self, x: SampleSource, train: Tensor) -> nn.Module:
        class Local(Affine):
            pass

        return {
            "sharpen": lambda: Sharpen(power=0.5),
            "chain": lambda: nn.Sequential(Sharpen(0.5), LogAffine([1.0], [0.5]), nn.Identity()),
            "fitted": lambda: fitted(x.shape[1:]),
            "hidden": lambda: Hidden(2.0),
            "forgetful": lambda: Forgetful(2.0),
            "local": lambda: Local([0.0], [1.0]),
        }[self.preprocessing]()
