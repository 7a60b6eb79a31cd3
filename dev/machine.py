"""The machine and the versions that figures belong to."""

import os
import platform
from importlib.metadata import version
from pathlib import Path

import psycopg2


def describe(dsn: str) -> dict[str, str]:
    """Return what a reader needs to judge the figures by; `dsn` is asked only for its server's version."""
    connection = psycopg2.connect(dsn)
    server = connection.info.parameter_status("server_version") or "unknown"
    connection.close()
    return {
        "CPU": cpu_model(),
        "cores": str(len(os.sched_getaffinity(0))),
        "system": f"{platform.system()} {platform.release()}",
        "Python": f"{platform.python_implementation()} {platform.python_version()}",
        "pgpool_rs": version("pgpool-rs"),
        # The stubs do not know it.
        "psycopg2": vars(psycopg2)["__version__"].split()[0],
        "PostgreSQL": server,
    }


def cpu_model() -> str:
    """Return the processor's name as Linux has it."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return platform.machine()


def sentence(description: dict[str, str]) -> str:
    """Say the description in one line."""
    return ", ".join(f"{name} {value}" for name, value in description.items())
