"""DDP with its checks, and what starts and watches the ranks of a run; other strategies are in `zoo/strategy`."""
