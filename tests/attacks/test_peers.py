"""The same attack in other toolkits gives the same images: run with `-m peers` where they are installed."""

from typing import Any

import pytest
import torch
from torch import nn

from sparring.attacks import PGD, fgsm
from sparring.models import mlp
from sparring.threat import ThreatModel

pytestmark = [pytest.mark.peers, pytest.mark.filterwarnings("default")]

SHAPE = (1, 8, 8)
EPS, STEP, STEPS = 0.1, 0.02, 20


@pytest.fixture
def model() -> nn.Module:
    generator = torch.Generator().manual_seed(0)
    model = mlp(SHAPE, [64, 32, 10], generator=generator).train()
    for _ in range(20):
        model(torch.rand(64, *SHAPE, generator=generator))
    return model.eval()


@pytest.fixture
def batch(generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.rand(50, *SHAPE, generator=generator), torch.arange(50) % 10


def test_fgsm_is_foolboxs_exactly(model: nn.Module, batch: tuple[torch.Tensor, torch.Tensor]) -> None:
    foolbox: Any = pytest.importorskip("foolbox", exc_type=ImportError)
    x, y = batch
    theirs = foolbox.attacks.FGSM(random_start=False).run(foolbox.PyTorchModel(model, bounds=(0, 1)), x, y, epsilon=EPS)
    assert torch.equal(fgsm(ThreatModel(EPS, SHAPE))(model, x, y), theirs)


def test_pgd_is_foolboxs(model: nn.Module, batch: tuple[torch.Tensor, torch.Tensor]) -> None:
    foolbox: Any = pytest.importorskip("foolbox", exc_type=ImportError)
    x, y = batch
    attack = foolbox.attacks.LinfPGD(abs_stepsize=STEP, steps=STEPS, random_start=False)
    theirs = attack.run(foolbox.PyTorchModel(model, bounds=(0, 1)), x, y, epsilon=EPS)
    ours = PGD(ThreatModel(EPS, SHAPE), steps=STEPS, step_size=STEP, random_start=False, keep="last")
    assert torch.allclose(ours(model, x, y), theirs, atol=1e-5)


@pytest.fixture
def art_model(model: nn.Module) -> Any:
    estimators: Any = pytest.importorskip("art.estimators.classification", exc_type=ImportError)
    return estimators.PyTorchClassifier(
        model, loss=nn.CrossEntropyLoss(), input_shape=SHAPE, nb_classes=10, clip_values=(0.0, 1.0), device_type="cpu"
    )


def test_fgsm_is_arts_exactly(model: nn.Module, art_model: Any, batch: tuple[torch.Tensor, torch.Tensor]) -> None:
    evasion: Any = pytest.importorskip("art.attacks.evasion", exc_type=ImportError)
    x, y = batch
    theirs = torch.from_numpy(evasion.FastGradientMethod(art_model, eps=EPS).generate(x.numpy(), y=y.numpy()))
    assert torch.equal(fgsm(ThreatModel(EPS, SHAPE))(model, x, y), theirs)


def test_pgd_is_arts(model: nn.Module, art_model: Any, batch: tuple[torch.Tensor, torch.Tensor]) -> None:
    evasion: Any = pytest.importorskip("art.attacks.evasion", exc_type=ImportError)
    x, y = batch
    attack = evasion.ProjectedGradientDescentPyTorch(
        art_model, eps=EPS, eps_step=STEP, max_iter=STEPS, num_random_init=0, verbose=False
    )
    theirs = torch.from_numpy(attack.generate(x.numpy(), y=y.numpy()))
    ours = PGD(ThreatModel(EPS, SHAPE), steps=STEPS, step_size=STEP, random_start=False, keep="last")
    assert torch.allclose(ours(model, x, y), theirs, atol=1e-5)
