"""The worst case with a store: what is kept is gone on from when it fits, and being killed changes nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from worst_cases import GRID, SHAPE, C, same, suite

from sparring.attacks import PGD, Attack, Noise, fgsm
from sparring.data.batches import Data
from sparring.errors import Busy, Interrupted
from sparring.evaluation import worst_case
from sparring.evaluation.pieces import fingerprint, streams
from sparring.models import mlp
from sparring.randomness import Stream
from sparring.threat import ThreatModel


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


def test_a_store_may_be_a_word_and_eps_a_number_of_numpy(setting: tuple[nn.Module, Data], tmp_path: Path) -> None:
    kept = worst_case(*setting, np.float32(0.125), suite, store=str(tmp_path / "store"), seed=np.int64(0))  # type: ignore[arg-type]
    assert list((tmp_path / "store").glob("piece-*")) and same(kept, worst_case(*setting, 0.125, suite))


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
from worst_cases import GRID, problem, suite
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
