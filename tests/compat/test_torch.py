import inspect
import os

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from lightning_modules.compat import torch as compat


@pytest.fixture
def one_rank(tmp_path):
    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'ranks'}", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.parametrize("kind", [nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm])
def test_all_batch_norms_have_one_base(kind):
    assert issubclass(kind, compat.BatchNorm)
    assert issubclass(kind, compat.BatchOrInstanceNorm)


def test_what_is_no_batch_norm_has_another_base():
    assert not issubclass(nn.InstanceNorm2d, compat.BatchNorm)
    assert issubclass(nn.InstanceNorm2d, compat.BatchOrInstanceNorm)
    assert not issubclass(nn.LayerNorm, compat.BatchOrInstanceNorm)


@pytest.mark.parametrize("kind", [nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d])
def test_all_convolutions_have_one_base(kind):
    assert issubclass(kind, compat.Convolution)


def test_a_batch_norm_checks_the_number_of_axes():
    compat.check_input_dim(nn.BatchNorm2d(3), torch.zeros(2, 3, 4, 4))
    with pytest.raises(ValueError, match="4D"):
        compat.check_input_dim(nn.BatchNorm2d(3), torch.zeros(2, 3))


def test_a_compiled_module_is_known():
    module = nn.Linear(1, 1)
    assert not compat.is_compiled(module)
    module.compile()
    assert compat.is_compiled(module)


def test_a_tensor_counts_its_changes():
    tensor = torch.zeros(2)
    before = compat.tensor_version(tensor)
    tensor.add_(1)
    assert compat.tensor_version(tensor) > before


def test_forward_is_replaced_for_one_module_and_restored():
    module, other = nn.Linear(1, 1), nn.Linear(1, 1)
    x = torch.ones(1, 1)
    before = module(x)
    compat.replace_forward(module, lambda values: values + 41)
    assert module(x).item() == 42
    assert other(x).item() != 42
    compat.restore_forward(module)
    assert module(x).equal(before)


def test_the_table_of_own_parameters_can_be_written_to():
    module = nn.Sequential(nn.Linear(2, 1, bias=False))
    parameters = compat.own_parameters(module[0])
    assert set(parameters) == {"weight", "bias"} and parameters["bias"] is None
    parameters["weight"] = nn.Parameter(torch.full((1, 2), 3.0))
    assert module.state_dict()["0.weight"].tolist() == [[3.0, 3.0]]


def test_members_are_shared_under_the_same_names():
    source = nn.Sequential(nn.Linear(2, 1))
    source.register_buffer("saved", torch.zeros(1))
    source.register_buffer("unsaved", torch.zeros(1), persistent=False)
    module = nn.Module()
    compat.share_members(module, source)
    assert list(module.state_dict()) == list(source.state_dict()) == ["saved", "0.weight", "0.bias"]
    assert module.get_parameter("0.weight") is source[0].weight
    module.register_buffer("more", torch.zeros(1), persistent=False)
    assert "more" not in source.state_dict()


def test_one_cycle_plans_its_phases_in_its_state():
    def schedule(steps):
        optimizer = torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=0.1)
        return torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=1.0, total_steps=steps)

    short, long = schedule(10), schedule(20)
    assert set(compat.one_cycle_plan(short)) <= set(short.state_dict())  # else it would replace nothing of a checkpoint
    long.load_state_dict({**long.state_dict(), **compat.one_cycle_plan(short)})
    for _ in range(9):
        long.optimizer.step()
        long.step()
    assert long.get_last_lr()[0] == pytest.approx(1.0 / 25 / 1e4)


def test_the_last_learning_rate_is_set():
    schedule = torch.optim.lr_scheduler.ConstantLR(torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=0.1))
    compat.set_last_lr(schedule, [0.25])
    assert schedule.get_last_lr() == [0.25]


def test_ranks_leave_messages_in_the_default_store(one_rank):
    compat.default_store().set("touchstone/test", "a message")
    assert compat.default_store().get("touchstone/test") == b"a message"


def test_ddp_has_a_clock_of_which_we_set_the_rate(one_rank):
    model = DistributedDataParallel(nn.Linear(4, 4))
    compat.sample_ddp_timing(model, 1)
    for _ in range(3):
        model(torch.ones(2, 4)).sum().backward()
    times = compat.ddp_timing(model)
    for name in ("avg_backward_comm_time", "avg_backward_compute_comm_overlap_time", "avg_backward_compute_time"):
        assert times[name] >= 0
    assert times["avg_backward_compute_time"] > 0


def test_ddp_sends_or_does_not_send(one_rank):
    model = DistributedDataParallel(nn.Linear(4, 4))
    assert compat.sends_gradients(model)
    compat.set_ddp_sync(model, False)
    assert not compat.sends_gradients(model)
    with model.no_sync():
        assert not compat.sends_gradients(model)
    compat.set_ddp_sync(model, True)
    assert compat.sends_gradients(model)
    with model.no_sync():
        assert not compat.sends_gradients(model)
    assert model.require_forward_param_sync


def test_a_shard_knows_where_it_begins(one_rank):
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Shard, distribute_tensor

    tensor = distribute_tensor(torch.zeros(4, 3), init_device_mesh("cpu", (1,)), [Shard(0)])
    assert compat.shard_offset(tensor) == (0, 0)


def test_a_process_group_meets_at_a_port_of_its_own(monkeypatch):
    for name, value in {
        "TORCHELASTIC_USE_AGENT_STORE": "True",
        "TORCHELASTIC_MAX_RESTARTS": "1",
        "WORLD_SIZE": "2",
        "MASTER_PORT": "1",
    }.items():
        monkeypatch.setenv(name, value)
    assert compat.may_restart()
    compat.meet_at_port(29123)
    assert os.environ["MASTER_PORT"] == "29123"
    assert not compat.may_restart()


def test_torch_still_reads_the_variable_of_the_agents_store():
    import inspect
    import sys

    assert dist.is_available()

    assert "TORCHELASTIC_USE_AGENT_STORE" in inspect.getsource(sys.modules["torch.distributed.rendezvous"])


def test_aoti_has_the_option_and_the_arguments_that_are_used():
    from torch._inductor import aoti_compile_and_package, aoti_load_package, config

    with config.patch({"cpp.dynamic_threads": True}):
        inspect.signature(aoti_compile_and_package).bind(object(), package_path="model.pt2")
    inspect.signature(aoti_load_package).bind("model.pt2")


@pytest.mark.slow
def test_a_package_of_aoti_is_compiled_and_loaded(tmp_path):
    try:
        compat.require_cpp_compiler()
    except Exception:
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)("no C++ compiler")
    program = torch.export.export(nn.Linear(2, 1).eval(), (torch.ones(1, 2),))
    path = str(tmp_path / "model.pt2")
    compat.compile_aoti(program, path)
    x = torch.ones(1, 2)
    torch.testing.assert_close(compat.load_aoti(path)(x), program.module()(x))
