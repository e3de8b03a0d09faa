"""The MLP baseline of time series classification (Wang, Yan and Oates 2017, section II-A)."""

import math
from collections.abc import Sequence

from torch import Tensor, nn

from lightning_modules.config.errors import UserError
from lightning_modules.zoo.model.initialization import init_glorot_uniform


class TimeSeriesMLP(nn.Module):
    """ReLU layers of the widths in `hidden` on the flattened series, with dropout before each layer and the head.

    As in Fawaz et al. 2019 (hfawaz/dl-4-tsc, classifiers/mlp.py); Glorot-uniform weights, zero biases.
    """

    def __init__(
        self,
        input_shape: Sequence[int],
        num_outputs: int,
        hidden: Sequence[int] = (500, 500, 500),
        dropouts: Sequence[float] = (0.1, 0.2, 0.2, 0.3),
    ) -> None:
        super().__init__()
        if len(dropouts) != len(hidden) + 1:
            raise UserError(
                f"model.dropouts={list(dropouts)}: expected {len(hidden) + 1} values, one before each "
                f"of the {len(hidden)} hidden layers and one before the head"
            )
        widths = [math.prod(input_shape), *hidden]
        layers: list[nn.Module] = [nn.Flatten()]
        for a, b, dropout in zip(widths, hidden, dropouts, strict=False):
            layers += [nn.Dropout(dropout), nn.Linear(a, b), nn.ReLU()]
        self.features = nn.Sequential(*layers, nn.Dropout(dropouts[-1]))
        self.head = nn.Linear(widths[-1], num_outputs)
        init_glorot_uniform(self)

    def forward(self, series: Tensor) -> Tensor:
        return self.head(self.features(series))
