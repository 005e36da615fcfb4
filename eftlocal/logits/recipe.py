"""Recipes: what weight each role's log-probabilities get, named and dialled as the papers do.

Write lp for log-softmax over the common vocabulary. A recipe is a weight w per role, summing to 1,

    z = sum_role  w[role] * lp[role]

and, when a stabiliser is on, an *anchor*: the part of that sum which is trusted as it stands.
The rest is the *delta*, which is what a stabiliser limits:

    z = anchor + delta,   anchor = sum a[role] * lp[role],   delta = sum (w - a)[role] * lp[role]

A *judge* says on which tokens the small models know what they are talking about. Up-scaling
trusts the tuned model (anchor) and proxy-tuning the base; the tuned model judges both. Two
schedules limit where the delta applies at all: to the first tokens, or where the anchor is unsure.
Elsewhere the anchor stands alone: there is no delta to limit, so no stabiliser acts there, the
plausibility cut included.

Two dials cover both papers, z = alpha*tuned + beta*base + (1 - alpha - beta)*reference:
up-scaling (Mitchell et al. 2023, arXiv 2310.12962) is alpha = 1 and its beta multiplies what
larger pretraining adds; proxy-tuning (Liu et al. 2024, arXiv 2401.08565) is beta = 1 and its
alpha multiplies what tuning adds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypedDict

from eftlocal.bases import Frozen, FrozenMapping
from eftlocal.errors import UsageError
from eftlocal.kinds import OFF, Off, Range
from eftlocal.settings import LIMITS, RANGES, SETTINGS, checked
from eftlocal.terminal_text import shown

if TYPE_CHECKING:
    from typing_extensions import Unpack

BASE, TUNED, REFERENCE = TRIO = "base", "tuned", "reference"
UNGUIDED = "unguided"  # the tuned model under a prompt without its instructions
PERSONA = "persona"  # the tuned model under a system prompt that only it reads
MADE = UNGUIDED, PERSONA  # roles that loading makes of the tuned one

_LATER = ("lambdas", "references", "persona_prompt")  # fields that version 0.1.0 did not have

_LIMIT_WORDS = {
    "delta_top_p": "delta top-p {:g}",
    "plausibility": "plausibility {:g}",
    "delta_clip": "delta clip {:g}",
    "first_tokens": "first {} tokens",
    "unsure_below": "where unsure below {:g}",
}


class Limits(TypedDict, total=False):
    """What limits a recipe's delta; see `Recipe`."""

    delta_top_p: float | Off | None
    plausibility: float | Off | None
    delta_clip: float | Off | None
    first_tokens: int | Off | None
    unsure_below: float | Off | None


@dataclass(frozen=True)
class Recipe(Frozen):
    """A weight per role, and the stabilisers of the delta. Immutable.

    Build one with the named constructors; the bare constructor takes any weights and refuses
    those that do not sum to 1 unless `any_sum` says that it is meant. Ranges are those of
    `settings.RANGES`; a stabiliser may be given as the word "off".

    Attributes:
        weights: weight of each role's log-probabilities. A role at 0 is not decoded at all.
        anchor: weight of each role in the anchor; empty means the recipe's natural one.
        judge: weight of each role in the judge; empty means the anchor.
        delta_top_p: the EFT paper's filter. The delta applies inside the nucleus (top-p set)
            of the judge; outside it the delta is 0, so the token keeps the anchor's
            log-probability. 1 is no filter. In (0, 1].
        plausibility: a token whose probability under the judge is below this fraction of the
            best token's becomes impossible; stop tokens never do (contrastive decoding,
            Li et al. 2023, arXiv 2210.15097). What is left keeps its proportions, and penalties
            act as they would without the cut. 0 is no cut. In [0, 1).
        delta_clip: the delta is limited to [-delta_clip, delta_clip] nats. inf is no limit.
        first_tokens: the delta applies to this many tokens at the beginning of an answer; the
            others follow the anchor alone, with no stabiliser. None is no limit.
        unsure_below: the delta applies only where the anchor's best token has a probability
            below this; elsewhere the anchor stands alone, with no stabiliser (nudging, Fei et
            al. 2024, arXiv 2410.09300). 1 is everywhere. In (0, 1].
        any_sum: the caller means weights that do not sum to 1.
        lambdas: of a mixture of tuned roles, the share of each.
        references: of a mixture, the reference of a tuned role where it is not "reference".
        persona_prompt: the system prompt that only the role `persona` reads; empty is none. It is
            part of the prompt, so it cannot be changed within an answer.

    Raises:
        UsageError: a weight or a stabiliser is out of its range; the line names it.
    """

    weights: Mapping[str, float]
    name: str = "weights"
    anchor: Mapping[str, float] = field(default_factory=dict)
    judge: Mapping[str, float] = field(default_factory=dict)
    delta_top_p: float = 1.0
    plausibility: float = 0.0
    delta_clip: float = math.inf
    first_tokens: int | None = None
    unsure_below: float = 1.0
    any_sum: bool = False
    lambdas: Mapping[str, float] = field(default_factory=dict)
    references: Mapping[str, str] = field(default_factory=dict)
    persona_prompt: str = ""

    def __post_init__(self) -> None:
        weights = _by_role("weight", self.weights)
        if not any(weights.values()):
            raise UsageError(
                f"recipe {self.name}: every weight is 0; give at least one role a weight"
            )
        total = math.fsum(weights.values())
        if not self.any_sum and abs(total - 1.0) > 1e-6:
            listed = ", ".join(f"{role}={w:g}" for role, w in weights.items())
            raise UsageError(
                f"recipe {self.name}: the weights {listed} sum to {total:g}, not 1; "
                "change one of them, or allow any sum (any_sum)"
            )
        anchor = _by_role("anchor weight", self.anchor) or _natural_anchor(weights)
        judge = _by_role("judge weight", self.judge) or anchor
        for name in LIMITS:
            object.__setattr__(self, name, checked(name, getattr(self, name)))
        if self.persona_prompt != "":
            SETTINGS[PERSONA].checked(PERSONA, self.persona_prompt)
            if PERSONA not in weights:
                raise UsageError(
                    f"recipe {self.name} has no weight for the role {PERSONA}, which alone reads "
                    f"the persona; give {PERSONA}=1 too, or leave the persona out"
                )
        object.__setattr__(self, "weights", FrozenMapping(weights))
        object.__setattr__(self, "anchor", FrozenMapping(anchor))
        object.__setattr__(self, "judge", FrozenMapping(judge))
        object.__setattr__(self, "lambdas", FrozenMapping(self.lambdas))
        object.__setattr__(self, "references", FrozenMapping(self.references))

    def told(self) -> dict[str, Any]:
        """All that it computes with. What version 0.1.0 did not have is there only where used, so
        that runs which that version began go on."""
        held = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return {name: value for name, value in held.items() if value or name not in _LATER}

    def __repr__(self) -> str:
        return f"Recipe({', '.join(f'{name}={value!r}' for name, value in self.told().items())})"

    @cached_property
    def stabilised(self) -> bool:
        """True when log-probabilities are needed, not raw logits: a rule looks at some role."""
        return bool(self.limits.keys() - {"first_tokens"})

    @cached_property
    def limits(self) -> dict[str, Any]:
        """The limits of its delta that are on, by name."""
        values = {name: getattr(self, name) for name in LIMITS}
        return {name: value for name, value in values.items() if value != RANGES[name].off}

    @cached_property
    def delta(self) -> dict[str, float]:
        """The weight of each role in the delta, where it is not 0."""
        weights = {role: self.weights.get(role, 0.0) for role in {**self.weights, **self.anchor}}
        weights = {role: w - self.anchor.get(role, 0.0) for role, w in weights.items()}
        return {role: w for role, w in weights.items() if w != 0.0}

    @cached_property
    def judging(self) -> dict[str, float]:
        """The weight of each role in the judge, where it is not 0."""
        return {role: w for role, w in self.judge.items() if w != 0.0}

    @cached_property
    def roles(self) -> tuple[str, ...]:
        """The roles whose logits a step needs, in the order of the weights."""
        needed = {role: None for role, w in self.weights.items() if w != 0.0}
        parts = [self.anchor, self.judge] if self.stabilised else []
        if self.first_tokens is not None:
            parts.append(self.anchor)  # a draft may pass the last token of the delta
        for part in parts:
            needed.update((role, None) for role, a in part.items() if a != 0.0)
        return tuple(needed)

    def at(self, index: int) -> Recipe:
        """The recipe of the answer's token at this index: the anchor alone after first_tokens."""
        if self.first_tokens is None or index < self.first_tokens:
            return self
        return self._settled

    @cached_property
    def _settled(self) -> Recipe:
        alone = self.anchor
        return Recipe(alone, name=self.name, any_sum=True, anchor=alone, judge=self.judge)

    @cached_property
    def drafter(self) -> Recipe | None:
        """What drafts for this recipe: its judge, the tuned model as a rule.

        The combination needs the judge's rows anyway, so its drafts cost no forward pass. None
        where no role would be left to verify them, or where the judge is no part of the recipe.
        """
        judge = self.judging
        if not judge.keys() < set(self.roles):
            return None
        return Recipe(judge, name="drafter", any_sum=True, anchor=judge, judge=judge)

    def stabilise(self, **limits: Unpack[Limits]) -> Recipe:
        """The same recipe with these limits of its delta.

        None leaves a limit as it is; the word "off" takes it away.
        """
        changes: dict[str, Any] = {name: v for name, v in limits.items() if v is not None}
        return replace(self, **changes) if changes else self

    def limited_as(self, other: Recipe) -> Recipe:
        """The same recipe with the other one's limits of its delta."""
        return replace(self, **{name: getattr(other, name) for name in LIMITS})

    @cached_property
    def uncut(self) -> Recipe:
        """The same recipe without its plausibility cut."""
        return self.stabilise(plausibility=OFF)

    def __str__(self) -> str:
        parts = [f"{w:+g} {role}" for role, w in self.weights.items() if w != 0.0]
        parts += [_LIMIT_WORDS[name].format(value) for name, value in self.limits.items()]
        parts += [f"persona {shown(self.persona_prompt)}"] if self.persona_prompt else []
        return f"{self.name}: " + ", ".join(parts)

    # The rows of the papers ------------------------------------------------------------------

    @classmethod
    def dials(cls, alpha: float = 1.0, beta: float = 1.0, *, name: str = "dials") -> Recipe:
        """alpha * tuned + beta * base + (1 - alpha - beta) * reference: both papers' dials."""
        alpha, beta = checked("alpha", alpha), checked("beta", beta)
        weights = {BASE: beta, TUNED: alpha, REFERENCE: 1.0 - alpha - beta}
        if name in ("proxy", "steer"):
            # With alpha 0 the tuned model takes no part, and must not judge either.
            judge = {TUNED: 1.0} if alpha else {BASE: 1.0}
            return cls(weights, name=name, anchor={BASE: 1.0}, judge=judge)
        return cls(weights, name=name)

    @classmethod
    def upscale(cls, beta: float = 1.0) -> Recipe:
        """tuned + beta * (base - reference). Mitchell et al. 2023; beta above 1 amplifies."""
        return cls.dials(1.0, beta, name="upscale")

    @classmethod
    def proxy(cls, alpha: float = 1.0) -> Recipe:
        """base + alpha * (tuned - reference). Proxy-tuning, Liu et al. 2024."""
        return cls.dials(alpha, 1.0, name="proxy")

    @classmethod
    def downscale(cls) -> Recipe:
        """Up-scaling with a small base and a large tuned and reference pair. Mitchell et al."""
        return cls.dials(1.0, 1.0, name="downscale")

    @classmethod
    def steer(cls, alpha: float) -> Recipe:
        """base + alpha * (tuned - reference), any sign: toward a behaviour, or away from it.

        DExperts (Liu et al. 2021, arXiv 2105.03023); on an already tuned base,
        Zhao et al. 2024 (arXiv 2401.17256).
        """
        return cls.dials(alpha, 1.0, name="steer")

    @classmethod
    def interpolate(
        cls, lambdas: Mapping[str, float], references: Mapping[str, str] | None = None
    ) -> Recipe:
        """base + sum_i lambda_i * (tuned_i - reference_i), lambda on the simplex.

        Args:
            lambdas: weight of each tuned role; each 0 or more, summing to 1.
            references: the reference role of a tuned role where it is not "reference".
        """
        return cls._mixed(lambdas, references, 1.0, name="interpolate", anchor=lambdas)

    @classmethod
    def mix(
        cls,
        lambdas: Mapping[str, float],
        alpha: float = 1.0,
        references: Mapping[str, str] | None = None,
    ) -> Recipe:
        """base + alpha * sum_i lambda_i * (tuned_i - reference_i): proxy-tuning with a mixture.

        Which behaviour (lambda, on the simplex) and how much of it (alpha, of either sign).
        """
        alpha = checked("alpha", alpha)
        judge = lambdas if alpha else {BASE: 1.0}  # as in `dials`
        return cls._mixed(lambdas, references, alpha, name="mix", anchor={BASE: 1.0}, judge=judge)

    @classmethod
    def _mixed(
        cls,
        lambdas: Mapping[str, float],
        references: Mapping[str, str] | None,
        alpha: float,
        **named: Any,
    ) -> Recipe:
        shares = _by_role("lambda", lambdas, RANGES["lambda"])
        total = math.fsum(shares.values())
        if not shares or min(shares.values()) < 0.0 or abs(total - 1.0) > 1e-6:
            listed = ", ".join(f"{role}={v:g}" for role, v in shares.items())
            raise UsageError(
                f"{named['name']}: lambda ({listed or 'none given'}) must be 0 or more each "
                f"and sum to 1, not {total:g}"
            )
        own = {role: name for role, name in (references or {}).items() if role in shares}
        weights = {BASE: 1.0, **{role: alpha * share for role, share in shares.items()}}
        for role, share in shares.items():
            reference = own.get(role, REFERENCE)
            weights[reference] = weights.get(reference, 0.0) - alpha * share
        return cls(weights, lambdas=shares, references=own, **named)

    @classmethod
    def realign(cls, lambda_: float) -> Recipe:
        """reference + lambda * (tuned - reference); lambda may pass 1. DeRa, Liu et al. 2024."""
        lambda_ = checked("lambda", lambda_)
        return cls({TUNED: lambda_, REFERENCE: 1.0 - lambda_}, name="realign")

    @classmethod
    def contrast(
        cls, strength: float, *, conditioned: str = BASE, plain: str = REFERENCE
    ) -> Recipe:
        """(1 + g) * conditioned - g * plain: contrastive decoding, classifier-free guidance.

        The two roles are two models (Li et al. 2023), or one model under two prompts
        (Sanchez et al. 2023, arXiv 2306.17806).
        """
        g = checked("strength", strength)
        if conditioned == plain:
            raise UsageError(f"contrast needs two roles; both are {plain}")
        return cls({conditioned: 1.0 + g, plain: -g}, name="contrast", anchor={conditioned: 1.0})

    @classmethod
    def guidance(cls, strength: float) -> Recipe:
        """(1 + g) * tuned - g * unguided: one model, with its instructions and without them.

        Classifier-free guidance, Sanchez et al. 2023 (arXiv 2306.17806). The role `unguided` is
        the tuned model under the same conversation without its system prompt.
        """
        recipe = cls.contrast(strength, conditioned=TUNED, plain=UNGUIDED)
        return replace(recipe, name="guidance")

    @classmethod
    def persona(cls, prompt: str, alpha: float = 1.0) -> Recipe:
        """base + alpha * (persona - tuned): a system prompt as the fine-tuning.

        The role `persona` is the tuned model, and reads this system prompt after the
        conversation's own; base and tuned do not. Where base and tuned are one file, it is
        `guidance` by this prompt alone: alpha is 1 + g.
        """
        alpha = checked("alpha", alpha)
        prompt = SETTINGS[PERSONA].checked(PERSONA, prompt)
        weights = {BASE: 1.0, PERSONA: alpha, TUNED: 0.0 - alpha}
        judge = {PERSONA: 1.0} if alpha else {BASE: 1.0}
        anchor = {BASE: 1.0}
        return cls(weights, name=PERSONA, anchor=anchor, judge=judge, persona_prompt=prompt)

    @classmethod
    def single(cls, role: str) -> Recipe:
        """One role alone: its logits pass through unchanged, and no other role is decoded."""
        return cls({role: 1.0}, name=role)


def _natural_anchor(weights: Mapping[str, float]) -> dict[str, float]:
    """The tuned model where it takes part; otherwise the role of largest weight."""
    if weights.get(TUNED, 0.0) != 0.0:
        return {TUNED: 1.0}
    return {max(weights, key=lambda role: weights[role]): 1.0}


def _by_role(
    what: str, numbers: Mapping[str, float], limits: Range = RANGES["weight"]
) -> dict[str, float]:
    """A number for each role, in its range."""
    if not isinstance(numbers, Mapping):
        given = shown(numbers)
        raise UsageError(f"{what}s: {given}; they must be a mapping of roles to numbers")
    for role in numbers:
        if not isinstance(role, str) or not role.isidentifier():
            raise UsageError(f"{what}: {shown(role)} is no role; give its name")
    return {role: limits.checked(f"{what} of {role}", n) for role, n in numbers.items()}
