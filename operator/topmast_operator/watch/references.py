"""What models say of one another, an alias that several have or a fallback, and whom a change of one concerns.

Looked up by name in indices, never by a look at all models: a change among thousands costs what it costs among a few.
"""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from topmast_operator.api.facts import Facts, Namesake
from topmast_operator.api.resource import Key, Model
from topmast_operator.plan.access import precedence
from topmast_operator.watch.mirror import Mirror
from topmast_operator.watch.records import ModelRef, Record

Aliases = frozenset[str]


def add_references(mirror: Mirror, model: Record[Model], facts: Facts) -> Facts:
    """The facts with what the indices hold of the model's aliases and fallbacks. Raises NotSyncedError."""
    of = model.content
    namesakes = [Namesake(alias, of.name, model.created_unix_s) for alias in of.aliases]
    for alias in of.aliases:
        others: list[ModelRef | Record[Any]] = [*mirror.with_alias(of.namespace, alias)]
        others += mirror.named(of.namespace, alias)
        namesakes += [Namesake(alias, one.name, one.created_unix_s) for one in others if one.name != of.name]
    fallbacks = {
        (namespace, name): bool(mirror.named(namespace, name)) if mirror.watches(namespace) else None
        for namespace, name in of.fallbacks
    }
    return replace(facts, namesakes=tuple(namesakes), fallbacks=fallbacks)


def concerned(mirror: Mirror, changed: ModelRef, before: Aliases | None, after: Aliases | None) -> set[Key]:
    """The models that have something else to say of themselves, now that this one has other aliases.

    before, after: its aliases; None where it was not there, or is there no more. While the indices are being filled
    nobody is concerned: every model gets a pass when that is done.
    """
    if not mirror.synced.is_set():
        return set()
    namespace, name = changed.namespace, changed.name
    found: list[ModelRef] = []
    for alias in (before or frozenset()) ^ (after or frozenset()):
        others = [other for other in mirror.with_alias(namespace, alias) if other.name != name]
        # Callers who reach another model by it, with this one or without, are nobody's news. So a thousand models with
        # one alias do not all get a pass for each that comes.
        if not mirror.named(namespace, alias) and _comes_before(changed, others, alias):
            found += others
    if before is None or after is None:
        found += (*mirror.with_alias(namespace, name), *mirror.with_fallback(namespace, name))
    return {(other.namespace, other.name) for other in found} - {(namespace, name)}


def _comes_before(model: ModelRef, others: Iterable[ModelRef], alias: str) -> bool:
    own = precedence(Namesake(alias, model.name, model.created_unix_s))
    return all(own < precedence(Namesake(alias, other.name, other.created_unix_s)) for other in others)
