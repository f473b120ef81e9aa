"""What is measured: its unit, how it is written, and which way is better. Each metric is named once, here.

Laws:
- Values are in seconds, bytes and pieces; units are for those who read.
- GB, MB are 10⁹ and 10⁶ bytes; MiB, KiB are 2²⁰ and 2¹⁰.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Metric:
    """One column.

    Attributes:
        title: of the column, with the unit.
        scale: what a value is multiplied by to be in that unit.
        better: -1: less, 1: more, 0: tells what happened and no rank.
    """

    title: str
    scale: float = 1.0
    better: int = -1

    def format(self, value: float) -> str:
        """Three digits that count."""
        scaled = value * self.scale
        if scaled == 0 or abs(scaled) >= 100:
            return f"{scaled:,.0f}"
        return f"{scaled:.3g}" if abs(scaled) < 10 else f"{scaled:.1f}"


METRICS = {
    "requests_per_second": Metric("requests/s", better=1),
    "throughput": Metric("MB/s", 1e-6, better=1),
    "cpu_per_request": Metric("server CPU, µs/request", 1e6),
    "cpu_per_gb": Metric("server CPU, s/GB", 1e9),
    "cpu_share": Metric("server CPU, cores", better=0),
    "client_share": Metric("client CPU, cores", better=0),
    "p50": Metric("p50, ms", 1e3),
    "p99": Metric("p99, ms", 1e3),
    "longest": Metric("longest, ms", 1e3),
    "good_p50": Metric("good client's p50, ms", 1e3),
    "good_p99": Metric("good client's p99, ms", 1e3),
    "good_longest": Metric("good client's longest, ms", 1e3),
    "memory": Metric("peak memory, MiB", 1 / (1 << 20)),
    "memory_per_connection": Metric("memory, KiB/connection", 1 / (1 << 10)),
    "kernel_per_connection": Metric("kernel's TCP memory, KiB/connection", 1 / (1 << 10)),
    "threads": Metric("threads", better=0),
    "connections": Metric("connections", better=0),
    "moving": Metric("readers at their rate", better=1),
    "failed": Metric("failed requests"),
    "retried": Metric("requests to repeat", better=0),
    "restarts": Metric("restarts", better=0),
    "requests": Metric("requests", better=0),
}
