"""Adversary i against defender j: does an adversary fit the one defender it learned on? (paper, section 6; claims N11, D2)"""

from collections.abc import Mapping
from contextlib import ExitStack
from typing import Literal

import torch
from torch import Tensor, nn

from sparring import modes
from sparring.adversaries import AnyAdversary
from sparring.attacks import Attack, LearnedAttack, Noise
from sparring.data import Data
from sparring.evaluation.accuracy import check_count
from sparring.precision import full_fp32
from sparring.randomness import Stream, check_seed
from sparring.threat import ThreatModel


@torch.no_grad()
def transfer(
    adversaries: Mapping[str, AnyAdversary],
    defenders: Mapping[str, nn.Module],
    data: Data,
    eps: float,
    *,
    mode: Literal["evaluation", "training"] = "evaluation",
    batch_size: int | None = None,
    seed: int = 0,
) -> dict[tuple[str, str], Tensor]:
    """(attacker, defender) -> which examples are still right, (N,) bool, for every adversary and for noise of the same radius.

    The noise columns are "uniform noise" and "sign noise". What does not see the defender's gradient perturbs a batch once for
    all defenders. `mode` "training" is the *paper* protocol, for both networks, in batches of 128.
    """
    threat, seed = ThreatModel(eps, data.shape), check_seed(seed)
    if batch_size is not None:
        check_count("batch_size", batch_size)
    uniform, signs = Stream(seed, "eval.uniform"), Stream(seed, "eval.sign")
    attackers: dict[str, Attack] = {name: LearnedAttack(a, threat, mode) for name, a in adversaries.items()}
    attackers |= {"uniform noise": Noise(threat, "uniform", uniform), "sign noise": Noise(threat, "sign", signs)}
    n, device = len(data), data.images.device
    correct = {(a, d): torch.zeros(n, dtype=torch.bool, device=device) for a in attackers for d in defenders}
    order = torch.arange(n)
    if mode == "training":
        order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    with full_fp32(), ExitStack() as stack:
        for model in defenders.values():
            training = mode == "training"
            stack.enter_context(modes.training(model, keep_statistics=True) if training else modes.evaluation(model))
        for number, index in enumerate(order.to(device).split(batch_size or (128 if mode == "training" else 500))):
            uniform.seek(number)
            signs.seek(number)
            x, y = data.floats(index), data.labels[index]
            for name, attack in attackers.items():
                adaptive = isinstance(attack, LearnedAttack) and "gradient" in attack.adversary.sees
                x_adv = x if adaptive else attack(_NONE, x, y)
                for defender, model in defenders.items():
                    logits = model(attack(model, x, y) if adaptive else x_adv)
                    right = (logits.argmax(-1) == y) & torch.isfinite(logits).all(-1)
                    correct[name, defender][index] = right
    return correct


_NONE = nn.Identity()  # noise, and adversaries without its gradient, ask the model nothing
