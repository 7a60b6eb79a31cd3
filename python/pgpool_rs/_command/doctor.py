"""Compare the server with what pools ask of it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import psycopg2

from pgpool_rs._command import server
from pgpool_rs._command.answer import Answer, Failed, Table, count, number, whole
from pgpool_rs._command.facts import Facts, look_at

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator, Mapping

Severity = Literal["ok", "warning", "error"]

# Longer than this, and a request meets the dead connection first.
_SLOW_TO_NOTICE = 600
_LINUX = Path("/proc/sys/net/ipv4")
_FOR_READS = {"read-only", "standby", "prefer-standby"}


@dataclass(frozen=True)
class Finding:
    """Says what was read of one thing, how it is, and what to do."""

    severity: Severity
    about: str
    read: str
    advice: str = ""


@dataclass(frozen=True)
class Plan:
    """Holds what the service opens: so many hosts, processes on each, and connections at most in each pool."""

    hosts: int
    processes: int
    maxconn: int
    max_idle: float
    minconn: int = 0
    host_limit: int | None = None

    @property
    def pools(self) -> int:
        """Count the pools."""
        return self.hosts * self.processes

    def against(self, about: str, limit: int, read: str, advice: str = "") -> Finding:
        """Compare the sessions that all pools may open, twice as many during a deploy, with a limit."""
        most, deploying = self.most(self.processes), self.most(2 * self.processes)
        of, each = "processes x maxconn", f"{self.processes} x {self.maxconn}"
        if self.host_limit is not None:
            of, each = f"host limit, or {of}", f"({self.host_limit} or {each})"
        read += f"; hosts x {of}: {self.hosts} x {each} = {most}"
        read += f", in a rolling deploy {deploying}"
        if deploying <= limit:
            return Finding("ok", about, read)
        fits = limit // (2 * self.pools)
        lower = f"set maxconn to {fits} and a timeout" if fits else "put PgBouncer before the server"
        if self.host_limit is not None:
            lower = f"set the host limit to {limit // self.hosts}"
        return Finding("error" if most > limit else "warning", about, read, advice or f"Raise the limit, or {lower}.")

    def most(self, processes: int) -> int:
        """Count the sessions that so many processes on each host may open."""
        each = processes * self.maxconn
        return self.hosts * (each if self.host_limit is None else min(each, self.host_limit))

    def kept(self, limit: int) -> Finding:
        """Compare what the processes of a host keep open with its limit."""
        kept = self.processes * self.minconn
        read = f"{limit} connections; processes x minconn: {self.processes} x {self.minconn} = {kept}"
        read += f", in a rolling deploy {2 * kept}"
        if 2 * kept <= limit:
            return Finding("ok", "host limit", read)
        advice = f"Some processes will not get theirs: set minconn to {limit // (2 * self.processes)}."
        return Finding("error" if kept > limit else "warning", "host limit", read, advice)


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    server.add_dsn(command)
    add = command.add_argument
    add("--hosts", type=whole, default=1, help="machines that run the service (1)")
    add("--processes", type=whole, default=1, help="processes on each, each with one pool (1)")
    add("--maxconn", type=whole, default=10, help="of each pool (10)")
    add("--minconn", type=count, default=0, help="of each pool (0)")
    add("--host-limit", type=whole, help="limit=HostLimit(name, N), if the pools share one")
    add("--max-idle", type=number, default=300.0, help="of each pool, in seconds (300)")


def run(args: argparse.Namespace) -> Answer:
    """Read what the server says, and judge it."""
    plan = Plan(args.hosts, args.processes, args.maxconn, args.max_idle, args.minconn, args.host_limit)
    try:
        where, facts = look_at(args.dsn, server.options_for(args.dsn))
    except psycopg2.Error as error:
        raise Failed(server.with_advice(error, args.dsn)) from None
    found = list(findings(facts, plan))
    rows = [(f.severity, f.about, f"{f.read}\n{f.advice}".rstrip()) for f in found]
    worst = max((f.severity for f in found), key=["ok", "warning", "error"].index)
    return Answer(
        {"server": where, "severity": worst, "findings": [asdict(f) for f in found]},
        [where, Table(("", "about", "what was read, and what to do"), rows)],
        is_well=worst == "ok",
    )


def findings(facts: Facts, plan: Plan) -> Iterator[Finding]:
    """Judge what was read."""
    if facts.pooler is None:
        yield from _sessions(facts, plan)
    else:
        yield from _behind(facts.pooler, plan)
    if plan.host_limit is not None:
        yield plan.kept(plan.host_limit)
    yield from _role(facts)
    yield _idle("idle sessions", "idle_session_timeout", facts.seconds("idle_session_timeout"), plan.max_idle)
    yield _in_transaction(facts)
    yield _writes(facts)
    if facts.is_local:
        yield Finding("ok", "network", "a Unix socket: no keepalives and no Kerberos needed")
    else:
        yield from _network(facts)


def _sessions(facts: Facts, plan: Plan) -> Iterator[Finding]:
    most = int(facts.settings["max_connections"])
    kept = 0 if facts.is_superuser else int(facts.settings["superuser_reserved_connections"])
    if not (facts.is_superuser or facts.may_use_reserved):
        kept += int(facts.settings.get("reserved_connections", 0))
    read = f"{most - kept} sessions (max_connections {most}, {kept} reserved for others), {facts.sessions} open now"
    yield plan.against("server", most - kept, read)
    for about, limit in (("role", facts.role_limit), ("database", facts.database_limit)):
        if limit < 0:
            yield Finding("ok", about, "no CONNECTION LIMIT")
        elif facts.is_superuser:
            yield Finding("ok", about, f"CONNECTION LIMIT {limit}, which a superuser need not keep")
        else:
            yield plan.against(about, limit, f"CONNECTION LIMIT {limit}")


def _role(facts: Facts) -> Iterator[Finding]:
    if facts.is_superuser:
        yield Finding(
            "warning",
            "superuser",
            "the role is a superuser, so a busy service takes the sessions that are reserved for administrators",
            "Give the service a role of its own.",
        )


def _behind(pooler: Mapping[str, str], plan: Plan) -> Iterator[Finding]:
    mode = pooler["pool_mode"]
    read = f"{pooler['name']}, pool_mode {mode}"
    if mode == "session":
        yield Finding("ok", "pooler", read)
    else:
        advice = 'No reset="discard", no check_query, no SET in configure: see the page PgBouncer of the documentation.'
        yield Finding("warning", "pooler", read, advice)
    if "max_client_conn" in pooler:
        limit = int(pooler["max_client_conn"])
        yield plan.against("clients", limit, f"max_client_conn {limit}", "Raise max_client_conn, or lower maxconn.")
        idle = float(pooler["client_idle_timeout"])
        yield _idle("idle clients", "client_idle_timeout", idle, plan.max_idle)
    else:
        most, deploying = plan.most(plan.processes), plan.most(2 * plan.processes)
        advice = f"Compare its max_client_conn with {most}, in a rolling deploy {deploying}."
        yield Finding("warning", "clients", "its limits cannot be read: this role may not use its console", advice)


def _idle(about: str, setting: str, limit: float, max_idle: float) -> Finding:
    if not limit:
        return Finding("ok", about, f"{setting}=0: no limit")
    if limit > max_idle:
        read = f"{setting} of {limit:g} s, max_idle of {max_idle:g}; the pool replaces what it loses of minconn"
        return Finding("ok", about, read)
    read = f"{setting} of {limit:g} s ends what max_idle of {max_idle:g} s would keep"
    return Finding("warning", about, read, f"Set max_idle below {limit:g}, and minconn to 0.")


def _in_transaction(facts: Facts) -> Finding:
    about, setting = "idle in transaction", "idle_in_transaction_session_timeout"
    limit = facts.seconds(setting)
    if limit:
        return Finding("ok", about, f"{setting} of {limit:g} s")
    read = f"{setting}=0: a worker that hangs in a transaction keeps its session and its locks"
    return Finding("warning", about, read, f"Set it: ALTER ROLE ... SET {setting} = '60s'.")


def _writes(facts: Facts) -> Finding:
    wanted = facts.parameters.get("target_session_attrs", "any")
    state = "a hot standby" if facts.is_standby else "a primary"
    is_read_only = facts.settings["transaction_read_only"] == "on"
    read = f"{state} that takes {'no ' if is_read_only else ''}writes; target_session_attrs={wanted}"
    if is_read_only and wanted not in _FOR_READS:
        advice = "For writes: host=a,b target_session_attrs=read-write. For reads: target_session_attrs=prefer-standby."
        return Finding("warning", "writes", read, advice)
    return Finding("ok", "writes", read)


def _network(facts: Facts) -> Iterator[Finding]:
    timeout = int(facts.parameters.get("connect_timeout") or 0)
    if timeout > 0:
        yield Finding("ok", "connect_timeout", f"{timeout} s")
    else:
        read = "not set: a host that does not answer holds a request for minutes"
        yield Finding("warning", "connect_timeout", read, "Set connect_timeout=5.")
    yield _keepalives(facts.parameters)
    user_timeout = int(facts.parameters.get("tcp_user_timeout") or 0)
    if user_timeout:
        yield Finding("ok", "tcp_user_timeout", f"{user_timeout} ms")
    else:
        read = "not set: a query into a dead network fails after a quarter of an hour"
        yield Finding("warning", "tcp_user_timeout", read, "Set tcp_user_timeout=15000.")
    mode = facts.parameters.get("gssencmode", "disable")
    if mode == "disable":
        yield Finding("ok", "gssencmode", "disable")
    else:
        read = f"{mode}: each connect asks libgssapi, whose lock a child of a fork may wait for for ever"
        yield Finding("warning", "gssencmode", read, "Set gssencmode=disable, unless you use Kerberos.")


def _keepalives(parameters: Mapping[str, str]) -> Finding:
    advice = "Set keepalives_idle=30 keepalives_interval=5 keepalives_count=3."
    if parameters.get("keepalives", "1") == "0":
        return Finding("warning", "keepalives", "off: the kernel does not notice a dead connection", advice)
    idle, interval, count = (
        int(parameters.get(f"keepalives_{name}") or 0) or _of_kernel(f"tcp_keepalive_{kernels}", usual)
        for name, kernels, usual in (("idle", "time", 7200), ("interval", "intvl", 75), ("count", "probes", 9))
    )
    notices = idle + interval * count
    read = f"the kernel notices a dead connection after {notices} s ({idle} + {interval} x {count})"
    return (
        Finding("ok", "keepalives", read)
        if notices <= _SLOW_TO_NOTICE
        else Finding("warning", "keepalives", read, advice)
    )


def _of_kernel(name: str, usual: int) -> int:
    try:
        return int((_LINUX / name).read_text())
    except OSError:
        return usual
