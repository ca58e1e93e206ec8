"""Two gateways that know each other, each at an address of its own: one may be killed and started again there."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path

from gateway.lab.accounts.charges import lines_of
from gateway.lab.engines import free_address
from gateway.lab.stage import SECRET, SHARED_TOKEN, SYSTEM, Gateway, Stage, hashed

_PORT, _ADMIN_PORT = 8080, 8081


def spender(stage: Stage, name: str, key: str) -> None:
    """Give this key a budget that is never used up, so that gateways have something to tell each other."""
    entry = {"hash": hashed(key), "budgetTokens": 10**12, "budgetPeriod": "total"}
    stage.core.patch_namespaced_secret(SECRET, SYSTEM, {"stringData": {name: json.dumps(entry)}})


class Replica:
    """One of them. Its usage log is the same file in all its lives."""

    def __init__(self, kubeconfig: Path, folder: Path, ip: str, peer_ip: str, *flags: str) -> None:
        self.door, self.usage_log = f"http://{ip}:{_PORT}/v1", folder / f"usage-{ip}.jsonl"
        token = folder / "token"
        token.write_text(SHARED_TOKEN)
        where = ("--host", ip, "--port", f"{_PORT}", "--admin-host", ip, "--admin-port", f"{_ADMIN_PORT}")
        peers = ("--peers", f"{peer_ip}:{_ADMIN_PORT}", "--shared-token-file", str(token))
        self._kubeconfig = kubeconfig
        self._flags = (*where, *peers, "--usage-log", str(self.usage_log), *flags)
        self.start()

    def start(self) -> None:
        """It listens; ready is another thing."""
        self.gateway = Gateway(self._kubeconfig, *self._flags)

    def kill(self) -> None:
        """As the kernel does it when memory runs out: nothing more is written, said or sent."""
        self.gateway.close()

    def wrote_all(self) -> bool:
        """Whether every request that this process has charged at its end is in its usage log."""
        here = self.gateway.usage()["replica"]
        lines = [line for line in lines_of([self.usage_log]) if line["replica"] == here and line["finish"] != "open"]
        return self.gateway.metric("topmast_gateway_caller_requests_total") == len(lines)

    def charged(self, caller: str) -> int:
        """Tokens of a budget "in total" as this gateway knows it, with what its former lives and its peers counted."""
        rows = self.gateway.usage()["counts"]
        mine = (row for row in rows if row[1:3] == [caller, "total"])
        return sum(charged - refunded for *_, charged, refunded in mine)


@contextlib.contextmanager
def two_gateways(kubeconfig: Path, folder: Path, *flags: str) -> Iterator[list[Replica]]:
    """Both listen; nothing of them is left afterwards."""
    ips = [free_address(), free_address()]
    replicas: list[Replica] = []
    try:
        for ip, peer_ip in zip(ips, reversed(ips), strict=True):
            replicas.append(Replica(kubeconfig, folder, ip, peer_ip, *flags))
        yield replicas
    finally:
        for replica in replicas:
            replica.gateway.close()
