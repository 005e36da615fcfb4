"""From a row of each role to what one token is drawn from: penalties, temperature and filters.

The order is fixed, and it is `Step`:

1. combine     the roles' rows become one: weights, then the limits of the delta (`Combiner`)
2. cut         implausible tokens go; where the delta does not apply, nothing is cut
3. penalise    repeat, presence, frequency, bias, once, as if nothing had been cut (`penalise`)
4. mask        tokens that a grammar forbids go
5. filter      temperature, top-k, top-p, min-p, each on what the one before left (`Filters`)

and then the draw (`race`). Should a mask or a ban leave nothing of what was cut, the cut gives way.

Everything here is a pure function of its arguments, in memory that is made once.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from eftlocal.errors import EngineError, NoTokenError
from eftlocal.logits.candidates import Candidates, Filters
from eftlocal.logits.combine import Combiner
from eftlocal.logits.distribution import Row, keep_only
from eftlocal.logits.recipe import Recipe
from eftlocal.logits.sampling import Sampling, penalise


class Step:
    """Steps 1 to 5 over rows of one vocabulary, in preallocated memory."""

    def __init__(self, combine: Combiner) -> None:
        self._combine = combine
        self._filter = Filters(combine.size)
        self._changed = np.empty(combine.size, dtype=np.float32)

    def __call__(
        self,
        rows: Mapping[str, Row],
        recipe: Recipe,
        sampling: Sampling,
        counts: Mapping[int, int],
        mask: NDArray[np.bool_] | None = None,
        *,
        to_draw: bool = False,
    ) -> tuple[Row, Candidates]:
        """The combined row of a position, and what its sampling leaves to draw from.

        Args:
            rows: (>= size,) float32 per role of `recipe.roles`; not modified.
            counts: how often each token occurs in the answer so far.
            mask: (>= size,) the tokens that may follow; None is all.
            to_draw: see `Filters`.

        Returns:
            The row of steps 1 and 2, (size,) float32, not to be modified, valid until the
            combiner's next one, and the candidates, valid until the next call.

        Raises:
            NoTokenError: no token is possible.
            EngineError: nor could one be, because a role's logits are NaN.
            UsageError: a biased token id is outside the vocabulary.
        """
        scaled = sampling.repeat_penalty != 1.0 and len(counts) > 0
        row = changed = self._combine(rows, recipe, find_mean=scaled)
        if sampling.penalised or mask is not None:
            changed = self._changed
            changed[:] = row
            penalise(changed, sampling, counts, mean=self._combine.mean if scaled else None)
            if mask is not None:
                keep_only(changed, mask[: len(changed)])
            if recipe.plausibility and np.isneginf(changed.max()):
                return self(rows, recipe.uncut, sampling, counts, mask, to_draw=to_draw)
        try:
            return row, self._filter(changed, sampling, to_draw=to_draw)
        except NoTokenError:
            if broken := [role for role in recipe.roles if np.isnan(rows[role]).any()]:
                raise EngineError(
                    f"the logits of {' and '.join(broken)} are not numbers (NaN): the model file "
                    "is damaged, or this device computes it wrongly; download it again, or try "
                    "it on the CPU (gpu_layers 0)"
                ) from None
            raise
