"""The default network on the default data, in a plain loop."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from lightning_modules.zoo.model.convnets import ConvNet


@pytest.mark.slow
def test_the_default_network_learns_the_digits() -> None:
    digits = load_digits()
    images = torch.tensor(digits.images[:, None] / 16, dtype=torch.float32)
    labels = torch.tensor(digits.target)
    train, test = train_test_split(np.arange(1797), test_size=0.2, stratify=digits.target, random_state=0)
    train, test = torch.from_numpy(train), torch.from_numpy(test)
    torch.manual_seed(0)
    model = ConvNet((1, 8, 8), 10)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    for _ in range(8):
        for batch in train[torch.randperm(len(train))].split(64):
            F.cross_entropy(model(images[batch]), labels[batch]).backward()
            optimizer.step()
            optimizer.zero_grad()
    model.eval()
    with torch.no_grad():
        accuracy = (model(images[test]).argmax(1) == labels[test]).float().mean()
    assert accuracy >= 0.97
