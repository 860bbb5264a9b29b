"""Everything the checks measure, each thing at most once, on the level's fixed stratified test examples.

Letters: N audited examples, C classes.
"""

import hashlib
from collections.abc import Callable
from functools import cached_property, partial
from pathlib import Path

import torch
from torch import Tensor, nn

from sparring import modes
from sparring.attacks import Attack
from sparring.auditing.levels import Level
from sparring.auditing.runs import AttackRun, Verdict, execute, judge
from sparring.auditing.subject import Subject
from sparring.auditing.thresholds import Thresholds, images
from sparring.auditing.wrappers import Averaged, attached
from sparring.data import Data, stratified
from sparring.randomness import derive
from sparring.threat import ThreatModel

BATCH = 500
SPARE = 200  # fewer spare examples than this train nothing


class Ground:
    """The examples, the model's clean answers, and one way to run an attack; `Evidence` adds what is run."""

    def __init__(
        self,
        subject: Subject,
        level: Level,
        thresholds: Thresholds,
        *,
        seed: int = 0,
        store: Path | None = None,
        notice: Callable[[str], None] = lambda text: None,
    ) -> None:
        self.subject, self.level, self.thresholds, self.seed, self.store = subject, level, thresholds, seed, store
        self.notice = notice
        self.model, self.eps = subject.model, subject.eps[0]
        self.device = next((p.device for p in self.model.parameters()), subject.data.images.device)
        n = len(subject.data) if level.n is None else min(level.n, len(subject.data))
        self.indices = chosen(subject.data, n, seed)
        self.data: Data = subject.data.take(self.indices).to(self.device)
        self.x, self.y, self.n = self.data.floats(), self.data.labels, n
        self.draws = level.draws if subject.declared_random else 1
        self.runs: dict[str, AttackRun] = {}

    # what everything rests on

    @property
    def digest(self) -> str:
        """SHA-256 of the audited indices, in hex."""
        return hashlib.sha256(self.indices.numpy().tobytes()).hexdigest()

    def threat(self, eps: float | None = None) -> ThreatModel:
        """The threat model at the claimed eps, or another."""
        return ThreatModel(self.eps if eps is None else eps, self.data.shape)

    def images(self, check: str, name: str) -> int:
        """A threshold in images."""
        return images(self.thresholds.of(check, name), self.n)

    def points(self, count: float) -> float:
        """So many images in percentage points."""
        return 100 * count / self.n

    def verdict(self, x: Tensor, y: Tensor, name: str) -> Verdict:
        """The model's answers, over draws where it is random: under one seed the same for the same name."""
        seed = derive(self.seed, f"audit.{name}")
        return judge(self.model, x, y, draws=self.draws, batch_size=BATCH, seed=seed)

    @cached_property
    def clean(self) -> Verdict:
        """On the clean images."""
        return self.verdict(self.x, self.y, "clean")

    @cached_property
    def logits(self) -> Tensor:
        """One clean pass over all examples, (N, C)."""
        with torch.no_grad(), modes.evaluation(self.model):
            return torch.cat([self.model(part) for part in self.x.split(BATCH)])

    @cached_property
    def base(self) -> nn.Module:
        """The model, attached to its input where no gradient gets through."""
        with modes.evaluation(self.model):
            return attached(self.model, self.x, self.y)

    @cached_property
    def target(self) -> nn.Module:
        """What attacks see: the model, averaged over draws where it is declared random."""
        return Averaged(self.base, self.draws).eval() if self.subject.declared_random else self.base

    @cached_property
    def training_data(self) -> Data | None:
        """What fresh adversaries and surrogates train on: the training set, else spare test examples, else None."""
        if self.subject.train is not None:
            return self.subject.train.to(self.device)
        spare = torch.ones(len(self.subject.data), dtype=torch.bool)
        spare[self.indices] = False
        rest = spare.nonzero().squeeze(1)
        return self.subject.data.take(rest).to(self.device) if len(rest) >= SPARE else None

    # attacks

    def run(
        self,
        name: str,
        kind: str,
        attack: Attack,
        *,
        eps: float | None = None,
        only: Tensor | None = None,
        **more: bool,
    ) -> AttackRun:
        """Run an attack once under this name; `more` goes to `execute`."""
        if name not in self.runs:
            self.notice(name)
            self.runs[name] = execute(
                name,
                kind,
                attack,
                self.threat(eps),
                self.x,
                self.y,
                target=self.target,
                verdict=partial(self.verdict, name=name),
                clean=self.clean.share,
                only=only,
                seed=self.seed,
                batch_size=BATCH,
                **more,
            )
        return self.runs[name]


def chosen(data: Data, n: int, seed: int) -> Tensor:
    """The indices (N,) of the fixed stratified examples, ascending."""
    numbers = Data(
        torch.arange(len(data), dtype=torch.float32).unsqueeze(1), data.labels.cpu(), data.n_classes, "indices"
    )
    return stratified(numbers, n, seed).images[:, 0].long()


def kind_of_output(logits: Tensor, tolerance: float) -> str:
    """Whether outputs (N, C) are "logits", "probabilities" or "log-probabilities"."""
    if bool(((logits >= 0) & (logits <= 1)).all()) and bool(((logits.sum(-1) - 1).abs() <= tolerance).all()):
        return "probabilities"
    if bool((logits <= 0).all()) and bool(((logits.exp().sum(-1) - 1).abs() <= tolerance).all()):
        return "log-probabilities"
    return "logits"
