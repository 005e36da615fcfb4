"""The one loop: a round drafts, verifies, combines and accepts. Token ids in, token ids out.

A round advances every sequence it is given by at least one token:

1. draft    the recipe's drafter (the tuned model, as a rule) decodes what it lacks, then draft
            tokens drawn from its own distribution under the same sampling. Its rows are kept:
            the combination needs them anyway. A role of another vocabulary writes on in its own
            tokens instead (`Writer`). Or a draft is looked up, or empty.
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

from eftlocal.decoding.ensemble import Ensemble, Rows
from eftlocal.decoding.planner import Planner
from eftlocal.decoding.sequence import Choice, Point, RunningSequence, Source, Turn, Wanted
from eftlocal.decoding.writer import Writer
from eftlocal.errors import EngineError, NoTokenError
from eftlocal.logits.candidates import Candidates
from eftlocal.logits.distribution import Row, token_logprob, top_logprobs
from eftlocal.logits.race import draw
from eftlocal.logits.recipe import Recipe
from eftlocal.logits.step import Step
from eftlocal.settings import MAX_DRAFT
from eftlocal.speculation.costs import Costs
from eftlocal.speculation.rules import RULES, Rule


class Rounds:
    """Advances the sequences of an ensemble.

    Its memory, made once: a step for the target distribution and one for the drafts', so that
    both are at hand together, and for each slot and role that drafts (MAX_DRAFT + 1, vocab)
    float32, for rows that are needed after the role's next decode.

    Args:
        ensemble: that the sequences were opened on.
        costs, fingerprint: see `Planner`.
        rules: the acceptance rules by name.
    """

    def __init__(
        self,
        ensemble: Ensemble,
        *,
        costs: Costs | None = None,
        fingerprint: str = "",
        rules: Mapping[str, Rule] = RULES,
    ) -> None:
        self.ensemble = ensemble
        self.planner = Planner(ensemble, costs=costs, fingerprint=fingerprint)
        self._write = Writer(ensemble)
        self._rules = rules
        self._target_step = Step(ensemble.combine)
        self._draft_step = Step(ensemble.combine)
        self._scratch = np.empty(ensemble.vocab_size, dtype=np.float32)
        self._held: dict[tuple[int, str], Rows] = {}

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
        turns = [self.planner.turn(sequence, len(sequences)) for sequence in sequences]
        self._draft(turns)
        drafted = time.perf_counter()
        self._verify(turns)
        verified = time.perf_counter()
        whole, refining = self._accept(turns)
        feeding = self._bonus(whole)
        ended = time.perf_counter()
        for turn in turns:
            totals = turn.sequence.drafting.totals
            totals.rounds += 1
            if turn.sequence.choices:
                totals.draft_seconds += drafted - began + feeding
                totals.verify_seconds += verified - drafted + refining
            else:
                totals.prompt_seconds += verified - began + refining + feeding
            totals.combine_seconds += ended - verified - refining - feeding
            if turn.drafts:
                totals.judged(turn.accepted, len(turn.drafts), looked_up=not turn.confidences)
        for turn in turns:
            turn.sequence.choices.extend(turn.choices)
        return [turn.choices for turn in turns]

    # Drafting ---------------------------------------------------------------------------------

    def _draft(self, turns: Sequence[Turn]) -> None:
        """Drafts token by token, all sequences together, until each has enough."""
        self._write(turns)
        active = [turn for turn in turns if turn.drafter is not None]
        while active:
            self._feed_drafters(active)
            active = [turn for turn in active if self._extend(turn)]

    def _feed_drafters(self, turns: Sequence[Turn]) -> None:
        """The row after each draft, of its drafting roles, held: they decode again soon."""
        wanted: dict[str, list[Turn]] = {}
        for turn in turns:
            for role in turn.drafter.roles if turn.drafter else ():
                wanted.setdefault(role, []).append(turn)
        rows = self.ensemble.decode(
            {role: [Wanted(t.sequence, t.tokens) for t in some] for role, some in wanted.items()}
        )
        for role, some in wanted.items():
            for turn, (row,) in zip(some, rows[role], strict=True):
                self._hold(turn, role, row)

    def _extend(self, turn: Turn) -> bool:
        """Draws one more draft token where one is wanted; whether yet another is."""
        sequence, made, length = turn.sequence, len(turn.drafts), turn.most
        assert turn.drafter is not None
        source = self._drafts(turn, turn.drafter, made)
        if source is None:
            return False
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
        rule = self._rules[sequence.speculation.rule]
        turn.draft(token, source.kept() if rule.compares else None)
        turn.confidences.append(confidence)
        return made + 1 < length and token not in sequence.ends

    def _drafts(self, turn: Turn, drafter: Recipe, position: int) -> Candidates | None:
        """What a draft may be drawn from; None where the drafter alone leaves nothing."""
        try:
            return self._distribution(self._draft_step, turn, drafter, position)[1]
        except NoTokenError:
            return None

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

    def _refine(self, turns: Sequence[Turn]) -> None:
        """Improves the translated rows that the next token of each turn is chosen by."""
        points = []
        for turn in turns:
            position = len(turn.choices)
            if turn.complete(position):
                back = len(turn.drafts) + 1 - position
                points.append(Point(turn.sequence, turn.tokens, back, turn.rows[position]))
        self.ensemble.refine(points)

    # Combining and accepting ------------------------------------------------------------------

    def _accept(self, turns: Sequence[Turn]) -> tuple[list[Turn], float]:
        """Accepts drafts from the left; at the first refusal the rule recovers a token.

        Returns the turns of which all were accepted and the row of the next token is still to come,
        and the seconds that translated rows took to improve.
        """
        judging, whole, refining = list(turns), [], 0.0
        while judging:
            began = time.perf_counter()
            self._refine(judging)
            refining += time.perf_counter() - began
            whole += [turn for turn in judging if not turn.complete(len(turn.choices))]
            judging = [turn for turn in judging if turn not in whole and self._judge(turn)]
        for turn in whole:
            # Drafters of other sequences may verify in this one, and are about to decode.
            for role, row in turn.rows[len(turn.drafts)].items():
                self._hold(turn, role, row)
        return whole, refining

    def _judge(self, turn: Turn) -> bool:
        """Chooses one more token of a turn; whether its round goes on."""
        sequence, position = turn.sequence, len(turn.choices)
        if position == len(turn.drafts):
            self._last(turn)
            return False
        rule, at = self._rules[sequence.speculation.rule], len(sequence.choices) + position
        recipe = sequence.recipe.at(at)
        row, target = self._distribution(self._target_step, turn, recipe, position)
        token, accepted = rule.choose(target, turn.drafts[position], sequence.seed, at)
        source: Source = "accepted" if accepted else "recovered"
        turn.choices.append(self._choice(turn, token, source, row))
        self._learn(turn, position, accepted)
        return accepted and token not in sequence.ends

    def _bonus(self, turns: Sequence[Turn]) -> float:
        """Feeds drafters the last token of a draft that was accepted whole, and draws one more.

        Returns the seconds that their decoding took.
        """
        if not turns:
            return 0.0
        began = time.perf_counter()
        self._feed_drafters(turns)
        self._refine(turns)
        feeding = time.perf_counter() - began
        for turn in turns:
            self._last(turn)
        return feeding

    def _last(self, turn: Turn) -> None:
        """Draws the token that no draft stands for."""
        sequence, position = turn.sequence, len(turn.drafts)
        at = len(sequence.choices) + position
        recipe = sequence.recipe.at(at)
        row, target = self._distribution(self._target_step, turn, recipe, position)
        token = draw(target, sequence.seed, at)
        source: Source = "bonus" if turn.drafts else "plain"
        turn.choices.append(self._choice(turn, token, source, row))
        if not turn.drafts:
            self._watch(turn, target, at)

    def _distribution(
        self, step: Step, turn: Turn, recipe: Recipe, position: int
    ) -> tuple[Row, Candidates]:
        """The combined row (vocab,) float32 of a position, and what its sampling leaves.

        The row is valid until the next call, the candidates until the next one with this step.
        """
        sequence, before = turn.sequence, turn.tokens[:position]
        counts = turn.counts + Counter(before) if sequence.sampling.counting else {}
        mask = None if sequence.mask is None else sequence.mask([*sequence.tokens(), *before])
        # A rule that compares distributions needs the very candidates, the others what they draw.
        to_draw = not self._rules[sequence.speculation.rule].compares
        row = turn.rows[position]
        return step(row, recipe, sequence.sampling, counts, mask, to_draw=to_draw)

    def _hold(self, turn: Turn, role: str, row: Row) -> None:
        """Keeps the row after a turn's draft beyond the role's next decode."""
        key, position = (turn.sequence.slot, role), len(turn.drafts)
        if key not in self._held:
            shape = (MAX_DRAFT + 1, self.ensemble.vocab_size)
            self._held[key] = np.empty(shape, dtype=np.float32)
        held = self._held[key][position]
        held[:] = row
        turn.add_rows(role, [held], position)

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
        if drafter is None or self.planner.writer(drafter) is not None:
            return
        if state.due() and (source := self._drafts(turn, drafter, 0)):
            rule = self._rules[sequence.speculation.rule]
            likely = rule.likelihood(target, source, sequence.seed, at)
            state.acceptance.add(source.confidence, likely)
