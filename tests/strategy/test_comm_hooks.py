"""What hooks make of gradients on CPU: the mean of the ranks, as exact as it is sent, with nothing lost for good."""

from typing import Any

import pytest
import torch
from gloo_process_group import run_on_ranks
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from lightning_modules.config.errors import UserError
from lightning_modules.strategy.comm_hooks import CommHook
from lightning_modules.strategy.comm_stats import BytesCounter
from lightning_modules.zoo.strategy.comm_hooks import (
    HalfPrecision,
    PowerSGD,
    TopK,
    decode_entries,
    encode_entries,
)

NUMBERS = 40 * 30 + 30 + 30 * 4 + 4  # of the network below


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(40, 30), nn.Tanh(), nn.Linear(30, 4))


def gradients(model: nn.Module) -> Tensor:
    return torch.cat([p.grad.flatten().clone() for p in model.parameters() if p.grad is not None])


def steps(
    rank: int, hook: CommHook | None, count: int, bucket_mb: float = 25.0
) -> tuple[Any, Any, int, dict[str, Any]]:
    """(averaged gradients of each step, this rank's own ones, bytes sent, state of the hook)."""
    own, model = network(), DistributedDataParallel(network(), bucket_cap_mb=bucket_mb, gradient_as_bucket_view=True)
    bytes_counter = BytesCounter()
    if hook:
        hook.attach(model, bytes_counter, 0)
    averaged, local = [], []
    for step in range(count):
        x = torch.randn(8, 40, generator=torch.Generator().manual_seed(10 * step + rank))
        for net, kept in ((model, averaged), (own, local)):
            net.zero_grad()
            net(x).square().sum().backward()
            kept.append(gradients(net))
    state = {key: value.numpy() for key, value in hook.state_dict().items()} if hook else {}
    return torch.stack(averaged).numpy(), torch.stack(local).numpy(), bytes_counter.sent, state


def test_sixteen_bits_are_the_mean_to_their_precision_at_half_the_bytes() -> None:
    for dtype, precision in (("float16", 2e-3), ("bfloat16", 2e-2)):
        (averaged, own, sent, _), (same, other, _, _) = run_on_ranks(steps, HalfPrecision(dtype), 3)  # type: ignore[arg-type]
        assert (averaged == same).all()
        mean = (own + other) / 2
        assert 0 < abs(averaged - mean).max() < precision * abs(mean).max()
        assert sent == 3 * 2 * NUMBERS


def test_power_sgd_sends_whole_gradients_at_first_and_then_factors() -> None:
    (averaged, own, sent, _), (same, other, _, _) = run_on_ranks(steps, PowerSGD(rank=2, start_step=3), 8)
    assert (averaged == same).all()
    mean = (own + other) / 2
    assert averaged[:3] == pytest.approx(mean[:3], abs=1e-5)
    assert abs(averaged[3:] - mean[3:]).max() > 1e-3
    factors = 2 * (40 + 30) + 30 * 4 + 30 + 4  # the second matrix is too small to gain anything
    assert sent == 4 * (3 * NUMBERS + 5 * factors)


def wide_steps(rank: int, count: int) -> Any:
    """The last averaged gradients of a network whose gradients fill several buckets."""
    torch.manual_seed(0)
    layers = [nn.Linear(40, 1024), nn.ReLU(), nn.Linear(1024, 256), nn.ReLU(), nn.Linear(256, 256), nn.Linear(256, 4)]
    model = DistributedDataParallel(nn.Sequential(*layers), bucket_cap_mb=0.1)
    PowerSGD(start_step=2).attach(model, BytesCounter(), 0)
    for step in range(count):
        x = torch.randn(8, 40, generator=torch.Generator().manual_seed(10 * step + rank))
        model.zero_grad()
        model(x).square().mean().backward()
    return gradients(model).numpy()


@pytest.mark.slow
def test_power_sgd_of_several_buckets_sums_alike_on_all_ranks() -> None:
    first, second = run_on_ranks(wide_steps, 60)
    assert (first == second).all()
    assert abs(first).max() > 0


@pytest.mark.parametrize("bucket_mb", [25.0, 0.001])
def test_top_k_residuals_are_exactly_what_was_not_sent(bucket_mb: float) -> None:
    ranks = run_on_ranks(steps, TopK(density=0.05), 6, bucket_mb)
    averaged = [rank[0] for rank in ranks]
    assert (averaged[0] == averaged[1]).all()
    paid = averaged[0].sum(0)
    owed = sum(torch.cat([torch.from_numpy(state[f"{name}"]).flatten() for name, _ in network().named_parameters()]) / 2
               for *_, state in ranks)  # fmt: skip
    whole = sum(own.sum(0) for _, own, _, _ in ranks) / 2
    assert paid + owed.numpy() == pytest.approx(whole, abs=1e-4)
    assert abs(owed).max() > 0.1


def test_top_k_sends_eight_bytes_for_each_entry_and_takes_the_largest_of_gradient_and_residual() -> None:
    (averaged, own, sent, _), (_, other, _, _) = run_on_ranks(steps, TopK(density=0.05), 1)
    k = -(-NUMBERS // 20)
    assert sent == 8 * k
    expected = sum(_largest(torch.from_numpy(g[0]), k) for g in (own, other)) / 2
    assert averaged[0] == pytest.approx(expected.numpy(), abs=1e-6)


def _largest(vector: Tensor, k: int) -> Tensor:
    places = vector.abs().topk(k).indices
    return torch.zeros_like(vector).index_copy(0, places, vector[places])


def test_top_k_of_everything_is_the_mean_and_so_are_the_steps_before_it_starts() -> None:
    for hook in (TopK(density=1.0), TopK(density=0.01, start_step=3)):
        (averaged, own, _, _), (_, other, _, _) = run_on_ranks(steps, hook, 3)
        assert averaged == pytest.approx((own + other) / 2, abs=1e-5)


def test_residuals_come_back_to_their_ranks_and_their_mean_to_another_number_of_ranks() -> None:
    states = [{"w": torch.tensor([1.0, 2.0])}, {"w": torch.tensor([3.0, 6.0])}]
    hook = TopK()
    hook.load_state_dicts(states, rank=1, world_size=2)
    assert hook.state_dict()["w"].tolist() == [3.0, 6.0]
    hook.load_state_dicts(states, rank=0, world_size=1)
    assert hook.state_dict()["w"].tolist() == [2.0, 4.0]
    hook.load_state_dicts([], rank=0, world_size=1)
    assert hook.state_dict() == {}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_values_and_places_survive_the_message_bit_for_bit(dtype: torch.dtype) -> None:
    values = torch.tensor([1.5, -0.0, torch.inf, torch.nan, 1e-30]).to(dtype)
    places = torch.tensor([0, 3, 7, 2**31 - 1, 5])
    got, at = decode_entries(encode_entries(values, places))
    assert torch.equal(at, places)
    assert torch.equal(got.to(dtype).view(torch.uint8), values.view(torch.uint8))


def test_settings_out_of_range_are_refused_by_their_key() -> None:
    for make, key in (
        (lambda: TopK(density=0.0), "density=0.0"),
        (lambda: TopK(start_step=-1), "start_step=-1"),
        (lambda: PowerSGD(rank=0), "rank=0"),
        (lambda: PowerSGD(start_step=1), "start_step=1"),
        (lambda: HalfPrecision("float8"), "dtype=float8"),  # type: ignore[arg-type]
    ):
        with pytest.raises(UserError, match=rf"^\w+\.{key}: "):
            make()


@pytest.mark.slow
@pytest.mark.parametrize("options", [["ddp_topk", "strategy.hook.density=0.05"], ["ddp_fp16"]])
def test_a_run_that_is_resumed_ends_at_the_weights_of_one_that_was_not_cut_off(
    store: Any, train: Any, options: list[str]
) -> None:
    from lightning_modules.tracking.checkpoint import read_checkpoint
    from lightning_modules.tracking.resume import best_checkpoint

    words = [
        "trainer=ddp",
        f"strategy={options[0]}",
        *options[1:],
        "callbacks=last",
        "optimizer=momentum",
        "data=mnist1d",
        "data.batch_size=8",
    ]  # whose gradients have no ties, which buckets would break
    whole = train(*words, "trainer.max_epochs=4")
    expected = read_checkpoint(best_checkpoint(store, whole))["state_dict"]
    half = train(*words, "trainer.max_epochs=2")
    from lightning_modules.config.command_line import compose_run
    from lightning_modules.run.run import run

    run(compose_run([f"resume={half.info.run_id}", "trainer.max_epochs=4"]))
    found = read_checkpoint(best_checkpoint(store, store.client.get_run(half.info.run_id)))["state_dict"]
    assert all(torch.equal(expected[key], found[key]) for key in expected)
