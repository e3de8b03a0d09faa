"""Texts sampled from a language model, token by token, with or without a cache of keys and values."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from annotated_types import Gt, Le
from pytorch_lightning.utilities.seed import isolate_rng
from torch import Tensor
from torch.nn import functional as F

from lightning_modules.config.bounds import Count, NonNegative, Seed, Whole, bounded
from lightning_modules.config.errors import UserError
from lightning_modules.task.task_spec import model_shapes
from lightning_modules.zoo.task.language_model import LanguageModel

Logits = Callable[[Tensor], Tensor]  # tokens [T] -> logits [V] of the next one


@bounded
@dataclass(frozen=True)
class Sampling:
    """How tokens are sampled.

    Attributes:
        temperature: logits are divided by it; 0 takes the likeliest token.
        top_k: sample from the k likeliest tokens only.
        top_p: sample from the likeliest tokens that together have this probability (Holtzman et al. 2020).
        seed: of the random numbers.
    """

    max_new_tokens: Whole = 200
    temperature: NonNegative = 1.0
    top_k: Count | None = None
    top_p: Annotated[float, Gt(0), Le(1)] | None = None
    seed: Seed = 0


def generate(task: LanguageModel, prompt: str | None, sampling: Sampling, cached: bool = True) -> str:
    """Return the text that follows a prompt; None is the start of a line. The task stays in its mode.

    Of a text longer than the block only the last tokens are seen. With the same seed the text is the same with and without
    the cache, which spares computing all tokens anew for each one.

    Raises UserError for an empty prompt, and for characters that the vocabulary lacks.
    """
    tokens = encode_prompt(task, prompt).to(task.device)
    block, training = model_shapes(task.task_spec)[0][0], task.training
    generator = torch.Generator().manual_seed(sampling.seed)
    follow = _cached_logits(task.model, block) if cached and _takes_cache(task.model) else _logits(task.model, block)
    start = len(tokens)
    try:
        task.eval()
        with torch.no_grad(), isolate_rng(include_cuda=False):
            for _ in range(sampling.max_new_tokens):
                logits = follow(tokens).float().cpu()
                if task.vocabulary.unknown_id is not None:
                    logits[task.vocabulary.unknown_id] = -torch.inf
                chosen = sample(logits, sampling, generator).to(tokens)
                tokens = torch.cat([tokens, chosen])
    finally:
        task.train(training)
    return task.vocabulary.to_text(tokens[start:].cpu())


def encode_prompt(task: LanguageModel, prompt: str | None) -> Tensor:
    """Return the tokens int64 [T] of a prompt, T >= 1. Raises UserError if there are none, or the text has unknown ones."""
    text = "\n" if prompt is None else prompt
    if not text:
        raise UserError("prompt=: the prompt is empty; give a text, or omit prompt to begin a line")
    if unknown := task.vocabulary.unknown(text):
        hint = "; give a prompt" if prompt is None else ""
        listed = " ".join(map(repr, unknown[:10])) + " …" * (len(unknown) > 10)
        raise UserError(f"prompt: the model's vocabulary of {task.vocabulary.size} tokens lacks {listed}{hint}")
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
        shares = shares * (shares.cumsum(0) - shares < sampling.top_p)  # the first always remains
    return tokens[torch.multinomial(shares, 1, generator=generator)]


def _takes_cache(model: Any) -> bool:
    return "cache" in inspect.signature(model.forward).parameters


def _cached_logits(model: Any, block: int) -> Logits:
    """Compute the newest token only, until the block is full: then the positions of all tokens change with each new one."""
    cache: list[Any] = []

    def follow(tokens: Tensor) -> Tensor:
        if not cache or len(tokens) > block:
            cache.clear()
            logits = model(tokens[None, -block:], cache)
        else:
            logits = model(tokens[None, -1:], cache)
        return torch.as_tensor(logits[0, -1])

    return follow


def _logits(model: Any, block: int) -> Logits:
    """Compute a whole block for each token, as a compressed network takes it."""

    def follow(tokens: Tensor) -> Tensor:
        seen = tokens[-block:]
        return torch.as_tensor(model(F.pad(seen, (0, block - len(seen)))[None])[0, len(seen) - 1])

    return follow
