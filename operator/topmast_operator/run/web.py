"""`/metrics`, `/healthz` and `/readyz` of the operator process, and whatever routes it is given."""

import socket
from collections.abc import Callable, Iterable

from aiohttp import web

from topmast_operator.run.metrics import Metrics

Check = Callable[[], str]  # what is wrong, empty when nothing is


async def serve(
    host: str, port: int, metrics: Metrics, healthy: Check, ready: Check, more: Iterable[web.RouteDef] = ()
) -> web.AppRunner:
    """Listen; the caller ends it with `cleanup()`. `::` is every address, of IPv6 too where the kernel has that."""

    def answer(check: Check) -> web.Response:
        wrong = check()
        return web.Response(text=wrong or "ok", status=503 if wrong else 200)

    async def on_metrics(_: web.Request) -> web.Response:
        return web.Response(body=metrics.text(), headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"})

    async def on_healthz(_: web.Request) -> web.Response:
        return answer(healthy)

    async def on_readyz(_: web.Request) -> web.Response:
        return answer(ready)

    app = web.Application()
    app.add_routes(
        [web.get("/metrics", on_metrics), web.get("/healthz", on_healthz), web.get("/readyz", on_readyz), *more]
    )
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.SockSite(runner, _listen(host, port)).start()
    return runner


def _listen(host: str, port: int) -> socket.socket:
    if host != "::":
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    if socket.has_dualstack_ipv6():
        return socket.create_server((host, port), family=socket.AF_INET6, dualstack_ipv6=True)
    return socket.create_server(("0.0.0.0", port))
