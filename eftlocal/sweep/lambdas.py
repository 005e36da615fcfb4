"""Values of lambda: numbers for realignment, or one per tuned role for interpolation.

0:2:0.5                        numbers
tuned=0,plain=1;tuned=0.5,plain=0.5    points written out, parted by semicolons
tuned=0:1:0.25,plain=rest      a line through the simplex: tuned takes each value, plain the rest
a=0:1:0.5,b=0:1:0.5,c=rest     a lattice of the simplex of three roles
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from itertools import product

from eftlocal.bases import FrozenMapping
from eftlocal.errors import UsageError
from eftlocal.sweep.values import MOST, parse_decimals, parse_numbers

REST = "rest"

Lambda = float | Mapping[str, float]


def parse_lambdas(flag: str, text: str) -> tuple[Lambda, ...]:
    """The values in their order, each once. Whether each is on the simplex, its recipe says.

    Where a role takes the rest, combinations of the others that pass 1 are left out.

    Raises:
        UsageError: one line that names the part and what to write.
    """
    found: dict[Lambda, None] = {}
    for part in text.split(";"):
        if "=" in part:
            found.update((point, None) for point in _mixtures(flag, part))
        else:
            found.update((value, None) for value in parse_numbers(flag, part))
    return tuple(found)


def _mixtures(flag: str, part: str) -> list[FrozenMapping[str, float]]:
    written: dict[str, list[str]] = {}
    role = ""
    for piece in part.split(","):
        name, sign, value = (bit.strip() for bit in piece.partition("="))
        if sign:
            role = name
            if not role.isidentifier() or role in written:
                what = "is given twice" if role in written else "is no name of a role"
                raise UsageError(f"{flag} {part.strip()}: {role!r} {what}")
        elif not role:
            raise UsageError(f"{flag}: {part.strip()!r} begins without role=")
        written.setdefault(role, []).append(value if sign else name)
    rest = [role for role, values in written.items() if values == [REST]]
    if len(rest) > 1:
        raise UsageError(f"{flag} {part.strip()}: {' and '.join(rest)} cannot both take the rest")
    choices = {
        role: (None,) if role in rest else parse_decimals(f"{flag} {role}", ",".join(values))
        for role, values in written.items()
    }
    size = 1
    for values in choices.values():
        size *= len(values)
    if size > MOST:
        raise UsageError(f"{flag} {part.strip()}: more than {MOST} points; take a larger step")
    points = []
    for chosen in product(*choices.values()):
        left = Decimal(1) - sum((value for value in chosen if value is not None), Decimal(0))
        if rest and (left < 0 or any(value is not None and value < 0 for value in chosen)):
            continue
        shares = zip(choices, chosen, strict=True)
        points.append(
            FrozenMapping({r: float(left if value is None else value) for r, value in shares})
        )
    if not points:
        raise UsageError(f"{flag} {part.strip()}: no combination leaves a rest of 0 or more")
    return points
