"""A network as an ONNX program: the logits, the batch, copies, files and processes."""

import copy
import multiprocessing
import pickle
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from lightning_modules.compression.onnx_model import OnnxModel, restore, to_onnx
from lightning_modules.config.errors import UserError
from lightning_modules.model.mlp import MLP
from lightning_modules.zoo.model.convnets import CifarResNet, LeNet5
from lightning_modules.zoo.model.vit import ViT

NETWORKS = {
    "mlp": (MLP, (1, 8, 8), {"dropout": 0.5}),
    "lenet5": (LeNet5, (1, 16, 16), {}),
    "resnet": (CifarResNet, (1, 8, 8), {"depth": 8}),
    "vit": (ViT, (1, 8, 8), {"dim": 16, "depth": 1}),
}


def network(name: str) -> tuple[nn.Module, tuple[int, ...]]:
    torch.manual_seed(0)
    kind, shape, settings = NETWORKS[name]
    return kind(shape, 10, **settings), shape


def small() -> tuple[nn.Module, OnnxModel, Tensor]:
    model = MLP((4,), 3, hidden=[5]).eval()
    x = torch.randn(6, 4)
    return model, OnnxModel(to_onnx(model, x)), x


@pytest.mark.parametrize("name", NETWORKS)
def test_the_program_gives_the_logits_of_the_network_for_any_batch(name: str) -> None:
    model, shape = network(name)
    model.train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    program = OnnxModel(to_onnx(model, torch.randn(1, *shape)))
    assert all(module.training for module in model.modules())
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    model.eval()
    for size in (1, 7):
        x = torch.randn(size, *shape)
        assert torch.allclose(program(x), model(x), atol=1e-4)


def test_nothing_is_printed_and_the_file_holds_no_path_of_this_machine(capfd: pytest.CaptureFixture[str]) -> None:
    _, program, x = small()
    program(x)
    assert capfd.readouterr() == ("", "")
    assert str(Path(__file__).parents[3]).encode() not in program.bytes()


def test_a_copy_and_an_unpickled_program_give_the_same_logits() -> None:
    _, program, x = small()
    expected = program(x)
    assert torch.equal(copy.deepcopy(program)(x), expected)
    assert torch.equal(pickle.loads(pickle.dumps(program))(x), expected)  # noqa: S301


def test_a_state_dict_is_all_that_a_program_needs() -> None:
    _, program, x = small()
    empty = restore(nn.Identity(), {"do": "onnx", "bytes": program.program.numel()}, x)
    with pytest.raises(UserError, match="ONNX Runtime cannot run the network"):
        empty(x)
    empty.load_state_dict(program.state_dict())
    assert torch.equal(empty(x), program(x))


@pytest.mark.slow
def test_a_program_that_is_loaded_over_another_takes_its_place() -> None:
    model, program, x = small()
    first = program(x)
    assert isinstance(model, MLP)
    nn.init.zeros_(model.head.weight)
    program.load_state_dict({"program": OnnxModel(to_onnx(model, x)).program})
    assert not torch.equal(program(x), first)
    assert torch.allclose(program(x), model(x), atol=1e-4)


def _answer(program: OnnxModel, x: Tensor, there: Connection) -> None:
    there.send(program(x).tolist())


@pytest.mark.slow
def test_a_forked_process_answers_after_its_parent_did() -> None:
    _, program, x = small()
    expected = program(x)
    here, there = multiprocessing.Pipe()
    child = multiprocessing.get_context("fork").Process(target=_answer, args=(program, x, there))
    child.start()
    assert here.poll(60)
    assert torch.equal(torch.tensor(here.recv()), expected)
    child.join(60)
    assert child.exitcode == 0


class Branches(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + 1 if x.sum().item() > 0 else x - 1


@pytest.mark.slow
def test_a_network_that_cannot_be_exported_is_refused_with_the_reason() -> None:
    with pytest.raises(UserError, match="cannot be exported to ONNX: ") as caught:
        to_onnx(Branches(), torch.randn(2, 4))
    assert "\n" not in str(caught.value)
