import signal
import sys

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.plugins import Precision
from torch import Tensor, nn

from lightning_modules.compat import lightning


class Recorder(pl.Callback):
    """Calls a function at the begin of an epoch, and remembers what it returns."""

    def __init__(self, look):
        self.look, self.seen = look, []

    def on_train_epoch_start(self, trainer, pl_module):
        self.seen.append(self.look(trainer, pl_module))


class OneLayer(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(1, 1)

    def training_step(self, batch: Tensor) -> Tensor:
        return self.layer(batch).sum()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)

    def train_dataloader(self):
        return torch.utils.data.DataLoader(torch.ones(4, 1), batch_size=1)


def trainer_with(*callbacks, **options) -> pl.Trainer:
    options = {"max_epochs": 1, "enable_progress_bar": False, **options}
    return pl.Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        callbacks=list(callbacks),
        **options,
    )


def fit(look, **options):
    """Return what `look(trainer, module)` returns at the begin of the first epoch of a fit."""
    recorder = Recorder(look)
    trainer_with(recorder, **options).fit(OneLayer())
    return recorder.seen[0]


def test_sigterm_reaches_the_ranks_as_a_signal_and_is_noted():
    sent = []

    class Launcher:
        def kill(self, number):
            sent.append(number)

    def look(trainer, _):
        lightning.notify_ranks_by_signal(trainer)
        trainer.strategy._launcher = Launcher()
        try:
            for _ in range(2):  # a second signal is not passed on
                trainer._signal_connector._sigterm_notifier_fn(signal.SIGTERM, None)
            return trainer.received_sigterm
        finally:
            trainer.strategy._launcher = None
            trainer._signal_connector.received_sigterm = False

    assert fit(look) is True
    assert sent == [signal.SIGTERM]


def test_lightning_registers_the_handler_that_we_replace():
    def look(trainer, _):
        return hasattr(trainer._signal_connector, "_sigterm_notifier_fn")

    assert fit(look)


def test_the_broadcast_before_a_batch_can_be_skipped():
    assert callable(trainer_with().fit_loop.epoch_loop._broadcast_sigterm_tensor)  # else we replace nothing

    trainer = trainer_with()
    lightning.skip_sigterm_broadcast(trainer)
    trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor()
    trainer.fit(OneLayer())
    assert trainer.global_step == 4


def test_a_handler_is_left_after_the_fit():
    def mine(number, frame):
        """Never called."""

    before = signal.getsignal(signal.SIGTERM)
    try:
        fit(lambda trainer, _: lightning.restore_on_exit(trainer, mine))
        assert signal.getsignal(signal.SIGTERM) is mine
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_module_knows_whether_it_has_a_trainer():
    assert not lightning.has_trainer(OneLayer())
    assert fit(lambda _, module: lightning.has_trainer(module))


def test_the_combined_loader_is_there_from_the_set_up_of_the_data():
    assert not lightning.has_combined_loader(trainer_with())
    assert fit(lambda trainer, _: lightning.has_combined_loader(trainer))


def test_a_checkpoint_callback_saves_within_epochs_if_it_counts_steps():
    assert lightning.saves_within_epochs(ModelCheckpoint(every_n_train_steps=5))
    assert not lightning.saves_within_epochs(ModelCheckpoint())


def test_steps_are_counted_as_lightning_counts_them():
    class ManySteps(OneLayer):
        automatic_optimization = False

        def training_step(self, batch):
            lightning.count_steps(self.trainer, 5)

    trainer = trainer_with()
    trainer.fit(ManySteps())
    assert trainer.global_step == 20
    assert trainer.fit_loop.epoch_loop._batches_that_stepped == 20


def test_metrics_reach_callbacks_where_log_is_forbidden():
    trainer = trainer_with()
    lightning.set_metrics(trainer, {"a": torch.tensor(1.5)})
    assert float(trainer.callback_metrics["a"]) == 1.5


def test_a_callback_is_inserted_before_the_others():
    trainer, first = trainer_with(), Recorder(lambda *_: "called")
    lightning.insert_callback(trainer, first)
    assert trainer.callbacks[0] is first
    trainer.fit(OneLayer())
    assert first.seen == ["called"]


def test_clipping_by_norm_is_replaced_and_restored():
    called = []
    plugin = Precision()
    lightning.replace_clip_by_norm(plugin, lambda optimizer, value: called.append(value))
    optimizer = torch.optim.SGD([nn.Parameter(torch.ones(1))])
    plugin.clip_gradients(optimizer, clip_val=0.5)
    assert called == [0.5]

    lightning.restore_clip_by_norm(plugin)
    plugin.clip_gradients(optimizer, clip_val=0.5)
    assert called == [0.5]


class Ddp(lightning.ExtensibleDDP):
    def __init__(self, **options):
        super().__init__(process_group_backend="gloo", **options)
        self.calls = []

    def choose_launcher(self, start_method):
        self.calls.append(f"launcher {start_method}")
        return lightning.MultiProcessingLauncher(self, start_method=start_method)

    def wrap_model(self, model):
        self.calls.append("wrap")
        return super().wrap_model(model)

    def register_hooks(self):
        self.calls.append("hooks")
        super().register_hooks()


def test_ddp_calls_the_public_steps(monkeypatch):
    strategy = Ddp(start_method="fork")
    trainer = trainer_with(strategy=strategy, devices=1)
    assert strategy.calls == ["launcher fork"]
    assert lightning.launched_strategy(strategy.launcher) is strategy

    for name in ("MASTER_ADDR", "MASTER_PORT", "WORLD_SIZE", "NODE_RANK", "LOCAL_RANK"):
        monkeypatch.setenv(name, "")  # Lightning sets some of them: they are taken back
        monkeypatch.delenv(name)
    monkeypatch.setattr(strategy.launcher, "launch", lambda function, *args, trainer, **more: function(*args, **more))
    try:
        trainer.fit(OneLayer())
    finally:
        torch.distributed.destroy_process_group()
    assert strategy.calls == ["launcher fork", "wrap", "hooks"]
    assert trainer.global_step == 4


def test_ddp_has_its_layer_sync_and_its_timeout():
    from datetime import timedelta

    strategy = Ddp(start_method="fork", timeout=timedelta(seconds=90))
    assert lightning.process_group_timeout(strategy) == 90
    assert strategy.layer_sync is None
    trainer_with(strategy=strategy, devices=1, sync_batchnorm=True)
    assert strategy.layer_sync is not None
    strategy.layer_sync = None
    assert strategy._layer_sync is None


def test_the_script_launcher_starts_the_other_ranks_by_the_command_that_was_set(monkeypatch, tmp_path):
    from lightning_fabric.plugins.environments import LightningEnvironment

    main = sys.modules["__main__"]
    monkeypatch.setattr(sys, "argv", sys.argv)
    monkeypatch.setattr(main, "__spec__", main.__spec__)
    for name in ("MASTER_ADDR", "MASTER_PORT", "NODE_RANK", "LOCAL_RANK", "WORLD_SIZE"):
        monkeypatch.setenv(name, "0")
    script = tmp_path / "rank.py"
    script.write_text("import os, sys; open(sys.argv[1], 'w').write(os.environ['LOCAL_RANK'])")
    lightning.set_rank_command([str(script), str(tmp_path / "rank")])

    launcher = lightning.SubprocessScriptLauncher(LightningEnvironment(), num_processes=2, num_nodes=1)
    lightning.start_other_ranks(launcher)
    assert [process.wait(60) for process in launcher.procs] == [0]
    assert (tmp_path / "rank").read_text() == "1"


@pytest.mark.parametrize("launcher", [lightning.MultiProcessingLauncher, lightning.SubprocessScriptLauncher])
def test_both_launchers_can_be_killed(launcher):
    assert issubclass(launcher, lightning.Launcher)
    assert callable(launcher.kill)
