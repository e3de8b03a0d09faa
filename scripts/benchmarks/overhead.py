"""What the harness adds to an epoch of plain PyTorch."""

import functools
import statistics
import time
from collections.abc import Sequence

from benchmarks.loop import MEASURED, WARM_UP, train
from benchmarks.measure import Row, interleaved, quotients, table

EPOCHS = 60


def run(repeats: int) -> None:
    """Epochs of train.py's loop against plain PyTorch: the smallest model, equal weights, the same validations."""
    choice = ["data=mnist1d", "model=linear", "data.batch_size=100", f"trainer.max_epochs={EPOCHS}"]
    rows = []
    for name, more in {
        "recorded, default callbacks": [], "recorded, no progress bar": ["~callbacks.progress"],
        "tracking=none, no progress bar": ["tracking=none", "~callbacks.progress"],
    }.items():  # fmt: skip
        times = interleaved(
            {"plain": lambda: plain_epochs(choice), "ours": functools.partial(our_epochs, [*choice, *more])},
            repeats,
        )
        per_epoch = f"{statistics.median(times['ours']) * 1e3:.1f} ms an epoch, weights bit-equal"
        rows.append(Row(f"{name} / plain loop", quotients(times["ours"], times["plain"]), 1.5, note=per_epoch))
    title = f"overhead (CPU time of an epoch: MNIST-1D, linear, batch 100, {EPOCHS - WARM_UP} epochs after {WARM_UP})"
    table(title, rows)


def plain_epochs(choice: Sequence[str]) -> float:
    """Seconds of one epoch of a loop without a harness; keeps the weights."""
    import numpy as np
    import torch
    from hydra.utils import instantiate

    from lightning_modules.config.command_line import compose_run
    from lightning_modules.run import build

    cfg = compose_run(choice)
    data = build.build_data(cfg)
    build.infer_shapes(cfg, data)
    model = build.build_model(cfg)
    optimizer = instantiate(cfg.optimizer)(model.parameters())
    loss_of, x, y = torch.nn.CrossEntropyLoss(), data.arrays.x, data.arrays.y
    train, val = data.splits["train"], data.splits["val"]
    for epoch in range(EPOCHS):
        if epoch == WARM_UP:
            start = time.process_time()
        order = train[torch.from_numpy(np.random.RandomState([cfg.seed, epoch]).permutation(len(train)))]
        model.train()
        for index in order.split(cfg.data.batch_size):
            loss = loss_of(model(x.index_select(0, index)), y.index_select(0, index))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        model.eval()
        with torch.no_grad():
            logits = torch.cat([model(part) for part in x[val].split(512)])
            _ = loss_of(logits, y[val]).item(), (logits.argmax(-1) == y[val]).float().mean().item()
    MEASURED["plain weights"] = model.state_dict()
    return (time.process_time() - start) / (EPOCHS - WARM_UP)


def our_epochs(choice: Sequence[str]) -> float:
    """Seconds of one epoch of ``train.py``, with validation, log and checkpoints; the weights must be the plain ones."""
    import torch

    train(choice)
    weights = MEASURED["plain weights"]
    assert all(torch.equal(weights[key], value) for key, value in MEASURED["weights"].items()), "weights differ"
    return MEASURED["cpu"] / (EPOCHS - WARM_UP)
