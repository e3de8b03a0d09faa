"""LeNet-5 as Deep Compression prunes it; LeNet-300-100 is an MLP (see conf/model/lenet300.yaml)."""

from collections.abc import Sequence

from torch import Tensor, nn

from lightning_modules.model.shape import image_shape


class LeNet5(nn.Module):
    """The Caffe variant of LeNet-5 (Han et al. 2016, table 3): conv5-20, pool, conv5-50, pool, FC 500, head.

    As in Caffe's prototxt there is no padding, and the only ReLU follows the first fully connected layer.
    431,080 parameters on 1x28x28 with 10 classes. Raises UserError for images smaller than 16x16.
    """

    def __init__(self, input_shape: Sequence[int], num_outputs: int) -> None:
        super().__init__()
        channels, height, width = image_shape("lenet5", input_shape, smallest=16)
        self.features = nn.Sequential(
            nn.Conv2d(channels, 20, 5), nn.MaxPool2d(2), nn.Conv2d(20, 50, 5), nn.MaxPool2d(2)
        )
        self.fc = nn.Linear(50 * _pooled_size(height) * _pooled_size(width), 500)
        self.relu = nn.ReLU()
        self.head = nn.Linear(500, num_outputs)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.relu(self.fc(self.features(images).flatten(1))))


def _pooled_size(size: int) -> int:
    """The side length after two rounds of a 5x5 convolution and 2x2 pooling."""
    return ((size - 4) // 2 - 4) // 2
