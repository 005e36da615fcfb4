"""Which recipes an evaluation compares."""

from __future__ import annotations

from eftlocal.logits.recipe import Recipe

BETAS = (0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0)
ALPHAS = (0.25, 0.5, 0.75, 1.25, 1.5, 2.0)
LAMBDAS = (0.0, 0.25, 0.5, 0.75, 1.0)


def strengths() -> dict[str, Recipe]:
    """Up-scaling over beta and proxy-tuning over alpha; at 1 the two are the same."""
    return {f"beta {b:g}": Recipe.upscale(b) for b in BETAS} | {
        f"alpha {a:g}": Recipe.proxy(a) for a in ALPHAS
    }


def filters() -> dict[str, Recipe]:
    """beta = 1 under each stabiliser of the delta."""
    up = Recipe.upscale()
    return {
        **{f"delta top-p {p:g}": up.stabilise(delta_top_p=p) for p in (0.9, 0.95, 0.99, 0.999)},
        **{f"plausibility {q:g}": up.stabilise(plausibility=q) for q in (0.1, 0.01, 0.001)},
        **{f"delta clip {c:g}": up.stabilise(delta_clip=c) for c in (2.0, 4.0, 8.0)},
    }


def frontier(one: str, other: str) -> dict[float, Recipe]:
    """Interpolation between two tuned roles; lambda is the share of the first."""
    return {share: Recipe.interpolate({one: share, other: 1.0 - share}) for share in LAMBDAS}
