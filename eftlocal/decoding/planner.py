"""Whether a sequence drafts in a round, by what, and how far: from costs and from acceptance.

What is chosen here changes the speed of an answer, never its distribution.
"""

from __future__ import annotations

from collections.abc import Callable

from eftlocal.decoding.ensemble import Ensemble
from eftlocal.decoding.sequence import RunningSequence, Turn
from eftlocal.errors import UsageError
from eftlocal.logits.recipe import Recipe
from eftlocal.settings import MAX_DRAFT
from eftlocal.speculation.costs import LONGEST, Costs, Room
from eftlocal.speculation.drafting import Acceptance, Plan, worth
from eftlocal.speculation.measurement import measurable, measure, recall, remember, rows_for
from eftlocal.speculation.settings import OFF, Speculation

_PLANNED_FOR = 256  # plans made before the costs, corrected meanwhile, are read again
_REMEMBERED = 16  # recipes whose acceptance is kept for the next answer


class Planner:
    """Plans the drafts of an ensemble's sequences.

    Args:
        ensemble: that the sequences were opened on.
        costs: seconds of decodes on this machine; without them only drafts of a given length are
            made, and no call is padded. They are corrected by what rounds take once a length is
            chosen: where all are given, the same calls are made in every process.
        fingerprint: of the files, settings and machine that measured costs are remembered under.
    """

    def __init__(
        self, ensemble: Ensemble, *, costs: Costs | None = None, fingerprint: str = ""
    ) -> None:
        self.ensemble = ensemble
        self.costs: Costs | None = None
        self._fingerprint = fingerprint
        self._plans: dict[object, Plan] = {}
        self._planned = 0
        self._acceptance: dict[Recipe, Acceptance] = {}
        if costs is not None:
            self.use(costs)

    def use(self, costs: Costs) -> None:
        """Chooses draft lengths by these costs from now on."""
        self.costs = costs
        self._plans.clear()
        self.ensemble.use(costs)
        if costs.side_by_side is not None:
            self.ensemble.side_by_side = costs.side_by_side and self.ensemble.pool is not None

    def measure(self, progress: Callable[[str, float], None] | None = None) -> Costs | None:
        """The costs on this machine: those in use, remembered, or measured now in a few seconds.

        Returns:
            None where drafting is impossible or has no room, or while sequences run that the
            measuring would disturb.
        """
        ensemble = self.ensemble
        if self.costs is not None or self.cannot_rewind:
            return self.costs
        rows = rows_for(ensemble.n_seq_max)
        key = f"{self._fingerprint}-{rows[-1]}"
        costs = recall(key, tuple(ensemble.contexts))
        if costs is None and not ensemble.running and measurable(ensemble.contexts):
            costs = measure(ensemble.contexts, 0, pool=ensemble.pool, rows=rows, progress=progress)
            remember(costs, key)
        if costs is not None:
            self.use(costs)
        return costs

    @property
    def cannot_rewind(self) -> str:
        """Why refused drafts could not be dropped from some role's cache; empty if they can."""
        for role, context in self.ensemble.contexts.items():
            if why := context.cannot_rewind:
                return f"the model of {role} {why}"
        return ""

    def allowed(self, speculation: Speculation) -> Speculation:
        """The speculation that these models can do, with costs measured: they say what to pad, too.

        Raises:
            UsageError: a length is given, and refused drafts could not be dropped.
        """
        if speculation.off:
            return speculation
        if stuck := self.cannot_rewind:
            if speculation.length is None:
                return OFF
            raise UsageError(f"speculation is impossible: {stuck}; turn it off")
        if self.ensemble.widths and speculation.rule == "rejection":
            raise UsageError(
                "draft_rule is rejection, which gives another text with other drafts; with "
                "reproducible leave it at coupled, or turn speculation off"
            )
        self.ensemble.alone(self.measure)
        return speculation

    def acceptance(self, recipe: Recipe, rule: str) -> Acceptance:
        """What earlier answers under this recipe taught; of the recipes used last.

        Only for the coupled rule: under the other, answers that share a seed would no longer be
        independent of what chose their drafts.
        """
        if rule != "coupled":
            return Acceptance()
        known = self._acceptance.pop(recipe, None) or Acceptance()
        self._acceptance[recipe] = known
        if len(self._acceptance) > _REMEMBERED:
            del self._acceptance[next(iter(self._acceptance))]
        return known

    def turn(self, sequence: RunningSequence, width: int) -> Turn:
        """A sequence's turn in a round of `width` sequences, with what may be drafted in it."""
        settings, recipe = sequence.speculation, sequence.recipe.at(len(sequence.choices))
        turn = Turn(sequence, recipe, self._longest(sequence, width))
        if turn.most < 1:
            return turn
        drafter = None if settings.source == "lookup" else recipe.drafter
        if settings.length is None:
            if self.costs is not None:
                self.ensemble.observer = self.costs.observe
                turn.plan = self._plan(self.costs, turn, width)
                self._choose_source(turn, turn.plan, drafter)
        elif drafter is not None:
            self._use(turn, drafter)
        elif settings.source != "model":
            _look_up(turn)
            turn.propose(turn.found)
        return turn

    def writer(self, drafter: Recipe) -> str | None:
        """The role whose own text is drafted: the drafter's heaviest, in another vocabulary."""
        role = max(drafter.roles, key=lambda role: drafter.weights[role])
        return role if role in self.ensemble.translations else None

    def _use(self, turn: Turn, drafter: Recipe) -> None:
        turn.writer = self.writer(drafter)
        turn.drafter = drafter if turn.writer is None else None

    def _longest(self, sequence: RunningSequence, width: int) -> int:
        """Tokens of the longest draft that is allowed here."""
        length = sequence.speculation.length
        # A prompt's last token is decoded alone, whatever of the prompt was in a cache: more rows
        # in a call could mean other kernels.
        if length == 0 or not sequence.choices:
            return 0
        limits = [
            MAX_DRAFT if length is None else length,
            self.ensemble.safe_room(sequence) - 1,
            self.ensemble.n_batch // width - 1,
        ]
        if sequence.max_tokens is not None:
            limits.append(sequence.max_tokens - len(sequence.choices) - 1)
        return min(limits)

    def _choose_source(self, turn: Turn, plan: Plan, drafter: Recipe | None) -> None:
        """Nothing, a model's draft, or what the conversation said before: the best rate."""
        state = turn.sequence.drafting
        best = plan.plain
        writes = drafter is not None and self.writer(drafter) is not None
        if drafter is not None and (writes or not state.watching):
            overall = state.acceptance.overall.mean
            _, rate = plan.longest(turn.most, overall, overall)
            if worth(rate, plan.plain):
                self._use(turn, drafter)
                best = rate
        if turn.sequence.speculation.source != "model":
            _look_up(turn)
            chance = state.acceptance.of_match(turn.agreed).mean
            length, rate = plan.lookup(len(turn.found), chance)
            if worth(rate, plan.plain) and rate > best:
                turn.drafter = turn.writer = None
                turn.propose(turn.found[:length])
        if drafter is not None and writes and best == plan.plain and state.due():
            # What it would have written is not at hand, as a row would be: a trial of one token.
            turn.most, turn.plan = 1, None
            self._use(turn, drafter)

    def _plan(self, costs: Costs, turn: Turn, width: int) -> Plan:
        sequence, recipe = turn.sequence, turn.recipe
        drafting = recipe.drafter.roles if recipe.drafter else ()
        verifying = [role for role in recipe.roles if role not in drafting]
        if recipe.drafter and (writer := self.writer(recipe.drafter)):
            drafting, verifying = (writer,), list(recipe.roles)
        tokens = self.ensemble.safe_room(sequence)
        room = Room(self.ensemble.n_seq_max, min(tokens, LONGEST), self.ensemble.n_rows)
        pieces = sequence.pieces()
        key = (drafting, recipe.roles, width, room, *pieces.values())
        self._planned += 1
        if self._planned % _PLANNED_FOR == 0:
            self._plans.clear()
        if key not in self._plans:
            self._plans[key] = Plan.of(
                costs,
                drafting,
                verifying,
                width,
                room,
                side_by_side=self.ensemble.side_by_side,
                pieces=pieces,
            )
        return self._plans[key]


def _look_up(turn: Turn) -> None:
    sequence = turn.sequence
    lookup = sequence.drafting.lookup
    prompt = next(iter(sequence.prompts.values()))  # of one role, whatever the recipe becomes
    if not len(lookup):
        lookup.extend(prompt)
    lookup.extend(sequence.tokens(len(lookup) - len(prompt)))
    turn.found, turn.agreed = lookup.find(turn.most)
