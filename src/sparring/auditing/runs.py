"""One attack on the audited examples, run as it is and judged from outside, with its images kept.

Letters: N examples. A random model is judged over several draws, so an example survives by a share in [0, 1]; for every
other model the share is 0 or 1.
"""

import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from sparring import modes
from sparring.attacks import Attack
from sparring.auditing.probe import Path, watching
from sparring.errors import InputError
from sparring.evaluation.pieces import streams
from sparring.randomness import derive, own_draws
from sparring.threat import ThreatModel


class NotImages(InputError):
    """What an attack returned is nothing that can be judged."""


@dataclass(frozen=True, eq=False)
class Verdict:
    """What a model answers, each (N,): `share` of draws that are right with finite logits, `invalid`, `labels` of one draw."""

    share: Tensor
    invalid: Tensor
    labels: Tensor


@dataclass(frozen=True, eq=False)
class AttackRun:
    """What one attack did at one eps; `share` (N,) survives, 0 where the clean image is already wrong."""

    name: str
    kind: str
    eps: float
    attack: str  # its repr
    x_adv: Tensor
    share: Tensor
    invalid: Tensor
    attacked: Tensor  # (N,) bool; the others were broken before, and keep their clean image
    forwards: int
    backwards: int
    seconds: float
    in_training: frozenset[str]
    changed: bool
    on_path: Tensor  # (N,) bool: broken on the way
    losses: tuple[float, ...] = field(repr=False, default=())
    rows: int = 0  # example passes that were looked at on the way
    lost: int = 0  # of them, those that could not be traced to one example
    again: bool = False  # an attack that ran before: with other starts, more steps, another eps

    @property
    def survived(self) -> float:
        """How many of the N examples survive; a whole number unless the model is random."""
        return float(self.share.sum())


def images_of(found: Any, x: Tensor, name: str = "the attack") -> Tensor:
    """What an attack returned for x, detached, of x's type and on its device; raises NotImages where it is no float images."""
    if not isinstance(found, Tensor):
        got = f"a {type(found).__name__}"
    elif found.shape != x.shape or not found.is_floating_point():
        got = f"{found.dtype} of shape {tuple(found.shape)}".removeprefix("torch.")
    else:
        return found.detach().to(x)
    raise NotImages(f"{name} returned {got} for inputs {tuple(x.shape)}; expected a float tensor of their shape")


def judge(model: nn.Module, x: Tensor, y: Tensor, *, draws: int, batch_size: int, seed: int = 0) -> Verdict:
    """Ask the model about images x for true labels y, in evaluation mode; a random one draws the same under one seed."""
    share, invalid = torch.zeros(len(y)), torch.zeros(len(y), dtype=torch.bool)
    labels = torch.zeros(len(y), dtype=torch.int64)
    with torch.no_grad(), modes.evaluation(model), own_draws(x.device) as draw_from:
        for number, start in enumerate(range(0, len(y), batch_size)):
            draw_from(derive(seed, "audit.verdict", number))
            part = slice(start, start + batch_size)
            for _ in range(draws):
                out = model(x[part])
                finite = torch.isfinite(out).all(-1)
                share[part] += ((out.argmax(-1) == y[part]) & finite).float().cpu()
                invalid[part] |= ~finite.cpu()
            labels[part] = torch.where(finite, out.argmax(-1), -1).cpu()
    return Verdict(share / draws, invalid, labels)


def execute(
    name: str,
    kind: str,
    attack: Attack,
    threat: ThreatModel,
    x: Tensor,
    y: Tensor,
    *,
    target: nn.Module,
    verdict: Callable[[Tensor, Tensor], Verdict],
    clean: Tensor,
    only: Tensor | None = None,
    record: bool = False,
    again: bool = False,
    seed: int = 0,
    batch_size: int = 500,
) -> AttackRun:
    """Run `attack` against `target` on the examples `only` (N,), all by default; `clean` (N,) is the share that is right clean.

    `record` also looks at every point on the attack's path; `again` notes that this is no attack of its own.
    """
    attacked = torch.ones(len(y), dtype=torch.bool) if only is None else only.cpu()
    x_adv, on_path = x.clone(), torch.zeros(len(y), dtype=torch.bool)
    paths: list[Path] = []
    draws = streams(attack)
    started = time.perf_counter()
    rows = attacked.nonzero().squeeze(1)
    with watching(target) as seen, modes.frozen(target), own_draws(x.device) as draw_from:
        for number, index in enumerate(rows.split(batch_size) if len(rows) else ()):
            draw_from(derive(seed, f"audit.{name}", number))  # for attacks that draw from the global generator
            for stream in draws:
                stream.seek(derive(seed, f"audit.{name}"), number)
            batch_x, batch_y = x[index.to(x.device)], y[index.to(y.device)]
            path = Path(batch_x, batch_y, threat)
            with path.recording(target) if record else nullcontext():
                found = attack(target, batch_x.clone(), batch_y.clone())
            x_adv[index.to(x.device)] = images_of(found, batch_x, name)
            on_path[index] = path.broken.cpu()
            paths.append(path)
    seconds = time.perf_counter() - started
    judged = verdict(x_adv, y)
    losses = [path.losses for path in paths]
    whole = [batch for batch in losses if len(batch) == max(map(len, losses), default=0) and batch]
    curve = tuple(sum(at) / len(whole) for at in zip(*whole, strict=True))
    return AttackRun(
        name=name,
        kind=kind,
        eps=float(threat.eps),
        attack=repr(attack),
        x_adv=x_adv,
        share=torch.minimum(judged.share, clean),
        invalid=judged.invalid & attacked,
        attacked=attacked,
        forwards=seen.forwards,
        backwards=seen.backwards,
        seconds=seconds,
        in_training=frozenset(seen.in_training),
        changed=seen.changed,
        on_path=on_path,
        losses=curve,
        rows=sum(path.rows for path in paths),
        lost=sum(path.lost for path in paths),
        again=again,
    )
