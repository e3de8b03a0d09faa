"""The networks of texts: rows of any length, padding that says nothing, and what each paper asks for."""

import sys

import pytest
import torch
from torch import Tensor, nn

from lightning_modules.config.errors import UserError
from lightning_modules.task.manifold_mixup import blend, manifold_mixup
from lightning_modules.zoo.model.hf_text_classifier import HFTextClassifier
from lightning_modules.zoo.model.text import KimCNN, MaxNormLinear, TextGRU, TextTransformer

NETWORKS = [KimCNN, TextGRU, TextTransformer]
LENGTHS = (9, 0, 1, 4, 2)


def texts(lengths: tuple[int, ...] = LENGTHS, width: int = 9) -> Tensor:
    x = torch.randint(1, 50, (len(lengths), width), generator=torch.Generator().manual_seed(0))
    return x.masked_fill(torch.arange(width) >= torch.tensor(lengths)[:, None], 0)


def built(network: type[nn.Module], **settings: object) -> nn.Module:
    torch.manual_seed(0)
    return network([9], 3, 50, **settings)


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("dtype", [torch.int64, torch.int32])
def test_ids_give_a_row_of_outputs_whatever_their_type(network: type[nn.Module], dtype: torch.dtype) -> None:
    outputs = built(network).eval()(texts().to(dtype))
    assert outputs.shape == (5, 3) and bool(torch.isfinite(outputs).all())


@pytest.mark.parametrize("network", NETWORKS)
def test_an_output_depends_neither_on_the_rest_of_the_batch_nor_on_how_much_padding_follows(
    network: type[nn.Module],
) -> None:
    model = built(network).eval()
    together = model(texts())
    alone = torch.cat([model(row[None]) for row in texts()])
    cut = torch.cat([model(row[None, : max(1, length)]) for row, length in zip(texts(), LENGTHS, strict=True)])
    for other in (alone, cut):
        assert torch.allclose(together, other, atol=1e-5)
    assert not torch.allclose(together[0], together[3], atol=1e-3), "texts differ"


@pytest.mark.parametrize("network", NETWORKS)
def test_a_batch_of_empty_texts_is_trained_on_without_anything_infinite(network: type[nn.Module]) -> None:
    model = built(network)
    model(texts((0, 0, 0))).sum().backward()
    assert all(bool(torch.isfinite(p.grad).all()) for p in model.parameters() if p.grad is not None)
    assert all(p.grad is not None for p in model.get_submodule("head").parameters())


@pytest.mark.parametrize("network", NETWORKS)
def test_the_embedding_of_padding_is_zero_and_stays_so(network: type[nn.Module]) -> None:
    model = built(network)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    before = model.get_parameter("embedding.weight").clone()
    model(texts()).square().sum().backward()
    optimizer.step()
    after = model.get_parameter("embedding.weight")
    assert not after[0].any() and not torch.equal(before[1:], after[1:])


@pytest.mark.parametrize("network", NETWORKS)
def test_the_vectors_of_two_texts_are_mixed_where_the_network_says(network: type[nn.Module]) -> None:
    model = built(network).eval()
    kept: list[Tensor] = []
    model.mixing_point.register_forward_hook(lambda _, __, output: kept.append(output))  # type: ignore[union-attr]
    x, partner, weight = texts(), torch.tensor([1, 0, 4, 3, 2]), torch.tensor([0.3, 1.0, 0.5, 0.2, 0.0])
    plain = model(x)
    with manifold_mixup(model, {"mix_partner": partner, "mix_weight": weight}):
        mixed = model(x)
    head = model.get_submodule("head")
    assert torch.allclose(mixed, head(blend(kept[0], kept[0][partner], weight)), atol=1e-5)
    assert torch.allclose(mixed[1], plain[1], atol=1e-6) and torch.allclose(mixed[4], plain[2], atol=1e-5)
    assert torch.equal(model(x), plain), "nothing is left behind"


@pytest.mark.parametrize("network", NETWORKS)
def test_samples_that_are_no_texts_and_data_that_count_no_words_are_refused(network: type[nn.Module]) -> None:
    with pytest.raises(UserError, match=r"needs texts, rows of word ids \[L\], the data gives \(3, 8, 8\)"):
        network([3, 8, 8], 3, 50)
    with pytest.raises(UserError, match=r"model.vocab_size"):
        network([9], 3)


def test_kims_network_has_as_many_parameters_as_the_paper_says() -> None:
    maps = sum(300 * width * 100 + 100 for width in (3, 4, 5))
    assert sum(p.numel() for p in KimCNN([37], 6, 8000).parameters()) == 8000 * 300 + maps + 300 * 6 + 6
    weights = KimCNN([37], 6, 8000).embedding.weight.detach()
    assert 0.249 < float(weights.abs().max()) <= 0.25


@pytest.mark.parametrize("kernels", [(3, 4, 5), (1,), (2, 7)])
def test_texts_in_one_row_give_what_texts_beside_each_other_give(kernels: tuple[int, ...]) -> None:
    model = built(KimCNN, kernel_sizes=kernels, feature_maps=8)
    assert isinstance(model, KimCNN)
    for lengths in (LENGTHS, (0,), (0, 0), (3,), (9, 9), (1, 0, 9)):
        assert torch.allclose(model.features(texts(lengths)), model.pack_texts(texts(lengths)), atol=1e-6)
    holed = texts()
    holed[0, 3] = 0  # a place within a text that is padding counts as a word of zeros
    assert torch.allclose(model.features(holed), model.pack_texts(holed), atol=1e-6)


def test_rows_of_the_head_that_are_longer_than_three_are_shortened_and_no_others() -> None:
    head = MaxNormLinear(4, 2, 3.0)
    with torch.no_grad():
        head.weight.copy_(torch.tensor([[3.0, 4.0, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0]]))
        head.bias.zero_()
    x = torch.eye(4)
    wanted = torch.tensor([[1.8, 2.4, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0]]).T
    assert torch.allclose(head.eval()(x), wanted)
    assert head.weight[0, 0] == 3.0, "evaluation changes no weight"
    assert torch.allclose(head.train()(x), wanted) and torch.allclose(head.weight.T, wanted)
    free = MaxNormLinear(4, 2, None)
    assert torch.equal(free(x), nn.functional.linear(x, free.weight, free.bias))


def test_wrong_settings_are_explained() -> None:
    with pytest.raises(UserError, match=r"model.kernel_sizes=\[\]"):
        KimCNN([9], 3, 50, kernel_sizes=[])
    with pytest.raises(UserError, match=r"model.dim=10 must be a multiple of model.heads=4"):
        TextTransformer([9], 3, 50, dim=10)


def test_a_pretrained_text_model_without_its_package_is_answered_with_the_install_command(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(UserError, match=r"model=hf_text needs transformers: pip install -e '.\[text\]'"):
        HFTextClassifier([9], 3, "somewhere/model")
