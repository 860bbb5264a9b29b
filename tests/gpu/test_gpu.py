"""On a CUDA device: the same moves, attacks and evaluation as on the CPU. Skipped without one."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from sparring import PGD, Game, evaluate, fgsm, load, recipes
from sparring.adversaries import Adversary, stack_adversaries
from sparring.config import Optimizer, Run, Training
from sparring.data import load as load_data
from sparring.evaluation.accuracy import attacked
from sparring.experiment import move_of, new_adversary, new_defender, new_player
from sparring.game import Progress, against, alternating, duel, player, train
from sparring.game.captured import Captured
from sparring.models import mlp, stack
from sparring.randomness import Stream
from sparring.records import RunPaths
from sparring.session import train_run, train_runs
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


def stacked_course(device: str, recipe: str, *, capture: bool, precision: str = "fp32", n: int = 3) -> list[Tensor]:
    """The defenders' weights after two epochs of a stack of n seeds."""
    data = load_data("digits")[0].to(device)
    run = replace(small(recipe), precision=precision)
    runs = [replace(run, seed=seed) for seed in range(n)]
    defender = new_player(
        "defender",
        stack([new_defender(one, data.shape, 10) for one in runs]).to(device),
        run.defender.optimizer,
        maximize=False,
        n_copies=n,
    )
    players = [defender]
    if run.adversary is not None:
        network = stack_adversaries([new_adversary(one, data.shape) for one in runs]).to(device)
        players.insert(0, new_player("adversary", network, run.adversary.optimizer, maximize=True, n_copies=n))
    stream = Stream(list(range(n)), "attack")
    adversary = players[0] if len(players) > 1 else None
    move = move_of(run, defender, adversary, ThreatModel(0.1, data.shape), stream)
    settings = Training(max_epochs=2, batch_size=64)
    train(move, data, players, settings, seed=list(range(n)), streams=[stream], capture=capture)
    return [tensor.detach().cpu() for tensor in defender.network.state_dict().values()]


def small(recipe: str) -> Run:
    """A regime with small networks and a rate at which they do not run apart."""
    run, slow = recipes.recipe(recipe), Optimizer(lr=0.05, rate="every")
    adversary = replace(run.adversary, hidden=(32,), optimizer=slow) if run.adversary else None
    return replace(run, defender=replace(run.defender, hidden=(32,), optimizer=slow), adversary=adversary)


@pytest.mark.parametrize("recipe", ["vanilla", "noise", "fgsm", "pgd", "gan_tanh", "gan_scaled"])
def test_a_captured_stack_takes_the_course_of_an_eager_one(recipe: str) -> None:
    captured = stacked_course("cuda", recipe, capture=True)
    for one, other in zip(captured, stacked_course("cuda", recipe, capture=False), strict=True):
        torch.testing.assert_close(one, other, rtol=0.02, atol=0.02)


@pytest.mark.parametrize("recipe", ["vanilla", "gan_tanh"])
def test_a_stack_on_the_gpu_takes_the_course_it_takes_on_the_cpu(recipe: str) -> None:
    here = stacked_course("cpu", recipe, capture=True)
    for one, other in zip(stacked_course("cuda", recipe, capture=True), here, strict=True):
        torch.testing.assert_close(one, other, rtol=0.05, atol=0.05)


def test_each_seed_of_a_captured_stack_draws_noise_of_its_own() -> None:
    stream, x = Stream([3, 4], "attack"), torch.zeros(2, 5, device="cuda")
    step = Captured(lambda index: {"noise": stream.uniform(x)}, [stream])
    drawn = []
    for position in range(6):
        stream.seek(0, position)
        drawn.append(step(torch.zeros(1, device="cuda"))["noise"].clone())
    for position, noise in enumerate(drawn):
        for s, seed in enumerate((3, 4)):
            alone = Stream(seed, "attack")
            alone.seek(0, position)
            assert torch.equal(noise[s], alone.uniform(x[s])), position


@pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype")
def test_a_captured_epoch_never_waits_for_the_device() -> None:
    data = load_data("digits")[0].to("cuda")
    n, seen = 4, []
    runs = [replace(small("gan_tanh"), seed=seed) for seed in range(n)]
    slow = runs[0].defender.optimizer
    defender = new_player(
        "defender", stack([new_defender(r, data.shape, 10) for r in runs]).cuda(), slow, maximize=False, n_copies=n
    )
    network = stack_adversaries([new_adversary(r, data.shape) for r in runs]).cuda()
    adversary = new_player("adversary", network, slow, maximize=True, n_copies=n)
    move = move_of(runs[0], defender, adversary, ThreatModel(0.1, data.shape), Stream(list(range(n)), "attack"))

    def on_step(progress: Progress) -> None:
        seen.append(progress.step)
        last = len(data) // 64
        torch.cuda.set_sync_debug_mode("error" if 5 <= progress.step < last else "default")

    train(
        move,
        data,
        [adversary, defender],
        Training(max_epochs=1, batch_size=64),
        seed=range(n),
        capture=True,
        on_step=on_step,
    )
    assert max(seen) == len(data) // 64 > 6


def test_a_hundred_seeds_train_as_one_stack_and_load_as_plain_models(tmp_path: Path) -> None:
    run = small("fgsm")
    runs = [replace(run, seed=seed, training=replace(run.training, max_epochs=1)) for seed in range(100)]
    records = train_runs(runs, [RunPaths(tmp_path / str(i)) for i in range(100)], load_data("digits")[0], device="cuda")
    assert {record.status for record in records} == {"done"}
    assert evaluate(load(tmp_path / "99").defender, load_data("digits")[1], eps=[0.0]).accuracy("clean", 0.0) > 0.3


def test_a_diverged_copy_on_the_gpu_is_found_at_the_epochs_end_and_touches_no_other() -> None:
    data = load_data("digits")[0].to("cuda")
    networks = [new_defender(replace(small("vanilla"), seed=seed), data.shape, 10) for seed in range(3)]
    with torch.no_grad():
        networks[1].linears[0].weight.fill_(torch.nan)  # type: ignore[operator, union-attr]
    slow = small("vanilla").defender.optimizer
    defender = new_player("defender", stack(networks).cuda(), slow, maximize=False, n_copies=3)
    found: list[list[bool]] = []
    train(
        move_of(small("vanilla"), defender, None, ThreatModel(0.1, data.shape), Stream([0, 1, 2], "attack")),
        data,
        [defender],
        Training(max_epochs=2),
        seed=[0, 1, 2],
        capture=True,
        after_epoch=lambda progress: found.append([copy.diverged for copy in progress.copies]),
    )
    assert found == [[False, True, False], [False, False]]
    assert all(torch.isfinite(p).all() for p in defender.network.parameters())
