"""What the report calls things, and how it prints numbers: one table each."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from sparring.records import ComparisonRecord, LearnedAttackRecord


@dataclass(frozen=True)
class Look:
    """How one recipe is told apart in every figure: by colour, and without it by dash and marker."""

    label: str
    slot: int
    dash: tuple[int, ...]
    shape: str  # a Vega symbol


RECIPES = {
    "vanilla": Look("Vanilla", 0, (8, 2, 2, 2), "circle"),
    "noise": Look("Noise", 1, (2, 2), "square"),
    "fgsm": Look("FGSM-adversarial", 2, (), "triangle-up"),
    "pgd": Look("PGD-7", 3, (8, 3), "diamond"),
    "gan_tanh": Look("GAN tanh", 4, (), "circle"),
    "gan_scaled": Look("GAN scaled", 6, (), "square"),
    "gan_tanh_init": Look("Initialised GAN tanh", 5, (5, 3), "triangle-down"),
    "gan_scaled_init": Look("Initialised GAN scaled", 7, (5, 3), "cross"),
    "gan_recurrent": Look("GAN recurrent", 8, (), "triangle-right"),
    "pgd_drawn": Look("PGD-7, radii drawn", 9, (3, 3), "diamond"),
    "fgsm_drawn": Look("FGSM, radii drawn", 10, (2, 2), "triangle-up"),
    "gan_recurrent_long": Look("Long GAN recurrent", 11, (6, 2), "triangle-right"),
    "pgd_long": Look("Long PGD-7", 12, (1, 3), "diamond"),
    "fgsm_long": Look("Long FGSM", 13, (1, 3), "triangle-up"),
}

# what the paper does not have; told apart from its games
BEYOND = ("gan_recurrent", "pgd_drawn", "fgsm_drawn", "gan_recurrent_long", "pgd_long", "fgsm_long")

# (light, dark) per slot, after Okabe and Ito 2008; the initialised games are lighter and dashed
PALETTE = (
    ("#5d6673", "#aab3bf"),
    ("#9a7400", "#d9b44a"),
    ("#d55e00", "#ff9152"),
    ("#a8347f", "#ea8cc4"),
    ("#0067a5", "#5aaef0"),
    ("#3f9fd8", "#a3d8ff"),
    ("#00825f", "#38c99b"),
    ("#33b98f", "#9beacd"),
    ("#7a4fbf", "#b79cf0"),
    ("#8a3b3b", "#e39a9a"),
    ("#4f7d1f", "#a9d36f"),
    ("#2f6f7a", "#7fc9d6"),
    ("#7d2f6b", "#d58bc6"),
    ("#6b5a2a", "#c9b57a"),
)

ATTACKS = {
    "clean": "clean",
    "fgsm": "FGSM",
    "pgd": "PGD",
    "own": "own co-trained adversary",
    "noise": "uniform noise",
    "sign_noise": "sign noise",
    "uniform noise": "uniform noise",
    "sign noise": "sign noise",
}
PROTOCOLS = {
    "sound": "batch norm in evaluation mode",
    "paper": "batch norm in training mode, batches of 128",
}
VERDICTS = {"reproduced": "✓", "explained": "◐", "refuted": "✕", "undecided": "?"}
METRICS = {
    "ece": "ECE",
    "adaptive_ece": "adaptive ECE",
    "brier": "Brier score",
    "nll": "NLL, nats",
    "area": "area",
}

PGD_SETTINGS = 12  # that `runs/learned_attack.py` tries, each at its own cost
REHEARSED_SETTINGS = 5  # of PGD after a rehearsal
PGD, REHEARSED_PGD = f"PGD, best of {PGD_SETTINGS}", f"PGD, rehearsed, best of {REHEARSED_SETTINGS}"
AUTO = "Auto-PGD"
LEARNED_ATTACKS = ("learned", "learned, rehearsed", "learned, fitted", PGD, REHEARSED_PGD, "PGD, fitted", AUTO)
DRAWN_ATTACKS = (*LEARNED_ATTACKS[:2], PGD, AUTO)

FLOOR = "standard suite"  # every attack of it, however many gradients they take: records of no number of queries

_SPARE = ((1, 1), (7, 2, 2, 2), (3, 3), (10, 4))
_SPARE_SHAPES = ("triangle-right", "triangle-left", "diamond", "cross")


def looks(recipes: Sequence[str]) -> dict[str, Look]:
    """A look for every recipe; unknown ones keep their own name and take the spare slots in order."""
    unknown = [recipe for recipe in dict.fromkeys(recipes) if recipe not in RECIPES]
    spare = {
        recipe: Look(recipe, 8 + k % 4, _SPARE[k // 4 % 4], _SPARE_SHAPES[k % 4]) for k, recipe in enumerate(unknown)
    }
    return {recipe: RECIPES.get(recipe) or spare[recipe] for recipe in recipes}


def label(recipe: str) -> str:
    """A recipe's name for readers."""
    return RECIPES[recipe].label if recipe in RECIPES else recipe


def attack_label(attack: str) -> str:
    """An attack's name for readers; a transferred adversary is named for the recipe that trained it."""
    if attack.endswith(" (alone)"):
        return f"{label(attack.removesuffix(' (alone)'))}, trained alone"
    return ATTACKS.get(attack) or label(attack)


def learned_attack(attack: str) -> str:
    """Which of LEARNED_ATTACKS an attack of a LearnedAttackRecord is."""
    if attack in LEARNED_ATTACKS:
        return attack
    kinds = {"PGD": PGD, "rehearsed PGD": REHEARSED_PGD, "fitted PGD": "PGD, fitted"}
    return next((kind for begins, kind in kinds.items() if attack.startswith(begins)), AUTO)


def passes(record: LearnedAttackRecord, spread: int) -> float:
    """Forward and backward passes an image, a rehearsal's and every setting's too; the training's spread over so many images.

    A forward alone is half of one.
    """
    settings = {PGD: PGD_SETTINGS, REHEARSED_PGD: REHEARSED_SETTINGS}.get(learned_attack(record.attack), 1)
    return record.queries * settings + record.rehearsal + record.forwards / 2 + record.passes / spread


def side_label(name: str) -> str:
    """The name of one side of a comparison: a recipe where it is one, else an attack."""
    return label(name) if name in RECIPES else attack_label(name)


def percent(value: float | None, digits: int = 1) -> str:
    """A fraction as a percentage without its sign; a dash where there is no finite value."""
    return "–" if value is None or not math.isfinite(value) else _fixed(100 * value, digits)


def interval(low: float | None, high: float | None, digits: int = 1) -> str:
    """`[low, high]` in per cent, or nothing where no interval exists."""
    if low is None or high is None or not (math.isfinite(low) and math.isfinite(high)):
        return ""
    return f"[{percent(low, digits)},\u00a0{percent(high, digits)}]"


def plain_number(value: float | None, digits: int = 3) -> str:
    """A number that is no percentage, to fixed digits."""
    return "–" if value is None or not math.isfinite(value) else _fixed(value, digits)


def plain_interval(low: float | None, high: float | None, digits: int = 3) -> str:
    """`[low, high]` of numbers that are no percentages."""
    if low is None or high is None or not (math.isfinite(low) and math.isfinite(high)):
        return ""
    return f"[{plain_number(low, digits)},\u00a0{plain_number(high, digits)}]"


def seeds(n: int) -> str:
    """`1 seed`, `3 seeds`."""
    return "1 seed" if n == 1 else f"{n} seeds"


def eps(value: float | None) -> str:
    """A radius as short as it can be, or "pooled" for None."""
    return "all eps pooled" if value is None else f"{value:.4g}"


def duration(seconds: float) -> str:
    """Seconds as a reader says them."""
    if not math.isfinite(seconds):
        return "unknown"
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def p_value(p: float) -> str:
    """A p-value to three digits, or that it is smaller."""
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def outcome(record: ComparisonRecord) -> tuple[str, str]:
    """What a comparison shows, as a tone ("yes", "no", "other") and words."""
    if record.holds:
        return "yes", "holds"
    if record.high < 0:
        return "other", "points the other way"
    if record.low <= 0:
        return "no", "no difference shown"
    return "no", "not shown: " + ("not the same sign in every seed" if not record.same_sign else "not after correction")


def listing(words: Sequence[str]) -> str:
    """`a, b and c`."""
    return words[0] if len(words) == 1 else ", ".join(words[:-1]) + " and " + words[-1] if words else ""


def _fixed(value: float, digits: int) -> str:
    """A number to fixed digits with a true minus sign, never a negative zero."""
    text = f"{value:.{digits}f}"
    return text.lstrip("-") if float(text) == 0 else text.replace("-", "−")
