"""The standard suite beside the official AutoAttack, and PGD beside torchattacks, Foolbox and ART: time and robust accuracy.

    python bench/attack.py --runs results/paper-mnist/runs [--data-root FOLDER] [--part suite pgd] [--models pgd trades]
                           [--eps 0.1] [--examples 1000] [--rounds 3] [--threads 1] [--cache FOLDER] [--json FILE]

`--runs` holds trained runs, RECIPE/seed0; "trades" (an MLP) and "conv" (a small convolutional network) are trained here, in
minutes, and kept in `--cache`. Part "suite": `Cascade(standard_suite)` and AutoAttack's standard version on the same stratified
MNIST test images, one after the other; passes are example passes through the model, forwards and backwards, counted by hooks;
"weaker" and "stronger" count the examples that only theirs, and only ours, broke. Part "pgd": PGD with 40 steps from the
example on all test images, the last iterate kept, in batches of 500; the libraries alternate, and the ratio is that of their
medians, theirs over ours. Times are processor seconds; only ratios within one run mean anything. A library that is not
installed is skipped:

    pip install --target FOLDER --no-deps pyautoattack torchattacks foolbox eagerpy adversarial-robustness-toolbox
    PYTHONPATH=src:FOLDER python bench/attack.py ...

(--no-deps keeps the PyTorch that is there; what else a library then misses, its import error names.)
"""

import argparse
import importlib
import itertools
import json
import logging
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import sparring
from sparring.attacks import PGD, Cascade, standard_suite
from sparring.data import Data
from sparring.data.batches import stratified
from sparring.evaluation.accuracy import counted
from sparring.models import mlp
from sparring.threat import ThreatModel

SHAPE, N_CLASSES, BATCH, STEPS = (1, 28, 28), 10, 500, 40


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
        model.load_state_dict(torch.load(file))
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


def the_model(name: str, options: argparse.Namespace, train: Data) -> nn.Module:
    if name in ("trades", "conv"):
        return trained(name, train, options.cache)
    model: nn.Module = sparring.load(options.runs / name / "seed0").defender
    return model.eval()


def optional(name: str) -> Any:
    """The module, or None where it cannot be imported, with a line that says so."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        print(f"{name} is left out ({error}); see --help for how to install it")
        return None


def measured(model: nn.Module, attack: Callable[[], Tensor], y: Tensor) -> tuple[Tensor, float, int, int]:
    """Which examples still stand, processor seconds, and example passes forwards and backwards."""
    started = time.process_time()
    with counted(model) as cost:
        x_adv = attack()
    taken = time.process_time() - started
    with torch.no_grad():
        standing = model(x_adv).argmax(-1) == y
    return standing, taken, cost.forwards, cost.backwards


def suites(options: argparse.Namespace, train: Data, test: Data) -> list[dict[str, Any]]:
    """Part one: the whole suite beside AutoAttack."""
    peer, rows = optional("pyautoattack"), []
    data = stratified(test, options.examples)
    x, y = data.floats(), data.labels
    print(
        f"{'model':>16} {'eps':>5}  {'ours':>6} {'theirs':>6} weaker stronger  {'s':>6} {'theirs':>7} ratio"
        "   passes forwards + backwards: ours, theirs"
    )
    for name, eps in itertools.product(options.models, options.eps):
        model, threat = the_model(name, options, train), ThreatModel(eps, SHAPE)
        suite = Cascade(standard_suite(threat, N_CLASSES, SHAPE), threat)
        standing, seconds, forwards, backwards = measured(model, partial(suite, model, x, y), y)
        robust = int(standing.sum()) / len(y)
        row: dict[str, Any] = {"model": name, "eps": eps, "examples": len(y), "robust": robust}
        row |= {"seconds": round(seconds, 2), "forwards": forwards, "backwards": backwards}
        theirs, weaker, stronger, theirs_s, ratio, passes = "-", "-", "-", "-", "-", ""
        if peer is not None:
            logging.disable(logging.CRITICAL)
            attack = peer.AutoAttack(model, eps=eps, seed=0, version="standard")
            run = partial(attack.run_standard_evaluation, x, y, batch_size=250)
            kept, taken, asked, back = measured(model, lambda run=run: run()[0], y)
            logging.disable(logging.NOTSET)
            row |= {"their_robust": int(kept.sum()) / len(y), "their_seconds": round(taken, 2)}
            row |= {"weaker": int((standing & ~kept).sum()), "stronger": int((~standing & kept).sum())}
            row |= {"ratio": round(taken / seconds, 2), "their_forwards": asked, "their_backwards": back}
            theirs, weaker, stronger = f"{100 * row['their_robust']:.1f}%", row["weaker"], row["stronger"]
            theirs_s, ratio, passes = f"{taken:.1f}", f"{row['ratio']:.1f}", f", {asked:,} + {back:,}"
        print(
            f"{name:>16} {eps:>5g}  {100 * robust:5.1f}% {theirs:>6} {weaker:>6} {stronger:>8}  {seconds:6.1f} {theirs_s:>7} "
            f"{ratio:>5}   {forwards:,} + {backwards:,}{passes}",
            flush=True,
        )
        rows.append(row)
    return rows


def pgd_attacks(model: nn.Module, eps: float) -> dict[str, Callable[[Tensor, Tensor], Tensor]]:
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
            device_type="cpu",
        )  # fmt: skip
        art = evasion.ProjectedGradientDescentPyTorch(
            shell, eps=eps, eps_step=step, max_iter=STEPS, num_random_init=0, batch_size=BATCH, verbose=False
        )
        found["ART"] = lambda x, y: torch.from_numpy(art.generate(x.numpy(), y=y.numpy()))
    return found


def pgds(options: argparse.Namespace, train: Data, test: Data) -> list[dict[str, Any]]:
    """Part two: one PGD beside those of other libraries."""
    rows = []
    for name in options.models:
        model, eps = the_model(name, options, train), options.eps[0]
        attacks = pgd_attacks(model, eps)
        seconds: dict[str, list[float]] = {library: [] for library in attacks}
        right: dict[str, int] = {}
        for number in range(options.rounds + 1):
            for library, attack in attacks.items():
                taken, right[library] = 0.0, 0
                for index in torch.arange(len(test)).split(BATCH):
                    x, y = test.floats(index), test.labels[index]
                    started = time.process_time()
                    x_adv = attack(x, y)
                    taken += time.process_time() - started
                    with torch.no_grad():
                        right[library] += int((model.eval()(x_adv).argmax(-1) == y).sum())
                if number:  # the first round warms up
                    seconds[library].append(taken)
        ours = statistics.median(seconds["sparring"])
        for library, taken_in in seconds.items():
            ratios = [theirs / mine for theirs, mine in zip(taken_in, seconds["sparring"], strict=True)]
            row = {"model": name, "eps": eps, "library": library, "robust": right[library] / len(test)}
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
    parser.add_argument("--part", nargs="+", choices=["suite", "pgd"], default=["suite", "pgd"])
    parser.add_argument("--models", nargs="+", default=["vanilla", "fgsm", "pgd", "trades", "conv"])
    parser.add_argument("--eps", nargs="+", type=float, default=[0.1])
    parser.add_argument("--examples", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "sparring-bench")
    parser.add_argument("--json")
    options = parser.parse_args()
    warnings.filterwarnings("ignore", module="(?!sparring)")
    torch.set_num_threads(options.threads)
    train, test = sparring.data.load("mnist", root=options.data_root)
    print(f"torch {torch.__version__}, {options.threads} thread(s)")
    results: dict[str, Any] = {"torch": torch.__version__, "threads": options.threads}
    for part in options.part:
        results[part] = (suites if part == "suite" else pgds)(options, train, test)
    if options.json:
        Path(options.json).write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
