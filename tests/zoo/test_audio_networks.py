"""The networks of speech."""

import pytest
import torch

from lightning_modules.config.errors import UserError
from lightning_modules.zoo.model.audio import AudioCNN, AudioGRU


def test_networks_are_small_and_read_features_of_any_length() -> None:
    for network, size in ((AudioCNN([8000], 10), 25_154), (AudioGRU([8000], 10, n_mels=40), 60_170)):
        assert sum(p.numel() for p in network.parameters()) == size
        for frames in (1, 7, 101, 300):
            assert network(torch.randn(2, 1, 40, frames)).shape == (2, 10)


def test_features_made_once_need_the_same_networks() -> None:
    assert AudioCNN([1, 40, 101], 10, channels=[4, 8])(torch.randn(2, 1, 40, 101)).shape == (2, 10)
    assert AudioGRU([1, 40, 101], 10, n_mels=40)(torch.randn(2, 1, 40, 101)).shape == (2, 10)


def test_the_recurrent_network_reads_series_of_several_dimensions_too() -> None:
    network = AudioGRU([12, 29], 9).eval()
    x = torch.randn(3, 12, 29)
    assert torch.allclose(network(x), network(x.flatten(1).view(3, 1, 12, 29)), atol=1e-6)
    with pytest.raises(UserError, match=r"model.n_mels.*set it"):
        AudioGRU([8000], 10)


def test_samples_that_are_no_sound_and_too_many_blocks_are_refused() -> None:
    with pytest.raises(UserError, match="model=audio_cnn needs recordings"):
        AudioCNN([3, 32, 32], 10)
    with pytest.raises(UserError, match=r"model.channels.*1 to 4 widths"):
        AudioCNN([8000], 10, channels=[8] * 5)


@pytest.mark.parametrize("kind", ["cnn", "gru"])
def test_a_network_learns_to_tell_two_tones_apart(kind: str) -> None:
    torch.manual_seed(0)
    network = AudioCNN([800], 2, [4, 8]) if kind == "cnn" else AudioGRU([800], 2, n_mels=8, hidden_size=8)
    x, y = 0.5 * torch.randn(64, 1, 8, 20), torch.arange(64) % 2
    x[torch.arange(64), 0, 2 + 3 * y] += 2
    optimizer = torch.optim.Adam(network.parameters(), 0.02)
    for _ in range(30):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(network(x), y).backward()
        optimizer.step()
    assert (network.eval()(x).argmax(1) == y).float().mean() > 0.95
