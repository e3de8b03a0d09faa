"""Weight initialisations that differ from torch's defaults."""

from torch import nn


def init_glorot_uniform(network: nn.Module) -> None:
    """Weights of every linear and convolution layer from U(-a, a), a^2 = 6 / (fan_in + fan_out), biases zero.

    Glorot and Bengio 2010, equation 16; Keras' default.
    """
    for layer in network.modules():
        if isinstance(layer, nn.Linear | nn.Conv1d):
            nn.init.xavier_uniform_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def init_uniform(network: nn.Module, bound: float) -> None:
    """All parameters, including biases, from U(-bound, bound)."""
    for parameter in network.parameters():
        nn.init.uniform_(parameter, -bound, bound)
