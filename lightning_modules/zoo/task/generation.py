"""Texts sampled from a language model, token by token, with or without a cache of keys and values."""

import inspect
from dataclasses import dataclass
from typing import Any

import torch
from pytorch_lightning.utilities.seed import isolate_rng
from torch import Tensor
from torch.nn import functional as F

from lightning_modules.config.bounds import Count, Fraction, NonNegative, Seed, Whole, bounded
from lightning_modules.config.errors import UserError
from lightning_modules.task.task_spec import model_shapes
from lightning_modules.zoo.task.language_model import LanguageModel


@bounded
@dataclass(frozen=True)
class Sampling:
    """How tokens are sampled: with temperature 0 the likeliest, else of the `top_k` likeliest, and of the likeliest that
    together have the probability `top_p` (Holtzman et al. 2020)."""

    max_new_tokens: Whole = 200
    temperature: NonNegative = 1.0
    top_k: Count | None = None
    top_p: Fraction | None = None
    seed: Seed = 0


def generate(task: LanguageModel, prompt: str | None, sampling: Sampling, cached: bool = True) -> str:
    """Return the text that follows a prompt; None is the start of a line. The task stays in its mode.

    Of a text longer than the block only the last tokens are seen. With the same seed the text is the same with and without
    the cache. Raises UserError for an empty prompt, and for characters that the vocabulary lacks.
    """
    tokens = encode_prompt(task, prompt).to(task.device)
    block, start, training = model_shapes(task.task_spec)[0][0], len(tokens), task.training
    generator = torch.Generator().manual_seed(sampling.seed)
    cache: list[object] | None = [] if cached and "cache" in inspect.signature(task.model.forward).parameters else None
    try:
        task.eval()
        with torch.no_grad(), isolate_rng(include_cuda=False):
            for _ in range(sampling.max_new_tokens):
                logits = _next_logits(task.model, tokens, block, cache).float().cpu()
                if task.vocabulary.unknown_id is not None:
                    logits[task.vocabulary.unknown_id] = -torch.inf
                tokens = torch.cat([tokens, sample(logits, sampling, generator).to(tokens)])
    finally:
        task.train(training)
    return task.vocabulary.to_text(tokens[start:].cpu())


def encode_prompt(task: LanguageModel, prompt: str | None) -> Tensor:
    """Return the tokens int64 [T] of a prompt, T >= 1. Raises UserError if there are none, or the text has unknown ones."""
    text = "\n" if prompt is None else prompt
    if not text:
        raise UserError("prompt=: the prompt is empty; give a text, or omit prompt to begin a line")
    if unknown := task.vocabulary.unknown(text):
        listed = " ".join(map(repr, unknown[:10])) + " …" * (len(unknown) > 10) + "; give a prompt" * (prompt is None)
        raise UserError(f"prompt: the model's vocabulary of {task.vocabulary.size} tokens lacks {listed}")
    return task.vocabulary.to_ids(text).long()


def sample(logits: Tensor, sampling: Sampling, generator: torch.Generator) -> Tensor:
    """Return a token int64 [1] sampled from logits [V]."""
    if sampling.temperature == 0:
        return logits.argmax(keepdim=True)
    ordered, tokens = logits.double().div(sampling.temperature).sort(descending=True, stable=True)
    if sampling.top_k is not None:
        ordered[sampling.top_k :] = -torch.inf
    shares = ordered.softmax(0)
    if sampling.top_p is not None:
        shares = shares * (shares.cumsum(0) - shares <= sampling.top_p)  # the first always remains
    return tokens[torch.multinomial(shares, 1, generator=generator)]


def _next_logits(model: Any, tokens: Tensor, block: int, cache: list[Any] | None) -> Tensor:
    """Logits [V] of the token after int64 [T]; a `cache` holds all but the last of them, until the block is full."""
    seen = tokens[-block:]
    if cache is None:  # a compressed network takes whole blocks
        return torch.as_tensor(model(F.pad(seen, (0, block - len(seen)))[None])[0, len(seen) - 1])
    if len(tokens) > block:
        cache.clear()  # all positions have changed
    return torch.as_tensor(model(seen[None, -1:] if cache else seen[None], cache)[0, -1])
