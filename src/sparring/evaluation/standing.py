"""What still stands of a data set while attack after attack runs on it, each adversarial example judged from outside.

Letters: N examples, B of them in a batch, C classes.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sparring import modes
from sparring.attacks import Attack
from sparring.data import Data
from sparring.errors import InputError, Interrupted
from sparring.evaluation.accuracy import counted
from sparring.evaluation.pieces import Pieces, streams
from sparring.models import checked_logits
from sparring.precision import widened, widest
from sparring.randomness import derive
from sparring.threat import ThreatModel

CLEAN, GREY, SWAP = "clean", "grey image", "swap image"
ROUNDING = 1e-6  # how far outside the ball or the pixel range float32 may lead; as in `attacked`


@dataclass(frozen=True)
class Stage:
    """One attack at one eps: how many examples it met and broke, and what it cost in example passes and seconds."""

    attack: str
    eps: float
    attacked: int
    broken: int
    forwards: int
    backwards: int
    seconds: float
    max_distance: float  # the largest l_inf distance of what it returned
    attack_repr: str


class Standing:
    """The state of one call: per example the distance at which it breaks, what broke it, and how."""

    def __init__(
        self,
        model: nn.Module,
        data: Data,
        batch_size: int,
        seed: int,
        kept: Pieces,
        interrupted: Callable[[], int],
        names: list[str],
    ) -> None:
        self.model, self.data, self.batch_size, self.seed = model, data, batch_size, seed
        self.kept, self.interrupted, self.names = kept, interrupted, names
        self.threat = ThreatModel(1.0, data.shape)
        n, device = len(data), data.images.device
        self.distance = torch.full((n,), torch.inf, dtype=widest(device), device=device)
        self.broken_by = torch.full((n,), -1, dtype=torch.int16, device=device)
        self.invalid = torch.zeros(n, dtype=torch.bool, device=device)
        self.found = data.floats().clone()
        self.answers = torch.zeros(
            n, dtype=torch.int64, device=device
        )  # on clean inputs; -1 where a logit is not finite
        self.stages: list[Stage] = []

    def clean(self) -> Stage:
        """Who is right without perturbation; examples that are not count as broken at distance 0."""
        everything = torch.arange(len(self.data), device=self.distance.device)
        with counted(self.model) as cost:
            for index in everything.split(self.batch_size):
                x = self.data.floats(index)
                answers, finite = self._answers(x)
                self.answers[index] = torch.where(finite, answers, -1)
                self._note(index, CLEAN, 0.0 * self.distance.new_ones(len(index)), answers, finite, x)
        n, wrong = len(self.data), int((self.distance == 0).sum())
        return Stage(CLEAN, 0.0, n, wrong, cost.forwards, cost.backwards, cost.seconds, 0.0, CLEAN)

    def candidate(self, eps: float, name: str) -> Stage | None:
        """One fixed image for each example, shown to the examples that stand and whose ball at eps it lies in."""
        images = self._candidates(name)
        if images is None:
            return None
        standing = (self.distance > eps + ROUNDING).nonzero().squeeze(1)
        n = broken = 0
        farthest = 0.0
        with counted(self.model) as cost:
            for index in standing.split(self.batch_size):
                x_adv, x = images[self.data.labels[index]], self.data.floats(index)
                distance = self.threat.distance(widened(x_adv), widened(x))
                near = distance <= eps + ROUNDING  # NaN, no candidate for this class, is not
                if bool(near.any()):
                    answers, finite = self._answers(x_adv[near])
                    broken += self._note(index[near], name, distance[near], answers, finite, x_adv[near])
                    n, farthest = n + int(near.sum()), max(farthest, float(distance[near].max()))
        return Stage(name, eps, n, broken, cost.forwards, cost.backwards, cost.seconds, farthest, name) if n else None

    def stage(self, number: int, eps: float, name: str, attack: Attack) -> Stage:
        """One attack at one eps on all that stands, batch by batch, each taken from the store or computed and kept."""
        threat, draws = ThreatModel(eps, self.data.shape), streams(attack)
        standing = (self.distance > eps + ROUNDING).nonzero().squeeze(1)
        forwards = backwards = broken = 0
        seconds = farthest = 0.0
        for batch, index in enumerate(standing.split(self.batch_size) if len(standing) else ()):
            key = f"{number}-{self.names.index(name)}-{batch}"
            examples = hashlib.sha256(index.cpu().numpy().tobytes()).hexdigest()
            piece = self.kept.read(key)
            if piece is None or piece[1].get("examples") != examples:
                for stream in draws:
                    stream.seek(derive(self.seed, f"worst case.{name}"), round(eps * 1e9), batch)
                tensors, header = self._attacked(threat, attack, index)
                piece = tensors, header | {"examples": examples}
                self.kept.write(key, *piece)
            tensors, header = {k: t.to(self.distance.device) for k, t in piece[0].items()}, piece[1]
            hit = index[tensors["broken"]]
            self._break(hit, name, tensors["distance"], tensors["invalid"], tensors["x_adv"])
            forwards, backwards = forwards + header["forwards"], backwards + header["backwards"]
            seconds, farthest = seconds + header["seconds"], max(farthest, header["max_distance"])
            broken += len(hit)
            self._pause()
        return Stage(name, eps, len(standing), broken, forwards, backwards, seconds, farthest, repr(attack))

    def report(self, stage: Stage | None, on_stage: Callable[[Stage], None]) -> None:
        """Note a stage that took place."""
        if stage is not None:
            self.stages.append(stage)
            on_stage(stage)

    def _attacked(self, threat: ThreatModel, attack: Attack, index: Tensor) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Attack one batch and judge what comes back; `broken` (B,), and the rest for the broken ones only."""
        x, y = self.data.floats(index), self.data.labels[index]
        with counted(self.model) as cost:
            x_adv = attack(self.model, x, y).detach().float()
            distance = _inside(threat, x_adv, self.data.floats(index))
            answers, finite = self._answers(x_adv)
        broken = (answers != self.data.labels[index]) | ~finite
        tensors = {"broken": broken, "distance": distance[broken], "invalid": ~finite[broken], "x_adv": x_adv[broken]}
        costs = {"forwards": cost.forwards, "backwards": cost.backwards, "seconds": cost.seconds}
        return tensors, costs | {"max_distance": float(distance.max())}

    def _answers(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The model's answers (B,), and whether all their logits are finite."""
        with torch.no_grad(), modes.evaluation(self.model):
            out = checked_logits(self.model(x), x, self.data.n_classes, len(self.data.shape))
        return out.argmax(-1), torch.isfinite(out).all(-1)

    def _note(self, index: Tensor, name: str, distance: Tensor, answers: Tensor, finite: Tensor, x: Tensor) -> int:
        """Break those of the examples `index` whose answer is wrong or not finite; returns how many."""
        broken = (answers != self.data.labels[index]) | ~finite
        self._break(index[broken], name, distance[broken], ~finite[broken], x[broken])
        return int(broken.sum())

    def _break(self, index: Tensor, name: str, distance: Tensor, invalid: Tensor, x_adv: Tensor) -> None:
        self.distance[index], self.invalid[index], self.found[index] = distance, invalid, x_adv
        self.broken_by[index] = self.names.index(name)

    def _candidates(self, name: str) -> Tensor | None:
        """For each class an image that may break its examples, (C, *shape); NaN where there is none."""
        if name == GREY:
            return torch.full((self.data.n_classes, *self.data.shape), 0.5, device=self.distance.device)
        images = torch.full((self.data.n_classes, *self.data.shape), torch.nan, device=self.distance.device)
        for label in range(self.data.n_classes):
            others = ((self.answers != label) & (self.answers >= 0)).nonzero()
            if len(others):
                images[label] = self.data.floats(others[0])[0]
        return images

    def _pause(self) -> None:
        if signal_number := self.interrupted():
            kept = f"what is finished is kept in {self.kept.folder}; the same call goes on from here"
            raise Interrupted(signal_number, f"stopped; {kept if self.kept.folder else 'nothing was kept: no store'}")


def _inside(threat: ThreatModel, x_adv: Tensor, x: Tensor) -> Tensor:
    """Each example's distance, (B,); raises InputError where it is more than eps, or a pixel is out of range."""
    if x_adv.shape != x.shape:
        raise InputError(f"the attack returned shape {tuple(x_adv.shape)} for inputs of shape {tuple(x.shape)}")
    distance, eps = threat.distance(widened(x_adv), widened(x)), float(threat.eps)
    if not bool((distance <= eps + ROUNDING).all()):  # NaN is outside
        raise InputError(f"the attack left the ball: distance {float(distance.max()):.6f} > eps {eps:g}")
    if float(x_adv.min()) < threat.low - ROUNDING or float(x_adv.max()) > threat.high + ROUNDING:
        raise InputError(f"the attack left the pixel range: {float(x_adv.min()):.4f}..{float(x_adv.max()):.4f}")
    return distance
