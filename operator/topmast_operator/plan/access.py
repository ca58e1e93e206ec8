"""Whether a model's aliases lead to it and its fallbacks are there: the condition AccessResolved.

Callers are sent by the gateway, by the same rule of precedence (docs/contracts.md). Nothing else depends on this
condition: a model is Ready and Available whoever has its aliases.
"""

from collections.abc import Iterator, Mapping, Sequence

from topmast_operator.api.conditions import ACCESS_RESOLVED, Condition
from topmast_operator.api.facts import Namesake
from topmast_operator.api.resource import Key, Model
from topmast_operator.api.times import to_text

Found = Mapping[Key, bool | None]  # whether a model is there; None: its namespace is not watched
Problem = tuple[str, str]  # reason, and a sentence with what to do


def access_resolved(model: Model, namesakes: Sequence[Namesake], found: Found) -> Condition | None:
    """The condition, with the first problem's reason and the sentences of all; None without aliases and fallbacks."""
    if not model.aliases and not model.fallbacks:
        return None
    problems = [*_taken(model, namesakes), *_not_found(model, found), *_itself(model)]
    if problems:
        return Condition(ACCESS_RESOLVED, False, problems[0][0], " ".join(message for _, message in problems))
    return Condition(ACCESS_RESOLVED, True, "Resolved", _resolved(model, found))


def precedence(namesake: Namesake) -> tuple[bool, float, str]:
    """Callers who ask for an alias reach the model for which this is least.

    A model's own name wins over every alias; of models with the same alias the oldest has it, of equally old ones the
    first by name.
    """
    return not namesake.by_own_name, namesake.created_unix_s, namesake.model


def _taken(model: Model, namesakes: Sequence[Namesake]) -> Iterator[Problem]:
    """A problem for each model that callers reach by some of the aliases."""
    taken: dict[tuple[bool, float, str], list[str]] = {}
    for alias in sorted(model.aliases):
        holder = min((item for item in namesakes if item.alias == alias), key=precedence, default=None)
        if holder and holder.model != model.name:
            taken.setdefault(precedence(holder), []).append(alias)
    for (by_alias, created_unix_s, name), aliases in taken.items():
        reached = (
            f"Callers who ask for {_listed(aliases, 'or')} reach the model {name}, created {to_text(created_unix_s)}"
        )
        if by_alias:
            why = (
                "which has it in spec.access.aliases too: the older model has an alias, of equally old ones the first "
                "by name. Remove it from one of the two."
            )
        else:
            why = "whose own name it is: that wins over an alias. Choose another alias."
        yield "AliasTaken", f"{reached}, {why}"


def _not_found(model: Model, found: Found) -> Iterator[Problem]:
    missing = [_shown(model, key) for key in model.fallbacks if found.get(key) is False and key != _own(model)]
    if missing:
        named = f"There is no model {_listed(missing, 'or')} to fall back to"
        yield (
            "FallbackNotFound",
            f"{named}: create it, or name another one by its metadata.name in spec.access.fallbacks.",
        )


def _itself(model: Model) -> Iterator[Problem]:
    if _own(model) in model.fallbacks:
        message = (
            f"The fallback {model.key} is this model itself: name another one in spec.access.fallbacks, or remove it."
        )
        yield "FallbackIsItself", message


def _resolved(model: Model, found: Found) -> str:
    told = []
    if model.aliases:
        told.append(f"Callers reach this model as {_listed(sorted(model.aliases), 'and')}, too.")
    if model.fallbacks:
        shown = [_shown(model, key) for key in model.fallbacks]
        order = ", in this order" if len(shown) > 1 else ""
        told.append(f"While it cannot answer, {_listed(shown, 'and')} {'do' if order else 'does'}{order}.")
    unknown = [_shown(model, key) for key in model.fallbacks if found.get(key) is None]
    if unknown:
        told.append(
            f"This operator does not watch the namespace of {_listed(unknown, 'and')}, and takes it to be there."
        )
    return " ".join(told)


def _own(model: Model) -> Key:
    return model.namespace, model.name


def _shown(model: Model, key: Key) -> str:
    namespace, name = key
    return name if namespace == model.namespace else f"{namespace}/{name}"


def _listed(words: Sequence[str], last: str) -> str:
    return f" {last} ".join(filter(None, (", ".join(words[:-1]), words[-1])))
