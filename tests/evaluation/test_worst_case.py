"""The worst case over a suite and a grid of eps: what it says, what it refuses, and that being killed changes nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sparring.attacks import PGD, Attack, Noise, fgsm
from sparring.data.batches import Data
from sparring.data.synthetic import linear_problem
from sparring.errors import Busy, InputError, Interrupted
from sparring.evaluation import WorstCases, attacked, clean, named, worst_case
from sparring.evaluation.pieces import fingerprint, streams
from sparring.models import mlp
from sparring.randomness import Stream
from sparring.threat import ThreatModel

SHAPE, C, N = (1, 4, 4), 3, 90
GRID = (0.05, 0.1, 0.5, 1.0)


def suite(threat: ThreatModel) -> Sequence[tuple[str, Attack]]:
    start = Stream(3, "pgd")
    return [
        ("noise", Noise(threat, "sign", Stream(3, "noise"))),
        ("fgsm", fgsm(threat)),
        ("pgd", PGD(threat, steps=5, stream=start)),
    ]


def problem() -> tuple[nn.Module, Data]:
    model = mlp(SHAPE, [16, C], generator=torch.Generator().manual_seed(1)).train()
    model(torch.rand(100, *SHAPE, generator=torch.Generator().manual_seed(2)))
    model.eval()
    x = torch.rand(N, *SHAPE, generator=torch.Generator().manual_seed(3))
    y = model(x).argmax(-1)
    y[::10] = (y[::10] + 1) % C
    return model, Data(x, y, C, "random")


def same(a: WorstCases, b: WorstCases) -> bool:
    """Equal but for the seconds."""
    tensors = all(torch.equal(getattr(a, n), getattr(b, n)) for n in ("robust", "broken_by", "invalid", "x_adv"))
    stages = [[{**vars(s), "seconds": 0} for s in w.stages] for w in (a, b)]
    return tensors and (a.eps, a.names) == (b.eps, b.names) and stages[0] == stages[1]


@pytest.fixture
def setting() -> tuple[nn.Module, Data]:
    return problem()


def test_on_a_linear_classifier_it_is_exact() -> None:
    known = linear_problem(200, 6, seed=0)
    model = nn.Linear(6, 2).double().requires_grad_(False)
    model.weight.copy_(known.weight)
    model.bias.copy_(known.bias)

    class Single(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = model(x.double())
            return out

    grid = [0.02 * k for k in range(1, 21)]
    found = worst_case(Single(), known.data, grid, lambda threat: [("fgsm", fgsm(threat))], candidates=False)
    for eps in grid:
        assert found.accuracy(eps) == known.robust_accuracy(eps)


def test_what_is_returned_breaks_the_model_from_inside_the_ball_and_nothing_else_does(
    setting: tuple[nn.Module, Data],
) -> None:
    model, data = setting
    found = worst_case(model, data, GRID, suite, batch_size=40)
    assert found.eps == GRID and found.names == ("noise", "fgsm", "pgd", "clean", "grey image", "swap image")
    assert found.accuracy(0) == clean(model, data).accuracy == 0.9
    for e, eps in enumerate(GRID):
        x_adv = found.x_adv[e]
        assert float((x_adv.double() - data.images.double()).abs().max()) <= eps + 1e-6
        assert float(x_adv.min()) >= 0 and float(x_adv.max()) <= 1
        with torch.no_grad():
            assert torch.equal(model(x_adv).argmax(-1) == data.labels, found.robust[e])
        assert torch.equal(found.broken_by[e] == -1, found.robust[e])
        assert torch.equal(x_adv[found.robust[e]], data.images[found.robust[e]])
        assert torch.equal(x_adv[::10], data.images[::10]) and (found.broken_by[e][::10] == 3).all()
        interval = found.interval(eps)
        assert interval.low <= found.accuracy(eps) <= interval.high
    assert not found.invalid.any()
    assert found.accuracy(1.0) == 0
    for smaller, larger in zip(found.robust, found.robust[1:], strict=False):
        assert not bool((larger & ~smaller).any())


def test_it_is_at_most_what_each_attack_leaves_alone_and_costs_less(setting: tuple[nn.Module, Data]) -> None:
    model, data = setting
    found = worst_case(model, data, [0.1], suite, candidates=False)
    threat = ThreatModel(0.1, SHAPE)
    assert found.accuracy(0.1) <= attacked(model, data, fgsm(threat), threat).accuracy
    by_name = {s.attack: s for s in found.stages}
    assert [s.attacked for s in found.stages][:2] == [N, 81]
    assert by_name["fgsm"].attacked == by_name["noise"].attacked - by_name["noise"].broken
    assert by_name["clean"].forwards == N and by_name["clean"].backwards == 0
    assert (by_name["fgsm"].forwards, by_name["fgsm"].backwards) == tuple(k * by_name["fgsm"].attacked for k in (2, 1))
    assert int(found.robust.sum()) == N - sum(s.broken for s in found.stages)
    assert by_name["fgsm"].attack_repr == repr(fgsm(threat)) and by_name["fgsm"].max_distance <= 0.1 + 1e-6


def test_what_a_smaller_eps_broke_is_not_attacked_again(setting: tuple[nn.Module, Data]) -> None:
    model, data = setting
    found = worst_case(model, data, [0.2, 0.1], lambda threat: [("fgsm", fgsm(threat))], candidates=False)
    _, first, second = found.stages
    assert (first.eps, second.eps) == (0.1, 0.2) and second.attacked == first.attacked - first.broken


def test_an_adversarial_example_counts_from_its_own_distance_on(setting: tuple[nn.Module, Data]) -> None:
    model, data = setting

    def lazy(threat: ThreatModel) -> list[tuple[str, Attack]]:
        """Does nothing but at the largest eps, where it goes exactly 0.15 far."""
        near = fgsm(ThreatModel(0.15, SHAPE))
        return [("lazy", near if threat.eps == 0.4 else lambda model, x, y: x)]

    found = worst_case(model, data, [0.1, 0.2, 0.4], lazy, candidates=False)
    assert found.accuracy(0.2) == found.accuracy(0.4) < found.accuracy(0.1) == 0.9
    assert torch.equal(found.x_adv[1], found.x_adv[2]) and torch.equal(found.x_adv[0], data.images)


def test_the_grey_image_joins_at_its_distance_and_another_image_at_one() -> None:
    bright = torch.tensor([[0.0], [0.05], [0.9], [1.0]])
    data = Data(bright, torch.tensor([0, 0, 1, 1]), 2, "brightness")

    class Bright(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.cat((0.7 - x, x - 0.7), -1)

    nothing: Callable[[ThreatModel], list[tuple[str, Attack]]] = lambda threat: [("nothing", lambda m, x, y: x)]  # noqa: E731
    found = worst_case(Bright(), data, [0.3, 0.4, 0.5, 0.86, 1.0], nothing)
    left = [[i for i in range(4) if r[i]] for r in found.robust]
    # grey (class 0) reaches 0.9 at 0.4 and 1.0 at 0.5; the swap image of class 0 is 0.9, that of class 1 is 0.0
    assert left == [[0, 1, 2, 3], [0, 1, 3], [0, 1], [0], []]
    assert [found.names[k] for k in found.broken_by[-1]] == ["swap image", "swap image", "grey image", "grey image"]
    alone = worst_case(Bright(), data, [0.5, 1.0], nothing, candidates=False)
    assert alone.accuracy(1.0) == 1


def test_a_constant_classifier_keeps_its_class_at_every_eps() -> None:
    data = Data(torch.rand(20, 4, generator=torch.Generator().manual_seed(0)), torch.arange(20) % 2, 2, "two")

    class Constant(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.stack((x.sum(-1) * 0 + 1, x.sum(-1) * 0), -1)

    found = worst_case(Constant(), data, [0.5, 1.0], lambda threat: [("fgsm", fgsm(threat))])
    assert found.accuracy(0) == found.accuracy(0.5) == found.accuracy(1.0) == 0.5


def test_a_non_finite_logit_is_flagged_and_never_robust() -> None:
    data = Data(torch.tensor([[0.1], [0.2], [0.5], [0.9]]), torch.tensor([0, 0, 0, 0]), 2, "zeros")

    class Fragile(nn.Module):  # class 0 everywhere; NaN above 0.6
        def forward(self, x: Tensor) -> Tensor:
            out = torch.cat((x * 0 + 1, x * 0), -1)
            return torch.where(x > 0.6, torch.nan, out)

    def up(threat: ThreatModel) -> list[tuple[str, Attack]]:
        return [("up", lambda model, x, y: threat.project(x + threat.radius(x), x))]

    found = worst_case(Fragile(), data, [0.2, 0.45], up, candidates=False)
    assert found.robust.tolist() == [[True, True, False, False], [True, False, False, False]]
    assert torch.equal(found.invalid, ~found.robust) and found.accuracy(0) == 0.75
    assert found.names[found.broken_by[0, 3]] == "clean" and found.names[found.broken_by[0, 2]] == "up"


def test_the_model_is_frozen_meanwhile_and_left_as_found(setting: tuple[nn.Module, Data]) -> None:
    model, data = setting
    model.train()
    model.norms[0].eval()  # type: ignore[index, union-attr]
    next(model.parameters()).requires_grad_(False)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    flags = [m.training for m in model.modules()], [p.requires_grad for p in model.parameters()]
    seen: list[bool] = []

    def spy(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        seen.append(any(m.training for m in model.modules()) or any(p.requires_grad for p in model.parameters()))
        x.zero_()  # careless: the engine compares with the images, not with what the attack made of them
        if len(seen) == 3:
            raise RuntimeError("broken attack")
        return fgsm(ThreatModel(1.0, SHAPE))(model, x, y)

    with pytest.raises(RuntimeError, match="broken attack"):
        worst_case(model, data, [1.0], lambda threat: [("spy", spy)], batch_size=10, candidates=False)
    assert seen == [False] * 3
    assert ([m.training for m in model.modules()], [p.requires_grad for p in model.parameters()]) == flags
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert not model._forward_hooks and all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize(
    ("attack", "message"),
    [
        (lambda model, x, y: (x + 0.11).clamp(0, 1), "left the ball: distance 0.11"),
        (lambda model, x, y: x + 0.05, "left the pixel range"),
        (lambda model, x, y: x[1:], "returned shape"),
        (lambda model, x, y: x * float("nan"), "left the ball"),
    ],
)
def test_an_attack_that_leaves_the_threat_model_is_refused(
    attack: Any, message: str, setting: tuple[nn.Module, Data]
) -> None:
    with pytest.raises(InputError, match=message):
        worst_case(*setting, [0.1], lambda threat: [("bad", attack)], candidates=False)


@pytest.mark.parametrize(
    ("grid", "names", "message"),
    [([], "ab", "radii > 0"), ([0.0, 0.1], "ab", "radii > 0"), ([1.1], "ab", "eps must be"), ([0.1], "aa", "names")],
)
def test_grids_and_suites_that_make_no_sense_are_refused(
    grid: list[float], names: str, message: str, setting: tuple[nn.Module, Data]
) -> None:
    with pytest.raises(InputError, match=message):
        worst_case(*setting, grid, lambda threat: [(n, fgsm(threat)) for n in names])
    found = worst_case(*setting, [0.1], suite)
    with pytest.raises(InputError, match=r"0\.3 was not measured; measured: 0\.1"):
        found.accuracy(0.3)


@pytest.mark.parametrize("candidates", [False, True])
@pytest.mark.parametrize("bare", [{0.1, 0.2}, {0.2}])
def test_a_suite_without_an_attack_at_some_eps_is_refused(
    candidates: bool, bare: set[float], setting: tuple[nn.Module, Data]
) -> None:
    def some(threat: ThreatModel) -> list[tuple[str, Attack]]:
        return [] if threat.eps in bare else [("fgsm", fgsm(threat))]

    with pytest.raises(InputError, match=r"a suite needs at least one attack, as \(name, attack\); got none"):
        worst_case(*setting, [0.1, 0.2], some, candidates=candidates)


def test_attacks_are_named_after_what_they_are() -> None:
    threat = ThreatModel(0.1, SHAPE)
    attacks = [
        PGD(threat),
        PGD(threat, loss="margin"),
        PGD(threat, steps=9),
        Noise(threat),
        PGD(threat),
        lambda m, x, y: x,
    ]
    names = ["PGD cross_entropy", "PGD margin", "PGD cross_entropy 2", "Noise", "PGD cross_entropy 3", "<lambda>"]
    assert named(attacks) == list(zip(names, attacks, strict=True))


def test_the_table_names_what_broke_how_many(setting: tuple[nn.Module, Data]) -> None:
    text = str(worst_case(*setting, GRID, suite))
    assert "n = 90" in text and "clean 9" in text and len(text.splitlines()) == 6


def test_the_same_seed_gives_the_same_and_another_seed_other_draws(setting: tuple[nn.Module, Data]) -> None:
    torch.manual_seed(0)
    state = torch.get_rng_state()
    results = [worst_case(*setting, [0.05], suite, seed=seed) for seed in (0, 0, 1)]
    assert same(results[0], results[1]) and not same(results[0], results[2])
    assert torch.equal(torch.get_rng_state(), state)


@dataclass
class Drawing:
    """Changes nothing, and notes what it drew."""

    stream: Stream
    drawn: list[float]

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        self.drawn.append(float(torch.rand((), generator=self.stream.generator())))
        return x


def test_each_attack_eps_and_batch_has_draws_of_its_own(setting: tuple[nn.Module, Data]) -> None:
    drawn: list[float] = []
    shared = Stream(0, "shared")

    def drawing(threat: ThreatModel) -> list[tuple[str, Attack]]:
        return [(name, Drawing(shared, drawn)) for name in "ab"]

    worst_case(*setting, [0.1, 0.2], drawing, batch_size=30, candidates=False)
    assert len(set(drawn)) == len(drawn) == 2 * 2 * 3
    worst_case(*setting, [0.2], drawing, batch_size=30, candidates=False)
    assert drawn[12:] == drawn[6:12]  # whatever else is in the grid


def test_an_interrupted_call_goes_on_to_the_same_result(setting: tuple[nn.Module, Data], tmp_path: Path) -> None:
    model, data = setting
    whole = worst_case(model, data, GRID, suite, batch_size=20)
    asked: list[int] = []
    for stop_after in (1, 3, 5):
        asked.clear()

        def asking(stop_after: int = stop_after) -> int:
            asked.append(0)
            return signal.SIGINT if len(asked) > stop_after else 0

        with pytest.raises(Interrupted, match="the same call goes on"):
            worst_case(model, data, GRID, suite, batch_size=20, store=tmp_path, interrupted=asking)
    assert len(list(tmp_path.glob("piece-*"))) > 4
    notices: list[str] = []
    stages: list[Any] = []
    for _ in range(2):
        again = worst_case(
            model, data, GRID, suite, batch_size=20, store=tmp_path, notice=notices.append, on_stage=stages.append
        )
        assert same(whole, again)
    assert not notices and tuple(stages[-len(again.stages) :]) == again.stages
    with pytest.raises(Interrupted, match="nothing was kept"):
        worst_case(model, data, GRID, suite, interrupted=lambda: signal.SIGINT)


def test_a_finished_store_asks_the_model_for_nothing_but_the_free_passes(
    setting: tuple[nn.Module, Data], tmp_path: Path
) -> None:
    def refusing(threat: ThreatModel) -> list[tuple[str, Attack]]:
        return [("once", Once(threat, attempts))]

    attempts: list[int] = []
    worst_case(*setting, [0.1], refusing, store=tmp_path)
    worst_case(*setting, [0.1], refusing, store=tmp_path)
    assert len(attempts) == 1


@dataclass
class Once:
    threat: ThreatModel
    calls: list[int] = field(default_factory=list)

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        self.calls.append(1)
        moved = fgsm(self.threat)(model, x, y)
        self.calls[:] = [1]
        return moved


@pytest.mark.parametrize("what", ["model", "data", "eps", "attacks", "seed", "batch_size", "code"])
def test_what_another_evaluation_left_is_named_and_not_used(
    what: str, setting: tuple[nn.Module, Data], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, data = setting
    worst_case(model, data, [0.1], suite, store=tmp_path)
    (tmp_path / "mine.txt").write_text("not a piece")
    arguments: dict[str, Any] = {"eps": [0.1], "suite": suite, "seed": 0}
    if what == "model":
        with torch.no_grad():
            next(model.parameters()).add_(0.1)
    elif what == "data":
        data = data.take(torch.arange(50))
    elif what == "attacks":
        arguments["suite"] = lambda threat: [(n, a) for n, a in suite(threat) if n != "noise"]
    elif what == "code":
        monkeypatch.setattr(sys.modules[worst_case.__module__], "code", lambda: "another release")
    else:
        arguments[what] = {"eps": [0.2], "seed": 1, "batch_size": 30}[what]
    notices: list[str] = []
    found = worst_case(model, data, **arguments, store=tmp_path, notice=notices.append)
    assert len(notices) == 1 and "starting afresh" in notices[0] and what in notices[0].partition("(other")[2]
    assert same(found, worst_case(model, data, **arguments)) and (tmp_path / "mine.txt").exists()


def test_a_damaged_piece_is_named_and_computed_again(setting: tuple[nn.Module, Data], tmp_path: Path) -> None:
    whole = worst_case(*setting, GRID, suite, store=tmp_path)
    first, second = sorted(tmp_path.glob("piece-*"))[:2]
    os.truncate(first, first.stat().st_size // 2)
    content = bytearray(second.read_bytes())
    content[-1] ^= 1
    second.write_bytes(content)
    notices: list[str] = []
    assert same(whole, worst_case(*setting, GRID, suite, store=tmp_path, notice=notices.append))
    assert len(notices) == 2 and all("computed again" in n for n in notices)


def test_a_store_has_one_user_at_a_time(setting: tuple[nn.Module, Data], tmp_path: Path) -> None:
    def inner(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        return worst_case(*setting, [0.1], suite, store=tmp_path).x_adv[0]

    with pytest.raises(Busy, match="is in use by process"):
        worst_case(*setting, [0.1], lambda threat: [("inner", inner)], store=tmp_path)


KILLED = """
import os, sys
from pathlib import Path
sys.path.insert(0, {here!r})
import torch
torch.set_num_threads(1)
from test_worst_case import GRID, problem, suite
from sparring import faults
from sparring.evaluation import worst_case
model, data = problem()
for point, count in [("mid_write", 1), ("pre_rename", 2), ("post_rename", 3), ("mid_write", 4), ("post_rename", 1)]:
    child = os.fork()
    if not child:
        faults.arm(point, count)
        worst_case(model, data, GRID, suite, batch_size=20, store=Path({store!r}))
        os._exit(0)
    _, status = os.waitpid(child, 0)
    print(os.WTERMSIG(status) if os.WIFSIGNALED(status) else "ended")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills forked children")
def test_a_call_killed_five_times_ends_bit_identical(setting: tuple[nn.Module, Data], tmp_path: Path) -> None:
    code = KILLED.format(here=str(Path(__file__).parent), store=str(tmp_path / "store"))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100)
    assert done.stdout.split() == [str(int(signal.SIGKILL))] * 5, done.stderr
    store = tmp_path / "store"
    assert len(list(store.glob("piece-*.safetensors"))) == 8 and not list(store.glob("*.tmp-*"))
    notices: list[str] = []
    found = worst_case(*setting, GRID, suite, batch_size=20, store=store, notice=notices.append)
    assert same(found, worst_case(*setting, GRID, suite, batch_size=20)) and not notices


def test_fingerprints_tell_weights_settings_and_code_apart(setting: tuple[nn.Module, Data]) -> None:
    model, _ = setting
    threat = ThreatModel(0.1, SHAPE)

    def scaled(c: float) -> Attack:
        return lambda model, x, y: threat.project(x + c, x)

    values: list[Any] = [
        model,
        mlp(SHAPE, [16, C]),
        scaled(0.1),
        scaled(0.2),
        fgsm(threat),
        PGD(threat),
        PGD(threat, 9),
    ]
    values += [PGD(threat, stream=Stream(1, "pgd")), torch.zeros(2), torch.zeros(3), lambda model, x, y: x, {"a": 1}]
    prints = [fingerprint(v) for v in values]
    assert len(set(prints)) == len(values) and prints == [fingerprint(v) for v in values]
    assert fingerprint(scaled(0.1)) == fingerprint(scaled(0.1))

    def again(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        return again(model, x, y) if len(x) > 99 else x

    assert fingerprint(again) == fingerprint(again)
    circle: list[Any] = [1]
    circle.append(circle)
    assert fingerprint(circle) == fingerprint(circle)
    inner = PGD(threat)
    assert streams((inner, {"b": Noise(threat)}))[0] is inner.stream and len(streams([inner, Noise(threat)])) == 2


def test_arrays_one_radius_and_attacks_without_names_do(setting: tuple[nn.Module, Data]) -> None:
    model, data = setting
    attacks: Any = lambda threat: [fgsm(threat), PGD(threat, steps=3, random_start=False)]  # noqa: E731
    expected = worst_case(model, data, [0.1], lambda threat: named(attacks(threat)))
    found = worst_case(model, (data.floats().numpy(), data.labels.numpy()), 0.1, attacks)
    assert found.names == expected.names and torch.equal(found.x_adv, expected.x_adv)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"suite": [fgsm(ThreatModel(0.1, (1,)))]}, "suite is a list; expected a function of the threat model"),
        ({"suite": fgsm}, "suite returned a PGD; expected a function of the threat model"),
        ({"suite": lambda threat: [("a", 3)]}, r"suite returned \('a', 3\) among its attacks"),
        ({"model": nn.Linear(3, 2)}, "the model fails on inputs"),
        ({"data": 3}, "expected"),
    ],
)
def test_what_makes_no_sense_is_refused_before_an_attack(
    wrong: dict[str, Any], message: str, setting: tuple[nn.Module, Data]
) -> None:
    given = dict(zip(("model", "data"), setting, strict=True)) | {"suite": suite} | wrong
    with pytest.raises(InputError, match=message):
        worst_case(eps=[0.1], **given)
