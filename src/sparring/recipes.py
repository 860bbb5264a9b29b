"""The named regimes: functions that return a Run. A regime differs from another by its opponent; there is one loop.

A variant is `replace(gan_tanh(), eps=0.3)`; a new regime is a function here, with an entry in RECIPES.
"""

from collections.abc import Callable
from dataclasses import replace

from sparring.config import Adversary, Network, Opponent, Optimizer, Run, Training
from sparring.errors import InputError, nearest

EVERY_TEN = Optimizer(rate="every", every=10)  # section 4.4: "by half every 10 epochs"


def vanilla() -> Run:
    """Clean examples only (section 4.1)."""
    return Run("vanilla", training=Training(clean_share=1.0))


def noise() -> Run:
    """Every example perturbed at random, uniform in [-eps, eps] per pixel (section 4.2)."""
    return Run("noise", opponent=Opponent("noise"), training=Training(clean_share=0.0))


def fgsm() -> Run:
    """Half of each batch clean, half perturbed by FGSM on the current defender (section 4.3)."""
    return Run("fgsm", opponent=Opponent("fgsm"))


def gan_tanh() -> Run:
    """The game: half of each batch clean, half perturbed by an adversary that learns beside it; tanh bound (section 4.4)."""
    return Run(
        "gan_tanh",
        opponent=Opponent("adversary"),
        defender=Network(optimizer=EVERY_TEN),
        adversary=Adversary(optimizer=EVERY_TEN),
        training=Training(patience=15, max_epochs=55),  # the rate is then 1/32; a flat stretch has seen a halving
    )


def gan_scaled() -> Run:
    """The game with the scaled bound: each perturbation centred, then divided by its largest magnitude (section 4.4)."""
    return replace(gan_tanh(), recipe="gan_scaled", adversary=Adversary(bound="scaled", optimizer=EVERY_TEN))


def gan_tanh_init() -> Run:
    """The tanh game, its adversary first trained alone against the trained vanilla model (section 4.5)."""
    return replace(gan_tanh(), recipe="gan_tanh_init", alone=Training(max_epochs=8))


def gan_scaled_init() -> Run:
    """The scaled game, its adversary first trained alone against the trained vanilla model (section 4.5)."""
    return replace(gan_scaled(), recipe="gan_scaled_init", alone=Training(max_epochs=8))


def pgd() -> Run:
    """Half of each batch clean, half perturbed by 7-step PGD (Madry et al. 2017): the field's yardstick, not in the paper."""
    return Run("pgd", opponent=Opponent("pgd", steps=7))


PAPER: dict[str, Callable[[], Run]] = {
    "vanilla": vanilla,
    "noise": noise,
    "fgsm": fgsm,
    "gan_tanh": gan_tanh,
    "gan_scaled": gan_scaled,
    "gan_tanh_init": gan_tanh_init,
    "gan_scaled_init": gan_scaled_init,
}
RECIPES: dict[str, Callable[[], Run]] = PAPER | {"pgd": pgd}


def recipe(name: str) -> Run:
    """The run of this name with its defaults; raises InputError for a name that is none."""
    if name not in RECIPES:
        raise InputError(f"unknown recipe {name!r}{nearest(name, RECIPES)}")
    return RECIPES[name]()


def describe(name: str) -> str:
    """A recipe in one sentence."""
    return (RECIPES[name].__doc__ or "").strip()
