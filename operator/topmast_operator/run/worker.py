"""One pass over one model: gather, plan, render, act, report. The whole control loop is `Reconciler.reconcile`."""

import logging
import time
from dataclasses import replace

from topmast_operator.act.client import Api, ApiError, ApiUnreachableError
from topmast_operator.act.execute import execute
from topmast_operator.act.report import Reporter
from topmast_operator.api.facts import Facts, WriteRefused
from topmast_operator.plan.plan import make_plan
from topmast_operator.plan.revision import revision_of
from topmast_operator.render.changes import Changes, changes, target_template
from topmast_operator.run.metrics import Metrics
from topmast_operator.watch.engines import Engines
from topmast_operator.watch.gateways import Gateways
from topmast_operator.watch.gather import gather
from topmast_operator.watch.room import Rooms

log = logging.getLogger(__name__)


class Reconciler:
    """Level-triggered: whatever woke it, it looks at everything and repeats nothing that is done."""

    def __init__(
        self, api: Api, engines: Engines, gateways: Gateways, metrics: Metrics, image: str, *, cluster_wide: bool
    ) -> None:
        self._api = api
        self._engines = engines
        self._gateways = gateways
        self._metrics = metrics
        self._image = image
        self._rooms = Rooms(api, cluster_wide=cluster_wide)
        self._reporter = Reporter(api)
        self._known: set[tuple[str, str]] = set()

    async def reconcile(self, namespace: str, name: str) -> float | None:
        """Bring one model closer to its spec; seconds after which to look again. Raises what should be tried again."""
        states = self._engines.states(namespace, name)
        facts = await gather(self._api, self._rooms, states, namespace, name, time.time())
        if facts is None:
            self._forget(namespace, name)
            return None
        self._known.add((namespace, name))
        self._metrics.models.set(len(self._known))
        self._engines.track(facts)
        facts = self._gateways.add_queue(facts)
        template = target_template(facts, revision_of(facts.model), self._image)
        plan = make_plan(facts, template)
        wanted = changes(facts, plan, template)
        failure = await self._carry_out(facts, wanted)
        if isinstance(failure, ApiError):
            facts = replace(facts, refused=WriteRefused(failure.status, str(failure)))
            plan = make_plan(facts, template)
        if await self._reporter.report(facts.model, plan.status, plan.events):
            self._metrics.writes.labels("Status").inc()
        self._metrics.observe(namespace, name, plan.status)
        if failure is not None:
            raise failure
        return plan.again_s

    async def _carry_out(self, facts: Facts, wanted: Changes) -> ApiError | ApiUnreachableError | None:
        """What went wrong, if something did: status is told all the same."""
        try:
            refused = await execute(self._api, facts.model, wanted)
        except (ApiError, ApiUnreachableError) as error:
            return error
        for manifest in (*wanted.grow, *wanted.shrink):
            self._metrics.writes.labels(manifest["kind"]).inc()
        return refused

    def _forget(self, namespace: str, name: str) -> None:
        self._engines.forget(namespace, name)
        self._gateways.forget(namespace, name)
        self._reporter.forget(f"{namespace}/{name}")
        if (namespace, name) in self._known:
            log.info("%s/%s is gone", namespace, name)
            self._known.discard((namespace, name))
            self._metrics.models.set(len(self._known))
            self._metrics.forget(namespace, name)


def explain(error: BaseException) -> str:
    """A failed pass in one line."""
    return f"{error} (HTTP {error.status})" if isinstance(error, ApiError) else str(error) or repr(error)
