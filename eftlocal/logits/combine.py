"""The combiner: one row of logits per role in, one row of logits out. numpy only.

The formula of the method is `Combiner.__call__`; see `recipe` for the papers' names. With no
stabiliser the raw logits are combined, because softmax removes what log-softmax subtracts.
With one, log-probabilities are needed, because the rule then depends on the role.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType

import numpy as np

from eftlocal.logits.distribution import (
    Ids,
    Row,
    exp_shifted,
    keep_only,
    log_sum_exp,
    mean_of_possible,
    nucleus,
    repair,
)
from eftlocal.logits.recipe import Recipe

_LEAST = 1e-7  # odds that the judge's certainty of foreign ids leaves to the others


class Combiner:
    """Combines rows over one vocabulary into preallocated memory.

    Args:
        size: tokens in the common vocabulary; longer rows are cut to it.
        unusable: ids that must never be chosen (padding inside the vocabulary): -inf always.
        stop_tokens: ids that the plausibility cut never removes.
        foreign: ids that mean something else to some roles (a distilled model reuses a spare id,
            say for the end of its thinking). They keep the probability that the judge, the tuned
            model as a rule, gives them: the others' ratio there is noise. Where the judge is not
            decoded they are as the recipe's one role has them.
        missing: of roles whose rows were translated from another vocabulary, the ids that nothing
            is known of: there they take the probability that the first of the other roles gives,
            which a delta leaves alone, and are impossible where there is none. Rows of these
            roles are log-probabilities, not logits, and are written to there.
    """

    def __init__(
        self,
        size: int,
        *,
        unusable: Sequence[int] = (),
        stop_tokens: Sequence[int] = (),
        foreign: Sequence[int] = (),
        missing: Mapping[str, Ids] = MappingProxyType({}),
    ) -> None:
        self.size = size
        self._missing = dict(missing)
        self._foreign = np.asarray(sorted(foreign), dtype=np.intp)
        self._unusable = np.asarray(sorted(unusable), dtype=np.intp)
        self._stop = np.asarray(sorted(stop_tokens), dtype=np.intp)
        self._out = np.empty(size, dtype=np.float32)
        half = (size + 1) // 2
        self._halves = self._out[:half], self._out[size - half :]
        self._delta = np.empty(size, dtype=np.float32)
        self._scratch = np.empty(size, dtype=np.float32)
        self._repaired: dict[str, Row] = {}
        self._bests: dict[str, np.float32] = {}  # the largest logit of each usable row
        self.mean = 0.0

    def __call__(self, rows: Mapping[str, Row], recipe: Recipe, *, find_mean: bool = False) -> Row:
        """The combined row: log-probabilities up to a constant, at temperature 1.

        A role alone at weight 1 passes through bit for bit. There is no NaN and no +inf in the
        result whatever comes in: NaN counts as -inf, and +inf as certainty. Where the delta
        applies, a token that a role of positive weight holds impossible (-inf) is impossible;
        one that only a role of negative weight holds impossible has no finite ratio, so its
        delta is 0. A role that holds every token impossible leaves nothing possible. The
        plausibility cut comes last: what it leaves keeps its proportions, and if it would leave
        nothing it is not made.

        Args:
            rows: (>= size,) float32 per role of `recipe.roles`; not modified.
            recipe: weights and stabilisers.
            find_mean: leave in `mean` the mean of the logits that are possible before the cut.

        Returns:
            (size,) float32, not to be modified: overwritten by the next call, or the very row of a
            role alone. All -inf when nothing is possible.
        """
        rows = {role: rows[role][: self.size] for role in recipe.roles}
        with np.errstate(invalid="ignore", over="ignore"):
            if self._missing:
                self._fill_missing(rows)
            if len(rows) == 1 and (alone := self._alone(rows, recipe)) is not None:
                self.mean = mean_of_possible(alone) if find_mean else 0.0
                return alone
            delta_applies = True
            careful = recipe.stabilised or not self._plain(rows, recipe)
            foreign = self._foreign.size > 0 and len(rows) > 1
            if careful or foreign:
                rows = {role: self._usable(role, row) for role, row in rows.items()}
            if careful:
                delta_applies = self._careful(rows, recipe)
            if self._unusable.size:
                self._out[self._unusable] = -np.inf
            if foreign:
                self._leave_to_judge(rows, recipe)
                self._out[self._unusable] = -np.inf
            if find_mean:
                self.mean = mean_of_possible(self._out)
            if recipe.plausibility > 0.0 and delta_applies:
                self._cut_implausible(rows, recipe)
                if np.isneginf(self._out.max()):
                    return self(rows, recipe.uncut, find_mean=find_mean)
        return self._out

    def _fill_missing(self, rows: Mapping[str, Row]) -> None:
        """Gives translated rows what they have nothing of, in place: the base's probability."""
        some = [role for role in rows if role in self._missing]
        translated = [role for role in some if rows[role].max() > -np.inf]  # else nothing stays
        native = next((role for role in rows if role not in self._missing), None)
        for role in translated:
            ids = self._missing[role]
            if native is None:
                rows[role][ids] = -np.inf
            elif ids.size:
                row = self._usable(native, rows[native])
                best = self._bests[native]
                if math.isfinite(best):
                    rows[role][ids] = row[ids] - np.float32(log_sum_exp(row, self._scratch, best))

    def _alone(self, rows: Mapping[str, Row], recipe: Recipe) -> Row | None:
        """The row of a role alone at weight 1, where it is usable as it stands."""
        ((role, row),) = rows.items()
        if recipe.stabilised or self._unusable.size:
            return None
        return row if recipe.weights[role] == 1.0 and math.isfinite(row.max()) else None

    def _plain(self, rows: Mapping[str, Row], recipe: Recipe) -> bool:
        """z = sum w * logits. False when the result is not usable as it stands."""
        _weighted_sum(rows, recipe.weights, self._out, self._scratch)
        # One pass that NaN and both infinities show in, wherever they meet what. So may huge ones.
        if math.isfinite(np.dot(*self._halves)):
            return True
        # -inf is as it should be, unless it is what a negative weight makes of +inf.
        certain = (rows[r].max() == np.inf for r, w in recipe.weights.items() if w < 0.0)
        return math.isfinite(self._out.max()) and not any(certain)

    def _careful(self, rows: Mapping[str, Row], recipe: Recipe) -> bool:
        """z by the rule that uses log-probabilities, where stabilisers or -inf ask for it.

        Returns whether the delta applies here; where not, the anchor stands alone.
        """
        if not all(math.isfinite(self._bests[role]) for role in rows):
            self._out.fill(-np.inf)
            return True
        if recipe.unsure_below < 1.0 and self._anchor_is_sure(rows, recipe):
            return False
        reshaped = recipe.delta_top_p < 1.0 or recipe.delta_clip < math.inf
        if reshaped or not self._plain(rows, recipe):
            self._anchor_and_delta(rows, recipe)
        return True

    def _anchor_is_sure(self, rows: Mapping[str, Row], recipe: Recipe) -> bool:
        """Whether the anchor alone stands as the result here."""
        _weighted_sum(rows, recipe.anchor, self._out, self._scratch)
        best = self._out.max()
        if not math.isfinite(best):
            return False
        sureness = float(best) - log_sum_exp(self._out, self._scratch, best)
        return sureness >= math.log(recipe.unsure_below)

    def _usable(self, role: str, row: Row) -> Row:
        """The row without NaN, +inf and unusable tokens; itself when it has none of them."""
        self._bests[role] = best = row.max()
        if not (self._unusable.size or math.isnan(best) or best == np.inf):
            return row
        if role not in self._repaired:
            self._repaired[role] = np.empty(self.size, dtype=np.float32)
        self._repaired[role][:] = row
        row = self._repaired[role]
        row[self._unusable] = -np.inf
        self._bests[role] = repair(row)
        return row

    def _anchor_and_delta(self, rows: Mapping[str, Row], recipe: Recipe) -> None:
        """z = anchor + delta, the delta inside the judge's nucleus and clipped.

        The anchor's own normaliser is a constant of the whole row and is left out.
        """
        weights = recipe.delta
        normaliser = sum(
            w * log_sum_exp(rows[role], self._scratch, self._bests[role])
            for role, w in weights.items()
            if role not in self._missing  # which are log-probabilities as they come
        )
        anchor = self._out
        _weighted_sum(rows, recipe.anchor, anchor, self._scratch)
        if not math.isfinite(anchor.max()):
            anchor.fill(-np.inf)
            return
        inside: Ids | slice = slice(None)
        if recipe.delta_top_p < 1.0:
            judge, inside = self._judge(rows, recipe), np.empty(0, dtype=np.intp)
            if math.isfinite(best := judge.max()):  # else it holds no token possible
                _, total = exp_shifted(judge, self._scratch, best)
                inside = nucleus(self._scratch, total, recipe.delta_top_p)

        rows = {role: rows[role][inside] for role in weights}
        delta = self._delta[inside]
        _weighted_sum(rows, weights, delta, self._scratch[: len(delta)])
        delta -= np.float32(normaliser)
        least, most = delta.min(initial=0.0), delta.max(initial=0.0)  # a NaN shows in both
        if not (math.isfinite(least) and math.isfinite(most)):
            # Two impossibles met: the ratio is undefined and the delta 0, but a token that a
            # role of positive weight holds impossible stays impossible.
            delta[~np.isfinite(delta)] = 0.0
            for role, row in rows.items():
                if recipe.weights.get(role, 0.0) > 0.0:
                    delta[np.isneginf(row)] = -np.inf
            least = delta.min(initial=0.0)
        if recipe.delta_clip < math.inf:
            impossible = np.isneginf(delta) if least == -np.inf else None
            np.clip(delta, -recipe.delta_clip, recipe.delta_clip, out=delta)
            if impossible is not None:
                delta[impossible] = -np.inf
        anchor[inside] += delta
        if anchor.max() == np.inf:
            np.minimum(anchor, np.finfo(np.float32).max, out=anchor)

    def _cut_implausible(self, rows: Mapping[str, Row], recipe: Recipe) -> None:
        judge = self._judge(rows, recipe)
        kept = self._out[self._stop]
        implausible = judge < judge.max() + np.float32(math.log(recipe.plausibility))
        keep_only(self._out, np.logical_not(implausible, out=implausible))
        self._out[self._stop] = kept

    def _leave_to_judge(self, rows: Mapping[str, Row], recipe: Recipe) -> None:
        """Gives the foreign ids the judge's probabilities; the others keep their proportions."""
        if not recipe.judging.keys() <= rows.keys():
            return
        self._out[self._foreign] = -np.inf
        judge = self._judge(rows, recipe).copy()
        own = judge[self._foreign].astype(np.float64)
        judge[self._foreign] = -np.inf
        if not math.isfinite(self._out.max()) or not np.isfinite(own).any():
            return
        # Their odds against all others together are the judge's.
        best = float(own.max())
        rest = best + math.log(float(np.exp(own - best).sum())) + math.log(_LEAST)
        if math.isfinite(judge.max()):
            rest = max(rest, log_sum_exp(judge, self._scratch))
        self._out[self._foreign] = own - rest + log_sum_exp(self._out, self._scratch)

    def _judge(self, rows: Mapping[str, Row], recipe: Recipe) -> Row:
        """The judge's logits (size,): a role's own row, or in the memory of the delta."""
        if list(recipe.judging.values()) == [1.0]:
            return rows[next(iter(recipe.judging))]
        _weighted_sum(rows, recipe.judging, self._delta, self._scratch)
        return self._delta


def _weighted_sum(
    rows: Mapping[str, Row], weights: Mapping[str, float], out: Row, scratch: Row
) -> None:
    """out = sum of weight * row over the roles of weight other than 0; `scratch` is overwritten."""
    parts = [(rows[role], weight) for role, weight in weights.items() if weight != 0.0]
    if not parts:
        out.fill(0.0)
        return
    (row, weight), *rest = parts
    if weight == 1.0 and rest and abs(rest[0][1]) == 1.0:  # one pass less for most recipes
        (other, sign), *rest = rest
        (np.add if sign == 1.0 else np.subtract)(row, other, out=out)
    else:
        np.multiply(row, np.float32(weight), out=out)
    for row, weight in rest:
        if weight == 1.0:
            out += row
        elif weight == -1.0:
            out -= row
        else:
            np.multiply(row, np.float32(weight), out=scratch)
            out += scratch
