"""What pytest-benchmark writes: our description of the machine, without host or repository names."""

from __future__ import annotations

from typing import Any

from bench.measure import machine


def pytest_benchmark_update_machine_info(config: Any, machine_info: dict[str, Any]) -> None:
    machine_info.clear()
    machine_info.update(machine())


def pytest_benchmark_update_json(config: Any, benchmarks: Any, output_json: dict[str, Any]) -> None:
    output_json.pop("commit_info", None)
    for one in output_json["benchmarks"]:
        one["stats"].pop("data", None)
