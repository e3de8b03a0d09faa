"""An MLP with the uniform initialisation of early back-propagation papers."""

from typing import Any

from lightning_modules.model.mlp import MLP
from lightning_modules.zoo.model.initialization import init_uniform


class UniformMLP(MLP):
    """An `MLP` whose weights and biases are initialised in U(-bound, bound), independent of the layer width.

    Gorman and Sejnowski 1988: sigmoid units, bound 0.3, and 0 to 24 hidden units.
    """

    def __init__(self, bound: float = 0.3, **settings: Any) -> None:
        super().__init__(**settings)
        init_uniform(self, bound)
