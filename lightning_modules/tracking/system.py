"""What the machine did during a run, as points like all others."""

from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

from lightning_modules.tracking.logger import BufferedMLflowLogger


class SystemMonitor(SystemMetricsMonitor):
    """MLflow's samples of processor, memory, disk and GPU, which go the way of the run's points.

    MLflow's own monitor asks the server before each sample, and ends for good the first time it does not answer.

    Args:
        logger: takes the samples; it keeps them while the store is gone.
        interval_s: seconds between two samples.
        resumed: count the steps on from where the run stopped.
    """

    def __init__(self, logger: BufferedMLflowLogger, uri: str, interval_s: float, resumed: bool) -> None:
        super().__init__(logger.version, sampling_interval=interval_s, resume_logging=resumed, tracking_uri=uri)
        self._points = logger

    def monitor(self) -> None:
        while not self._shutdown_event.wait(self.sampling_interval):
            self.collect_metrics()
            self.publish_metrics(self.aggregate_metrics())

    def publish_metrics(self, metrics: dict[str, float]) -> None:
        prefix = self._metrics_prefix + (f"{self.node_id}/" if self.node_id else "")
        self._points.collect({prefix + name: value for name, value in metrics.items()}, self._logging_step)
        self._logging_step += 1
        for monitor in self.monitors:
            monitor.clear_metrics()
