"""The one loop: a round drafts, verifies, combines and accepts. Token ids in, token ids out.

A round advances every sequence it is given by at least one token:

1. draft    the recipe's drafter (the tuned model, as a rule) decodes what it lacks, then draft
            tokens drawn from its own distribution under the same sampling. Its rows are kept:
            the combination needs them anyway. A draft may be looked up instead, or be empty.
2. verify   the other roles decode the whole draft in one call each.
3. combine  one row of the roles' rows per position; from the left, a rule accepts the drafted
            token or recovers another, and the draft ends there. After a draft that was accepted
            whole, the *bonus* token is drawn from the row that follows it.

Plain decoding is a round with empty drafts. What a refused draft left in the caches, the next
decode drops (`Ensemble`).
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from eftlocal.decoding.ensemble import Ensemble
from eftlocal.decoding.sequence import Choice, RunningSequence, Source, Turn, Wanted
from eftlocal.errors import EngineError
from eftlocal.logits.distribution import Row, token_logprob, top_logprobs
from eftlocal.logits.recipe import Recipe
from eftlocal.logits.sampling import Candidates, Step, draw
from eftlocal.speculation.costs import Costs
from eftlocal.speculation.drafting import Plan, worth
from eftlocal.speculation.rules import RULES, Draft, Rule
from eftlocal.speculation.settings import MAX_DRAFT

_PLANNED_FOR = 256  # plans made before the costs, corrected meanwhile, are read again


class Rounds:
    """Advances the sequences of an ensemble.

    Args:
        ensemble: that the sequences were opened on.
        costs: seconds of decodes on this machine, for drafts whose length is chosen; without
            them only drafts of a given length are made. They are corrected by what rounds take.
        rules: the acceptance rules by name.
    """

    def __init__(
        self,
        ensemble: Ensemble,
        *,
        costs: Costs | None = None,
        rules: Mapping[str, Rule] = RULES,
    ) -> None:
        self.ensemble = ensemble
        self.costs = costs
        self._rules = rules
        self._step = Step(ensemble.combine)
        self._scratch = np.empty(ensemble.vocab_size, dtype=np.float32)
        self._plans: dict[object, Plan] = {}
        self._planned = 0
        if costs is not None:
            self.use(costs)

    def use(self, costs: Costs) -> None:
        """Chooses draft lengths by these costs from now on."""
        self.costs = costs
        self._plans.clear()
        self.ensemble.observer = costs.observe
        self.ensemble.seconds = costs
        if costs.side_by_side is not None:
            self.ensemble.side_by_side = costs.side_by_side and self.ensemble.pool is not None

    def __call__(self, sequences: Sequence[RunningSequence]) -> list[list[Choice]]:
        """Advances every sequence; returns the tokens chosen and appended for each.

        Interrupted or failing, it leaves each sequence either as it was or advanced.

        Raises:
            EngineError: a sequence is closed (its slot may be another's), or llama.cpp failed.
        """
        return self.ensemble.alone(lambda: self._advance(sequences))

    def _advance(self, sequences: Sequence[RunningSequence]) -> list[list[Choice]]:
        if any(sequence.closed for sequence in sequences):
            raise EngineError("a sequence of this round is closed; open another")
        began = time.perf_counter()
        turns = [self._turn(sequence, len(sequences)) for sequence in sequences]
        self._draft(turns)
        drafted = time.perf_counter()
        self._verify(turns)
        verified = time.perf_counter()
        whole = [turn for turn in turns if self._accept(turn)]
        feeding = self._bonus(whole)
        ended = time.perf_counter()
        for turn in turns:
            totals = turn.sequence.drafting.totals
            totals.rounds += 1
            if turn.sequence.choices:
                totals.draft_seconds += drafted - began + feeding
                totals.verify_seconds += verified - drafted
            else:
                totals.prompt_seconds += verified - began + feeding
            totals.combine_seconds += ended - verified - feeding
            if turn.drafts:
                totals.judged(turn.accepted, len(turn.drafts), looked_up=turn.drafter is None)
        for turn in turns:
            turn.sequence.choices.extend(turn.choices)
        return [turn.choices for turn in turns]

    # Planning ---------------------------------------------------------------------------------

    def _turn(self, sequence: RunningSequence, width: int) -> Turn:
        """Whether the sequence drafts in this round, by what, and how far at most."""
        settings, recipe = sequence.speculation, sequence.recipe.at(len(sequence.choices))
        turn = Turn(sequence, recipe, self._longest(sequence, recipe, width))
        if turn.most < 1:
            return turn
        drafter = None if settings.source == "lookup" else recipe.drafter
        if settings.length is None:
            if self.costs is not None:
                turn.plan = self._plan(self.costs, recipe, width)
                self._choose_source(turn, turn.plan, drafter)
        elif drafter is not None:
            turn.drafter = drafter
        elif settings.source != "model":
            self._look_up(turn)
            turn.use_found(len(turn.found))
        return turn

    def _longest(self, sequence: RunningSequence, recipe: Recipe, width: int) -> int:
        """Tokens of the longest draft that is allowed here."""
        length = sequence.speculation.length
        if length == 0:
            return 0
        for role in recipe.roles:
            held = len(self.ensemble.contexts[role].tokens(sequence.slot))
            if sequence.length(role) - held > MAX_DRAFT + 1:
                # A prompt is decoded by itself: more rows in a call could mean other kernels.
                return 0
        limits = [
            MAX_DRAFT if length is None else length,
            self.ensemble.room(sequence) - 1,
            self.ensemble.n_batch // width - 1,
        ]
        if sequence.max_tokens is not None:
            limits.append(sequence.max_tokens - len(sequence.choices) - 1)
        return min(limits)

    def _choose_source(self, turn: Turn, plan: Plan, drafter: Recipe | None) -> None:
        """Nothing, a model's draft, or what the conversation said before: the best rate."""
        state = turn.sequence.drafting
        best = plan.plain
        if drafter is not None and not state.watching:
            overall = state.acceptance.overall.mean
            _, rate = plan.longest(turn.most, overall, overall)
            if worth(rate, plan.plain):
                turn.drafter, best = drafter, rate
        if turn.sequence.speculation.source != "model":
            self._look_up(turn)
            chance = state.acceptance.of_match(turn.agreed).mean
            length, rate = plan.lookup(len(turn.found), chance)
            if worth(rate, plan.plain) and rate > best:
                turn.drafter = None
                turn.use_found(length)

    def _plan(self, costs: Costs, recipe: Recipe, width: int) -> Plan:
        drafting = recipe.drafter.roles if recipe.drafter else ()
        key = (drafting, recipe.roles, width)
        self._planned += 1
        if self._planned % _PLANNED_FOR == 0:
            self._plans.clear()
        if key not in self._plans:
            verifying = [role for role in recipe.roles if role not in drafting]
            self._plans[key] = Plan.of(
                costs, drafting, verifying, width, side_by_side=self.ensemble.side_by_side
            )
        return self._plans[key]

    def _look_up(self, turn: Turn) -> None:
        sequence = turn.sequence
        lookup = sequence.drafting.lookup
        prompt = next(iter(sequence.prompts.values()))  # of one role, whatever the recipe becomes
        if not len(lookup):
            lookup.extend(prompt)
        lookup.extend(sequence.tokens(len(lookup) - len(prompt)))
        turn.found, turn.agreed = lookup.find(turn.most)

    # Drafting ---------------------------------------------------------------------------------

    def _draft(self, turns: Sequence[Turn]) -> None:
        """Drafts token by token, all sequences together, until each has enough."""
        active = [turn for turn in turns if turn.drafter is not None]
        while active:
            self._feed_drafters(active)
            active = [turn for turn in active if self._extend(turn)]

    def _feed_drafters(self, turns: Sequence[Turn]) -> None:
        """The row after each draft, of its drafting roles, copied: they decode again soon."""
        wanted: dict[str, list[Turn]] = {}
        for turn in turns:
            for role in turn.drafter.roles if turn.drafter else ():
                wanted.setdefault(role, []).append(turn)
        rows = self.ensemble.decode(
            {role: [Wanted(t.sequence, t.tokens) for t in some] for role, some in wanted.items()}
        )
        for role, some in wanted.items():
            for turn, found in zip(some, rows[role], strict=True):
                turn.add_rows(role, found.copy(), len(turn.drafts))

    def _extend(self, turn: Turn) -> bool:
        """Draws one more draft token where one is wanted; whether yet another is."""
        sequence, made, length = turn.sequence, len(turn.drafts), turn.most
        assert turn.drafter is not None
        _, source = self._distribution(turn, turn.drafter, made)
        confidence = source.confidence
        if turn.plan is not None:
            acceptance = sequence.drafting.acceptance
            chance = acceptance.expected(confidence)
            length = turn.plan.longest(
                turn.most,
                chance,
                acceptance.overall.mean,
                made=made,
                chances=turn.chances,
                tokens=turn.expected,
            )[0]
            turn.chances *= chance
            turn.expected += turn.chances
        if length == made:
            return False
        token = draw(source, sequence.seed, len(sequence.choices) + made)
        turn.drafts.append(Draft(token, source.kept()))
        turn.confidences.append(confidence)
        return made + 1 < length and token not in sequence.ends

    # Verifying --------------------------------------------------------------------------------

    def _verify(self, turns: Sequence[Turn]) -> None:
        """The rows that are not at hand yet, in one call for each role.

        Side by side, the drafters decode their last draft meanwhile; else only when it is needed.
        """
        wanted: dict[str, list[tuple[Turn, Wanted]]] = {}
        for turn in turns:
            drafting = turn.drafter.roles if turn.drafter else ()
            lacking = len(turn.rows) <= len(turn.drafts)
            for role in turn.recipe.roles:
                if role not in drafting:
                    rows = len(turn.drafts) + 1
                elif self.ensemble.side_by_side and lacking:
                    rows = 1
                else:
                    continue
                asked = Wanted(turn.sequence, turn.tokens, rows)
                wanted.setdefault(role, []).append((turn, asked))
        found = self.ensemble.decode(
            {role: [asked for _, asked in some] for role, some in wanted.items()}
        )
        for role, some in wanted.items():
            for (turn, _), rows_ in zip(some, found[role], strict=True):
                turn.add_rows(role, rows_, len(turn.drafts) + 1 - len(rows_))

    # Combining and accepting ------------------------------------------------------------------

    def _accept(self, turn: Turn) -> bool:
        """Accepts drafts from the left; at the first refusal the rule recovers a token.

        Returns True where all were accepted and the row of the next token is still to come.
        """
        sequence = turn.sequence
        rule = self._rules[sequence.speculation.rule]
        for position, draft in enumerate(turn.drafts):
            at = len(sequence.choices) + position
            row, target = self._distribution(turn, sequence.recipe.at(at), position)
            token, accepted = rule.choose(target, draft, sequence.seed, at)
            source: Source = "accepted" if accepted else "recovered"
            turn.choices.append(self._choice(turn, token, source, row))
            self._learn(turn, position, accepted)
            if not accepted or token in sequence.ends:
                return False
        last = turn.rows[len(turn.drafts)]
        if set(last) >= set(turn.recipe.roles):
            self._last(turn)
            return False
        # Drafters of other sequences may verify in this one, and are about to decode.
        turn.rows[len(turn.drafts)] = {role: row.copy() for role, row in last.items()}
        return True

    def _bonus(self, turns: Sequence[Turn]) -> float:
        """Feeds drafters the last token of a draft that was accepted whole, and draws one more.

        Returns the seconds that their decoding took.
        """
        if not turns:
            return 0.0
        began = time.perf_counter()
        self._feed_drafters(turns)
        feeding = time.perf_counter() - began
        for turn in turns:
            self._last(turn)
        return feeding

    def _last(self, turn: Turn) -> None:
        """Draws the token that no draft stands for."""
        sequence, position = turn.sequence, len(turn.drafts)
        at = len(sequence.choices) + position
        row, target = self._distribution(turn, sequence.recipe.at(at), position)
        token = draw(target, sequence.seed, at)
        source: Source = "bonus" if turn.drafts else "plain"
        turn.choices.append(self._choice(turn, token, source, row))
        if not turn.drafts:
            self._watch(turn, target, at)

    def _distribution(self, turn: Turn, recipe: Recipe, position: int) -> tuple[Row, Candidates]:
        """The combined row of a position, and what its sampling leaves to draw from.

        Both are valid until the next call.
        """
        sequence, before = turn.sequence, turn.tokens[:position]
        counts = turn.counts + Counter(before) if sequence.sampling.counting else {}
        mask = None if sequence.mask is None else sequence.mask([*sequence.tokens(), *before])
        return self._step(turn.rows[position], recipe, sequence.sampling, counts, mask)

    def _choice(self, turn: Turn, token: int, source: Source, row: Row) -> Choice:
        sequence = turn.sequence
        if not sequence.logprobs:
            return Choice(token, None, source)
        top: list[tuple[int, float]] = []
        if sequence.top_logprobs:
            top = top_logprobs(row, sequence.top_logprobs, self._scratch)
        return Choice(token, token_logprob(row, token, self._scratch), source, tuple(top))

    # Learning ---------------------------------------------------------------------------------

    def _learn(self, turn: Turn, position: int, accepted: bool) -> None:
        acceptance = turn.sequence.drafting.acceptance
        if turn.confidences:
            acceptance.add(turn.confidences[position], float(accepted))
        else:
            acceptance.of_match(turn.agreed).add(float(accepted))

    def _watch(self, turn: Turn, target: Candidates, at: int) -> None:
        """What would have become of a draft, where none was made and its length is chosen."""
        sequence = turn.sequence
        if turn.plan is None:
            return
        state, drafter = sequence.drafting, turn.recipe.drafter
        if turn.found:
            hit = turn.choices[0].token == turn.found[0]
            state.acceptance.of_match(turn.agreed).add(float(hit))
        if drafter is not None and state.due():
            target = target.kept()
            _, source = self._distribution(turn, drafter, 0)
            rule = self._rules[sequence.speculation.rule]
            likely = rule.likelihood(target, source, sequence.seed, at)
            state.acceptance.add(source.confidence, likely)
