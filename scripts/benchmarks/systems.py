"""Systems that are no classifiers: how fast they train against a plain loop around the same network."""

import statistics

from benchmarks.loop import MEASURED, train
from benchmarks.measure import Row, interleaved, quotients, table

STEPS = 100  # in an epoch; one epoch is measured, after one that is not
GPT = [
    "experiment=nanogpt/shakespeare_char_cpu", "trainer.max_epochs=2", f"trainer.limit_train_batches={STEPS}",
    "trainer.limit_val_batches=0", "tracking.pictures=false",
]  # fmt: skip


def run(repeats: int) -> None:
    """Tokens per second of training, and equal weights at its end."""
    times = interleaved({"plain": plain_gpt, "ours": our_gpt}, repeats)
    speed = f"{statistics.median(times['ours']):,.0f} tokens/s, weights bit-equal"
    ratios = quotients(times["ours"], times["plain"])
    row = Row("GPT, 0.8 M parameters, batch 12 x 64 / nanoGPT's loop", ratios, 0.95, above=True, note=speed)
    table(f"systems (per second of CPU time: {STEPS} steps after {STEPS}, one thread)", [row])


def plain_gpt() -> float:
    """Tokens per second of nanoGPT's loop, in the order of ours; keeps the weights."""
    import time

    import numpy as np
    import torch
    from hydra.utils import instantiate
    from torch.nn import functional as F

    from lightning_modules.config.command_line import compose_run
    from lightning_modules.optimizer.param_groups import parameter_groups
    from lightning_modules.run import build

    cfg = compose_run(GPT)
    data = build.build_data(cfg)
    build.infer_shapes(cfg, data)
    model, block = build.build_model(cfg), cfg.data.block
    optimizer = instantiate(cfg.optimizer)(parameter_groups(model, cfg.optimizer.weight_decay, False))
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    schedule = instantiate(cfg.scheduler)(optimizer, total_steps=2 * STEPS, steps_per_epoch=STEPS)["scheduler"]
    tokens = torch.cat([data.arrays.x[:, 0], data.arrays.y[-1]]).numpy()
    train = data.splits["train"]
    for epoch in range(2):
        start = time.process_time()
        order = train[torch.from_numpy(np.random.RandomState([cfg.seed, epoch]).permutation(len(train)))]
        for index in order.split(cfg.data.batch_size)[:STEPS]:
            x = torch.stack([torch.from_numpy(tokens[i : i + block].astype(np.int64)) for i in index])
            y = torch.stack([torch.from_numpy(tokens[i + 1 : i + 1 + block].astype(np.int64)) for i in index])
            logits = model(x)
            loss = F.cross_entropy(logits.view(-1, logits.size(-1)), y.view(-1))
            loss.backward()
            torch.nn.utils.clip_grad_norm_(parameters, cfg.trainer.gradient_clip_val)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            schedule.step()
    MEASURED["plain weights"] = {key: value.clone() for key, value in model.state_dict().items()}
    return STEPS * cfg.data.batch_size * block / (time.process_time() - start)


def our_gpt() -> float:
    """Tokens per second of ``train.py``, with its log and checkpoint; the weights must be the plain ones."""
    import torch

    from lightning_modules.config.command_line import compose_run

    MEASURED["from_epoch"] = 1
    train(GPT)
    weights = MEASURED["plain weights"]
    assert all(torch.equal(weights[key], value) for key, value in MEASURED["weights"].items()), "weights differ"
    data = compose_run(GPT).data
    return STEPS * int(data.batch_size) * int(data.block) / float(MEASURED["cpu"])
