"""The named regimes: functions that return a Run. A regime differs from another by its opponent; there is one loop.

A variant is `replace(gan_tanh(), eps=0.3)`; a new regime is a function here, with an entry in RECIPES.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Literal

from sparring.config import Adversary, Data, Network, Opponent, Optimizer, Recurrent, Run, Training
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


ANNEALED = Optimizer(lr=0.3, rate="cosine", every=30)
ASKING = Recurrent(closing=60)
BOTH = Training(mix="both", max_epochs=30, patience=31, min_lr=0.0)  # every example clean and perturbed


def gan_recurrent() -> Run:
    """The game with a recurrent adversary: drawn radii, up to 2 gradients as the radius is large, from where it was left."""
    return Run(
        "gan_recurrent",
        eps=0.3,
        eps_low=0.01,
        opponent=Opponent("recurrent"),
        defender=Network(optimizer=ANNEALED),
        recurrent=ASKING,
        training=BOTH,
    )


def gan_recurrent_long() -> Run:
    """The recurrent game in 60 epochs of perturbed examples only, more of them by little than by much; up to 3 gradients."""
    return replace(
        gan_recurrent(),
        recipe="gan_recurrent_long",
        eps=0.28,
        eps_low=0.0,
        eps_power=1.5,
        defender=Network(optimizer=replace(ANNEALED, every=60)),
        recurrent=replace(ASKING, queries=3),
        training=replace(BOTH, mix="split", clean_share=0.0, max_epochs=60, patience=61),
    )


def gan_recurrent_cold() -> Run:
    """The same game, but the adversary starts at a random point each time: what the warm start is worth."""
    return replace(gan_recurrent(), recipe="gan_recurrent_cold", recurrent=replace(ASKING, warm=False))


def gan_recurrent_fixed() -> Run:
    """The same game, but the adversary never learns: what its learning is worth."""
    return replace(gan_recurrent(), recipe="gan_recurrent_fixed", recurrent=replace(ASKING, every=0))


def gan_recurrent_all() -> Run:
    """The same game with 2 gradients at every radius, the smallest too."""
    return replace(gan_recurrent(), recipe="gan_recurrent_all", recurrent=replace(ASKING, sparing=False))


def gan_recurrent_once() -> Run:
    """The same game with 1 gradient at every radius."""
    return replace(gan_recurrent(), recipe="gan_recurrent_once", recurrent=replace(ASKING, queries=1, sparing=False))


def gan_recurrent_tenth() -> Run:
    """The same game at the paper's radius of 0.1 for every example: what drawing radii is worth."""
    return replace(gan_recurrent(), recipe="gan_recurrent_tenth", eps=0.1, eps_low=None)


def warm_alone() -> Run:
    """Of gan_recurrent the warm start alone: nothing learned, the radius 0.1 for every example."""
    return replace(gan_recurrent_tenth(), recipe="warm_alone", recurrent=replace(ASKING, every=0))


def learning_alone() -> Run:
    """Of gan_recurrent the learning alone: random starts, the radius 0.1 for every example."""
    return replace(gan_recurrent_tenth(), recipe="learning_alone", recurrent=replace(ASKING, warm=False))


def pgd_drawn() -> Run:
    """PGD-7 with the same radii, batches, rates and epochs as gan_recurrent: its yardstick."""
    return replace(gan_recurrent(), recipe="pgd_drawn", opponent=Opponent("pgd", steps=7), recurrent=None)


def pgd_long() -> Run:
    """PGD-7 with the same radii, batches, rates and epochs as gan_recurrent_long: its yardstick."""
    return replace(gan_recurrent_long(), recipe="pgd_long", opponent=Opponent("pgd", steps=7), recurrent=None)


def pgd2_drawn() -> Run:
    """PGD-2 like pgd_drawn: as many gradients as gan_recurrent has at the largest radii."""
    return replace(pgd_drawn(), recipe="pgd2_drawn", opponent=Opponent("pgd", steps=2))


def pgd2_tenth() -> Run:
    """PGD-2 like pgd2_drawn, but at the paper's radius of 0.1 for every example: none of what gan_recurrent adds."""
    return replace(pgd2_drawn(), recipe="pgd2_tenth", eps=0.1, eps_low=None)


def fgsm_drawn() -> Run:
    """FGSM with the same radii, batches, rates and epochs as gan_recurrent."""
    return replace(pgd_drawn(), recipe="fgsm_drawn", opponent=Opponent("fgsm"))


def fgsm_long() -> Run:
    """FGSM with the same radii, batches, rates and epochs as gan_recurrent_long."""
    return replace(pgd_long(), recipe="fgsm_long", opponent=Opponent("fgsm"))


def pgd_tenth() -> Run:
    """PGD-7 like pgd_drawn, but at the paper's radius of 0.1 for every example."""
    return replace(pgd_drawn(), recipe="pgd_tenth", eps=0.1, eps_low=None)


def fgsm_tenth() -> Run:
    """FGSM like fgsm_drawn, but at the paper's radius of 0.1 for every example."""
    return replace(fgsm_drawn(), recipe="fgsm_tenth", eps=0.1, eps_low=None)


PAPER: dict[str, Callable[[], Run]] = {
    "vanilla": vanilla,
    "noise": noise,
    "fgsm": fgsm,
    "gan_tanh": gan_tanh,
    "gan_scaled": gan_scaled,
    "gan_tanh_init": gan_tanh_init,
    "gan_scaled_init": gan_scaled_init,
}
BEYOND: dict[str, Callable[[], Run]] = {
    "gan_recurrent": gan_recurrent,
    "pgd_drawn": pgd_drawn,
    "fgsm_drawn": fgsm_drawn,
    "gan_recurrent_long": gan_recurrent_long,
    "pgd_long": pgd_long,
    "fgsm_long": fgsm_long,
}
ABLATION: dict[str, Callable[[], Run]] = {
    "gan_recurrent_cold": gan_recurrent_cold,
    "gan_recurrent_fixed": gan_recurrent_fixed,
    "gan_recurrent_all": gan_recurrent_all,
    "gan_recurrent_once": gan_recurrent_once,
    "gan_recurrent_tenth": gan_recurrent_tenth,
    "warm_alone": warm_alone,
    "learning_alone": learning_alone,
    "pgd2_drawn": pgd2_drawn,
    "pgd2_tenth": pgd2_tenth,
    "pgd_tenth": pgd_tenth,
    "fgsm_tenth": fgsm_tenth,
}
RECIPES: dict[str, Callable[[], Run]] = PAPER | {"pgd": pgd} | BEYOND | ABLATION
REGIMES: dict[str, tuple[str, ...]] = {  # what `sparring reproduce --regimes` takes
    "paper": (*PAPER, "pgd"),
    "beyond": tuple(BEYOND),
    "ablation": tuple(ABLATION),
}


def of_regimes(names: Sequence[str]) -> tuple[str, ...]:
    """The recipes of some groups, given as `paper beyond` or `paper,beyond`; raises InputError for a name that is none."""
    words = [word for name in names for word in name.split(",") if word]
    if unknown := [word for word in words if word not in REGIMES]:
        raise InputError(f"unknown regimes {unknown[0]!r}{nearest(unknown[0], REGIMES)}")
    return tuple(dict.fromkeys(recipe for word in words for recipe in REGIMES[word]))


def recipe(name: str) -> Run:
    """The run of this name with its defaults; raises InputError for a name that is none."""
    if name not in RECIPES:
        raise InputError(f"unknown recipe {name!r}{nearest(name, RECIPES)}")
    return RECIPES[name]()


def describe(name: str) -> str:
    """A recipe in one sentence."""
    return (RECIPES[name].__doc__ or "").strip()


def configured(
    run: Run,
    data: Data,
    *,
    precision: Literal["fp32", "bf16"] = "fp32",
    max_epochs: int | None = None,
    batch_size: int | None = None,
) -> Run:
    """A recipe with a reproduction's data, precision, cap on epochs and batch size; None leaves the recipe's own.

    Raises InputError for values that no training can have.
    """

    def changed(training: Training) -> Training:
        epochs = training.max_epochs if max_epochs is None else min(max_epochs, training.max_epochs)
        size = training.batch_size if batch_size is None else batch_size
        return replace(training, max_epochs=epochs, batch_size=size)

    return replace(
        run, data=data, precision=precision, training=changed(run.training), alone=run.alone and changed(run.alone)
    )


def need_vanilla(names: Sequence[str]) -> None:
    """Raises InputError where a reproduction of these recipes lacks the one that the others are compared with."""
    if "vanilla" not in names:
        raise InputError("a reproduction needs the recipe 'vanilla': the others are compared with it")
