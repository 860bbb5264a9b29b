"""FABRICATED TEST DATA: made-up records of single trainings and evaluations, measured nowhere."""

import math
import random

from sparring.records import (
    AccuracyRecord,
    BestResponseRecord,
    BinRecord,
    CalibrationRecord,
    EpochRecord,
    ExampleRecord,
    ExploitabilityRecord,
    LearnedAttackRecord,
    PayoffRecord,
    ReadingRecord,
    RunRecord,
    SweepRecord,
    TransferRecord,
)

RECIPES = ("vanilla", "noise", "fgsm", "gan_tanh", "gan_scaled", "gan_tanh_init", "gan_scaled_init", "pgd")
GAMES = tuple(r for r in RECIPES if r.startswith("gan"))
GRID = tuple(k / 10 for k in range(11))
N = 10_000
CLEAN = dict(zip(RECIPES, (0.9849, 0.9824, 0.9877, 0.979, 0.981, 0.9795, 0.9812, 0.9861), strict=True))
FGSM = dict(zip(RECIPES, (0.228, 0.33, 0.953, 0.472, 0.534, 0.50, 0.55, 0.951), strict=True))
PGD = dict(zip(RECIPES, (0.021, 0.06, 0.88, 0.24, 0.29, 0.26, 0.30, 0.912), strict=True))
FRESH = dict(zip(RECIPES, (0.19, 0.35, 0.955, 0.598, 0.663, 0.61, 0.67, 0.957), strict=True))


def run(recipe: str, seed: int, diverge: str | None, seeds: int) -> RunRecord:
    """Made up. One training's record; the last seed of the recipe `diverge` diverged."""
    bad = (recipe, seed) == (diverge, seeds - 1)
    return RunRecord(
        recipe=recipe,
        seed=seed,
        status="diverged" if bad else "done",
        epochs=3 if bad else 25,
        stopped="non-finite loss" if bad else "loss flat for 5 epochs",
        seconds=140.0,
        defender_parameters=109_770,
        adversary_parameters=1_068_816 if recipe in GAMES else 0,
        defender_sha256=f"{seed:064x}",
        message="loss is nan at step 1402" if bad else "",
    )


def results(recipe: str, seed: int, rng: random.Random) -> list[AccuracyRecord]:
    """Made up. Accuracies over eps."""
    wanted = [("clean", 0.0, "sound"), ("clean", 0.0, "paper")]
    wanted += [(attack, eps, "sound") for attack in ("fgsm", "pgd", "noise") for eps in GRID]
    wanted += [("fgsm", eps, "paper") for eps in GRID]
    wanted += [("own", eps, "sound") for eps in GRID if recipe in GAMES]
    records = []
    for attack, eps, protocol in wanted:
        correct = round(N * _accuracy(recipe, attack, eps, protocol, rng))
        rate = correct / N
        records.append(
            AccuracyRecord(
                recipe=recipe,
                seed=seed,
                attack=attack,
                eps=eps,
                protocol="sound" if protocol == "sound" else "paper",
                n=N,
                correct=correct,
                accuracy=rate,
                low=max(rate - 0.01, 0),
                high=min(rate + 0.01, 1),
                invalid=0,
                max_distance=eps,
                forwards=N,
                backwards=0 if attack in ("clean", "noise") else N,
                seconds=1.0,
                attack_repr=f"{attack}(eps={eps})",
                commit="0" * 40,
            )
        )
    return records


def exploitability(recipe: str, seed: int, rng: random.Random) -> ExploitabilityRecord:
    """Made up. Fresh adversaries."""
    worst = FRESH.get(recipe, 0.5) + rng.gauss(0, 0.015)
    in_game = 0.972 + rng.gauss(0, 0.002) if recipe in GAMES else None
    return ExploitabilityRecord(
        recipe=recipe,
        seed=seed,
        eps=0.1,
        n=N,
        clean=CLEAN.get(recipe, 0.97),
        in_game=in_game,
        fresh=(worst + 0.01, worst + 0.02, worst + 0.03),
        worst=worst,
        low=worst - 0.01,
        high=worst + 0.01,
        gap=None if in_game is None else in_game - worst,
        gap_low=None if in_game is None else in_game - worst - 0.012,
        gap_high=None if in_game is None else in_game - worst + 0.012,
        epochs=25,
        adversary="MLP(784, 512, 512, 784), tanh, margin loss",
    )


def transfer(recipe: str, seed: int, rng: random.Random) -> list[TransferRecord]:
    """Made up. A row of the transfer matrix."""
    sources = [(name, "co-trained") for name in GAMES] + [(name, "trained alone") for name in GAMES if "init" in name]
    sources += [("uniform noise", "noise"), ("sign noise", "noise")]
    records = []
    for name, kind in sources:
        rate = 0.968 if kind == "co-trained" else 0.975 if name == "uniform noise" else 0.955
        if kind == "trained alone":
            rate = {"vanilla": 0.22, "noise": 0.45}.get(recipe, 0.93)
        rate = min(rate + rng.gauss(0, 0.004), 1.0)
        kinds: dict[str, str] = {"adversary_kind": kind}
        records.append(
            TransferRecord(
                adversary=name,
                defender=recipe,
                seed=seed,
                eps=0.1,
                protocol="sound",
                n=N,
                correct=round(N * rate),
                accuracy=round(N * rate) / N,
                low=rate - 0.004,
                high=rate + 0.004,
                **kinds,  # type: ignore[arg-type]
            )
        )
    return records


def payoffs(recipe: str, seed: int, epochs: range) -> list[PayoffRecord]:
    """Made up. Each defender withstands the adversaries near its own epoch and forgets older ones."""
    made, n = [], 1000
    for adversary in epochs:
        for defender in epochs:
            age = (defender - adversary) / epochs.step
            rate = 0.97 - (0.9 * age / len(epochs) if age > 0 else -0.4 * age / len(epochs)) - 0.001 * seed
            correct = round(n * rate)
            bounds = (correct / n, correct / n - 0.02, min(1.0, correct / n + 0.02))
            made.append(PayoffRecord(recipe, seed, 0.1, adversary, defender, n, correct, *bounds))
    return made


def best_responses(recipe: str, seed: int, rng: random.Random) -> list[BestResponseRecord]:
    """Made up. The more an adversary sees, the less it leaves; the game's own adversary leaves nearly all."""
    made, game = [], recipe in GAMES
    for kind, share in (("x", 0.9), ("xy", 0.8), ("xg", 0.5)):
        worst = round(N * (FRESH[recipe] * share + rng.gauss(0, 0.01))) / N
        in_game = 0.97 if game else None
        gap = None if in_game is None else in_game - worst
        made.append(
            BestResponseRecord(
                recipe=recipe,
                seed=seed,
                defender_sha256=f"{seed:064x}",
                kind=kind,
                eps=0.1,
                n=N,
                epochs=28,
                steps=28 * 117,
                examples=28 * 117 * 512,
                co_trained_examples=1_647_360 if game else None,
                parameters=1_068_816,
                left=(worst, min(1.0, worst + 0.01)),
                worst=worst,
                low=worst - 0.01,
                high=worst + 0.01,
                in_game=in_game,
                gap=gap,
                gap_low=None if gap is None else gap - 0.01,
                gap_high=None if gap is None else gap + 0.01,
                gain=0.012,
                gain_low=0.008,
                gain_high=0.016,
                precision="bf16",
                seconds=140.0,
            )
        )
    return made


LEARNED_BESIDE = (
    "learned",
    "learned, rehearsed",
    "learned, fitted",
    "PGD, 2.5 eps in all, from the example",
    "rehearsed PGD, 1 eps in all",
    "fitted PGD, falling steps",
    "APGD-CE",
)


def learned_attacks(recipe: str) -> list[LearnedAttackRecord]:
    """Made up. The learned attack is ahead of PGD with as many gradients; its training costs passes."""
    made, n = [], 1000
    for eps in (0.1, 0.2):
        for reference, beyond in (("standard suite", 0), ("AutoAttack, standard", 4)):
            left = round(n * (0.85 - 2 * eps)) + beyond
            bounds = (left / n, 0.8 * left / n, 1.2 * left / n)
            made.append(LearnedAttackRecord(recipe, 1, eps, 0, reference, n, left, *bounds, 0, 0))
        for queries in (1, 2, 5, 10):
            for k, attack in enumerate(LEARNED_BESIDE):
                correct = round(n * (0.95 - 2 * eps - 0.02 * queries**0.5 + 0.01 * k))
                bounds = (correct / n, correct / n - 0.02, correct / n + 0.02)
                cost = (38_400 * (queries + 1) if attack.startswith("learned") else 0, 9.5)
                rehearsal = {"rehearsed": (1350, 45), "fitted": (2700, 90)}
                rehearsal = next((cost for name, cost in rehearsal.items() if name in attack), (0, 0))
                made.append(
                    LearnedAttackRecord(recipe, 1, eps, queries, attack, n, correct, *bounds, *cost, *rehearsal)
                )
    return made


def readings(seed: int, rng: random.Random) -> list[ReadingRecord]:
    """Made up. Claim N8."""
    rows = [
        ("evaluation mode throughout", "evaluation", "evaluation", "logits", 128, 0.228),
        (
            "gradient in training mode, judged in evaluation mode",
            "training",
            "evaluation",
            "logits",
            128,
            0.765,
        ),
        ("training mode throughout, batches of 64", "training", "training", "logits", 64, 0.84),
        ("training mode throughout, batches of 128", "training", "training", "logits", 128, 0.8545),
        ("training mode throughout, softmax twice", "training", "training", "softmax twice", 128, 0.817),
    ]
    made = []
    for reading, gradient, verdict, loss, batch, rate in rows:
        value = rate + rng.gauss(0, 0.006)
        modes: dict[str, str] = {"gradient_mode": gradient, "verdict_mode": verdict, "loss": loss}
        made.append(
            ReadingRecord(
                reading=reading,
                seed=seed,
                batch_size=batch,
                eps=0.1,
                n=N,
                accuracy=value,
                low=value - 0.008,
                high=value + 0.008,
                **modes,  # type: ignore[arg-type]
            )
        )
    return made


def calibration(recipe: str, seed: int, rng: random.Random) -> list[CalibrationRecord]:
    """Made up. Reliability bins and errors."""
    records = []
    tilt = 0.02 if recipe in ("fgsm", "pgd") else 0.3
    for attack, eps, protocol in (
        ("fgsm", 0.1, "sound"),
        ("fgsm", 0.1, "paper"),
        ("fgsm", None, "sound"),
        ("pgd", 0.1, "sound"),
    ):
        bins = []
        for k in range(10):
            count = (0, 4, 25, 180, 420, 510, 600, 800, 1500, 5961)[k]
            middle = k / 10 + 0.05
            accuracy = min(max(middle * (1 - tilt) + rng.gauss(0, 0.02 + 0.1 / math.sqrt(count + 1)), 0), 1)
            empty = count == 0
            bins.append(
                BinRecord(
                    left=k / 10,
                    right=(k + 1) / 10,
                    count=count,
                    confidence=None if empty else middle,
                    accuracy=None if empty else accuracy,
                    low=None if empty else max(accuracy - 0.5 / math.sqrt(count), 0),
                    high=None if empty else min(accuracy + 0.5 / math.sqrt(count), 1),
                )
            )
        ece = tilt * 0.8 + rng.random() * 0.01
        sides = {
            f"{m}_{side}": ece + d for m in ("ece", "adaptive_ece") for side, d in (("low", -0.01), ("high", 0.01))
        }
        records.append(
            CalibrationRecord(
                recipe=recipe,
                seed=seed,
                attack=attack,
                eps=eps,
                protocol="sound" if protocol == "sound" else "paper",
                n=N,
                accuracy=FGSM.get(recipe, 0.5),
                confidence=0.9,
                bins=tuple(bins),
                ece=ece,
                adaptive_ece=ece,
                brier=0.2,
                brier_low=0.19,
                brier_high=0.21,
                nll=0.7,
                nll_low=0.68,
                nll_high=0.72,
                **sides,
            )
        )
    return records


def sweeps(seeds: int, rng: random.Random) -> list[SweepRecord]:
    """Made up. Claims D1 and D3."""
    return [
        SweepRecord(
            claim="D1" if claim == "D1" else "D3",
            variant=variant,
            seed=seed,
            eps=0.1,
            clean=0.979,
            in_game=0.97 + rng.gauss(0, 0.002),
            fresh=0.6 + rng.gauss(0, 0.02),
            fgsm=0.48 + rng.gauss(0, 0.02),
            defender_parameters=109_770,
            adversary_parameters=1_068_816,
            epochs=10,
        )
        for claim, variant in (
            ("D1", "rates 1:1, steps 1:1"),
            ("D1", "rates 10:1, steps 1:1"),
            ("D1", "rates 1:1, steps 5:1"),
            ("D3", "adversary width 64"),
            ("D3", "adversary width 512"),
        )
        for seed in range(seeds)
    ]


def epochs(recipe: str, seed: int, rng: random.Random) -> list[EpochRecord]:
    """Made up. Training curves."""
    made = []
    phases = [("adversary", 6)] if recipe.endswith("init") else []
    for phase, count in [*phases, ("main", 25)]:
        for k in range(count):
            game = recipe in GAMES
            alone = phase == "adversary"
            made.append(
                EpochRecord(
                    recipe=recipe,
                    seed=seed,
                    phase="adversary" if alone else "main",
                    epoch=k + 1,
                    steps=469,
                    defender_loss=None if alone else 0.35 * math.exp(-k / 6) + 0.03 + rng.gauss(0, 0.004),
                    adversary_loss=(2.0 - 1.5 * math.exp(-k / 2) if alone else 0.3 * math.exp(-k / 6) + 0.09)
                    if game
                    else None,
                    defender_lr=None if alone else 1.0 * 0.5 ** (k // 10),
                    adversary_lr=0.1 * 0.5 ** (k // 10) if game else None,
                    defender_grad_norm=0.4,
                    adversary_grad_norm=0.1 if game else None,
                    clean_accuracy=None if alone else 0.98,
                    perturbed_accuracy=None,
                    clipped=0.5,
                    seconds=5.0,
                )
            )
    return made


def example(k: int, rng: random.Random) -> ExampleRecord:
    """Made up. A panel of Figure 1."""
    strokes = {
        7: [(6, 6, 21, 6), (21, 6, 12, 22)],
        4: [(9, 5, 7, 14), (7, 14, 20, 14), (18, 5, 17, 23)],
        1: [(14, 5, 13, 23)],
    }
    label = (7, 4, 1)[k % 3]

    def ink(x: int, y: int) -> float:
        near = 99.0
        for x0, y0, x1, y1 in strokes[label]:
            t = ((x - x0) * (x1 - x0) + (y - y0) * (y1 - y0)) / ((x1 - x0) ** 2 + (y1 - y0) ** 2)
            t = min(max(t, 0), 1)
            near = min(near, math.hypot(x - x0 - t * (x1 - x0), y - y0 - t * (y1 - y0)))
        return min(max(1.9 - near, 0.0), 1.0)

    image = [[ink(x, y) for x in range(28)] for y in range(28)]
    noise = [[rng.choice((-0.1, 0.1)) if 3 < x < 25 and 3 < y < 25 else 0.0 for x in range(28)] for y in range(28)]
    perturbed = [[min(max(a + d, 0), 1) for a, d in zip(p, q, strict=True)] for p, q in zip(image, noise, strict=True)]
    return ExampleRecord(
        attack=("fgsm", "pgd", "own")[k % 3],
        recipe=("vanilla", "fgsm", "gan_tanh")[k % 3],
        seed=0,
        eps=0.1,
        index=100 + k,
        label=label,
        image=tuple(map(tuple, image)),
        delta=tuple(map(tuple, noise)),
        perturbed=tuple(map(tuple, perturbed)),
        prediction=label,
        confidence=0.998,
        perturbed_prediction=3 if k != 2 else label,
        perturbed_confidence=0.87,
    )


def _curve(at_radius: float, clean: float, eps: float, floor: float) -> float:
    drop = math.log(max(clean - floor, 0.01) / max(at_radius - floor, 0.005)) / 0.01
    return (
        floor + (clean - floor) * math.exp(-drop * eps * eps)
        if eps <= 0.1
        else max(floor * 0.6, at_radius * math.exp(-4.5 * (eps - 0.1)))
    )


def _accuracy(recipe: str, attack: str, eps: float, protocol: str, rng: random.Random) -> float:
    clean, fresh = CLEAN.get(recipe, 0.97), FRESH.get(recipe, 0.5)
    if attack == "clean" or eps == 0:
        value = clean
    elif attack == "noise":
        value = clean - 0.9 * eps**2
    elif attack == "own":
        value = clean - 0.4 * eps - 0.3 * eps**2
    else:
        at = {"fgsm": FGSM, "pgd": PGD}[attack].get(recipe, fresh)
        value = _curve(at + (0.35 * (1 - at) if protocol == "paper" else 0), clean, eps, 0.02)
    spread = 0.0006 if value > 0.97 else 0.012
    return min(max(value + rng.gauss(0, spread), 0.0), 1.0)
