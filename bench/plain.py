"""What users would otherwise run, one seed at a time: plain PyTorch loops, and the training of two attack libraries.

`epoch_of(name, data)` gives a function that trains one epoch; its networks and optimizer are the paper's, as ours are.
"""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from sparring.data import Data

BATCH, HALF, EPS = 128, 64, 0.1
DEFENDER, ADVERSARY = (784, 128, 64, 10), (784, 512, 512, 784)
SGD: dict[str, Any] = {"lr": 0.1, "momentum": 0.9, "weight_decay": 4e-4}
Epoch = Callable[[], None]


def network(sizes: tuple[int, ...]) -> nn.Sequential:
    """A network as a user would write it."""
    layers: list[nn.Module] = [nn.Flatten()]
    for i, (n_in, n_out) in enumerate(pairwise(sizes)):
        layers.append(nn.Linear(n_in, n_out))
        if i < len(sizes) - 2:
            layers += [nn.BatchNorm1d(n_out), nn.LeakyReLU(0.01)]
    return nn.Sequential(*layers)


def loader(data: Data) -> "DataLoader[tuple[Tensor, ...]]":
    """The quick way to read: tensors that are floats already."""
    return DataLoader(TensorDataset(data.floats(), data.labels), BATCH, shuffle=True, drop_last=True)


def training_on(data: Data, perturbed: Callable[[nn.Module, Tensor, Tensor], Tensor]) -> Epoch:
    """One seed's defender trained on batches as `perturbed` gives them."""
    model, batches = network(DEFENDER), loader(data)
    optimizer = torch.optim.SGD(model.parameters(), **SGD)

    def epoch() -> None:
        for x, y in batches:
            x = perturbed(model, x, y)
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()
            loss.item()

    return epoch


def vanilla(data: Data) -> Epoch:
    return training_on(data, lambda model, x, y: x)


def noise(data: Data) -> Epoch:
    return training_on(data, lambda model, x, y: (x + EPS * torch.empty_like(x).uniform_(-1, 1)).clamp(0, 1))


def fgsm(data: Data) -> Epoch:
    """Half of each batch perturbed, as tutorials write it: loss.backward() for the input gradient too."""

    def perturbed(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        x_game = x[HALF:].clone().requires_grad_()
        model.eval()
        F.cross_entropy(model(x_game), y[HALF:]).backward()
        model.train()
        assert x_game.grad is not None
        return torch.cat((x[:HALF], (x_game + EPS * x_game.grad.sign()).clamp(0, 1).detach()))

    return training_on(data, perturbed)


def game(data: Data) -> Epoch:
    """The tanh game as two GAN-style optimizer steps a batch."""
    defender, adversary, batches = network(DEFENDER), network(ADVERSARY), loader(data)
    defends = torch.optim.SGD(defender.parameters(), **SGD)
    attacks = torch.optim.SGD(adversary.parameters(), maximize=True, **SGD)

    def perturbed(x: Tensor) -> Tensor:
        return (x + EPS * torch.tanh(adversary(x)).view_as(x)).clamp(0, 1)

    def epoch() -> None:
        for x, y in batches:
            defender.eval(), adversary.train()
            attacks.zero_grad()
            F.cross_entropy(defender(perturbed(x[HALF:])), y[HALF:]).backward()
            attacks.step()
            defender.train(), adversary.eval()
            defends.zero_grad()
            with torch.no_grad():
                x_adv = perturbed(x[HALF:])
            loss = F.cross_entropy(defender(torch.cat((x[:HALF], x_adv))), y)
            loss.backward()
            defends.step()
            loss.item()

    return epoch


def torchattacks(data: Data) -> Epoch:
    """The FGSM loop with the attack of torchattacks on half of each batch."""
    from torchattacks import FGSM

    def perturbed(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        return torch.cat((x[:HALF], FGSM(model, eps=EPS)(x[HALF:], y[HALF:])))

    return training_on(data, perturbed)


def art(data: Data) -> Epoch:
    """ART's AdversarialTrainer with its FastGradientMethod, half of each batch."""
    from art.attacks.evasion import FastGradientMethod
    from art.defences.trainer import AdversarialTrainer
    from art.estimators.classification import PyTorchClassifier

    model = network(DEFENDER)
    classifier = PyTorchClassifier(
        model,
        loss=nn.CrossEntropyLoss(),
        input_shape=data.shape,
        nb_classes=data.n_classes,
        optimizer=torch.optim.SGD(model.parameters(), **SGD),
        clip_values=(0.0, 1.0),
        device_type="cpu",
    )
    trainer = AdversarialTrainer(classifier, FastGradientMethod(classifier, eps=EPS, batch_size=BATCH), ratio=0.5)
    x, y = data.floats().numpy(), F.one_hot(data.labels, data.n_classes).numpy()
    return lambda: trainer.fit(x, y, batch_size=BATCH, nb_epochs=1)


LOOPS: dict[str, Callable[[Data], Epoch]] = {
    "vanilla": vanilla,
    "noise": noise,
    "fgsm": fgsm,
    "game": game,
    "torchattacks": torchattacks,
    "art": art,
}


def epoch_of(name: str, data: Data) -> Epoch:
    """One epoch of this loop, for one seed."""
    return LOOPS[name](data)
