"""A run and its folder: what it writes, that it goes on bit for bit wherever it stopped, and whom it refuses.

As a program (`python test_experiment.py FOLDER`) it is a run that is killed at every kind of point in turn.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

import torch
from torch import nn

import sparring
from sparring import copies, faults, locks, recipes, session
from sparring.config import Optimizer, Run, to_dict
from sparring.data import Data
from sparring.errors import Busy, CorruptCheckpoint, Diverged, InputError, Interrupted
from sparring.experiment import Trained, load, new_defender
from sparring.game.checkpoint import read_verified
from sparring.records import EpochRecord, RunPaths, RunRecord, read, read_json, restore, write_json
from sparring.session import train_run

STEPS = 4  # an epoch's
ALONE = 2  # epochs of the adversary alone, in the initialised games
MAIN = 3  # epochs of the training proper
GAMES = tuple(name for name, made in recipes.RECIPES.items() if made().learner)

INPUTS = ["config.json", "environment.json", "epochs.jsonl", "defender.safetensors", "run.json"]


@cache
def digits() -> Data:
    """The first 256 training digits: four steps an epoch."""
    return sparring.data.load("digits")[0].take(torch.arange(64 * STEPS))


def small(name: str, seed: int = 0, **training: Any) -> Run:
    """A recipe with small networks and few epochs, saved after every epoch."""
    run = recipes.recipe(name)
    settings = {"batch_size": 64, "max_epochs": MAIN, "checkpoint_seconds": 0.0} | training
    return replace(
        run,
        seed=seed,
        defender=replace(run.defender, hidden=(16,)),
        adversary=run.adversary and replace(run.adversary, hidden=(16,)),
        training=replace(run.training, **settings),
        alone=run.alone and replace(run.alone, **(settings | {"max_epochs": ALONE})),
    )


def frozen_vanilla() -> nn.Module:
    """What the initialised games' adversary first trains against; here any classifier will do."""
    return new_defender(small("vanilla", 99), digits().shape, digits().n_classes).eval()


def play(run: Run, folder: Path, **options: Any) -> RunRecord:
    return train_run(run, RunPaths(folder), digits(), vanilla=frozen_vanilla, **options)


def after(steps: int, number: int = signal.SIGINT) -> Callable[[], int]:
    """Says that a signal has come, once so many steps are done."""
    done = [0]

    def interrupted() -> int:
        done[0] += 1
        return number if done[0] >= steps else 0

    return interrupted


def log(folder: Path) -> list[dict[str, Any]]:
    """The lines of epochs.jsonl without their times, which alone may differ."""
    lines = [json.loads(line) for line in (folder / "epochs.jsonl").read_text().splitlines()]
    for line in lines:
        del line["seconds"]
    return lines


def came_to(folder: Path) -> dict[str, Any]:
    """All that a run has become, its times apart."""
    paths = RunPaths(folder)
    end: dict[str, Any] = {"log": log(folder), "record": read_json(paths.done) | {"seconds": 0, "defender_sha256": ""}}
    for path in (paths.defender, paths.adversary, paths.trained_alone):
        if path.exists():
            tensors, header = read_verified(path)
            end[path.name] = {name: (t.dtype, t.shape, t.numpy().tobytes()) for name, t in tensors.items()}
            end[path.name]["header"] = header | {"seconds": 0, "log_bytes": 0}  # the log holds seconds
    return end


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a recipe's run that nothing stopped; not to be written to."""
    known: dict[str, Path] = {}

    def folder(name: str) -> Path:
        if name not in known:
            known[name] = tmp_path_factory.mktemp(name) / "run"
            assert play(small(name), known[name]).status == "done"
        return known[name]

    return folder


# What a run writes


@pytest.mark.parametrize("name", recipes.RECIPES)
def test_every_recipe_writes_the_files_of_its_contract(name: str, whole: Callable[[str], Path]) -> None:
    folder = whole(name)
    expected = {*INPUTS, "run.lock"}
    expected |= {"adversary.safetensors"} if name in GAMES else set()
    expected |= {"adversary-alone.safetensors"} if name.endswith("_init") else set()
    names = {path.name for path in folder.iterdir()}
    checkpoints = {name for name in names if name.startswith("checkpoint-")}
    assert names - checkpoints == expected and len(checkpoints) == 3
    record = restore(RunRecord, read_json(folder / "run.json"))
    assert (record.recipe, record.seed, record.status, record.epochs) == (name, 0, "done", MAIN)
    assert record.stopped == f"{MAIN} epochs" and record.message == ""
    assert record.defender_parameters == sum(p.numel() for p in load(folder).defender.parameters())
    phases = [(line.phase, line.epoch, line.steps) for line in read(folder / "epochs.jsonl", EpochRecord)]
    alone = [("adversary", epoch, STEPS) for epoch in range(1, ALONE + 1)] if name.endswith("_init") else []
    assert phases == alone + [("main", epoch, STEPS) for epoch in range(1, MAIN + 1)]
    assert read_json(folder / "config.json") == to_dict(small(name))
    assert read_json(folder / "environment.json")["data"] == digits().fingerprint


@pytest.mark.parametrize("name", ["vanilla", "gan_tanh", "gan_scaled_init"])
def test_load_gives_the_players_ready_for_use(name: str, whole: Callable[[str], Path]) -> None:
    one, other = load(whole(name)), sparring.load(str(whole(name)))
    networks = [n for n in (one.defender, one.adversary, one.trained_alone) if n is not None]
    assert len(networks) == {"vanilla": 1, "gan_tanh": 2, "gan_scaled_init": 3}[name]
    assert (one.adversary is not None) == (name in GAMES)
    for network in networks:
        assert not any(module.training for module in network.modules())
        assert all(tensor.device.type == "cpu" for tensor in network.state_dict().values())
    x, y = digits().floats()[:20], digits().labels[:20]
    assert torch.equal(one.defender(x), other.defender(x))
    if one.adversary is not None:
        assert torch.equal(one.attack()(one.defender, x, y), other.attack()(other.defender, x, y))
    else:
        with pytest.raises(ValueError, match="has no adversary"):
            one.attack()


def test_load_says_what_a_folder_lacks(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"not the folder of a run: it has no config\.json"):
        load(tmp_path)
    with pytest.raises(Interrupted):
        play(small("vanilla"), tmp_path, interrupted=after(2))
    with pytest.raises(InputError, match="is not finished"):
        load(tmp_path)


def test_a_finished_run_is_only_read(whole: Callable[[str], Path]) -> None:
    folder = whole("gan_tanh_init")
    before = {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.iterdir()}
    record = play(small("gan_tanh_init"), folder, interrupted=lambda: pytest.fail("it trained"))
    assert record == restore(RunRecord, read_json(folder / "run.json"))
    now = {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.iterdir()}
    lock = now.pop("run.lock"), before.pop("run.lock")
    assert now == before and len(lock) == 2  # the lock says who looked last


# Whom a folder refuses


@pytest.mark.parametrize("finished", [True, False])
def test_another_config_is_refused_by_the_name_of_its_key(finished: bool, tmp_path: Path) -> None:
    run = small("gan_tanh")
    if finished:
        play(run, tmp_path)
    else:
        with pytest.raises(Interrupted):
            play(run, tmp_path, interrupted=after(2))
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.name != "run.lock"}
    for other, named in (
        (replace(run, eps=0.2), "eps: 0.1 -> 0.2"),
        (replace(run, seed=1), "seed: 0 -> 1"),
        (small("gan_tanh", patience=14), "training.patience: 15 -> 14"),
        (replace(run, defender=replace(run.defender, slope=0.1)), "defender.slope: 0.01 -> 0.1"),
    ):
        with pytest.raises(InputError, match=f"made by another config .{named}.; choose another --out, or --restart"):
            play(other, tmp_path)
    assert before == {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.name != "run.lock"}


def test_what_cannot_change_the_result_is_no_other_config(tmp_path: Path) -> None:
    run = small("vanilla")
    with pytest.raises(Interrupted):
        play(run, tmp_path, interrupted=after(5))
    moved = replace(run, data=replace(run.data, root="/elsewhere"))
    moved = replace(moved, training=replace(run.training, checkpoint_seconds=99.0))
    assert play(moved, tmp_path).status == "done"


def test_other_data_are_refused(tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        play(small("vanilla"), tmp_path, interrupted=after(2))
    labels = digits().labels.clone()
    labels[0] = (labels[0] + 1) % 10
    with pytest.raises(InputError, match="was trained on other data"):
        train_run(small("vanilla"), RunPaths(tmp_path), replace(digits(), labels=labels))


def test_an_initialised_game_says_that_it_needs_vanilla(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="train `vanilla` first"):
        train_run(small("gan_tanh_init"), RunPaths(tmp_path), digits())


def test_a_resume_on_another_machine_says_that_it_is_not_bit_exact(tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        play(small("vanilla"), tmp_path, interrupted=after(5))
    there = read_json(tmp_path / "environment.json") | {"threads": 77}
    write_json(tmp_path / "environment.json", there)
    notices: list[str] = []
    assert play(small("vanilla"), tmp_path, notice=notices.append).status == "done"
    assert any(text.startswith("resume is valid but not bit-exact: threads 77 -> ") for text in notices)


def test_a_run_killed_before_it_wrote_its_config_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Killed(BaseException):
        pass

    for nth in (1, 2):  # the first writes of a run, cut off before either
        folder, calls = tmp_path / str(nth), [0]

        def dies(path: Path, value: Any, nth: int = nth, calls: list[int] = calls) -> None:
            calls[0] += 1
            if calls[0] == nth:
                raise Killed
            write_json(path, value)

        with monkeypatch.context() as patch, pytest.raises(Killed):
            patch.setattr(copies, "write_json", dies)
            play(small("vanilla", max_epochs=1), folder)
        assert play(small("vanilla", max_epochs=1), folder).status == "done"


# Stopping and going on


@pytest.mark.parametrize(
    ("name", "stops"),
    [
        ("gan_tanh_init", [3]),  # the adversary alone, amid an epoch
        ("gan_tanh_init", [STEPS]),  # after an epoch's last step
        ("gan_tanh_init", [ALONE * STEPS]),  # after the last step of the adversary alone
        ("gan_tanh_init", [ALONE * STEPS + 1]),  # the game's first step
        ("gan_scaled_init", [2, 5, 5, 3]),  # again and again, in both phases
        ("gan_tanh", [6, 1, 2]),
        ("noise", [5, 3]),  # its opponent draws from a stream
        ("pgd", [7]),
        ("vanilla", [MAIN * STEPS]),
    ],
)
def test_interrupted_and_continued_equals_uninterrupted(
    name: str, stops: list[int], whole: Callable[[str], Path], tmp_path: Path
) -> None:
    done = 0
    for steps in stops:
        notices: list[str] = []
        with pytest.raises(Interrupted, match="stopped and saved in") as stopped:
            play(small(name), tmp_path, interrupted=after(steps), notice=notices.append)
        assert stopped.value.signal_number == signal.SIGINT
        assert bool(done) == any(text.startswith("going on from checkpoint-") for text in notices)
        done += steps
        assert (tmp_path / f"checkpoint-{done:09d}.safetensors").is_file()
        assert not (tmp_path / "run.json").exists() and not (tmp_path / "defender.safetensors").exists()
    assert play(small(name), tmp_path).status == "done"
    assert came_to(tmp_path) == came_to(whole(name))


def test_a_log_longer_than_its_checkpoint_is_cut(whole: Callable[[str], Path], tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        play(small("gan_tanh"), tmp_path, interrupted=after(6))
    with (tmp_path / "epochs.jsonl").open("a") as file:
        file.write('{"recipe": "gan_ta')
    assert play(small("gan_tanh"), tmp_path).status == "done"
    assert came_to(tmp_path) == came_to(whole("gan_tanh"))


def test_a_log_shorter_than_its_checkpoint_is_damage(tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        play(small("gan_tanh"), tmp_path, interrupted=after(6))
    (tmp_path / "epochs.jsonl").unlink()
    with pytest.raises(CorruptCheckpoint, match="--restart"):
        play(small("gan_tanh"), tmp_path)


POINTS = [  # where to kill, at which passing of the point, and what the next attempt goes on from
    ("step", 6, ""),  # the adversary alone, second epoch
    ("mid_write", 2, "checkpoint-000000004.safetensors: epoch 2, step 0"),  # its weights, after its last checkpoint
    ("pre_rename", 2, "checkpoint-000000008.safetensors: epoch 3, step 0"),  # the game's first checkpoint
    ("step", 6, ""),  # the game's second epoch, from its start
    ("post_rename", 1, "checkpoint-000000012.safetensors: epoch 2, step 0"),
    ("mid_write", 2, "checkpoint-000000016.safetensors: epoch 3, step 0"),  # the defender's weights
    ("pre_rename", 2, "checkpoint-000000020.safetensors: epoch 4, step 0"),  # the adversary's weights
]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills forked children")
def test_killed_anywhere_and_continued_equals_uninterrupted(whole: Callable[[str], Path], tmp_path: Path) -> None:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "SPARRING_FAULT": ""}
    folder = tmp_path / "run"
    command = [sys.executable, __file__, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=110)
    assert done.returncode == 0, done.stderr
    attempts = [json.loads(line) for line in done.stdout.splitlines()]
    assert [attempt["status"] for attempt in attempts] == [-signal.SIGKILL] * len(POINTS) + [0]
    froms = [[t for t in attempt["notices"] if t.startswith("going on from ")] for attempt in attempts]
    assert froms[: len(POINTS)] == [[f"going on from {text}"] if text else [] for _, _, text in POINTS]
    swept = [text for attempt in attempts for text in attempt["notices"] if text.startswith("removed ")]
    assert len(swept) == 4, "killed four times before a rename"
    assert not list(folder.glob("*.tmp-*"))
    assert came_to(folder) == came_to(whole("gan_tanh_init"))


def kill_and_go_on(folder: Path) -> None:
    """Run the initialised game in forked children, each killed at the next of POINTS, the last one not."""
    torch.set_num_threads(1)
    digits()
    for point, count, _ in [*POINTS, ("", 0, "")]:
        notices = folder.with_name("notices")
        notices.write_text("")
        child = os.fork()
        if child == 0:
            signal.alarm(60)
            try:
                faults.arm(point, count)
                play(small("gan_tanh_init"), folder, notice=lambda text, to=notices: note(to, text))
                os._exit(0)
            finally:
                os._exit(1)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        print(json.dumps({"status": status, "notices": notices.read_text().splitlines()}), flush=True)


def note(path: Path, text: str) -> None:
    with path.open("a") as file:
        file.write(text + "\n")


def damage(path: Path) -> None:
    """Flip one bit in the middle of a file."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.fixture
def stopped(tmp_path: Path) -> Path:
    """A game that stopped in its third epoch, with three checkpoints."""
    with pytest.raises(Interrupted):
        play(small("gan_tanh"), tmp_path, interrupted=after(2 * STEPS + 2))
    assert len(list(tmp_path.glob("checkpoint-*"))) == 3
    return tmp_path


def test_a_damaged_checkpoint_is_passed_over(stopped: Path, whole: Callable[[str], Path]) -> None:
    damage(max(stopped.glob("checkpoint-*")))
    notices: list[str] = []
    assert play(small("gan_tanh"), stopped, notice=notices.append).status == "done"
    assert "going back to an older checkpoint" in notices[0]
    assert notices[1] == "going on from checkpoint-000000008.safetensors: epoch 3, step 0"
    assert came_to(stopped) == came_to(whole("gan_tanh"))


def test_without_a_sound_checkpoint_only_a_restart_helps(stopped: Path, whole: Callable[[str], Path]) -> None:
    for path in stopped.glob("checkpoint-*"):
        damage(path)
    before = {path.name: path.read_bytes() for path in stopped.glob("*.*") if path.name != "run.lock"}
    with pytest.raises(CorruptCheckpoint, match=r"all 3 checkpoints in .* are damaged; --restart"):
        play(small("gan_tanh"), stopped)
    assert before == {path.name: path.read_bytes() for path in stopped.glob("*.*") if path.name != "run.lock"}
    (stopped / "results.jsonl").write_text("{}\n")  # of an earlier measurement
    assert play(small("gan_tanh"), stopped, restart=True).status == "done"
    assert came_to(stopped) == came_to(whole("gan_tanh"))
    assert not (stopped / "results.jsonl").exists()


def test_a_restart_takes_another_config(stopped: Path) -> None:
    assert play(small("gan_tanh", max_epochs=1), stopped, restart=True).epochs == 1
    assert len(log(stopped)) == 1


@pytest.mark.parametrize("name", ["defender", "adversary"])
def test_damaged_weights_are_not_loaded(name: str, whole: Callable[[str], Path], tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(whole("gan_tanh"), folder)
    damage(folder / f"{name}.safetensors")
    with pytest.raises(CorruptCheckpoint, match=f"{name}.safetensors is damaged"):
        load(folder)


# Divergence


@pytest.mark.parametrize("name", ["vanilla", "gan_tanh"])
def test_a_run_that_diverges_is_recorded_as_such(name: str, tmp_path: Path) -> None:
    run = small(name)
    run = replace(run, defender=replace(run.defender, optimizer=Optimizer(lr=1e8)))
    record = play(run, tmp_path)
    assert (record.status, record.epochs, record.defender_sha256) == ("diverged", 0, "")
    player = "defender" if name == "vanilla" else "(adversary|defender)"
    expected = rf"diverged in epoch 1, step [1-4]: the {player}'s .* not finite .*lower learning rate"
    assert re.fullmatch(expected, record.message)
    assert not list(tmp_path.glob("*.safetensors"))
    assert play(run, tmp_path) == record, "the second call reads it"
    with pytest.raises(InputError, match="diverged and has no weights"):
        load(tmp_path)
    other = replace(run, defender=replace(run.defender, optimizer=Optimizer(lr=0.1)))
    assert play(other, tmp_path, restart=True).status == "done"


def test_a_run_that_diverges_late_keeps_what_it_learned_about_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sound, calls = session.move_of, [0]

    def move_of(*arguments: Any) -> Any:
        move = sound(*arguments)

        def diverging(x: torch.Tensor, y: torch.Tensor) -> Any:
            calls[0] += 1
            if calls[0] == STEPS + 2:
                raise Diverged("the defender's gradient is not finite")
            return move(x, y)

        return diverging

    monkeypatch.setattr(session, "move_of", move_of)
    record = play(small("vanilla"), tmp_path)
    assert record.status == "diverged" and "epoch 2, step 2: the defender's gradient" in record.message
    assert record.epochs == len(log(tmp_path)) == 1
    assert not (tmp_path / "defender.safetensors").exists()


# One writer per folder


def test_a_folder_in_use_is_refused_and_its_holder_named(whole: Callable[[str], Path], tmp_path: Path) -> None:
    with locks.held(tmp_path / "run.lock"), pytest.raises(Busy) as busy:
        play(small("vanilla"), tmp_path)
    assert f"{tmp_path} is in use by process {os.getpid()} on " in str(busy.value)
    assert {path.name for path in tmp_path.iterdir()} == {"run.lock"}
    with locks.held(whole("vanilla") / "run.lock"):
        assert isinstance(load(whole("vanilla")), Trained), "reading needs no lock"


HOLD = "import sys\nfrom sparring.locks import held\nfrom pathlib import Path\n"
HOLD += "with held(Path(sys.argv[1])):\n    print('held', flush=True)\n"


Holder = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def holder() -> Iterator[Holder]:
    """Starts processes that try to hold a lock, and ends them whatever the test comes to."""
    started: list[subprocess.Popen[str]] = []

    def start(lock: Path, then: str = "    sys.stdin.read()") -> subprocess.Popen[str]:
        pipes: dict[str, Any] = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        environment = os.environ | {"PYTHONPATH": str(Path(sparring.__file__).parents[1])}
        command = [sys.executable, "-c", HOLD + then, str(lock)]
        started.append(subprocess.Popen(command, text=True, env=environment, **pipes))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


def test_of_many_starters_exactly_one_wins(holder: Holder, tmp_path: Path) -> None:
    lock = tmp_path / "run.lock"
    starters = [holder(lock) for _ in range(8)]
    winners = []
    for starter in starters:  # the winner holds on until its input ends; the others have ended then
        assert starter.stdout is not None
        winners += [starter] if starter.stdout.readline() == "held\n" else []
    assert len(winners) == 1
    for starter in starters:
        _, errors = starter.communicate(timeout=60)
        assert (starter.returncode == 0) == (starter in winners)
        assert starter in winners or "Busy" in errors
    with locks.held(lock):
        pass


def test_a_killed_holder_frees_the_lock_though_its_child_lives(holder: Holder, tmp_path: Path) -> None:
    lock = tmp_path / "run.lock"
    child = "    import subprocess\n    c = subprocess.Popen([sys.executable, '-c', 'input()'], close_fds=False)\n"
    process = holder(lock, child + "    print(c.pid, flush=True)\n    c.wait()")
    assert process.stdin is not None and process.stdout is not None
    assert process.stdout.readline() == "held\n" and int(process.stdout.readline()) > 0
    with pytest.raises(Busy, match=f"in use by process {process.pid} on "), locks.held(lock):
        pass
    process.kill()
    process.wait(timeout=60)
    with locks.held(lock):  # the child, which still waits for its input, has not inherited it
        pass


@pytest.mark.parametrize("place", ["file", "below a file"])
def test_a_file_in_place_of_the_folder_is_named_in_one_line(place: str, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("something else")
    folder = tmp_path / "out" if place == "file" else tmp_path / "out" / "runs" / "vanilla"
    with pytest.raises(OSError, match="cannot write to") as refused:
        play(small("vanilla"), folder)
    assert str(folder) in str(refused.value) and "\n" not in str(refused.value)
    assert (tmp_path / "out").read_text() == "something else"


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder_is_refused_before_any_training(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir(mode=0o555)
    with pytest.raises(OSError, match="cannot write to") as refused:
        play(small("vanilla"), folder, interrupted=lambda: pytest.fail("it trained"))
    assert str(folder) in str(refused.value)


def test_probing_a_folder_does_not_disturb_another_prober(tmp_path: Path) -> None:
    failures: list[BaseException] = []

    def probe() -> None:
        try:
            for _ in range(200):
                copies.make_folder(tmp_path)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=probe) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures and not list(tmp_path.iterdir())


# Determinism


@pytest.mark.parametrize("name", ["fgsm", "noise", "gan_scaled"])
def test_the_same_seed_gives_the_same_weights_and_another_seed_others(
    name: str, whole: Callable[[str], Path], tmp_path: Path
) -> None:
    torch.rand(7)  # what others draw does not matter
    play(small(name), tmp_path / "again")
    assert came_to(tmp_path / "again") == came_to(whole(name))
    play(small(name, seed=1), tmp_path / "other")
    one, other = load(whole(name)), load(tmp_path / "other")
    for a, b in ((one.defender, other.defender), (one.adversary, other.adversary)):
        if a is not None and b is not None:
            assert not any(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True) if p.ndim > 1)


@pytest.mark.parametrize("name", ["gan_tanh", "noise"])
def test_evaluating_in_between_does_not_move_the_training(
    name: str, whole: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[nn.Module] = []
    accuracies: list[float] = []
    sound = copies.new_defender

    def new_defender(*arguments: Any) -> Any:
        made.append(sound(*arguments))
        return made[-1]

    def on_epoch(record: EpochRecord) -> None:
        evaluation = sparring.evaluate(made[0], digits().take(torch.arange(40)), eps=[0.1], steps=2)
        accuracies.append(evaluation.accuracy("clean", 0.0))

    monkeypatch.setattr(copies, "new_defender", new_defender)
    play(small(name), tmp_path, on_epoch=on_epoch)
    assert len(accuracies) == MAIN and len(set(accuracies)) > 1, "it was the network in training that was judged"
    assert came_to(tmp_path) == came_to(whole(name))


if __name__ == "__main__":
    kill_and_go_on(Path(sys.argv[1]))
