"""Which quantization is fastest here, by role: what the planner of drafts makes of measured costs.

A decode's time is the reading of its weights, and depends on their type, on the number of rows and
on the widths of the matrices: a file's cost is the sum over the types that its weights have.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product

from eftlocal.errors import UsageError
from eftlocal.gguf_file.header import Header
from eftlocal.llama.quantize import FILE_TYPES
from eftlocal.loading.weight_types import bits, is_in, precision, weights_by_type
from eftlocal.logits.recipe import BASE, Recipe
from eftlocal.presets.schema import Preset
from eftlocal.settings import MAX_DRAFT
from eftlocal.speculation.costs import Costs, Curve
from eftlocal.speculation.drafting import Plan
from eftlocal.study.miniature import UNIT, Shape

CANDIDATES = ("Q8_0", "Q6_K", "Q4_K", "IQ4_NL", "Q4_0", "MXFP4")
AS_FAST = 0.97  # of the fastest: among these, what loses least is chosen


@dataclass(frozen=True)
class Part:
    """Roles that take one type: the base, or the tuned model with its reference, so that what
    quantization does to both cancels in the delta.

    Attributes:
        headers: of the present files, by role.
        types: that it could be in; None is as it is.
    """

    name: str
    headers: Mapping[str, Header]
    types: Sequence[str | None]


def parts_of(
    preset: Preset,
    headers: Mapping[str, Header],
    origins: Mapping[str, Header],
    types: Mapping[str, str],
    output: str | None = None,
) -> list[Part]:
    """The roles that take one type, and the types that they may take.

    Args:
        headers: of the present files, by role.
        origins: of what copies would be made from.
        types: that are asked for, by role.
        output: the type that is asked for the output matrices.

    Raises:
        UsageError: they cannot be.
    """
    groups: dict[bool, list[str]] = {}
    for role in headers:
        groups.setdefault(preset.kind(role) == BASE, []).append(role)
    files = [{headers[role].path for role in roles} for roles in groups.values()]
    if len(files) > 1 and files[0] & files[1]:  # one file has one type
        groups = {True: list(headers)}
    parts = []
    for roles in groups.values():
        wanted = {types[role] for role in roles if role in types}
        if len(wanted) > 1:
            raise UsageError(
                f"{' and '.join(roles)} take one type, so that what it does to both cancels in "
                f"their difference; {' and '.join(sorted(wanted))} were given"
            )
        of_part = {role: headers[role] for role in roles}

        def is_there(type_: str, of_part: Mapping[str, Header] = of_part) -> bool:
            return all(is_in(header, type_, output) for header in of_part.values())

        shapes = [Shape.of(header) for header in of_part.values()]
        least = min(precision(origins[role]) for role in roles)
        may_be: list[str | None] = [None]
        may_be += [
            type_
            for type_ in CANDIDATES
            if bits(type_) <= least
            and not is_there(type_)
            and all(shape.allows(type_) for shape in shapes)
        ]
        if wanted:
            (type_,) = wanted
            if not all(shape.allows(type_) for shape in shapes):
                raise UsageError(f"the matrices of {roles[0]} do not divide into blocks of {type_}")
            may_be = [None if is_there(type_) else type_]
        parts.append(Part(" and ".join(roles), of_part, may_be))
    return parts


def role_curve(weights: Mapping[str, float], curves: Mapping[str, Curve]) -> Curve:
    """Seconds by rows of a file with these weights of each type.

    Args:
        curves: of the types; one that is missing is taken for the nearest in bits.
    """
    parts = []
    for type_, count in weights.items():
        near = min(curves, key=lambda other: (abs(bits(other) - bits(type_)), other != type_))
        parts.append((count / UNIT, curves[type_ if type_ in curves else near]))
    rows = parts[0][1].rows
    return Curve({n: sum(share * curve(n) for share, curve in parts) for n in rows})


@dataclass(frozen=True)
class Rate:
    """Tokens a second: plain, and with drafts of the best length at an acceptance."""

    plain: float
    drafted: float
    length: int

    @property
    def best(self) -> float:
        return max(self.plain, self.drafted)

    @classmethod
    def of(cls, costs: Costs, recipe: Recipe, acceptance: float) -> Rate:
        drafting = recipe.drafter.roles if recipe.drafter else ()
        plan = Plan.of(costs, drafting, [r for r in recipe.roles if r not in drafting], 1)
        if not drafting:
            return cls(plan.plain, plan.plain, 0)
        length, rate = plan.longest(MAX_DRAFT, acceptance, acceptance)
        return cls(plan.plain, rate, length)


@dataclass(frozen=True)
class Choice:
    """A type for each part, by its name (None: as it is), and what that gives."""

    types: Mapping[str, str | None]
    rate: Rate


def choices(
    parts: Sequence[Part],
    curves: Mapping[Shape, Mapping[str, Curve]],
    recipe: Recipe,
    acceptance: float,
    output: str | None = None,
) -> list[Choice]:
    """Every way to give the parts a type of theirs.

    Args:
        curves: of the types, at each shape.
        acceptance: of a draft.
        output: the type of the output matrices of what is written.
    """
    found = []
    for types in product(*(part.types for part in parts)):
        costs = {
            role: role_curve(weights_by_type(header, type_, output), curves[Shape.of(header)])
            for part, type_ in zip(parts, types, strict=True)
            for role, header in part.headers.items()
        }
        chosen = {part.name: type_ for part, type_ in zip(parts, types, strict=True)}
        found.append(Choice(chosen, Rate.of(Costs(costs), recipe, acceptance)))
    return found


def as_it_is(
    parts: Sequence[Part],
    curves: Mapping[Shape, Mapping[str, Curve]],
    recipe: Recipe,
    acceptance: float,
) -> Choice:
    """What the present files give; the arguments are those of `choices`."""
    present = [replace(part, types=(None,)) for part in parts]
    return choices(present, curves, recipe, acceptance)[0]


def best(found: Sequence[Choice]) -> Choice:
    """Of the choices that are about as fast as the fastest, the one that loses least."""
    order = list(FILE_TYPES)

    def loss(choice: Choice) -> tuple[int, float]:
        kinds = [0 if t is None else 1 + order.index(t) for t in choice.types.values()]
        return sum(kinds), -choice.rate.best

    fastest = max(choice.rate.best for choice in found)
    return min((c for c in found if c.rate.best >= AS_FAST * fastest), key=loss)
