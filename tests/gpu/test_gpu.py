"""On a CUDA device: the same moves, attacks and evaluation as on the CPU. Skipped without one."""

from pathlib import Path

import pytest
import torch

from sparring import PGD, Game, evaluate, fgsm, load, recipes
from sparring.adversaries import Adversary
from sparring.config import Training
from sparring.data import load as load_data
from sparring.evaluation.accuracy import attacked
from sparring.game import against, alternating, duel, player, train
from sparring.models import mlp
from sparring.records import RunPaths
from sparring.session import train_run
from sparring.threat import ThreatModel

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


def defender_after(device: str, kind: str, epochs: int = 2) -> torch.nn.Module:
    data = load_data("digits")[0].to(device)
    threat = ThreatModel(0.1, data.shape)
    model = mlp(data.shape, [32, 10]).to(device)
    defender = player("defender", model, maximize=False, lr=0.1)
    if kind == "fgsm":
        players, move = [defender], against(defender, fgsm(threat))
    else:
        network = Adversary(mlp(data.shape, [32, 64])).to(device)
        adversary = player("adversary", network, maximize=True, lr=0.1)
        players, move = [adversary, defender], duel(defender, adversary, threat, alternating())
    train(move, data, players, Training(max_epochs=epochs), seed=0)
    return model.eval()


@pytest.mark.parametrize("kind", ["fgsm", "game"])
def test_training_on_the_gpu_takes_the_course_it_takes_on_the_cpu(kind: str) -> None:
    here, there = defender_after("cpu", kind), defender_after("cuda", kind)
    x = load_data("digits")[1].floats()
    with torch.no_grad():
        torch.testing.assert_close(there(x.cuda()).cpu(), here(x), rtol=0.05, atol=0.05)


def test_an_attack_on_the_gpu_breaks_what_it_breaks_on_the_cpu() -> None:
    model, test = defender_after("cpu", "fgsm"), load_data("digits")[1]
    threat = ThreatModel(0.1, test.shape)
    attack = PGD(threat, steps=20, random_start=False)
    here = attacked(model, test, attack, threat).accuracy
    there = attacked(model.cuda(), test.to("cuda"), attack, threat).accuracy
    assert abs(here - there) <= 2 / len(test)


def test_a_game_is_trained_and_evaluated_where_its_defender_lies() -> None:
    train_on, test = load_data("digits")
    game = Game(mlp(train_on.shape, [32, 10]).cuda(), eps=0.1).fit(train_on, epochs=2)
    found = evaluate(game.defender, test, eps=[0.1], attacks={"own": game.attack})
    assert found.accuracy("clean", 0.0) > 0.5


@pytest.mark.parametrize("recipe", ["noise", "pgd", "gan_scaled"])
def test_a_run_on_the_gpu_loads_on_the_cpu(recipe: str, tmp_path: Path) -> None:
    run = recipes.recipe(recipe)
    train_run(run, RunPaths(tmp_path / "run"), load_data("digits")[0], device="cuda")
    assert next(load(tmp_path / "run").defender.parameters()).device.type == "cpu"
