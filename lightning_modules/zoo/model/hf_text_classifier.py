"""Text classifiers of Hugging Face transformers (an optional extra); nothing is downloaded unless requested."""

from collections.abc import Sequence
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from lightning_modules.config.errors import UserError, first_line
from lightning_modules.zoo.model.pretrained_tokenizer import folder_or_name, import_transformers, pretrained_tokenizer


class HFTextClassifier(nn.Module):
    """`AutoModelForSequenceClassification` from a folder or by name, with `num_outputs` outputs.

    Input: the output of ``data.tokenizer=NAME``, token ids plus one, int [B, L], with 0 as padding. Special tokens are
    added here, so that augmentation does not touch them. Weights are read from safetensors only; nothing is unpickled.
    To rebuild a recorded model, its folder must still exist: config and tokenizer are read from it.

    Args:
        name: a folder, or a name in the local Hugging Face cache; taken from the data.
        pretrained: false: random weights.
        freeze_backbone: train the head only.
        download: allow downloads of missing files.

    Raises UserError if transformers is not installed, or the model is missing or not a text classifier.
    """

    def __init__(
        self,
        input_shape: Sequence[int],
        num_outputs: int,
        name: str | None = None,
        pretrained: bool = True,
        freeze_backbone: bool = False,
        download: bool = False,
    ) -> None:
        super().__init__()
        transformers = import_transformers("model=hf_text")
        if name is None or len(input_shape) != 1:
            raise UserError(
                "model=hf_text needs texts tokenized by its own tokenizer: set data.tokenizer=NAME, as in data=trec"
            )
        tokenizer = pretrained_tokenizer(name, download)
        self.network: Any = _load_network(transformers, folder_or_name(name), num_outputs, pretrained, download)
        self.padding = int(tokenizer.pad_token_id or 0)
        self.network.config.pad_token_id = self.padding
        before, after = _special_tokens(tokenizer)
        self.register_buffer("before", before, persistent=False)
        self.register_buffer("after", after, persistent=False)
        self.before: Tensor
        self.after: Tensor
        _check_length(self.network, int(input_shape[0]) + len(before) + len(after), self.padding)
        if freeze_backbone:
            self.network.base_model.requires_grad_(False)

    @property
    def mixing_point(self) -> nn.Module:
        """The token embeddings."""
        return self.network.get_input_embeddings()

    def forward(self, tokens: Tensor) -> Tensor:
        ids, mask = self.add_special_tokens(tokens)
        return self.network(input_ids=ids, attention_mask=mask).logits

    def add_special_tokens(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """The network's token ids int64 [B, L'] including special tokens, and the attention mask, from tokens [B, L]."""
        count, length = tokens.shape
        places = torch.arange(1, length + 1, device=tokens.device)
        ends = ((tokens != 0) * places).amax(1) + len(self.before)
        total = len(self.before) + length + len(self.after)
        ids = torch.full((count, total), self.padding, dtype=torch.int64, device=tokens.device)
        ids[:, : len(self.before)] = self.before
        inner = ids[:, len(self.before) : len(self.before) + length]
        inner.copy_(torch.where(tokens != 0, tokens.long() - 1, self.padding))
        ids.scatter_(
            1, ends[:, None] + torch.arange(len(self.after), device=tokens.device), self.after.expand(count, -1)
        )
        mask = (torch.arange(total, device=tokens.device) < ends[:, None] + len(self.after)).long()
        longest = int(mask.sum(1).max())
        return ids[:, :longest], mask[:, :longest]


def _load_network(transformers: ModuleType, path: str, num_outputs: int, pretrained: bool, download: bool) -> Any:
    builder, common = transformers.AutoModelForSequenceClassification, {"trust_remote_code": False}
    files = {**common, "local_files_only": not download}
    level = transformers.utils.logging.get_verbosity()
    transformers.utils.logging.set_verbosity_error()  # it warns that the head is new, as intended
    try:
        config = transformers.AutoConfig.from_pretrained(path, num_labels=num_outputs, **files)
        if not pretrained:
            return builder.from_config(config, **common)
        return builder.from_pretrained(path, config=config, use_safetensors=True, ignore_mismatched_sizes=True, **files)
    except (OSError, ValueError, KeyError) as error:
        raise UserError(
            f"model.name={path}: no text model with safetensors in a folder of that name, nor in the local Hugging Face "
            f"cache, and nothing is downloaded unless model.download=true ({first_line(error)})"
        ) from error
    finally:
        transformers.utils.logging.set_verbosity(level)


def _special_tokens(tokenizer: Any) -> tuple[Tensor, Tensor]:
    """The token ids that the tokenizer adds before and after a text."""
    bare = tokenizer("a", add_special_tokens=False)["input_ids"]
    whole = tokenizer("a")["input_ids"]
    start = next((i for i in range(len(whole)) if whole[i : i + len(bare)] == bare), 0)
    return torch.tensor(whole[:start], dtype=torch.int64), torch.tensor(whole[start + len(bare) :], dtype=torch.int64)


def _check_length(network: Any, length: int, padding: int) -> None:
    most = getattr(network.config, "max_position_embeddings", None)
    if most is None:
        return
    # these count positions from the padding id on
    most -= padding + 1 if network.config.model_type in ("roberta", "xlm-roberta", "camembert", "xlm-roberta-xl") else 0
    if length > most:
        raise UserError(
            f"model=hf_text: texts of {length} tokens, special tokens included, but the network has {most} positions; set "
            f"data.max_length={most - 2}"
        )
