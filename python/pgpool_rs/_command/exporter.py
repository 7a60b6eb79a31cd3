"""Serve the figures of all processes of this host to Prometheus, from one port."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from pgpool_rs._command.answer import USAGE, Answer, Failed
from pgpool_rs._command.host import add_folder, folder_of

if TYPE_CHECKING:
    import argparse


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    command.add_argument("--host", default="127.0.0.1", help="the address to serve at (127.0.0.1)")
    command.add_argument("--port", type=int, default=9432, help="the port to serve at; 0 takes a free one (9432)")
    add_folder(command)


def run(args: argparse.Namespace) -> Answer:
    """Serve until Ctrl-C."""
    try:
        client = importlib.import_module("prometheus_client")
        collector = importlib.import_module("pgpool_rs.prometheus").HostCollector(folder_of(args))
    except ImportError:
        raise Failed("exporter needs prometheus_client: pip install prometheus-client", USAGE) from None
    registry = client.CollectorRegistry()
    registry.register(collector)
    try:
        server, thread = client.start_http_server(args.port, args.host, registry)
    except (OSError, OverflowError, ValueError) as error:  # ValueError: no such name of a host can be
        raise Failed(f"cannot serve at {args.host}, port {args.port}: {error}") from None
    host = f"[{args.host}]" if ":" in args.host else args.host
    print(f"http://{host}:{server.server_port}/metrics", flush=True)
    thread.join()
    return Answer({}, [])
