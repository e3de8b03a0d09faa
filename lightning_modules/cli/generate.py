"""``touchstone generate``: texts of a recorded language model."""

from typing import Annotated

from lightning_modules.cli.arguments import verb
from lightning_modules.config.bounds import Count, Fraction, NonNegative, Seed, Whole


@verb(
    "RUN [prompt=TEXT] [KEY=VALUE …]",
    ("3e782338 prompt='ROMEO:'", "3e782338 prompt='ROMEO:' max_new_tokens=500 temperature=0.8 top_k=20 seed=1"),
)
def main(
    target: Annotated[str, "id, its first 6 or more characters, or name of a run; or models:/…"],
    prompt: Annotated[str | None, "text to continue (default: the start of a line)"] = None,
    max_new_tokens: Annotated[Whole, "number of tokens"] = 200,
    temperature: Annotated[NonNegative, "divides the logits; 0: always the likeliest token"] = 1.0,
    top_k: Annotated[Count | None, "sample from the k likeliest tokens"] = None,
    top_p: Annotated[Fraction | None, "sample from the likeliest tokens of this joint probability"] = None,
    seed: Annotated[Seed, "of the random numbers: the same seed gives the same text"] = 0,
) -> dict[str, object]:
    """Continue a text with a recorded language model. Of a prompt longer than its block, the last tokens are seen; a
    character that its vocabulary lacks is an error."""
    from lightning_modules.config.errors import UserError
    from lightning_modules.run.serve import load_module, model_weights
    from lightning_modules.tracking.resume import best_checkpoint
    from lightning_modules.tracking.store import find_run, open_store
    from lightning_modules.zoo.task.generation import Sampling, generate
    from lightning_modules.zoo.task.language_model import LanguageModel

    sampling = Sampling(max_new_tokens, temperature, top_k, top_p, seed)
    store = open_store()
    models = target.startswith("models:/")
    task = load_module(model_weights(store, target) if models else best_checkpoint(store, find_run(store, target)))
    if not isinstance(task, LanguageModel):
        raise UserError(f"{target} is no language model but {type(task).__name__}; train one with task=language_model")
    text = generate(task, prompt, sampling)
    print(f"{prompt or ''}{text}")
    return {"prompt": prompt, "text": text}
