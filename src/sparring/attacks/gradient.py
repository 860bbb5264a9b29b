"""Attacks that follow the model's gradient: PGD (Madry et al. 2017), and FGSM (Goodfellow et al. 2014) as its one-step case."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from sparring import modes
from sparring.attacks.rows import fooled, put_at
from sparring.errors import InputError, one_of
from sparring.losses import LOSSES
from sparring.randomness import Stream
from sparring.threat import ThreatModel

Mode = Literal["evaluation", "training"]
Keep = Literal["best", "last"]
Label = Literal["true", "predicted"]


@dataclass(frozen=True)
class PGD:
    """Ascent along the sign of the input gradient, projected to the threat model after every step.

    `step_size` None means `reach` * eps / steps, so that all steps together could walk `reach` times eps. `keep` "best"
    returns, per example, the first iterate that is misclassified, else the one of highest loss; "last" returns the last
    iterate, as training does. `mode` "training" takes the gradients with batch norm in training mode (its statistics
    are put back): a reading of the paper (docs/claims.md, ambiguity a), not a sound attack. `label`
    "predicted" attacks the model's own answer instead of the true label (ambiguity v). With `drop`, an example leaves the
    ascent once it is misclassified, which "best" keeps anyway: fewer passes; smaller batches may round otherwise. Raises
    InputError for settings that cannot be.
    """

    threat: ThreatModel
    steps: int = 40
    step_size: float | None = None
    reach: float = 2.5  # Madry et al.'s own code, as a ratio
    random_start: bool = True
    restarts: int = 1
    loss: str = "cross_entropy"
    keep: Keep = "best"
    mode: Mode = "evaluation"
    label: Label = "true"
    stream: Stream = field(default_factory=lambda: Stream(0, "pgd"))
    drop: bool = field(default=False, repr=False)

    def __post_init__(self) -> None:
        for name in ("steps", "restarts"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be >= 1; got {getattr(self, name)}")
        if self.loss not in LOSSES:
            raise InputError(f"loss must be one of {', '.join(LOSSES)}; got {self.loss!r}")
        for name, known in (("keep", Keep), ("mode", Mode), ("label", Label)):
            one_of(name, getattr(self, name), get_args(known))
        eps, step_size = self.threat.eps, self.step_size
        if step_size is not None and not step_size > 0:
            raise InputError(f"step_size must be > 0; got {step_size:g}")
        if step_size is not None and isinstance(eps, float) and self.steps * step_size < eps * (1 - 1e-6):
            raise InputError(f"the attack cannot reach the boundary: {self.steps} x {step_size:g} < eps {eps:g}")
        if self.restarts > 1 and not (self.random_start and self.keep == "best"):
            raise InputError("restarts > 1 need random_start=True and keep='best', else every restart is the same")

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        with _in_mode(model, self.mode):
            y = self._labels(model, x, y)
            x_adv, score = self._run(model, x, y)
            for _ in range(self.restarts - 1):
                again, again_score = self._run(model, x, y)
                better = again_score > score
                x_adv = torch.where(self.threat.over_pixels(better), again, x_adv)
                score = torch.where(better, again_score, score)
        return x_adv

    def direction(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        """FGSM's d in x + eps * d, the gradient's signs at x; raises InputError for an attack that takes another step."""
        if (self.steps, self.reach, self.step_size, self.random_start, self.keep) != (1, 1.0, None, False, "last"):
            raise InputError(f"only FGSM goes in one direction at every eps; got {self}")
        with _in_mode(model, self.mode):
            return self._gradient(model, x, self._labels(model, x, y))[0].sign()

    def _labels(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        """What is attacked: y, or the model's own answers."""
        if self.label == "true":
            return y
        with torch.no_grad():
            predicted: Tensor = model(x).argmax(-1)
        return predicted

    def _run(self, model: nn.Module, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """One ascent: x_adv, and per example a score that is infinite where it is broken."""
        threat = self.threat
        step_size = self.reach * threat.radius(x) / self.steps if self.step_size is None else self.step_size
        x_adv = threat.moved(x, self.stream.uniform(x)) if self.random_start else x.detach()
        best, best_score = x_adv, torch.full(y.shape, -torch.inf, dtype=x.dtype, device=x.device)
        edges = self._edges(x)
        alone = self.mode == "evaluation" and y.ndim == 1  # no example needs another
        if edges and self.drop and alone and self.keep == "best" and not isinstance(step_size, Tensor):
            return self._ascend_what_stands(model, x_adv, y, *edges, step_size)
        for _ in range(self.steps):
            grad, score = self._gradient(model, x_adv, y)
            if self.keep == "best":
                best, best_score = self._better(best, best_score, x_adv, score)
            # project(x_adv + step_size * sign, x), to the bit, in fewer passes over memory
            moved = grad.sign().mul_(step_size).add_(x_adv)
            x_adv = moved.clamp_(threat.low, threat.high) if edges is None else moved.clamp_(*edges)
        if self.keep == "last":
            return x_adv, best_score
        with torch.no_grad():
            score = self._score(model(x_adv), y)
        return self._better(best, best_score, x_adv, score)

    def _ascend_what_stands(
        self, model: nn.Module, x_adv: Tensor, y: Tensor, low: Tensor, high: Tensor, step_size: float
    ) -> tuple[Tensor, Tensor]:
        """The ascent from x_adv (B, *shape), in which what is misclassified does not take part any longer."""
        grad, score = self._gradient(model, x_adv, y)
        best, best_score = x_adv.clone(), torch.full_like(score, -torch.inf)
        at = torch.arange(len(y), device=y.device)  # whose iterates x_adv holds
        for left in reversed(range(self.steps)):
            self._put_better(best, best_score, at, x_adv, score)
            standing = (best_score[at] < torch.inf).nonzero().squeeze(-1)
            if not len(standing):
                return best, best_score
            if len(standing) < 0.8 * len(at):  # moving the rest costs about as much as a step on what falls
                at, x_adv, y, low, high, grad = (v[standing] for v in (at, x_adv, y, low, high, grad))
            x_adv = torch.clamp(grad.sign().mul_(step_size).add_(x_adv), low, high)
            if left:
                grad, score = self._gradient(model, x_adv, y)
        with torch.no_grad():
            score = self._score(model(x_adv), y)
        self._put_better(best, best_score, at, x_adv, score)
        return best, best_score

    def _edges(self, x: Tensor) -> tuple[Tensor, Tensor] | None:
        """The smallest and the largest pixels that are allowed; None for FGSM, whose one step stays in the ball."""
        if self.steps == 1 and self.step_size is None and self.reach <= 1 and not self.random_start:
            return None
        threat, radius = self.threat, self.threat.radius(x)
        return (x - radius).clamp(threat.low, threat.high), (x + radius).clamp(threat.low, threat.high)

    def _gradient(self, model: nn.Module, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        x = x.detach().requires_grad_()
        with torch.enable_grad():
            logits = model(x)
            loss = LOSSES[self.loss](logits, y)
            (grad,) = torch.autograd.grad(loss.sum(), x)
        if self.keep == "last":
            return grad, loss.detach()
        return grad, self._score(logits.detach(), y)

    def _score(self, logits: Tensor, y: Tensor) -> Tensor:
        return torch.where(fooled(logits, y), torch.inf, LOSSES[self.loss](logits, y))

    def _put_better(self, best: Tensor, best_score: Tensor, at: Tensor, x_adv: Tensor, score: Tensor) -> None:
        """Write the iterates that are better than the best so far in its place, in the rows `at`."""
        better = score > best_score[at]
        put_at(best, at, better, x_adv)
        put_at(best_score, at, better, score)

    def _better(self, x: Tensor, score: Tensor, other: Tensor, other_score: Tensor) -> tuple[Tensor, Tensor]:
        better = other_score > score
        return torch.where(self.threat.over_pixels(better), other, x), torch.where(better, other_score, score)


def fgsm(
    threat: ThreatModel,
    *,
    loss: str = "cross_entropy",
    mode: Mode = "evaluation",
    label: Label = "true",
) -> PGD:
    """One step of size eps along the gradient's sign: x + eps * sign(grad) (Goodfellow et al. 2014; paper, section 2.1).

    sign(0) = 0, so pixels without gradient stay as they are.
    """
    return PGD(threat, steps=1, reach=1.0, random_start=False, keep="last", loss=loss, mode=mode, label=label)


@contextmanager
def _in_mode(model: nn.Module, mode: Mode) -> Iterator[None]:
    trained = modes.training(model, keep_statistics=True) if mode == "training" else nullcontext()
    with modes.frozen(model), trained:  # the gradient for the input is all that is asked for
        yield
