"""GPT, the measures of its tokens, and texts sampled from it."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torchmetrics.text import Perplexity

from lightning_modules.config.errors import UserError
from lightning_modules.zoo.data.token_vocabulary import fit_byte_pairs, fit_characters
from lightning_modules.zoo.model.gpt import GPT
from lightning_modules.zoo.task.generation import Sampling, generate, sample
from lightning_modules.zoo.task.language_model import LanguageModel
from lightning_modules.zoo.task.token_metrics import NATS, TOKENS, TokenCrossEntropy, ratio, token_metrics, token_sums

ALPHABET = "abcdefgh\n"


def network(**settings: Any) -> GPT:
    torch.manual_seed(0)
    return GPT([16], len(ALPHABET), **{"depth": 2, "heads": 2, "dim": 16, **settings}).eval()


def task(**settings: Any) -> LanguageModel:
    vocabulary = fit_characters(ALPHABET)
    built = LanguageModel(network(**settings), TokenCrossEntropy(), num_outputs=len(ALPHABET), preprocess=vocabulary)
    built.task_spec = {"model": {"input_shape": [16], "num_outputs": len(ALPHABET)}}
    return built


def tokens(*shape: int) -> Tensor:
    return torch.randint(0, len(ALPHABET), shape, generator=torch.Generator().manual_seed(1))


def test_a_position_sees_those_before_it_only() -> None:
    x = tokens(3, 16)
    changed = x.clone()
    changed[:, 9:] = (changed[:, 9:] + 1) % len(ALPHABET)
    model = network()
    before, after = model(x), model(changed)
    torch.testing.assert_close(before[:, :9], after[:, :9])
    assert not torch.allclose(before[:, 9:], after[:, 9:])
    torch.testing.assert_close(model(x[:, :5]), before[:, :5])  # a shorter text


def test_one_token_at_a_time_with_a_cache_is_the_whole_text_at_once() -> None:
    x, model = tokens(2, 16), network()
    cache: list[Any] = []
    found = [model(x[:, :4], cache)[:, -1], *(model(x[:, i : i + 1], cache)[:, -1] for i in range(4, 16))]
    torch.testing.assert_close(torch.stack(found, 1), model(x)[:, 3:])


def test_sizes_and_initial_weights_are_those_of_gpt2() -> None:
    torch.manual_seed(0)
    model = GPT([64], 65, depth=4, heads=4, dim=128)
    sizes = {name: p.numel() for name, p in model.named_parameters()}
    assert sum(sizes.values()) - sizes["positions.weight"] == 795_904  # nanoGPT prints 0.80M, without positions
    assert not [name for name in sizes if name.startswith("head")]  # tied
    stds = {name: float(p.detach().std()) for name, p in model.named_parameters() if p.ndim == 2}
    for name, std in stds.items():
        expected = 0.02 / math.sqrt(8) if name.endswith(("attention.proj.weight", "mlp.2.weight")) else 0.02
        assert std == pytest.approx(expected, rel=0.05), name
    x = tokens(8, 65)
    assert float(TokenCrossEntropy()(model(x[:, :-1]), x[:, 1:]).detach()) == pytest.approx(math.log(65), abs=0.2)


def test_measures_of_tokens_are_those_of_torchmetrics_and_count_characters() -> None:
    vocabulary = fit_byte_pairs("abab cdcd " * 50, 262)
    logits = torch.randn(5, 7, vocabulary.size, generator=torch.Generator().manual_seed(0))
    target = torch.randint(0, vocabulary.size, (5, 7), generator=torch.Generator().manual_seed(1))
    target[4, 3:] = -100  # no tokens
    sums = token_sums(logits, target, vocabulary.token_characters)
    metrics = token_metrics(["nats_per_char", "bits_per_char", "perplexity", "accuracy"])
    for part in sums.split(2):
        metrics.update(part, None)
    found = metrics.compute()
    perplexity = Perplexity(ignore_index=-100)
    assert float(found["perplexity"]) == pytest.approx(float(perplexity(logits, target)), rel=1e-5)
    loss = TokenCrossEntropy()(logits, target)
    assert float(ratio(sums, NATS, TOKENS)) == pytest.approx(float(loss), rel=1e-6)
    counted = target[target >= 0]
    characters = int(vocabulary.token_characters[counted].sum())
    assert float(found["nats_per_char"]) == pytest.approx(float(loss) * len(counted) / characters, rel=1e-6)
    assert float(found["bits_per_char"]) == pytest.approx(float(found["nats_per_char"]) / math.log(2), rel=1e-6)
    right = (logits.argmax(-1) == target).sum() / len(counted)
    assert float(found["accuracy"]) == pytest.approx(float(right))
    with pytest.raises(UserError, match=r"unknown metric 'perplexty'; did you mean 'perplexity'"):
        token_metrics(["perplexty"])


@pytest.mark.parametrize("prompt", [None, "abc", "abcdefgh" * 5])  # the last is longer than the block
def test_texts_are_a_function_of_the_seed_with_and_without_the_cache(prompt: str | None) -> None:
    model = task()
    first = generate(model, prompt, Sampling(max_new_tokens=40, seed=3))
    assert len(first) == 40 and model.training
    assert generate(model, prompt, Sampling(max_new_tokens=40, seed=3), cached=False) == first
    assert generate(model, prompt, Sampling(max_new_tokens=40, seed=4)) != first


def test_a_long_prompt_is_its_last_tokens() -> None:
    text = "abcdefgh" * 5
    sampling = Sampling(max_new_tokens=10)
    assert generate(task(), text, sampling) == generate(task(), text[-16:], sampling)


def test_sampling_leaves_the_random_numbers_of_the_training_alone() -> None:
    before = torch.get_rng_state()
    generate(task(), "a", Sampling(max_new_tokens=3))
    assert torch.equal(before, torch.get_rng_state())


def test_temperature_top_k_and_top_p_shape_the_distribution() -> None:
    logits = torch.tensor([0.5, 0.2, 0.25, 0.05]).log()

    def shares(**settings: Any) -> list[float]:
        generator = torch.Generator().manual_seed(0)
        chosen = torch.cat([sample(logits, Sampling(**settings), generator) for _ in range(600)])
        return (chosen.bincount(minlength=4) / 600).tolist()

    assert shares() == pytest.approx([0.5, 0.2, 0.25, 0.05], abs=0.06)
    assert shares(temperature=0.0) == shares(top_k=1) == shares(top_p=0.1) == [1, 0, 0, 0]
    assert shares(top_k=2) == pytest.approx([2 / 3, 0, 1 / 3, 0], abs=0.06)
    assert shares(top_p=0.7) == pytest.approx([2 / 3, 0, 1 / 3, 0], abs=0.06)
    assert shares(temperature=0.5) == pytest.approx([0.71, 0.11, 0.18, 0.01], abs=0.06)


@pytest.mark.parametrize(
    ("prompt", "message"),
    [("", "the prompt is empty"), ("aXbY", r"vocabulary of 9 tokens lacks 'X' 'Y'$")],
)
def test_a_prompt_without_tokens_and_unknown_characters_are_rejected(prompt: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        generate(task(), prompt, Sampling())


def test_an_unknown_token_is_never_written() -> None:
    model = task()
    model.preprocess = fit_characters(ALPHABET[:-1], others="z")
    text = generate(model, "a", Sampling(max_new_tokens=300, temperature=5.0))
    assert len(text) == 300 and "<unk>" not in text
    with pytest.raises(UserError, match=r"lacks '\\n'; give a prompt"):
        generate(model, None, Sampling())


@pytest.mark.parametrize(
    ("shape", "settings", "message"),
    [([3, 8], {}, "model=gpt needs tokens"), ([8], {"dim": 10, "heads": 4}, "dim=10 must be a multiple")],
)
def test_a_network_that_does_not_fit_is_rejected(shape: list[int], settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        GPT(shape, 9, **settings)
