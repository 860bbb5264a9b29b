"""The standard suite beside the official AutoAttack, and PGD beside torchattacks, Foolbox and ART: robust accuracy and time.

    python bench/attack.py --runs results/paper-mnist/runs --json FILE [--data-root FOLDER] [--part suite pgd]
                           [--models pgd trades] [--eps 0.1 0.05 0.2 0.3] [--examples 1000] [--device cpu] [--threads 1]
                           [--workers 1] [--rounds 3] [--cache FOLDER]

`--runs` holds trained runs, RECIPE/seed0; "trades" (an MLP) and "conv" (a small convolutional network) are trained here, in
minutes, and kept in `--cache`. Part "suite": `Cascade(standard_suite)` and AutoAttack's standard version on the same stratified
MNIST test images, for every model at every eps, one after the other; what each found is projected into the ball and judged
alike. Passes are example passes through the model, forwards and backwards, counted by hooks; "weaker" and "stronger" count the
examples that only theirs, and only ours, broke. Finished rows are kept in the `--json` file as they are made, and the same
command goes on where it was stopped; a row is made again for other weights, images or another device.

Part "pgd", at the first eps: PGD with 40 steps from the example on all test images, the last iterate kept, in batches of 500;
the libraries alternate, and the ratio is that of their medians, theirs over ours.

Times are processor seconds, on CUDA wall seconds until the last kernel is done; only ratios within one row mean anything.
`--workers` spreads the suite's rows over processes of one thread each. It is for strength only: such rows disturb each other,
their times are not comparable and no ratio is shown, so claims about time come from `--workers 1`. A library that is not
installed is skipped:

    pip install --target FOLDER --no-deps pyautoattack torchattacks foolbox eagerpy adversarial-robustness-toolbox
    PYTHONPATH=src:FOLDER python bench/attack.py ...

(--no-deps keeps the PyTorch that is there; what else a library then misses, its import error names.)
"""

import argparse
import importlib
import itertools
import logging
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from functools import cache, partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import sparring
from sparring.attacks import PGD, Cascade, standard_suite
from sparring.data import Data
from sparring.data.batches import stratified
from sparring.errors import InputError, Interrupted
from sparring.evaluation.accuracy import counted
from sparring.evaluation.pieces import fingerprint
from sparring.models import mlp
from sparring.records import read_json, write_json
from sparring.reproduction.finished import each
from sparring.threat import ThreatModel

SHAPE, N_CLASSES, BATCH, STEPS = (1, 28, 28), 10, 500, 40
RECIPES = ("vanilla", "noise", "fgsm", "gan_tanh", "gan_scaled", "gan_tanh_init", "gan_scaled_init", "pgd")
MARGIN = 0.2  # points: a suite that leaves more than this above AutoAttack is weaker than it

Row = dict[str, Any]


def conv_net() -> nn.Module:
    """Two strided convolutions and two linear layers."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(1, 16, 5, stride=2, padding=2), nn.ReLU(),
            nn.Conv2d(16, 32, 5, stride=2, padding=2), nn.ReLU(),
            nn.Flatten(), nn.Linear(32 * 49, 64), nn.ReLU(), nn.Linear(64, N_CLASSES),
        )  # fmt: skip


def trades_loss(model: nn.Module, x: Tensor, y: Tensor, eps: float) -> Tensor:
    """TRADES (Zhang et al. 2019, equation 5) with beta 6 and seven inner steps."""
    model.eval()
    with torch.no_grad():
        clean = F.softmax(model(x), -1)
    z = (x + 1e-3 * torch.randn(x.shape, generator=torch.Generator().manual_seed(0))).clamp(0, 1)
    for _ in range(7):
        z.requires_grad_()
        (grad,) = torch.autograd.grad(F.kl_div(F.log_softmax(model(z), -1), clean, reduction="sum"), z)
        z = (z.detach() + eps / 3 * grad.sign()).clamp(x - eps, x + eps).clamp(0, 1)
    model.train()
    logits = model(x)
    apart = F.kl_div(F.log_softmax(model(z), -1), F.softmax(logits, -1), reduction="batchmean")
    return F.cross_entropy(logits, y) + 6 * apart


def trained(name: str, data: Data, cache: Path, epochs: int = 4, eps: float = 0.2) -> nn.Module:
    """The network of this name, trained on 30,000 images unless the cache has it."""
    model = mlp(SHAPE, [128, 64, N_CLASSES]) if name == "trades" else conv_net()
    file = cache / f"{name}.pt"
    if file.exists():
        model.load_state_dict(torch.load(file, map_location="cpu"))
        return model.eval()
    print(f"training {name} ...", flush=True)
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    generator = torch.Generator().manual_seed(1)
    for epoch in range(epochs):
        optimizer.param_groups[0]["lr"] = 1e-3 if epoch < epochs - 1 else 2e-4
        radius = eps * min(1.0, (epoch + 1) / 2)
        attack = PGD(ThreatModel(radius, SHAPE), steps=7, keep="last")
        for index in torch.randperm(30_000, generator=generator).split(128):
            x, y = data.floats(index), data.labels[index]
            loss = (
                trades_loss(model, x, y, radius) if name == "trades" else F.cross_entropy(model(attack(model, x, y)), y)
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    cache.mkdir(parents=True, exist_ok=True)
    torch.save(model.state_dict(), file)
    return model.eval()


@cache
def mnist(root: Path | None) -> tuple[Data, Data]:
    """MNIST, read once by each process."""
    return sparring.data.load("mnist", root=root)


def the_model(name: str, options: argparse.Namespace) -> nn.Module:
    """The network of this name, in evaluation mode; raises InputError where its run is missing."""
    if name in ("trades", "conv"):
        return trained(name, mnist(options.data_root)[0], options.cache)
    model: nn.Module = sparring.load(options.runs / name / "seed0").defender
    return model.eval()


def optional(name: str) -> Any:
    """The module, or None where it cannot be imported, with a line that says so."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        print(f"{name} is left out ({error}); see --help for how to install it")
        return None


def now(device: torch.device) -> float:
    """Processor seconds; on CUDA wall seconds, every kernel before them done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        return time.perf_counter()
    return time.process_time()


def measured(
    model: nn.Module, attack: Callable[[], Tensor], threat: ThreatModel, x: Tensor, y: Tensor
) -> tuple[Tensor, Row]:
    """Which examples still stand, (N,) bool, and the accuracy, seconds and example passes forwards and backwards."""
    started = now(x.device)
    with counted(model) as cost:
        x_adv = attack()
    seconds = now(x.device) - started
    with torch.no_grad():
        standing = model(threat.project(x_adv, x)).argmax(-1) == y
    passes = {"forwards": cost.forwards, "backwards": cost.backwards}
    return standing, {"robust": int(standing.sum()) / len(y), "seconds": round(seconds, 2), **passes}


def compared(pair: tuple[str, float], options: argparse.Namespace) -> Row:
    """A row: the suite, and AutoAttack where it is installed, on one model at one eps."""
    (name, eps), device = pair, torch.device(options.device)
    model = the_model(name, options)
    row = identity(name, eps, model, options) | {"torch": torch.__version__, "workers": options.workers}
    model, threat = model.to(device), ThreatModel(eps, SHAPE)
    data = stratified(mnist(options.data_root)[1], options.examples)
    x, y = data.floats().to(device), data.labels.to(device)
    torch.autograd.grad(
        model(x.requires_grad_()).sum(), x
    )  # kernels are loaded by their first call, which is not to be timed
    x = x.detach()
    suite = Cascade(standard_suite(threat, N_CLASSES, SHAPE), threat)
    standing, ours = measured(model, lambda: suite(model, x, y), threat, x, y)
    row |= ours
    if find_spec("pyautoattack"):
        kept, theirs = measured(model, lambda: autoattack(model, eps, x, y), threat, x, y)
        row |= {f"their_{what}": value for what, value in theirs.items()}
        row |= {"weaker": int((standing & ~kept).sum()), "stronger": int((~standing & kept).sum())}
        row["ratio"] = round(theirs["seconds"] / max(ours["seconds"], 0.01), 2)
    return row


def autoattack(model: nn.Module, eps: float, x: Tensor, y: Tensor) -> Tensor:
    """What AutoAttack's standard version makes of x; it seeds PyTorch's own generators, which are put back."""
    peer = importlib.import_module("pyautoattack")
    logging.disable(logging.CRITICAL)
    with torch.random.fork_rng(devices=[x.device] if x.device.type == "cuda" else []), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        attack = peer.AutoAttack(model, device=x.device, eps=eps, seed=0, version="standard")
        x_adv: Tensor = attack.run_standard_evaluation(x, y, batch_size=250)[0]
    logging.disable(logging.NOTSET)
    return x_adv


def identity(name: str, eps: float, model: nn.Module, options: argparse.Namespace) -> Row:
    """What a row's numbers depend on beside the code."""
    device = torch.cuda.get_device_name() if options.device == "cuda" else "cpu"
    weights = fingerprint([model])[:16]
    return {"model": name, "eps": eps, "weights": weights, "examples": options.examples, "device": device}


def suites(options: argparse.Namespace, keep: Callable[[list[Row]], None], before: list[Row]) -> None:
    """Part one: the whole suite beside AutoAttack, model by model and eps by eps; rows of `before` that fit are taken over."""
    peer = optional("pyautoattack")
    pairs = list(itertools.product(options.models, options.eps))
    models = {name: the_model(name, options) for name in options.models}
    wanted = {(name, eps): identity(name, eps, models[name], options) for name, eps in pairs}
    rows = {(row["model"], row["eps"]): row for row in before}
    left = [
        pair
        for pair in pairs
        if not wanted[pair].items() <= rows.get(pair, {}).items() or (peer and "weaker" not in rows[pair])
    ]
    print(
        "\n".join([f"{len(pairs) - len(left)} of {len(pairs)} rows are at hand", *([HEADER] if left else [])]),
        flush=True,
    )

    def told(row: Row) -> None:
        rows[row["model"], row["eps"]] = row
        keep(list(rows.values()))
        print(shown(row), flush=True)

    each(partial(compared, options=options), left, options.workers, told)
    made = [rows[pair] for pair in pairs]
    print("\n".join(["", HEADER, *map(shown, made), "", verdict(made)]))


HEADER = (
    f"{'model':>16} {'eps':>5}  {'ours':>6} {'theirs':>6} weaker stronger  {'s':>6} {'theirs':>7} ratio"
    "   passes forwards + backwards: ours, theirs"
)


def shown(row: Row) -> str:
    """A row as a line under HEADER; one that was made beside others has no ratio."""
    told = f"{row['model']:>16} {row['eps']:>5g}  {100 * row['robust']:5.1f}% "
    passes = f"{row['forwards']:,} + {row['backwards']:,}"
    if "weaker" not in row:
        return told + f"{'-':>6} {'-':>6} {'-':>8}  {row['seconds']:6.1f} {'-':>7} {'-':>5}   {passes}"
    ratio = f"{row['ratio']:.1f}" if row["workers"] == 1 else "-"
    return told + (
        f"{100 * row['their_robust']:5.1f}% {row['weaker']:>6} {row['stronger']:>8}  {row['seconds']:6.1f} "
        f"{row['their_seconds']:>7.1f} {ratio:>5}   {passes}, {row['their_forwards']:,} + {row['their_backwards']:,}"
    )


def verdict(rows: list[Row]) -> str:
    """The sentence that counts: where ours leaves more than AutoAttack, where fewer, and the sums over all models."""
    rows = [row for row in rows if "weaker" in row]
    if not rows:
        return "Nothing was compared: pyautoattack is not installed."
    gaps = [row["weaker"] - row["stronger"] for row in rows]  # images that ours leaves and theirs does not, net
    above = sum(100 * gap > MARGIN * row["examples"] for gap, row in zip(gaps, rows, strict=True))
    sums: dict[float, int] = {}
    for gap, row in zip(gaps, rows, strict=True):
        sums[row["eps"]] = sums.get(row["eps"], 0) + gap
    summed = ", ".join(f"{gap:+d} at eps {eps:g}" for eps, gap in sorted(sums.items()))
    worse = ", ".join(f"{eps:g}" for eps, gap in sorted(sums.items()) if gap > 0)
    said = f"above at eps {worse}" if worse else "never above"
    return (
        f"Of {len(rows)} pairs of a model and an eps, ours is above AutoAttack by more than {MARGIN:g} points on {above}, and "
        f"lower on {sum(gap < 0 for gap in gaps)}. Summed over all models it is {said} (images left, ours less theirs: {summed})."
    )


def pgd_attacks(model: nn.Module, eps: float, device: torch.device) -> dict[str, Callable[[Tensor, Tensor], Tensor]]:
    """PGD from the example with the same steps, as each library has it."""
    step = 2.5 * eps / STEPS
    ours = PGD(ThreatModel(eps, SHAPE), steps=STEPS, step_size=step, random_start=False, keep="last")
    found: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"sparring": lambda x, y: ours(model, x, y)}
    if torchattacks := optional("torchattacks"):
        theirs = torchattacks.PGD(model, eps=eps, alpha=step, steps=STEPS, random_start=False)
        found["torchattacks"] = lambda x, y: theirs(x, y)
    if foolbox := optional("foolbox"):
        shown = foolbox.PyTorchModel(model, bounds=(0, 1))
        linf = foolbox.attacks.LinfPGD(abs_stepsize=step, steps=STEPS, random_start=False)
        found["foolbox"] = lambda x, y: linf.run(shown, x, y, epsilon=eps)
    classification, evasion = optional("art.estimators.classification"), optional("art.attacks.evasion")
    if classification and evasion:
        shell = classification.PyTorchClassifier(
            model, loss=nn.CrossEntropyLoss(), input_shape=SHAPE, nb_classes=N_CLASSES, clip_values=(0.0, 1.0),
            device_type="gpu" if device.type == "cuda" else "cpu",
        )  # fmt: skip
        art = evasion.ProjectedGradientDescentPyTorch(
            shell, eps=eps, eps_step=step, max_iter=STEPS, num_random_init=0, batch_size=BATCH, verbose=False
        )
        found["ART"] = lambda x, y: torch.from_numpy(art.generate(x.cpu().numpy(), y=y.cpu().numpy())).to(x)
    return found


def pgds(options: argparse.Namespace) -> list[Row]:
    """Part two: one PGD beside those of other libraries."""
    rows, device, eps = [], torch.device(options.device), options.eps[0]
    test = mnist(options.data_root)[1].to(device)
    for name in options.models:
        model = the_model(name, options).to(device)
        attacks = pgd_attacks(model, eps, device)
        seconds: dict[str, list[float]] = {library: [] for library in attacks}
        right: dict[str, int] = {}
        for number in range(options.rounds + 1):
            for library, attack in attacks.items():
                taken, right[library] = 0.0, 0
                for index in torch.arange(len(test)).split(BATCH):
                    x, y = test.floats(index), test.labels[index]
                    started = now(device)
                    x_adv = attack(x, y)
                    taken += now(device) - started
                    with torch.no_grad():
                        right[library] += int((model.eval()(x_adv).argmax(-1) == y).sum())
                if number:  # the first round warms up
                    seconds[library].append(taken)
        ours = statistics.median(seconds["sparring"])
        for library, taken_in in seconds.items():
            ratios = [theirs / mine for theirs, mine in zip(taken_in, seconds["sparring"], strict=True)]
            row: Row = {"model": name, "eps": eps, "library": library, "robust": right[library] / len(test)}
            row |= {"torch": torch.__version__, "device": options.device, "threads": options.threads}
            row |= {
                "seconds": round(statistics.median(taken_in), 2),
                "ratio": round(statistics.median(taken_in) / ours, 2),
            }
            row |= {"lowest": round(min(ratios), 2), "highest": round(max(ratios), 2)}
            rows.append(row)
            print(
                f"{name:>16} {eps:>5g} {library:>13} {100 * row['robust']:6.2f}% {row['seconds']:7.2f} s  "
                f"{row['ratio']:5.2f} [{row['lowest']}, {row['highest']}]",
                flush=True,
            )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=Path("results/paper-mnist/runs"))
    parser.add_argument("--data-root", type=Path)
    parser.add_argument("--part", nargs="+", choices=["suite", "pgd"], default=["suite"])
    parser.add_argument("--models", nargs="+", default=[*RECIPES, "trades", "conv"])
    parser.add_argument("--eps", nargs="+", type=float, default=[0.1, 0.05, 0.2, 0.3])
    parser.add_argument("--examples", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "sparring-bench")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    warnings.filterwarnings("ignore", module="(?!sparring)")
    torch.set_num_threads(options.threads)
    print(f"torch {torch.__version__}, {options.device}, {options.threads} thread(s), {options.workers} worker(s)")
    results = read_json(options.json) if options.json and options.json.exists() else {}

    def keep(part: str, rows: list[Row]) -> None:
        results[part] = rows
        if options.json:
            write_json(options.json, results)

    try:
        for part in options.part:
            if part == "suite":
                suites(options, partial(keep, "suite"), results.get("suite", []))
            else:
                keep("pgd", pgds(options))
    except (InputError, Interrupted) as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
