"""Foolbox's and ART's answers on a small model of fixed weights, stored in reference.json: `python tests/attacks/reference.py`.

Needs the [peers] extra. The weights follow a formula, so that they are the same wherever the values are made or read.
"""

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

SHAPE, EPS, STEP, STEPS = (1, 4, 4), 0.1, 0.02, 20
FILE = Path(__file__).with_name("reference.json")


def fixed_model() -> nn.Module:
    """Two linear layers, 16-12-4, with weights from a sine."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 12), nn.LeakyReLU(0.01), nn.Linear(12, 4))
    with torch.no_grad():
        for number, parameter in enumerate(model.parameters(), start=1):
            wave = torch.arange(parameter.numel(), dtype=torch.float64) * (0.7 + 0.1 * number)
            parameter.copy_(0.5 * torch.sin(wave).view(parameter.shape))
    return model.eval()


def fixed_batch() -> tuple[Tensor, Tensor]:
    """Six images, some of their pixels at the ends of the range, and their labels."""
    wave = torch.arange(6 * 16, dtype=torch.float64) * 1.3
    x = (0.5 + 0.6 * torch.cos(wave)).clamp(0, 1).float().view(6, *SHAPE)
    return x, torch.tensor([0, 1, 2, 3, 0, 1])


def main() -> None:
    """Ask both toolkits and write what they answer."""
    import foolbox
    from art.attacks.evasion import FastGradientMethod, ProjectedGradientDescentPyTorch
    from art.estimators.classification import PyTorchClassifier

    model, (x, y) = fixed_model(), fixed_batch()
    fooled: Any = foolbox.PyTorchModel(model, bounds=(0, 1))
    art = PyTorchClassifier(
        model, loss=nn.CrossEntropyLoss(), input_shape=SHAPE, nb_classes=4, clip_values=(0.0, 1.0), device_type="cpu"
    )
    pgd = foolbox.attacks.LinfPGD(abs_stepsize=STEP, steps=STEPS, random_start=False)
    arts = ProjectedGradientDescentPyTorch(
        art, eps=EPS, eps_step=STEP, max_iter=STEPS, num_random_init=0, verbose=False
    )
    answers = {
        "foolbox fgsm": foolbox.attacks.FGSM(random_start=False).run(fooled, x, y, epsilon=EPS),
        "foolbox pgd": pgd.run(fooled, x, y, epsilon=EPS),
        "art fgsm": torch.from_numpy(FastGradientMethod(art, eps=EPS).generate(x.numpy(), y=y.numpy())),
        "art pgd": torch.from_numpy(arts.generate(x.numpy(), y=y.numpy())),
    }
    values = {name: [round(float(v), 7) for v in answer.flatten()] for name, answer in answers.items()}
    FILE.write_text(json.dumps(values, indent=0) + "\n")


if __name__ == "__main__":
    main()
