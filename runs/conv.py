"""A small convolutional network at eps 0.3 on MNIST: `Game` trains five seeds of it, which are then attacked.

    python runs/conv.py OUT results/beyond-mnist [--network two|four] [--game all|half|bounded|pgd] [--seeds 0 1 2 3 4]
                        [--epochs 20] [--precision fp32|bf16] [--examples 1000] [--official 1000] [--attacks Auto-PGD ...]
                        [--held-out] [--device cpu] [--data-root FOLDER]

The network is one of NETWORKS, the game one of GAMES, and `--precision` is of the training; `--game pgd` is no game but the
yardstick of `all`, PGD-7 with its batches, radii, rate and epochs. With `--held-out` it trains on the first 55,000 training
images, and the others are attacked. OUT/conv-SEED.pt keeps a trained network, OUT/conv-SEED.json what was found of it,
OUT/left-SEED-IMAGES.json which images are certified, and which every attack leaves; the same command then goes on, and calls
for other seeds may run beside it; every game needs an OUT of its own. A network is attacked on stratified images, the same for
all seeds (10000: all test images), by Auto-PGD on cross-entropy and on the margin for three targets, by Smoothed from two
starts, by Auto-PGD and 5,000 queries of Square, by the library's standard suite, then, where the package pyautoattack is
installed, by the official AutoAttack's standard version, in fp32 throughout. AutoAttack meets only the images that are right
and not certified: it could not break the others. `worst` counts the images that every attack leaves which met as many as
AutoAttack did. Clean and, for the game with bounds, certified accuracy are over all test images (or held-out ones). Written:
conv.jsonl, a row for every seed in OUT, and for those that only the file knows.
"""

import argparse
import copy
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import official
import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

import sparring
from sparring.attacks import APGD, PGD, Attack, Cascade, Smoothed, Square, standard_suite
from sparring.config import Training
from sparring.crown import certified
from sparring.data import Data
from sparring.data.batches import stratified
from sparring.game import Epoch, Progress, against, player, train
from sparring.game.moves import in_precision
from sparring.game.radii import Radii
from sparring.precision import Precision, full_fp32
from sparring.process import keep_freed_memory, use_faster_products
from sparring.randomness import Stream
from sparring.threat import ThreatModel

EPS, HELD_OUT = 0.3, 5000
LR, BATCH = 0.1, 128
AT_ONCE = 1000  # images that an attack of the library meets at once
PIECE = 100  # images that AutoAttack meets at once on a processor
GAMES: dict[str, dict[str, Any]] = {  # name -> settings of a Game
    "bounded": {"eps": 0.33, "eps_low": 0.1, "clean_share": 0.0, "ibp": 0.01},
    "all": {"eps": 0.36, "eps_low": 0.2, "clean_share": 0.0},
    "half": {"eps": 0.33, "eps_low": 0.1},
    "all, lower": {"eps": 0.33, "eps_low": 0.1, "clean_share": 0.0},
}
YARDSTICK = "pgd"
GAMES[YARDSTICK] = GAMES["all"]


def two() -> nn.Module:
    """Two strided convolutions and two linear layers, 0.46 million parameters."""
    return nn.Sequential(
        *convolved(1, 32, 5, stride=2), *convolved(32, 64, 5, stride=2),
        nn.Flatten(), nn.Linear(64 * 49, 128), nn.BatchNorm1d(128), nn.ReLU(), nn.Linear(128, 10),
    )  # fmt: skip


def four() -> nn.Module:
    """Four convolutions, two of them strided, and two linear layers, 0.72 million parameters."""
    return nn.Sequential(
        *convolved(1, 32, 5, stride=2), *convolved(32, 64, 3), *convolved(64, 64, 3, stride=2), *convolved(64, 64, 3),
        nn.Flatten(), nn.Linear(64 * 49, 200), nn.BatchNorm1d(200), nn.ReLU(), nn.Linear(200, 10),
    )  # fmt: skip


def convolved(into: int, out: int, size: int, stride: int = 1) -> tuple[nn.Module, ...]:
    """A convolution that keeps the image's size but for its stride, batch norm and a ReLU."""
    return nn.Conv2d(into, out, size, stride, padding=size // 2), nn.BatchNorm2d(out), nn.ReLU()


NETWORKS = {"two": two, "four": four}
CERTIFIED = "certified"
ATTACKS = ("Auto-PGD", "Smoothed", "Auto-PGD and Square", "standard suite", official.NAME)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("results", type=Path)
    parser.add_argument("--network", choices=NETWORKS, default="two", help="how many convolutions it has")
    parser.add_argument("--game", choices=GAMES, default="all", help="which examples are perturbed, and by what radii")
    parser.add_argument("--held-out", action="store_true", help="leave the test images alone")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--precision", choices=get_args(Precision), default="fp32", help="of the products in training")
    parser.add_argument("--examples", type=int, default=1000)
    parser.add_argument("--attacks", nargs="+", choices=ATTACKS, default=ATTACKS)
    parser.add_argument("--official", type=int, default=1000, help="of these AutoAttack is shown at most so many")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--data-root", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    use_faster_products()
    keep_freed_memory()
    options.out.mkdir(parents=True, exist_ok=True)
    train_on, test = sparring.data.load("mnist", root=options.data_root)
    if options.held_out:
        everyone = torch.arange(len(train_on))
        train_on, test = train_on.take(everyone[:-HELD_OUT]), train_on.take(everyone[-HELD_OUT:])
    for seed in options.seeds:
        print(json.dumps(one(seed, train_on, test, options)), flush=True)
    file = options.results / "conv.jsonl"
    known = [json.loads(line) for line in file.read_text().splitlines()] if file.is_file() else []
    known += [json.loads(path.read_text()) for path in sorted(options.out.glob("conv-*.json"))]
    by = ("network", "game", "held_out", "epochs", "device", "precision", "seed")
    rows = {tuple(row[key] for key in by): row for row in known}  # what OUT has counts
    file.write_text("".join(json.dumps(rows[key]) + "\n" for key in sorted(rows)))


def one(seed: int, train_on: Data, test: Data, options: argparse.Namespace) -> dict[str, Any]:
    """Train the network of a seed, unless it is kept, and attack it by whatever has not attacked it yet."""
    torch.manual_seed(seed)
    settings = {"network": options.network, "game": options.game, "precision": options.precision}
    model, kept, file = NETWORKS[options.network](), options.out / f"conv-{seed}.pt", options.out / f"conv-{seed}.json"
    if kept.is_file():
        saved = torch.load(kept, map_location="cpu")
        model.load_state_dict(saved["model"])
        model.eval()
        seconds, epochs, device = saved["seconds"], saved["epochs"], saved["device"]
    else:
        model.to(options.device)
        seconds = trained(model, train_on, seed, options)
        epochs, device = options.epochs, where(options.device)
        torch.save({"model": model.state_dict(), "seconds": seconds, "epochs": epochs, "device": device}, kept)
    model.to(options.device)
    threat, n_examples = ThreatModel(EPS, test.shape), min(options.examples, len(test))
    bounded = "ibp" in GAMES[options.game]  # without, next to nothing is certified
    attacks: dict[str, Attack] = {
        ATTACKS[0]: Cascade(apgd(threat), threat),
        ATTACKS[1]: Smoothed(threat, restarts=2),
        ATTACKS[2]: Cascade((*apgd(threat), Square(threat, rescale=False)), threat),
        ATTACKS[3]: Cascade(standard_suite(threat, 10, test.shape), threat),
    }
    shown = dict.fromkeys(attacks, n_examples)
    if official.installed():
        shown[official.NAME] = min(options.official, n_examples)
    found: dict[str, Any] = json.loads(file.read_text()) if file.is_file() else {"left": {}}
    with full_fp32():
        for name, n in shown.items():
            if name not in options.attacks or found["left"].get(name, [0, 0])[1] >= n:
                continue
            data, marks = stratified(test, n).to(options.device), Marks(options.out / f"left-{seed}-{n}.json")
            certain = marks.certain(model, data, threat) if bounded else torch.zeros_like(data.labels, dtype=torch.bool)
            if name in attacks:
                left = left_by(attacks[name], model, data)
            else:
                left = autoattacked(model, data, certain, threat, options.out / f"autoattack-{seed}-{n}.json")
            marks.put(name, left)
            if "clean" not in found:
                found |= settings | {"held_out": options.held_out, "seed": seed, "eps": EPS}
                found |= {"epochs": epochs, "seconds": round(seconds), "device": device, "threads": options.threads}
                found["clean"] = sparring.evaluation.clean(model, test.to(options.device)).accuracy
            if bounded and "certified" not in found:
                found["certified"] = sparring.evaluation.certify(model, test, [EPS]).accuracy(EPS)
            found["left"][name] = [int(left.sum()), n]
            if official.NAME in marks:
                found["worst"] = [marks.left_by_all(), n]
            file.write_text(json.dumps(found) + "\n")
    return found


class Marks:
    """Which of some images are certified, and which every attack leaves, kept in a file."""

    def __init__(self, file: Path) -> None:
        self._file = file
        kept: dict[str, str] = json.loads(file.read_text()) if file.is_file() else {}
        self._marks = {name: torch.tensor([mark == "1" for mark in marks]) for name, marks in kept.items()}

    def __contains__(self, name: str) -> bool:
        return name in self._marks

    def put(self, name: str, which: torch.Tensor) -> None:
        """Keep what is certified, or what an attack leaves; raises RuntimeError where an attack breaks what is certified."""
        marks = self._marks | {name: which.cpu()}
        certain = marks.get(CERTIFIED, torch.zeros_like(which.cpu()))
        for attack, left in marks.items():
            if broken := int((certain & ~left).sum()):
                raise RuntimeError(f"{attack} breaks {broken} images that are certified: one of the two is wrong")
        self._marks = marks
        kept = {name: "".join(str(int(mark)) for mark in marks) for name, marks in self._marks.items()}
        self._file.write_text(json.dumps(kept) + "\n")

    def certain(self, model: nn.Module, data: Data, threat: ThreatModel) -> torch.Tensor:
        """Which of the images, these data, are certified."""
        if CERTIFIED not in self._marks:
            self.put(CERTIFIED, certified(model, data.floats(), data.labels, threat))
        return self._marks[CERTIFIED].to(data.labels.device)

    def left_by_all(self) -> int:
        """How many images every attack leaves."""
        return int(torch.stack([left for name, left in self._marks.items() if name != CERTIFIED]).all(0).sum())


def left_by(attack: Attack, model: nn.Module, data: Data) -> torch.Tensor:
    """Which images an attack leaves."""
    parts = zip(data.floats().split(AT_ONCE), data.labels.split(AT_ONCE), strict=True)
    return torch.cat([right(model, attack(model, x, y), y) for x, y in parts])


def apgd(threat: ThreatModel) -> tuple[Attack, ...]:
    """The gradient attacks that others come after."""
    return APGD(threat), APGD(threat, "margin", targets=3)


def autoattacked(model: nn.Module, data: Data, certain: torch.Tensor, threat: ThreatModel, file: Path) -> torch.Tensor:
    """Which images the official AutoAttack leaves; `file` keeps what is found, for a call that goes on.

    It searches on a copy whose batch norms are folded into the layers before them, which is up to 1.8 times as fast; what it
    returns counts by what the model itself says of it.
    """
    x, y = data.floats(), data.labels
    asked = (right(model, x, y) & ~certain).nonzero().flatten()
    n_certain, n_asked = int(certain.sum()), len(asked)
    faster = folded(model)
    left: list[list[int]] = json.loads(file.read_text()) if file.is_file() else []  # of each piece
    pieces = asked.split(PIECE if x.device.type == "cpu" else len(x))
    for done, index in enumerate(pieces[len(left) :], start=len(left) + 1):
        found = official.autoattack(faster, x[index], y[index], EPS, batch_size=len(index))
        left.append(index[right(model, threat.project(found, x[index]), y[index])].tolist())
        file.write_text(json.dumps(left))
        met, kept = sum(map(len, pieces[:done])), sum(map(len, left))
        print(f"{file.stem}: {kept} left of {met} of {n_asked}, {n_certain} certain", flush=True)
    remaining = certain.clone()
    remaining[[index for piece in left for index in piece]] = True
    return remaining


def folded(model: nn.Module) -> nn.Module:
    """The network with no batch norm of its own, in evaluation mode."""
    parts = list[Any]()
    for part in copy.deepcopy(model).eval().children():
        if isinstance(part, nn.BatchNorm2d):
            parts[-1] = fuse_conv_bn_eval(parts[-1], part)
        elif isinstance(part, nn.BatchNorm1d):
            parts[-1] = fuse_linear_bn_eval(parts[-1], part)
        else:
            parts.append(part)
    return nn.Sequential(*parts).eval().requires_grad_(False)


def where(device: str) -> str:
    """The device by name, where it has one."""
    return torch.cuda.get_device_name() if device.startswith("cuda") else device


def trained(model: nn.Module, data: Data, seed: int, options: argparse.Namespace) -> float:
    """Play the game, or train by its yardstick; returns the seconds."""
    started, settings = time.perf_counter(), GAMES[options.game]

    def told(epoch: Epoch, progress: Progress) -> None:
        share = epoch.means["perturbed_accuracy"]
        print(
            f"seed {seed}, epoch {epoch.epoch}: {100 * share:.1f} %, {time.perf_counter() - started:.0f} s", flush=True
        )

    if options.game == YARDSTICK:
        by_pgd(model, data, seed, options, told)
    else:
        game = sparring.Game(model, **settings, precision=options.precision, lr=LR, seed=seed)
        game.fit(data, epochs=options.epochs, batch_size=BATCH, rate="cosine", on_epoch=told)
    return time.perf_counter() - started


def by_pgd(
    model: nn.Module, data: Data, seed: int, options: argparse.Namespace, told: Callable[[Epoch, Progress], None]
) -> None:
    """PGD-7 training as the game trains: the same order of the data, radii, rate and precision."""
    data, settings, epochs = data.to(options.device), GAMES[options.game], options.epochs
    streams = [Stream(seed, "attack"), Stream(seed, "radii")]
    radii = Radii(settings["eps"], settings["eps_low"], streams[1])
    attack = PGD(ThreatModel(settings["eps"], data.shape), steps=7, keep="last", stream=streams[0])
    defender = player("defender", model.train(), maximize=False, lr=LR, rate="cosine", every=epochs)
    move = against(defender, attack, clean_share=settings["clean_share"], radii=radii)
    schedule = Training(batch_size=BATCH, max_epochs=epochs, patience=epochs + 1, min_lr=0.0)
    move = in_precision(move, options.precision, model)
    train(move, data, [defender], schedule, seed=seed, streams=streams, on_epoch=told)
    model.eval()


def right(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Which are classified rightly."""
    with torch.no_grad():
        return torch.cat([model(some).argmax(-1) for some in x.split(AT_ONCE)]) == y


if __name__ == "__main__":
    main()
