"""MLflow's system metrics without its loop: apart from `mlflow.py`, as importing the monitor takes a while."""

from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor


class SystemMetrics(SystemMetricsMonitor):
    """Samples of processor, memory, disk and GPU that are given to `collect`.

    MLflow's own monitor asks the server before each sample, and ends for good the first time it does not answer.
    """

    def collect(self, metrics: dict[str, float], step: int) -> None:
        """Take one sample."""
        raise NotImplementedError

    def monitor(self) -> None:
        while not self._shutdown_event.wait(self.sampling_interval):
            self.collect_metrics()
            self.publish_metrics(self.aggregate_metrics())

    def publish_metrics(self, metrics: dict[str, float]) -> None:
        prefix = self._metrics_prefix + (f"{self.node_id}/" if self.node_id else "")
        self.collect({prefix + name: value for name, value in metrics.items()}, self._logging_step)
        self._logging_step += 1
        for monitor in self.monitors:
            monitor.clear_metrics()
