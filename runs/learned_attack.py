"""The learned attack by itself: as many gradients as PGD and Auto-PGD, on defenders that it has never seen.

    python runs/learned_attack.py OUT results/beyond-mnist [--queries 1 2 5 10] [--eps 0.1 0.2] [--examples 2000] [--steps 300]
                                   [--alone 20 40] [--official] [--fitted] [--attacked gan_recurrent ...]

OUT holds the runs of `runs/beyond.py`, seeds 0 to 4 of TRAINED_ON and seed 1 of the rest of ATTACKED (`sparring train NAME
--data.name mnist --seeds 2 3 4 --out OUT` trains what is missing). For every number of queries k one recurrent adversary with
hidden units is trained against seed 0 of TRAINED_ON, on minibatches of training images with radii drawn from 0.1 to 0.3, and
then attacks seed 1 of all of ATTACKED. It begins with every pixel as bright as the radius allows, in training too, and starts
as signed gradient steps, the first of 2.25 radii and each later one four fifths of the last. It learns to raise the sigmoid of
a third of the margin at its end: what lies about the boundary counts, what is lost or out of reach does not. Beside it, with as
many gradients: PGD from the example, from a random point and from where the learned attack begins, at four step sizes, of which
the table keeps the strongest on these very images; and Auto-PGD on cross-entropy. The learned attack and PGD keep the point
after their last step; Auto-PGD its best.

A second adversary of each k rehearses (`attacks.Rehearsal`): a search on the defenders that the attacker has, seeds 0, 2, 3 and
4 of TRAINED_ON, takes passes through those; the defender that is attacked answers once at each of its ends, which takes
forwards and no gradient, and the adversary goes on from the one where that is nearest to failing, along the gradient of the
margin. In training it rehearses on seed 2 alone, from one corner and without returns. It starts as signed steps with momentum.
PGD goes on from there too, with equal steps of four sizes and with the steps that the adversary starts as. Auto-PGD alone has
more gradients as well, `--alone`.

With `--fitted` a third one, from k = 2 on, has spent one of its k gradients before it begins: it goes on from the end of a
`FittedRehearsal`, all images in one batch, and was trained as the second one is, with k - 1. PGD goes on from there with the
steps that it starts as.

What the standard suite leaves of the same images is told with no number of queries; with `--official` beside it what the
official AutoAttack leaves. `--attacked` names some of ATTACKED. What training costs is told in forward and backward passes of
an example and in seconds of one core. Written: attack.jsonl, in which rows of other defenders, numbers of queries and eps stay
(`--queries --alone` with no number: only the attacks that have none). Where that lies in an out folder of `sparring reproduce`,
`sparring report` draws strength against cost from it.
"""

import argparse
import itertools
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import official
import torch
from torch import Tensor, nn

from sparring.adversaries import RecurrentAdversary
from sparring.attacks import (
    APGD,
    PGD,
    Attack,
    Cascade,
    FittedRehearsal,
    LearnedAttack,
    Rehearsal,
    standard_suite,
)
from sparring.attacks.fitted import PASSES
from sparring.config import Training
from sparring.data import Data
from sparring.data.batches import stratified
from sparring.evaluation.accuracy import Outcome, attacked
from sparring.evaluation.statistics import wilson
from sparring.experiment import load, load_data
from sparring.game import player, train
from sparring.game.radii import Radii
from sparring.game.unrolled import recurrent_response
from sparring.losses import margin
from sparring.process import on_one_thread
from sparring.randomness import Stream
from sparring.records import LearnedAttackRecord, OutPaths, read, write
from sparring.threat import ThreatModel

TRAINED_ON = ("gan_recurrent", "pgd_drawn", "fgsm_tenth", "pgd_tenth")
ATTACKED = ("gan_recurrent", "pgd_drawn", "fgsm_tenth", "pgd2_drawn", "gan_recurrent_fixed", "pgd_tenth")
SHOWN, UNSEEN, REHEARSED_IN_TRAINING, OWN = 0, 1, 2, (0, 2, 3, 4)  # seeds
HIDDEN, LARGEST, SMALLEST, BATCH, AT_ONCE = 24, 0.3, 0.1, 128, 500
BEGIN, FIRST_STEP, DECAY, SMALLEST_STEP, FOLLOW, UNIT = 1.0, 2.25, 0.8, 0.25, 7.0, 3.0
AFTER = {
    "first": 1.5,
    "decay": 0.75,
    "smallest": 0.06,
    "gradient": 3.5,
    "mean": 28.0,
}  # a rehearsal: steps, initial weights
N_CLASSES = 10
SIGN = 1e6  # of the gradient: any but the smallest counts in full
SHORT: dict[str, Any] = {"starts": 1, "returns": 0}  # a rehearsal in training
REACHES = (1.0, 1.5, 2.5, 4.0)
LEARNED = ("learned", "learned, rehearsed")
FITTED, FITTED_PGD = "learned, fitted", "fitted PGD, falling steps"


def after_rehearsal(shape: Sequence[int], queries: int, sharp: float = 1.0, **more: Any) -> RecurrentAdversary:
    """Untrained: signed steps with momentum, the sharper the more nearly."""
    steps = [max(AFTER["smallest"], AFTER["first"] * AFTER["decay"] ** k) for k in range(queries)]
    adversary = RecurrentAdversary(shape, queries=queries, step=steps, **more)
    with torch.no_grad():
        adversary.weight[:2] = sharp * torch.tensor([AFTER["gradient"], AFTER["mean"]])
    return adversary


def learned(
    queries: int, models: Sequence[nn.Module], data: Data, steps: int, rehearsed_on: Sequence[nn.Module] = ()
) -> tuple[RecurrentAdversary, float]:
    """An adversary trained against these models, after rehearsals on those if there are any, and the seconds that took."""
    started = time.perf_counter()
    draws = torch.Generator().manual_seed(0)
    if rehearsed_on:
        adversary = after_rehearsal(data.shape, queries, hidden=HIDDEN, generator=draws)
    else:
        step = [max(SMALLEST_STEP, FIRST_STEP * DECAY**k) for k in range(queries)]
        adversary = RecurrentAdversary(
            data.shape, queries=queries, hidden=HIDDEN, step=step, follow=FOLLOW, begin=BEGIN, generator=draws
        )
    learner = player(
        "adversary", adversary, maximize=True, kind="adam", lr=0.003, weight_decay=0.0, rate="cosine", every=4
    )
    attack, radii, corners = Stream(0, "attack"), Radii(LARGEST, SMALLEST, Stream(0, "radii")), Stream(0, "rehearsal")

    def start(turn: int, aimed: ThreatModel) -> Attack:
        return Rehearsal(rehearsed_on, aimed, **SHORT, stream=corners)

    threat = ThreatModel(LARGEST, data.shape)
    options: dict[str, Any] = {"loss": about_the_boundary}
    if rehearsed_on:
        options |= {"start": start, "asks": margin}
    move = recurrent_response(learner, models, threat, radii, attack, **options)
    some = data.take(torch.randperm(len(data), generator=draws)[: steps // 4 * BATCH])
    settings = Training(max_epochs=4, patience=5, min_lr=0.0, batch_size=BATCH)
    train(move, some, [learner], settings, seed=0, streams=[attack, radii.stream, corners])
    return adversary.eval(), time.perf_counter() - started


def about_the_boundary(logits: Tensor, y: Tensor) -> Tensor:
    """Nearly the error, and differentiable."""
    return torch.sigmoid(margin(logits, y) / UNIT)


class Ended:
    """Where an attack on these very images has ended before: a rehearsal, which all that go on from it share."""

    def __init__(self, rehearsal: Rehearsal, model: nn.Module, data: Data) -> None:
        x, y = data.floats(), data.labels
        batch = len(x) if isinstance(rehearsal, FittedRehearsal) else AT_ONCE
        self._ends = torch.cat([rehearsal(model, *part) for part in zip(x.split(batch), y.split(batch), strict=True)])
        self._row = {image.numpy().tobytes(): row for row, image in enumerate(x)}

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        return self._ends[[self._row[image.numpy().tobytes()] for image in x]]


def with_as_many(queries: int, threat: ThreatModel, data: Data, rehearsed: Attack) -> dict[str, Attack]:
    """PGD at several step sizes and starts, after a rehearsal too, and Auto-PGD, with this many gradients.

    PGD from where the learned attack begins is that attack untrained, without hidden units: equal steps along the sign of the log
    odds' gradient, which is that of cross-entropy's; after a rehearsal, of the margin's.
    """
    made: dict[str, Attack] = {}
    for reach in REACHES:
        for start in (False, True):
            name = f"PGD, {reach:g} eps in all, from {'a random point' if start else 'the example'}"
            made[name] = PGD(threat, steps=queries, reach=reach, random_start=start, keep="last")
        signs = RecurrentAdversary(data.shape, queries=queries, step=reach / queries, follow=SIGN, begin=BEGIN)
        made[f"PGD, {reach:g} eps in all, from the brightest image"] = LearnedAttack(signs.eval(), threat)
        made[f"rehearsed PGD, {reach:g} eps in all"] = LearnedAttack(signs, threat, start=rehearsed, asks="margin")
    falling = after_rehearsal(data.shape, queries, sharp=SIGN).eval()
    made["rehearsed PGD, falling steps"] = LearnedAttack(falling, threat, start=rehearsed, asks="margin")
    made["APGD-CE"] = APGD(threat, steps=queries)
    return made


def record(
    recipe: str,
    eps: float,
    queries: int,
    attack: str,
    found: Outcome,
    trained: tuple[int, float] = (0, 0.0),
    rehearsed: tuple[int, int] = (0, 0),
) -> LearnedAttackRecord:
    """What an attack left of a recipe's unseen seed; the passes and seconds of its training; what its rehearsal took."""
    correct, n = int(found.correct.sum()), len(found.correct)
    bounds = wilson(correct, n)
    cell = (recipe, UNSEEN, eps, queries, attack, n, correct, correct / n, bounds.low, bounds.high)
    return LearnedAttackRecord(*cell, *trained, *rehearsed)


def cost(rehearsal: Rehearsal) -> tuple[int, int]:
    """Passes forwards and backwards an image through the attacker's own, a forward half of one; forwards of the other."""
    forwards = rehearsal.forwards(N_CLASSES)
    if not isinstance(rehearsal, FittedRehearsal):
        return round(len(rehearsal.sources) * (rehearsal.passes(N_CLASSES) + forwards / 2)), forwards
    a_search = rehearsal.passes(N_CLASSES) + forwards / 4
    again = rehearsal.copies * (a_search + PASSES * rehearsal.epochs)
    return round(len(rehearsal.sources) * a_search + again), forwards


def strongest(found: dict[str, Outcome], kind: str) -> str:
    """The setting of this kind that left the least."""
    return min((key for key in found if key.startswith(kind)), key=lambda key: found[key].accuracy)


def keep(records: list[LearnedAttackRecord], results: Path) -> None:
    """Write these, and what is known beside them of as many images."""

    def place(r: LearnedAttackRecord) -> tuple[str, float, int, str]:
        return r.recipe, r.eps, r.queries, "" if r.queries else r.attack

    file, made = OutPaths(results).records("attack"), {place(r) for r in records}
    known = read(file, LearnedAttackRecord) if file.is_file() else []
    write(file, [r for r in known if r.n == records[0].n and place(r) not in made] + records)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("results", type=Path)
    parser.add_argument("--queries", type=int, nargs="*", default=[1, 2, 5, 10])
    parser.add_argument("--eps", type=float, nargs="+", default=[0.1, 0.2])
    parser.add_argument("--examples", type=int, default=2000)
    parser.add_argument("--alone", type=int, nargs="*", default=[20, 40], help="gradients of Auto-PGD alone")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--official", action="store_true", help="the official AutoAttack too (pyautoattack)")
    parser.add_argument("--fitted", action="store_true", help="rehearsals on fitted copies too")
    parser.add_argument("--attacked", nargs="+", default=ATTACKED, choices=ATTACKED, metavar="NAME")
    options = parser.parse_args()
    on_one_thread()
    paths = OutPaths(options.out)
    first = load(paths.run(TRAINED_ON[0], 0).folder)
    train_on, test = load_data(first.run.data)
    test = stratified(test, options.examples)
    models = [load(paths.run(name, SHOWN).folder).defender for name in TRAINED_ON]
    partners = [load(paths.run(name, REHEARSED_IN_TRAINING).folder).defender for name in TRAINED_ON]
    own = [load(paths.run(name, seed).folder).defender for name in TRAINED_ON for seed in OWN]
    unseen = {name: load(paths.run(name, UNSEEN).folder).defender for name in options.attacked}
    records: list[LearnedAttackRecord] = []
    ended, ended_fitted = dict[tuple[str, float], Attack](), dict[tuple[str, float], Attack]()
    rehearsed, fitted = (cost(kind(own, ThreatModel(LARGEST, test.shape))) for kind in (Rehearsal, FittedRehearsal))
    short = cost(Rehearsal(partners, ThreatModel(LARGEST, test.shape), **SHORT))
    for (name, model), eps in itertools.product(unseen.items(), options.eps):
        threat = ThreatModel(eps, test.shape)
        suite = Cascade(standard_suite(threat, test.n_classes, test.shape), threat)
        references: dict[str, Attack] = {"standard suite": suite}
        if options.official:
            references[official.NAME] = partial(official.autoattack, eps=eps)
        for key, attack in references.items():
            records.append(record(name, eps, 0, key, attacked(model, test, attack, threat)))
            print(f"{name}, eps {eps:g}: {key} {100 * records[-1].accuracy:.1f}", flush=True)
        if options.queries:
            ended[name, eps] = Ended(Rehearsal(own, threat), model, test)
        if options.queries and options.fitted:
            ended_fitted[name, eps] = Ended(FittedRehearsal(own, threat), model, test)
    keep(records, options.results)
    for queries in options.queries:
        made = {
            name: learned(queries, models, train_on, options.steps, among)
            for name, among in zip(LEARNED, ([], partners), strict=True)
        }
        after_one = options.fitted and queries > 1  # gradient, a fitted rehearsal's
        if after_one:
            made[FITTED] = learned(queries - 1, models, train_on, options.steps, partners)
        for name, model in unseen.items():
            for eps in options.eps:
                threat, start = ThreatModel(eps, test.shape), ended[name, eps]
                attacks = with_as_many(queries, threat, test, start)
                attacks["learned"] = LearnedAttack(made["learned"][0], threat)
                attacks["learned, rehearsed"] = LearnedAttack(
                    made["learned, rehearsed"][0], threat, start=start, asks="margin"
                )
                if after_one:
                    falling = after_rehearsal(test.shape, queries - 1, sharp=SIGN).eval()
                    for key, adversary in ((FITTED, made[FITTED][0]), (FITTED_PGD, falling)):
                        attacks[key] = LearnedAttack(adversary, threat, start=ended_fitted[name, eps], asks="margin")
                found = {key: attacked(model, test, attack, threat) for key, attack in attacks.items()}
                best = [strongest(found, kind) for kind in ("PGD", "rehearsed PGD")]
                shown = (*LEARNED, *[FITTED] * after_one, *best, *[FITTED_PGD] * after_one, "APGD-CE")
                for key in shown:
                    trained, ends = (0, 0.0), rehearsed if "rehearsed" in key else fitted if "fitted" in key else (0, 0)
                    if key in made:
                        more = 0 if key == LEARNED[0] else short[0] + short[1] / 2
                        passes = round((made[key][0].queries + 1 + more) * options.steps * BATCH)
                        trained = (passes, round(made[key][1], 1))
                    records.append(record(name, eps, queries, key, found[key], trained, ends))
                left = "; ".join(f"{key} {100 * found[key].accuracy:.1f}" for key in shown)
                print(f"k {queries}, {name}, eps {eps:g}: {left}", flush=True)
        keep(records, options.results)
    for queries, (name, model), eps in itertools.product(options.alone, unseen.items(), options.eps):
        threat = ThreatModel(eps, test.shape)
        outcome = attacked(model, test, APGD(threat, steps=queries), threat)
        records.append(record(name, eps, queries, "APGD-CE", outcome))
        print(f"k {queries}, {name}, eps {eps:g}: APGD-CE {100 * outcome.accuracy:.1f}", flush=True)
    keep(records, options.results)


if __name__ == "__main__":
    main()
