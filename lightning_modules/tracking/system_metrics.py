"""System metrics of a run."""

from lightning_modules.compat.mlflow_system_metrics import SystemMetrics
from lightning_modules.tracking.logger import BufferedMLflowLogger


class SystemMonitor(SystemMetrics):
    """MLflow's samples of CPU, memory, disk and GPU, logged through the run's logger.

    MLflow's own monitor asks the server before each sample, and ends for good the first time it does not answer.

    Args:
        logger: takes the samples; it keeps them while the store is gone.
        interval_s: seconds between two samples.
        resumed: count the steps on from where the run stopped.
    """

    def __init__(self, logger: BufferedMLflowLogger, uri: str, interval_s: float, resumed: bool) -> None:
        super().__init__(logger.version, sampling_interval=interval_s, resume_logging=resumed, tracking_uri=uri)
        self._points = logger

    def collect(self, metrics: dict[str, float], step: int) -> None:
        self._points.collect(metrics, step)
