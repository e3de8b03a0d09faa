"""A run's model as a file for another runtime: verified, timed and logged, or refused."""

import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lightning_modules.compression.profiling import time_interleaved
from lightning_modules.config.errors import UserError
from lightning_modules.export.export import export_run, log_export, print_export
from lightning_modules.export.formats import FILE_NAMES
from lightning_modules.export.runtime import load_exported, refuse_pickles
from lightning_modules.export.verification import predicted_classes
from lightning_modules.run.serve import load_task, model_weights
from lightning_modules.tracking.resume import best_checkpoint

SMALL = ("model=convnet", "data.per_class=20", "trainer.max_epochs=2")


@pytest.fixture(scope="module")
def database_with_a_run(train_once: Callable[..., Path]) -> Path:
    return train_once(*SMALL)


@pytest.fixture
def run(recorded_run: Any) -> Any:
    return recorded_run


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where an export goes; the store lies beside it."""
    (tmp_path / "exported").mkdir()
    return tmp_path / "exported"


def raw(count: int) -> torch.Tensor:
    return torch.randint(0, 256, (count, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def agrees(store: Any, run: Any, path: Path) -> None:
    """The file read back gives the checkpoint's probabilities for any number of samples."""
    task = load_task(best_checkpoint(store, run))
    exported = load_exported(path)
    for count in (1, 2, 7):
        with torch.inference_mode():
            torch.testing.assert_close(exported(raw(count)), task.scores(task(raw(count))), rtol=0, atol=1e-5)


def test_an_onnx_file_gives_what_the_checkpoint_gives_and_stands_in_the_record(
    run: Any, store: Any, folder: Path
) -> None:
    found, example = export_run(store, run, "onnx", False, folder)
    agrees(store, run, folder / "model.onnx")
    assert found.agreement.max_error < 1e-5 and found.agreement.top1 == 1.0
    assert found.agreement.part == "test" and found.agreement.accuracy is not None
    assert found.agreement.accuracy[0] == pytest.approx(run.data.metrics["test/accuracy"], abs=1e-6)
    print_export(found)
    log_export(store, run.info.run_id, found, example)
    logged = store.client.get_run(run.info.run_id)
    files = {file.path for file in store.client.list_artifacts(run.info.run_id, "export/onnx")}
    assert {"export/onnx/model.onnx", "export/onnx/MLmodel"} <= files
    metrics = {
        key.removeprefix("export/onnx/"): v for key, v in logged.data.metrics.items() if key.startswith("export/")
    }
    assert metrics["size_bytes"] == (folder / "model.onnx").stat().st_size and metrics["top1_agreement"] == 1.0
    assert 0 < metrics["latency_ms"] <= metrics["latency_p95_ms"] and metrics["latency_batch64_ms"] > 0
    import mlflow

    served = mlflow.pyfunc.load_model(str(folder))
    assert served.metadata.signature.inputs.inputs[0].shape == (-1, 1, 8, 8)
    assert served.predict(raw(3).numpy()).shape == (3, 10)


def test_a_wrong_format_an_impossible_wish_and_a_run_without_weights_are_one_message(
    run: Any, store: Any, folder: Path
) -> None:
    with pytest.raises(UserError, match="format=onx: did you mean 'onnx'"):
        export_run(store, run, "onx", False, folder)
    for form in ("pt2", "aoti"):
        with pytest.raises(UserError, match=f"format={form} quantized=true: .*choose format=onnx"):
            export_run(store, run, form, True, folder)
    bare = store.client.create_run(run.info.experiment_id, run_name="bare")
    with pytest.raises(UserError, match="has no saved weights"):
        export_run(store, bare, "onnx", False, folder)
    assert not any(folder.glob("model*"))


@pytest.mark.slow
def test_a_file_that_is_wrong_is_not_logged(
    run: Any, store: Any, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lightning_modules.export import formats

    honest = formats.onnx_bytes
    other = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10), torch.nn.Softmax(-1))

    class Floats(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return other(x.float())

    from lightning_modules.export.formats import trace

    monkeypatch.setattr(formats, "onnx_bytes", lambda program: honest(trace(Floats(), raw(2))))
    with pytest.raises(UserError, match="differs from the checkpoint"):
        export_run(store, run, "onnx", False, folder)


def test_other_data_than_the_runs_are_refused(run: Any, store: Any, folder: Path) -> None:
    store.client.set_tag(run.info.run_id, "data.fingerprint", "0" * 64)
    with pytest.raises(UserError, match="data fingerprint mismatch"):
        export_run(store, store.client.get_run(run.info.run_id), "onnx", False, folder)


@pytest.mark.slow
def test_a_regression_is_exported_with_its_values(train: Any, store: Any, folder: Path) -> None:
    run = train("data=tabular", "data.name=diabetes", "task=regression", "~data.per_class", quick=True)
    found, _ = export_run(store, run, "onnx", False, folder)
    assert found.agreement.top1 is None and found.agreement.accuracy is None
    assert found.agreement.max_error <= 1e-4 * max(1.0, found.agreement.largest)


def test_what_is_decided_is_a_class_or_each_label() -> None:
    assert predicted_classes(torch.tensor([[0.2, 0.8], [0.9, 0.1]])).tolist() == [1, 0]
    assert predicted_classes(torch.tensor([[0.9, 0.8], [0.1, 0.7]])).tolist() == [[1, 1], [0, 1]]
    assert predicted_classes(torch.tensor([0.4, 0.6])).tolist() == [0, 1]


def test_percentiles_count_every_call_in_turns() -> None:
    order: list[str] = []
    found = time_interleaved({name: (lambda n=name: order.append(n)) for name in "ab"}, seconds=0, min_timing_s=0)
    assert order == ["a"] * 3 + ["b"] * 3 + ["a", "b"] * 31
    assert found["a"].rounds == 30 and found["a"].low_ms <= found["a"].median_ms <= found["a"].p95_ms


def test_a_pt2_file_is_read_without_unpickling(tmp_path: Path) -> None:
    from lightning_modules.export.formats import trace, write_format

    path = tmp_path / "model.pt2"
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 2)).eval()
    x = torch.randn(3, 2, 2)
    write_format("pt2", trace(net, x), path)
    assert torch.equal(load_exported(path)(x), net(x))
    buffer = io.BytesIO()
    torch.save(((Path("evil"),), {}), buffer)  # any object that is no tensor
    for part, content in (("data/sample_inputs/", buffer.getvalue()), ("weights_config.json", None)):
        bad = tmp_path / part.strip("/").replace("/", "_")
        bad.mkdir()
        with zipfile.ZipFile(path) as old, zipfile.ZipFile(bad / "model.pt2", "w") as new:
            for name in old.namelist():
                data = old.read(name)
                if part in name:
                    data = content or json.dumps(_pickled(json.loads(data))).encode()
                new.writestr(name, data)
        with pytest.raises(UserError, match="pickled objects"):
            refuse_pickles(bad / "model.pt2")
    (tmp_path / "cut").mkdir()
    (tmp_path / "cut" / "model.pt2").write_bytes(path.read_bytes()[:500])
    with pytest.raises(UserError, match="damaged"):
        load_exported(tmp_path / "cut" / "model.pt2")


def _pickled(config: dict[str, Any]) -> dict[str, Any]:
    return {"config": {key: {**entry, "use_pickle": True} for key, entry in config["config"].items()}}


def test_without_a_compiler_aoti_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lightning_modules.export.formats import trace, write_format

    monkeypatch.setattr("torch._inductor.config.cpp.cxx", ("no-such-compiler",))
    program = trace(torch.nn.Linear(2, 2), torch.zeros(2, 2))
    with pytest.raises(UserError, match="install g\\+\\+ or set CXX"):
        write_format("aoti", program, tmp_path / FILE_NAMES["aoti"])


@pytest.mark.slow
@pytest.mark.parametrize("form", ["pt2", "aoti"])
def test_the_other_formats_give_what_the_checkpoint_gives(form: str, run: Any, store: Any, folder: Path) -> None:
    found, example = export_run(store, run, form, False, folder)
    agrees(store, run, found.path)
    log_export(store, run.info.run_id, found, example)
    assert found.agreement.top1 == 1.0


@pytest.mark.slow
def test_an_int8_file_is_smaller_and_agrees_on_most_samples(run: Any, store: Any, folder: Path) -> None:
    full, _ = export_run(store, run, "onnx", False, folder)
    size = full.path.stat().st_size
    found, _ = export_run(store, run, "onnx", True, folder)
    assert found.name == "onnx_int8" and found.agreement.top1 is not None
    assert found.agreement.top1 > 0.8  # 0.85 on a CPU without VNNI, where products of 8 bits overflow
    assert found.agreement.max_error > 0
    import onnx

    ops = {node.op_type for node in onnx.load(found.path).graph.node}
    assert {"QuantizeLinear", "DequantizeLinear"} <= ops and size > 0
    assert load_exported(found.path)(raw(5)).shape == (5, 10)


@pytest.mark.slow
def test_a_runs_own_int8_program_is_exported_with_its_preprocessing(train: Any, store: Any, folder: Path) -> None:
    run = train(*SMALL, "compression=int8_static")
    found, _ = export_run(store, run, "onnx", True, folder)
    assert "the run's int8 program" in found.source
    task = load_task(model_weights(store, f"models:/{run.data.tags['touchstone.compressed_model_id']}"))
    with torch.inference_mode():
        torch.testing.assert_close(load_exported(found.path)(raw(5)), task.scores(task(raw(5))), rtol=0, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("model", ["vit_tiny", "mnist1d_gru", "resnet20"])
def test_networks_of_all_kinds_are_exported(model: str, train: Any, store: Any, folder: Path) -> None:
    data = ("data=mnist1d",) if "1d" in model else ()
    run = train(f"model={model}", "trainer.max_epochs=1", *data)
    found, _ = export_run(store, run, "onnx", False, folder)
    assert found.agreement.max_error < 1e-4


@pytest.mark.slow
def test_the_command_exports_and_says_what_is_wrong(run: Any, command: Any, store: Any) -> None:
    done = command("export.py", run.info.run_id, "format=onnx")
    assert done.returncode == 0, done.stderr
    assert "top-1 agreement" in done.stdout and "p50 / p95" in done.stdout
    wrong = command("export.py", run.info.run_id, "fromat=onnx")
    assert wrong.returncode == 1
    assert wrong.stderr.startswith("fromat=onnx: unknown key; did you mean 'format'?")
    assert np.isfinite(store.client.get_run(run.info.run_id).data.metrics["export/onnx/latency_ms"])
