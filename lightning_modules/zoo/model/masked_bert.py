"""A BERT for masked language modelling (Devlin et al. 2019), built by Hugging Face transformers (an optional extra)."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_modules.config.bounds import Count, bounded
from lightning_modules.config.errors import UserError
from lightning_modules.model.shape import text_shape
from lightning_modules.zoo.data.vocabulary import PADDING, UNKNOWN, Vocabulary
from lightning_modules.zoo.model.pretrained_tokenizer import import_transformers

SPECIAL = ("[CLS]", "[SEP]", "[MASK]")  # follow the words of the data
# what the tokenizer "words" finds, for the regular expressions of `tokenizers`
# (whose \w also has combining marks)
_WORD = r"'(?:s|t|m|d|re|ve|ll|em)(?![\p{L}\p{N}_])|[\p{L}\p{N}_]+(?:['’][\p{L}\p{N}_]+)*|[^\p{L}\p{N}_\s]"


class MaskedBert(nn.Module):
    """Word ids int [B, L] of the data's vocabulary -> logits [B, L, vocab_size] of the word at each position.

    ``[CLS]`` and ``[SEP]`` are put around each text. The output matrix is that of the embeddings (tied), and the weights
    are initialised as BERT's.

    Args:
        vocab_size: words of the data, with padding (0) and the unknown word (1).
        depth, heads, dim: layers, attention heads and width; `dim` is a multiple of `heads`.

    Raises UserError if transformers is not installed.
    """

    @bounded
    def __init__(
        self,
        input_shape: Sequence[int],
        vocab_size: int | None = None,
        depth: Count = 4,
        heads: Count = 4,
        dim: Count = 128,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        if dim % heads:
            raise UserError(f"model.dim={dim} must be a multiple of model.heads={heads}")
        transformers = import_transformers("model=masked_bert")
        self.length, self.vocab_size = text_shape("masked_bert", input_shape, vocab_size)
        self.cls, self.sep, self.mask = (self.vocab_size + i for i in range(len(SPECIAL)))
        config = transformers.BertConfig(
            vocab_size=self.vocab_size + len(SPECIAL),
            hidden_size=dim,
            num_hidden_layers=depth,
            num_attention_heads=heads,
            intermediate_size=4 * dim,
            max_position_embeddings=self.length + 2,
            hidden_dropout_prob=dropout,
            attention_probs_dropout_prob=dropout,
            pad_token_id=PADDING,
            type_vocab_size=1,
        )
        self.network = transformers.BertForMaskedLM(config)

    def forward(self, tokens: Tensor, chosen: Tensor | None = None) -> Tensor:
        """With bool [B, L], only the logits of the `chosen` positions, [N, vocab_size]."""
        states = self._states(tokens)
        logits: Tensor = self.network.cls(states if chosen is None else states[chosen])
        return logits[..., : self.vocab_size]

    def _states(self, tokens: Tensor) -> Tensor:
        """The last layer's states [B, L, dim]."""
        count, length = tokens.shape
        ids = F.pad(tokens, (1, 1), value=PADDING)
        ids[:, 0] = self.cls
        ends = (tokens != PADDING).long() * torch.arange(1, length + 1, device=tokens.device)
        last = ends.amax(1, keepdim=True) + 1
        ids = ids.scatter(1, last, self.sep)
        seen = torch.arange(length + 2, device=tokens.device).expand(count, -1) <= last
        states: Tensor = self.network.bert(input_ids=ids, attention_mask=seen.long()).last_hidden_state
        return states[:, 1:-1]


def save_pretrained(model: MaskedBert, vocabulary: Vocabulary, folder: Path) -> None:
    """Write the network and its tokenizer as ``AutoModel.from_pretrained(folder)`` reads them.

    Raises UserError if the texts were not cut by the tokenizer "words".
    """
    if vocabulary.tokenizer != "words":
        raise UserError(
            f"data.tokenizer={vocabulary.tokenizer}: only a vocabulary of data.tokenizer=words can be exported"
        )
    import tokenizers
    from tokenizers import Regex, models, normalizers, pre_tokenizers, processors

    ids = {
        word: id for word, id in zip(vocabulary.words, vocabulary.lookup[1:-1].tolist(), strict=True) if id > UNKNOWN
    }
    special = dict(zip(SPECIAL, (model.cls, model.sep, model.mask), strict=True))
    ids = {"[PAD]": PADDING, "[UNK]": UNKNOWN, **ids, **special}
    built = tokenizers.Tokenizer(models.WordLevel(ids, unk_token="[UNK]"))
    built.normalizer = normalizers.Lowercase()
    built.pre_tokenizer = pre_tokenizers.Split(Regex(_WORD), behavior="removed", invert=True)
    built.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[(name, special[name]) for name in SPECIAL[:2]]
    )
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]"} | {f"{name[1:-1].lower()}_token": name for name in SPECIAL}
    fast = import_transformers("format=transformers").PreTrainedTokenizerFast(
        tokenizer_object=built, model_max_length=model.length + 2, **names
    )
    fast.save_pretrained(folder)
    model.network.save_pretrained(folder)
