"""Everything the checks measure, each thing at most once.

Letters: N audited examples, C classes.
"""

import importlib
import math
from dataclasses import replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from sparring import modes
from sparring.attacks import PGD, Attack, Transferred, fgsm
from sparring.auditing import suite
from sparring.auditing.ground import BATCH, chosen, kind_of_output
from sparring.auditing.opponents import Opponents
from sparring.auditing.runs import AttackRun, execute, judge
from sparring.evaluation.worst_case import WorstCases, worst_case
from sparring.randomness import own_draws
from sparring.threat import ThreatModel

RETRIES = 6  # of the white box, on images that another attack broke
FEW = 0.05  # of N: as many images are worth a retry
DRAWS, MANY = 100, 100  # of noise on every image; images that meet more where a level asks for more


class Evidence(Opponents):
    """Lazy measurements of one subject; every check reads from here."""

    @cached_property
    def probabilities(self) -> bool:
        """Whether the outputs are probabilities or log-probabilities: the margin then replaces cross-entropy."""
        return kind_of_output(self.logits, self.thresholds.of("I8", "sum")) != "logits"

    def white_box(self, threat: ThreatModel) -> Attack:
        """The attack whose number is claimed: the subject's own, else PGD-T."""
        if self.subject.attack is not None:
            return self.subject.attack(threat)
        return self.pgd(threat, self.level.steps, loss="margin" if self.probabilities else "cross_entropy")

    def pgd(
        self, threat: ThreatModel, steps: int, *, loss: str = "cross_entropy", restarts: int = 1, name: str = "white"
    ) -> PGD:
        """PGD-T; against a random model 2T, once, and the last example: the best of noisy looks is the luckiest, not the best."""
        if self.subject.declared_random:
            return replace(suite.pgd(threat, 2 * steps, loss=loss, name=name), keep="last")
        return suite.pgd(threat, steps, loss=loss, restarts=restarts, name=name)

    def spread(self, *runs: AttackRun) -> float:
        """Two standard errors of a sum of shares over a random model's draws, in images; 0 for any other model."""
        variance = sum(float((run.share * (1 - run.share)).sum()) / self.draws for run in runs)
        return 2.0 * math.sqrt(variance) if self.subject.declared_random else 0.0

    @cached_property
    def white(self) -> AttackRun:
        """The white-box run of S1 to S7, raw, with its path."""
        name = "white box" if self.subject.attack else f"PGD-{self.level.steps}"
        return self.run(f"{name} cross-entropy", "cross-entropy", self.white_box(self.threat()), record=True)

    @cached_property
    def single(self) -> AttackRun:
        """FGSM."""
        attack = self.subject.fgsm(self.threat()) if self.subject.fgsm else fgsm(self.threat())
        return self.run("FGSM", "single-step", attack)

    @cached_property
    def doubled(self) -> AttackRun:
        """PGD-2T."""
        attack: Attack = self.pgd(self.threat(), 2 * self.level.steps, name="doubled")
        own = self.white_box(self.threat())
        again = isinstance(own, PGD)
        if isinstance(own, PGD):
            attack = replace(own, steps=2 * own.steps, step_size=None)
        return self.run(f"PGD-{2 * self.level.steps} cross-entropy", "cross-entropy", attack, again=again)

    @cached_property
    def margin(self) -> AttackRun:
        """PGD-T on the margin."""
        attack = self.pgd(self.threat(), self.level.steps, loss="margin", name="margin")
        return self.run(f"PGD-{self.level.steps} margin", "margin", attack)

    def restarts(self, n: int) -> Tensor:
        """The shares after n runs of PGD-T, the white-box run being the first."""
        attack = self.pgd(self.threat(), self.level.steps, restarts=max(1, n - 1), name="restarts")
        found = self.run(f"{n - 1} restarts", "cross-entropy", attack, only=self.white.share > 0, again=True)
        return torch.minimum(self.white.share, found.share)

    def at(self, eps: float) -> AttackRun:
        """The raw white-box run at another eps, grey and swap images not among it."""
        if eps == self.eps:
            return self.white
        return self.run(f"white box at {eps:g}", "cross-entropy", self.white_box(self.threat(eps)), eps=eps, again=True)

    @cached_property
    def white_worst(self) -> Tensor:
        """The worst of all gradient attacks, (N,)."""
        row = self.worst.eps.index(self.eps)
        by = [suite.kind_of(name) in ("cross-entropy", "margin", "targeted") for name in self.worst.names]
        broken = torch.tensor([*by, False])[self.worst.broken_by[row].long()]  # -1, the last, stands
        shares = [self.insisted, self.margin.share, self.single.share, torch.where(broken, 0.0, self.clean.share)]
        shares += [run.share for run in self.guided]
        return torch.stack(shares).amin(0)

    @cached_property
    def insisted(self) -> Tensor:
        """The shares after the white box had its restarts, its 2T steps, and more tries where few were broken by others alone.

        A hidden gradient stays hidden however often one asks; an unlucky start does not. The last tries, of this
        library's own PGD, start on the way to what the other attack found.
        """
        left = self.white.share
        if self.subject.attack is None:
            left = torch.stack([left, self.doubled.share, self.restarts(self.level.restarts)]).amin(0)
        return self.retried(left, self.black_box)

    @cached_property
    def converged(self) -> tuple[Tensor, Tensor]:
        """The shares after T steps, with restarts and a few more tries, and after 2T steps besides."""
        left = self.white.share
        if self.subject.attack is None:
            left = self.retried(torch.minimum(left, self.restarts(self.level.restarts)), [self.doubled])
        return left, torch.minimum(left, self.doubled.share)

    def retried(self, left: Tensor, others: list[AttackRun]) -> Tensor:
        """What is left when the white box tries again where only the others succeeded, if those images are few."""
        lowest, who = torch.stack([run.share for run in others]).min(0)
        for attempt in range(RETRIES):
            beaten = left - lowest >= 0.5
            if not bool(beaten.any()) or int(beaten.sum()) > FEW * self.n:
                break  # nothing to insist on, or too much to be bad luck
            attack, name = self.white_box(self.threat()), f"{self.white.name}, try {attempt + 2}"
            if self.subject.attack is None and attempt >= RETRIES // 2:
                found = torch.stack([run.x_adv for run in others])[who, torch.arange(self.n)]
                way = (0.5, 0.7, 0.9)[attempt - RETRIES // 2]
                start = (self.x + way * (found.to(self.x) - self.x))[beaten.to(self.device)]
                attack = suite.From(self.threat(), start, self.level.steps)
            name += "" if others is self.black_box else " after 2T"
            left = torch.minimum(left, self.run(name, "cross-entropy", attack, only=beaten, again=True).share)
        return left

    # attacks without the gradient, on what the white box left

    @cached_property
    def black_box(self) -> list[AttackRun]:
        """Score-based, hard-label, transferred, random and learned, each on what the white-box run left."""
        left, threat = self.white.share > 0, self.threat()
        queries = self.level.queries
        runs = [
            self.run(f"Square, {queries} queries", "score-based", suite.score_based(threat, queries), only=left),
            self.run(f"RayS, {queries} queries", "hard-label", suite.hard_label(threat, queries), only=left),
            self.noise,
            *self.more_noise,
        ]
        for name, source in self.sources.items():
            attack = Transferred(source, suite.pgd(threat, 20, loss="margin", name="transfer"))
            runs.append(self.run(f"transfer from {name}", "transfer", attack, only=left))
        return [*runs, *self.learned]

    @cached_property
    def noise(self) -> AttackRun:
        """Random points of the ball, the worst of many."""
        draws = min(self.level.noise_draws, DRAWS)
        run = self.run(f"noise, {draws} draws", "noise", suite.Draws(self.threat(), draws), record=True)
        if self.subject.declared_random:
            return run
        return replace(
            run, share=torch.where(run.on_path, 0.0, run.share)
        )  # the same, unless the model is random in secret

    @cached_property
    def more_noise(self) -> list[AttackRun]:
        """Many more draws on the first images that withstand the white box and the noise; none at levels without."""
        draws = self.level.noise_draws
        left = ((self.white.share > 0) & (self.noise.share > 0)).nonzero().squeeze(1)[:MANY]
        if draws <= DRAWS or not len(left):
            return []
        only = torch.zeros(self.n, dtype=torch.bool).index_fill(0, left, True)
        attack = suite.Draws(self.threat(), draws, at_once=max(1, BATCH // (len(left) * self.draws)))
        name = f"noise, {draws} draws on {len(left)} images"
        return [self.run(name, "noise", attack, only=only, again=True)]

    @cached_property
    def twin_survives(self) -> float:
        """How many images the twin keeps under the white-box attack at the claimed eps."""
        assert self.subject.twin is not None
        twin, attack = self.subject.twin.to(self.device), self.white_box(self.threat())
        run = execute(
            "the twin",
            "twin",
            attack,
            self.threat(),
            self.x,
            self.y,
            target=twin,
            verdict=lambda x, y: judge(twin, x, y, draws=1, batch_size=BATCH, seed=self.seed),
            clean=judge(twin, self.x, self.y, draws=1, batch_size=BATCH, seed=self.seed).share,
            seed=self.seed,
        )
        return run.survived

    @cached_property
    def autoattack(self) -> float | None:
        """How many images AutoAttack's standard version leaves; None where it is not installed."""
        try:
            autoattack: Any = importlib.import_module("pyautoattack")
        except ImportError:
            return None
        with modes.frozen(self.target), own_draws(self.device):  # it seeds the global generators
            judge_of = autoattack.AutoAttack(self.target, eps=self.eps, seed=self.seed, device=self.device)
            x_adv = judge_of.run_standard_evaluation(self.x, self.y, batch_size=BATCH)
        x_adv = (x_adv[0] if isinstance(x_adv, tuple) else x_adv).to(self.x)
        return float(torch.minimum(self.verdict(x_adv, self.y, "AutoAttack").share, self.clean.share).sum())

    @cached_property
    def worst(self) -> WorstCases:
        """The engine's worst case over the headline suite, at every eps."""
        self.notice("worst case")
        return worst_case(
            self.target,
            self.data,
            self.subject.eps,
            suite.headline(self.level, self.data.n_classes, self.eps),
            batch_size=BATCH,
            store=self.store,
            seed=self.seed,
        )

    def standing(self, eps: float) -> Tensor:
        """The headline per example, (N,): what survives the engine's worst case and every run of the audit at this eps."""
        worst = self.worst
        left = worst.robust[worst.eps.index(eps)].float()
        if self.subject.declared_random:
            images = worst.x_adv[worst.eps.index(eps)].to(self.device)
            left = self.verdict(images, self.y, f"worst case at {eps:g}").share
        left = torch.minimum(left, self.clean.share)
        for run in [*self.guided, *self.runs.values()]:
            if run.eps <= eps + 1e-9:
                left = torch.minimum(left, run.share)
        return left


__all__ = ["BATCH", "Evidence", "chosen", "kind_of_output"]
