"""One pass over one model: gather, plan, render, act, report. The whole control loop is `Reconciler.reconcile`."""

import logging
import time
from collections.abc import Callable
from dataclasses import replace

from topmast_operator.act.client import Api, ApiError, ApiUnreachableError
from topmast_operator.act.execute import execute
from topmast_operator.act.report import Reporter
from topmast_operator.api.facts import Facts, WriteRefused
from topmast_operator.plan.plan import Plan, make_plan
from topmast_operator.plan.revision import revision_of
from topmast_operator.render.access import Doors
from topmast_operator.render.changes import Changes, changes, target_template
from topmast_operator.render.template import EngineDefaults
from topmast_operator.run.attention import Attention
from topmast_operator.run.metrics import Metrics
from topmast_operator.run.ownership import Ownership
from topmast_operator.watch.engines import FIRST_ANSWER_S, Engines
from topmast_operator.watch.gateways import Gateways
from topmast_operator.watch.gather import Gatherer
from topmast_operator.watch.mirror import Mirror

# A model that was just made has nothing to tell yet: its status waits for what its Deployment and pods say, which wake
# it within moments, and for so long where nothing does.
FIRST_WORD_S = 2.0

log = logging.getLogger(__name__)


class Reconciler:
    """Level-triggered: whatever woke it, it looks at everything and repeats nothing that is done."""

    def __init__(
        self,
        api: Api,
        mirror: Mirror,
        engines: Engines,
        gateways: Gateways,
        metrics: Metrics,
        ownership: Ownership,
        defaults: EngineDefaults,
        doors: Callable[[], Doors] = Doors,
    ) -> None:
        """`doors`: what holds for the engines of all models at this moment."""
        self._api = api
        self._engines = engines
        self._gateways = gateways
        self._metrics = metrics
        self._ownership = ownership
        self._defaults = defaults
        self._doors = doors
        self._gatherer = Gatherer(api, mirror, closed=defaults.closed, policed=doors().ingress is not None)
        self._reporter = Reporter(api, ownership.me)
        self._known: set[tuple[str, str]] = set()

    async def reconcile(self, namespace: str, name: str) -> Attention:
        """Bring one model closer to its spec; when it wants to be looked at again. Raises what should be retried."""
        facts = await self._gather(namespace, name)
        if facts is None:
            self._forget(namespace, name)
            return Attention()
        verdict = await self._ownership.settle(facts.model)
        if not verdict.mine:
            self._engines.forget(namespace, name)
            self._gateways.forget(namespace, name)
            return Attention(verdict.again_s)
        if (namespace, name) not in self._known:
            # Not seen before by this process: what engines and gateways say comes first.
            self._engines.track(facts)
            await self._gateways.introduce(facts)
            if not self._engines.introduced(namespace, name):
                return Attention(FIRST_ANSWER_S)
            facts = await self._gather(namespace, name) or facts
        facts = replace(facts, rival=verdict.rival)
        self._known.add((namespace, name))
        self._metrics.models.set(len(self._known))
        self._engines.track(facts)
        plan, wanted = self._plan(facts)
        if wanted.takes_away:
            confirmed = await self._gather(namespace, name, fresh=True)
            if confirmed is None:
                return Attention()  # deleted this moment: the event will come
            facts = replace(confirmed, rival=verdict.rival)
            plan, wanted = self._plan(facts)
        failure = await self._carry_out(facts, wanted)
        if failure is None and wanted.grow and not facts.revisions:
            return Attention(FIRST_WORD_S)
        if isinstance(failure, ApiError):
            facts = replace(facts, refused=WriteRefused(failure.status, str(failure)))
            plan, _ = self._plan(facts)
        if await self._reporter.report(facts.model, plan.status, plan.events):
            self._metrics.writes.labels("Status").inc()
        self._metrics.observe(namespace, name, plan.status)
        if failure is not None:
            raise failure
        return Attention(plan.again_s, plan.waits)

    def _plan(self, facts: Facts) -> tuple[Plan, Changes]:
        facts = self._gateways.add_queue(facts)
        template = target_template(facts, revision_of(facts.model), self._defaults)
        plan = make_plan(facts, template)
        return plan, changes(facts, plan, template, self._doors())

    async def _carry_out(self, facts: Facts, wanted: Changes) -> ApiError | ApiUnreachableError | None:
        """What went wrong, if something did: status is told all the same."""
        try:
            refused = await execute(self._api, facts.model, wanted)
        except (ApiError, ApiUnreachableError) as error:
            return error
        for manifest in (*wanted.grow, *wanted.shrink):
            self._metrics.writes.labels(manifest["kind"]).inc()
        return refused

    async def _gather(self, namespace: str, name: str, *, fresh: bool = False) -> Facts | None:
        states = self._engines.states(namespace, name)
        return await self._gatherer.gather(states, namespace, name, time.time(), fresh=fresh)

    def _forget(self, namespace: str, name: str) -> None:
        self._engines.forget(namespace, name)
        self._gateways.forget(namespace, name)
        self._reporter.forget(f"{namespace}/{name}")
        self._ownership.forget(f"{namespace}/{name}")
        if (namespace, name) in self._known:
            log.info("%s/%s is gone", namespace, name)
            self._known.discard((namespace, name))
            self._metrics.models.set(len(self._known))
            self._metrics.forget(namespace, name)


def explain(error: BaseException) -> str:
    """A failed pass in one line."""
    return f"{error} (HTTP {error.status})" if isinstance(error, ApiError) else str(error) or repr(error)
