"""One pass over one model: gather, plan, act, report. The whole control loop is `Reconciler.reconcile`."""

import logging
import time

from topmast_operator.act.client import Api, ApiError
from topmast_operator.act.execute import execute
from topmast_operator.act.report import Reporter
from topmast_operator.plan.plan import make_plan
from topmast_operator.plan.status import with_refusal
from topmast_operator.render.template import EngineDefaults
from topmast_operator.run.metrics import Metrics
from topmast_operator.watch.engines import Engines
from topmast_operator.watch.gather import gather
from topmast_operator.watch.room import Rooms

log = logging.getLogger(__name__)


class Reconciler:
    """Level-triggered: whatever woke it, it looks at everything and repeats nothing that is done."""

    def __init__(
        self, api: Api, engines: Engines, metrics: Metrics, defaults: EngineDefaults, *, cluster_wide: bool
    ) -> None:
        self._api = api
        self._engines = engines
        self._metrics = metrics
        self._defaults = defaults
        self._rooms = Rooms(api, cluster_wide=cluster_wide)
        self._reporter = Reporter(api)
        self._known: set[tuple[str, str]] = set()

    async def reconcile(self, namespace: str, name: str) -> None:
        """Bring one model closer to its spec. Raises what should be tried again."""
        states = self._engines.states(namespace, name)
        facts = await gather(self._api, self._rooms, states, namespace, name, time.time())
        if facts is None:
            self._forget(namespace, name)
            return
        self._known.add((namespace, name))
        self._metrics.models.set(len(self._known))
        self._engines.track(facts)
        plan = make_plan(facts, self._defaults)
        refused = await execute(self._api, facts.model, plan)
        for manifest in (*plan.grow, *plan.shrink):
            self._metrics.writes.labels(manifest["kind"]).inc()
        status = plan.status if refused is None else with_refusal(plan.status, str(refused))
        if await self._reporter.report(facts.model, status, plan.notes):
            self._metrics.writes.labels("Status").inc()
        self._metrics.observe(namespace, name, status)
        if refused is not None:
            raise refused

    def _forget(self, namespace: str, name: str) -> None:
        self._engines.forget(namespace, name)
        self._reporter.forget(f"{namespace}/{name}")
        if (namespace, name) in self._known:
            log.info("%s/%s is gone", namespace, name)
            self._known.discard((namespace, name))
            self._metrics.models.set(len(self._known))
            self._metrics.forget(namespace, name)


def explain(error: BaseException) -> str:
    """A failed pass in one line."""
    return f"{error} (HTTP {error.status})" if isinstance(error, ApiError) else str(error) or repr(error)
