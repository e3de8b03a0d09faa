"""MLflow's system metrics without its loop: apart from `mlflow.py`, as importing the monitor takes a while."""

from collections.abc import Callable

from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor


class SystemMetrics(SystemMetricsMonitor):
    """Samples of processor, memory, disk and GPU that are given to `collect` with their step.

    MLflow's own monitor asks the server before each sample, and ends for good the first time it does not answer.

    Args:
        interval_s: seconds between two samples.
        resumed: count the steps on from where the run stopped.
    """

    def __init__(
        self, run_id: str, uri: str, collect: Callable[[dict[str, float], int], None], interval_s: float, resumed: bool
    ) -> None:
        super().__init__(run_id, sampling_interval=interval_s, resume_logging=resumed, tracking_uri=uri)
        self._collect = collect

    def monitor(self) -> None:
        while not self._shutdown_event.wait(self.sampling_interval):
            self.collect_metrics()
            self.publish_metrics(self.aggregate_metrics())

    def publish_metrics(self, metrics: dict[str, float]) -> None:
        prefix = self._metrics_prefix + (f"{self.node_id}/" if self.node_id else "")
        self._collect({prefix + name: value for name, value in metrics.items()}, self._logging_step)
        self._logging_step += 1
        for monitor in self.monitors:
            monitor.clear_metrics()
