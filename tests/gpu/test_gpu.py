"""On a CUDA device: the same moves, attacks and evaluation as on the CPU. Skipped without one."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from sparring import PGD, Game, evaluate, fgsm, load, recipes
from sparring.adversaries import Adversary, stack_any
from sparring.config import Adversary as AdversaryConfig
from sparring.config import Optimizer, Run, Training
from sparring.data import load as load_data
from sparring.evaluation import best_responses
from sparring.evaluation.accuracy import attacked
from sparring.experiment import Streams, move_of, new_adversary, new_defender, new_player
from sparring.game import Progress, against, alternating, duel, player, train
from sparring.game.captured import Captured
from sparring.game.unrolled import learns_at
from sparring.game.warm import WarmStart
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


def stacked_course(
    device: str, recipe: str, *, capture: bool, epochs: int = 2, batch_size: int = 64, **options: Any
) -> list[Tensor]:
    """The defenders' weights after some epochs of a stack of three seeds."""
    n = 3
    data = load_data("digits")[0].to(device)
    run = small(recipe)
    runs = [replace(run, seed=seed) for seed in range(n)]
    defender = new_player(
        "defender",
        stack([new_defender(one, data.shape, 10) for one in runs]).to(device),
        run.defender.optimizer,
        maximize=False,
        n_copies=n,
    )
    players, seeds, warm, course = [defender], list(range(n)), list[WarmStart](), partial(learns_at, every=0)
    if run.learner is not None:
        network = stack_any([new_adversary(one, data.shape) for one in runs]).to(device)
        players.insert(0, new_player("adversary", network, run.learner.optimizer, maximize=True, n_copies=n))
    if run.recurrent is not None:
        warm, course = [WarmStart(len(data), data.shape, seeds, device)], partial(learns_at, every=run.recurrent.every)
    streams = Streams.of(seeds)
    adversary = players[0] if len(players) > 1 else None
    move = move_of(run, defender, adversary, ThreatModel(run.eps, data.shape), streams, *warm)
    options |= {"streams": [*streams], "warm": warm, "capture": capture, "course": course}
    train(move, data, players, Training(max_epochs=epochs, batch_size=batch_size), seed=seeds, **options)
    return [tensor.detach().cpu() for tensor in defender.network.state_dict().values()]


def small(recipe: str) -> Run:
    """A regime with small networks and a rate at which they do not run apart."""
    run, slow = recipes.recipe(recipe), Optimizer(lr=0.05, rate="every")
    adversary = replace(run.adversary, hidden=(32,), optimizer=slow) if run.adversary else None
    recurrent = replace(run.recurrent, every=4) if run.recurrent else None  # both its courses are captured in an epoch
    small_one = replace(run.defender, hidden=(32,), optimizer=slow)
    return replace(run, defender=small_one, adversary=adversary, recurrent=recurrent)


COURSES = (
    "vanilla",
    "noise",
    "fgsm",
    "pgd",
    "gan_tanh",
    "gan_scaled",
    "pgd_drawn",
    "gan_recurrent",
    "gan_recurrent_tenth",
)


@pytest.mark.parametrize("recipe", COURSES)
def test_a_captured_stack_takes_the_course_of_an_eager_one(recipe: str) -> None:
    captured = stacked_course("cuda", recipe, capture=True)
    for one, other in zip(captured, stacked_course("cuda", recipe, capture=False), strict=True):
        torch.testing.assert_close(one, other, rtol=0.02, atol=0.02)


@pytest.mark.parametrize("recipe", ["vanilla", "gan_tanh", "gan_recurrent"])
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
@pytest.mark.parametrize("recipe", ["gan_tanh", "gan_recurrent"])
def test_a_captured_epoch_never_waits_for_the_device(recipe: str) -> None:
    seen: list[int] = []
    last = len(load_data("digits")[0]) // 32

    def on_step(progress: Progress) -> None:
        seen.append(progress.step)
        torch.cuda.set_sync_debug_mode("error" if 20 <= progress.step < last else "default")

    stacked_course("cuda", recipe, capture=True, epochs=1, batch_size=32, on_step=on_step)
    assert max(seen) == last > 25


@pytest.mark.parametrize("kind", ["x", "xg"])
def test_fresh_adversaries_are_captured_and_take_the_course_they_take_on_the_cpu(kind: str) -> None:
    model, (train_on, test) = defender_after("cpu", "fgsm"), load_data("digits")
    settings = AdversaryConfig(hidden=(32,), loss="margin", optimizer=Optimizer(lr=0.05))
    options = {"kinds": [kind], "seeds": (0, 1), "epochs": 1, "settings": settings, "precision": "fp32"}
    here = best_responses(model, train_on, test, 0.2, **options)
    there = best_responses(model.cuda(), train_on.to("cuda"), test.to("cuda"), 0.2, **options)
    for one, other in zip(here.responses, there.responses, strict=True):
        assert abs(one.outcome.accuracy - other.outcome.accuracy) <= 0.02


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
        move_of(small("vanilla"), defender, None, ThreatModel(0.1, data.shape), Streams.of([0, 1, 2])),
        data,
        [defender],
        Training(max_epochs=2),
        seed=[0, 1, 2],
        capture=True,
        after_epoch=lambda progress: found.append([copy.diverged for copy in progress.copies]),
    )
    assert found == [[False, True, False], [False, False]]
    assert all(torch.isfinite(p).all() for p in defender.network.parameters())
