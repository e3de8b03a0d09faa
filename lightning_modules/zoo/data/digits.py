"""scikit-learn's digits: 1797 handwritten digits of 8x8 pixels (Alpaydin & Kaynak 1998, UCI); no download."""

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from lightning_modules.data.in_memory import InMemoryData, RawDataset
from lightning_modules.data.preprocess import SampleSource, Standardize


class Digits(InMemoryData):
    """uint8 [1, 8, 8], the 17 grey levels scaled to 0..255; standardized on the training part."""

    name = "digits"
    domain = "image"

    def load(self) -> RawDataset:
        """Read the data set bundled with scikit-learn."""
        bunch = load_digits()
        x = (torch.from_numpy(bunch.images) * 255 / 16).round().to(torch.uint8).unsqueeze(1)
        return RawDataset(x, torch.from_numpy(bunch.target).long(), class_names=[str(n) for n in bunch.target_names])

    def build_preprocess(self, x: SampleSource, train: Tensor) -> nn.Module:
        """Standardize."""
        return Standardize.fit(x, train)
