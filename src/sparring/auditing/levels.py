"""How much an audit does: quick (seconds), standard (minutes), deep (for releases)."""

from dataclasses import dataclass, field

from sparring.errors import InputError, nearest


@dataclass(frozen=True)
class Level:
    """The budgets of one level; `leaves_out` maps the checks that it never makes to the reason."""

    name: str
    n: int | None  # test examples; None takes all
    steps: int  # of PGD; converged is judged against twice as many
    restarts: int
    queries: int  # of the score-based and the hard-label attack
    noise_draws: int
    probe: int  # examples for gradients, probes of the state and the planted example
    fresh: int  # best responses
    fresh_steps: int  # of training, each
    fresh_seconds: float  # at most, each; the steps that were made are reported
    surrogate_steps: int  # of training, for the source of transfer
    draws: int  # of a declared-random defender
    self_test: bool
    headline: bool = True  # whether the worst case is measured; without it, single checks only
    leaves_out: dict[str, str] = field(default_factory=dict)


_QUICK = "not at level quick; use standard"
LEVELS = {
    "quick": Level(
        name="quick",
        n=300,
        steps=50,
        restarts=5,
        queries=1000,
        noise_draws=100,
        probe=32,
        fresh=1,
        fresh_steps=400,
        fresh_seconds=10.0,
        surrogate_steps=300,
        draws=20,
        self_test=False,
        leaves_out={"S13": _QUICK, "S16": _QUICK, "G3": _QUICK},
    ),
    "standard": Level(
        name="standard",
        n=1000,
        steps=100,
        restarts=5,
        queries=1000,
        noise_draws=100,
        probe=64,
        fresh=3,
        fresh_steps=1500,
        fresh_seconds=150.0,
        surrogate_steps=1000,
        draws=20,
        self_test=True,
    ),
    "deep": Level(
        name="deep",
        n=None,
        steps=100,
        restarts=10,
        queries=5000,
        noise_draws=10_000,
        probe=256,
        fresh=5,
        fresh_steps=20_000,
        fresh_seconds=float("inf"),
        surrogate_steps=5000,
        draws=50,
        self_test=True,
    ),
}


def level_of(name: "str | Level") -> Level:
    """A level by its name; raises InputError for an unknown one."""
    if isinstance(name, Level):
        return name
    if name not in LEVELS:
        raise InputError(f"unknown level {name!r}{nearest(name, LEVELS)}")
    return LEVELS[name]
