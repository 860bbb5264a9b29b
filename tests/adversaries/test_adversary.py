"""What an adversary sees: the input, the label, the defender's gradient."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sparring.adversaries import Adversary, n_features
from sparring.attacks import LearnedAttack, fgsm
from sparring.attacks.learned import input_gradient, perturb, shown_to
from sparring.game import player
from sparring.game.moves import best_response
from sparring.losses import cross_entropy
from sparring.models import mlp
from sparring.threat import ThreatModel

SHAPE, C = (1, 3, 4), 5
THREAT = ThreatModel(0.1, SHAPE)
WAYS: list[tuple[Any, ...]] = [("x",), ("x", "label"), ("x", "gradient"), ("x", "label", "gradient")]


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def adversary_of(sees: Any) -> Adversary:
    network = mlp((n_features(sees, SHAPE, C),), [8, 12], generator=seeded(1))
    if sees == ("x",):
        network = mlp(SHAPE, [8, 12], generator=seeded(1))
    return Adversary(network, shape=SHAPE, sees=sees, n_classes=C).eval()


@pytest.fixture
def batch() -> tuple[nn.Module, Tensor, Tensor]:
    x = torch.rand(20, *SHAPE, generator=seeded(2))
    return mlp(SHAPE, [16, C], generator=seeded(3)).eval(), x, torch.randint(C, (20,), generator=seeded(4))


@pytest.mark.parametrize("sees", WAYS)
def test_the_answer_depends_on_what_is_seen_and_on_nothing_else(
    sees: Any, batch: tuple[nn.Module, Tensor, Tensor]
) -> None:
    model, x, y = batch
    other = mlp(SHAPE, [16, C], generator=seeded(9)).eval()
    attack = LearnedAttack(adversary_of(sees), THREAT)
    found = attack(model, x, y)
    assert float((found - x).detach().abs().max()) <= 0.1 + 1e-6 and found.shape == x.shape
    assert torch.equal(attack(model, x, y), found)
    assert torch.equal(attack(other, x, y), found) == ("gradient" not in sees)
    assert torch.equal(attack(model, x, (y + 1) % C), found) == (sees == ("x",))
    assert ("sees" in repr(attack)) == (sees != ("x",))


@pytest.mark.parametrize("sees", WAYS)
def test_every_leading_axis_is_batch(sees: Any, batch: tuple[nn.Module, Tensor, Tensor]) -> None:
    _, x, y = batch
    network = mlp(SHAPE if sees == ("x",) else (n_features(sees, SHAPE, C),), [12], generator=seeded(1))
    adversary = Adversary(network, shape=SHAPE, sees=sees, n_classes=C)
    gradient = torch.randn(20, *SHAPE, generator=seeded(5)).sign()
    flat = adversary(x, y, gradient)
    split = adversary(x.view(4, 5, *SHAPE), y.view(4, 5), gradient.view(4, 5, *SHAPE))
    assert torch.allclose(split.reshape(flat.shape), flat, atol=1e-6)


def test_channels_hold_the_input_one_plane_a_class_and_the_gradient() -> None:
    seen: list[Tensor] = []

    class Network(nn.Module):
        def forward(self, h: Tensor) -> Tensor:
            seen.append(h)
            return h[..., :1, :, :] * 0

    adversary = Adversary(Network(), shape=SHAPE, sees=("x", "label", "gradient"), n_classes=C, layout="channels")
    x, gradient = torch.rand(2, *SHAPE, generator=seeded(0)), torch.ones(2, *SHAPE)
    out = adversary(x, torch.tensor([0, 4]), gradient)
    assert seen[0].shape == (2, 1 + C + 1, 3, 4) and torch.equal(seen[0][:, :1], x)
    assert seen[0][:, 1:-1].sum((-1, -2)).tolist() == [[12, 0, 0, 0, 0], [0, 0, 0, 0, 12]]
    assert torch.allclose(out, torch.tanh(torch.ones(())).expand_as(out))


def test_what_sees_the_gradient_starts_as_strong_as_fgsm_with_the_margin_loss(
    batch: tuple[nn.Module, Tensor, Tensor],
) -> None:
    model, x, y = batch
    adversary = adversary_of(("x", "gradient"))
    with torch.no_grad():
        adversary.gain.fill_(1e6)
    found = LearnedAttack(adversary, THREAT)(model, x, y)
    assert torch.allclose(found, fgsm(THREAT, loss="margin")(model, x, y), atol=1e-6)


def test_a_gradient_that_is_not_there_is_zero_and_one_that_is_not_finite_too(
    batch: tuple[nn.Module, Tensor, Tensor],
) -> None:
    model, x, y = batch

    class Through(nn.Module):
        def __init__(self, change: Any) -> None:
            super().__init__()
            self.inner, self.change = model, change

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.inner(self.change(x))
            return out

    assert not input_gradient(Through(lambda x: x.detach()), x, y).any()
    assert not input_gradient(Through(lambda x: (x * 0).sqrt()), x, y).any()
    shown = input_gradient(model, x, y)
    assert (
        torch.equal(shown.sign(), input_gradient(Through(lambda x: x.clone()), x, y).sign()) and shown.abs().max() <= 4
    )
    assert torch.allclose(input_gradient(Through(lambda x: x / 2), x * 2, y), shown, atol=1e-4)  # whatever its scale


def test_asking_for_the_gradient_leaves_the_model_as_it_was(batch: tuple[nn.Module, Tensor, Tensor]) -> None:
    model, x, y = batch
    model.train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with torch.no_grad():
        LearnedAttack(adversary_of(("x", "gradient")), THREAT)(model, x, y)
    assert all(m.training for m in model.modules()) and not x.requires_grad
    assert all(p.requires_grad and p.grad is None for p in model.parameters())
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


@pytest.mark.parametrize("sees", WAYS)
def test_a_best_response_of_every_kind_gains(sees: Any, batch: tuple[nn.Module, Tensor, Tensor]) -> None:
    model, x, y = batch
    adversary = adversary_of(sees)
    learner = player("adversary", adversary, maximize=True, lr=0.1)
    move = best_response(learner, model, ThreatModel(0.3, SHAPE))
    losses = [float(move(x, y)["adversary_loss"]) for _ in range(30)]
    assert losses[-1] > losses[0]
    assert all(p.requires_grad for p in model.parameters())


def test_an_adversary_that_sees_the_input_only_is_shown_nothing_else(
    batch: tuple[nn.Module, Tensor, Tensor],
) -> None:
    model, x, y = batch
    network = mlp(SHAPE, [8, 12], generator=seeded(1)).eval()
    plain = Adversary(network)
    assert shown_to(plain, model, x, y) == {} and not hasattr(plain, "gain")
    torch.testing.assert_close(perturb(plain, THREAT, x), (x + 0.1 * torch.tanh(network(x)).view(x.shape)).clamp(0, 1))
    assert "sees" not in repr(plain) and list(plain.state_dict()) == [f"network.{k}" for k in network.state_dict()]
    assert cross_entropy(model(x), y).shape == y.shape


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sees": ("label", "x")}, "sees must be x, then label and gradient"),
        ({"sees": ("label",)}, "sees must be x"),
        ({"sees": ("x", "logits")}, "sees must be x"),
        ({"sees": ("x", "label"), "shape": SHAPE}, "n_classes"),
        ({"sees": ("x", "gradient")}, "needs shape"),
    ],
)
def test_what_no_adversary_can_see_is_refused(settings: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Adversary(mlp((4,), [4]), **settings)


def test_an_adversary_that_is_shown_too_little_says_what_it_misses() -> None:
    x = torch.zeros(2, *SHAPE)
    with pytest.raises(ValueError, match="call it with y"):
        adversary_of(("x", "label"))(x)
    with pytest.raises(ValueError, match="through LearnedAttack"):
        adversary_of(("x", "gradient"))(x)
