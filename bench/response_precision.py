"""Best responses trained in bf16 beside the same in fp32: accuracy left, paired over ten fresh seeds, and processor seconds.

    python bench/response_precision.py results/paper-mnist/runs/gan_tanh/seed0 [--kinds x xg] [--seeds 10] [--epochs 2]

Every attack on the test images is in fp32; precision is that of the adversary's training alone.
"""

import argparse
import statistics
import time
from dataclasses import replace
from pathlib import Path

import torch

from sparring.attacks import LearnedAttack
from sparring.evaluation import attacked, fresh_adversary
from sparring.evaluation.exploitability import FRESH
from sparring.evaluation.responses import KINDS
from sparring.evaluation.statistics import mean_interval, t_test_p
from sparring.experiment import load, load_data
from sparring.reproduction.responses import BATCH, LR
from sparring.threat import ThreatModel


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--kinds", nargs="+", default=["x", "xg"])
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--data-root")
    options = parser.parse_args()
    torch.set_num_threads(1)
    trained = load(options.run)
    run, model = trained.run, trained.defender
    train_on, test = load_data(run.data if options.data_root is None else replace(run.data, root=options.data_root))
    threat = ThreatModel(run.eps, test.shape)
    settings = replace(FRESH, optimizer=replace(FRESH.optimizer, lr=LR))
    print(f"{options.run}, eps {run.eps:g}, n = {len(test):,}, torch {torch.__version__}")
    print(f"{options.epochs} epochs in batches of {BATCH}, {options.seeds} fresh seeds")
    for kind in options.kinds:
        left: dict[str, list[float]] = {"fp32": [], "bf16": []}
        taken: dict[str, list[float]] = {"fp32": [], "bf16": []}
        for seed in range(options.seeds):
            for precision in left:
                started = time.process_time()
                adversary = fresh_adversary(
                    model, train_on, threat, seed=seed, epochs=options.epochs, settings=settings, sees=KINDS[kind],
                    batch_size=BATCH, precision=precision,
                )  # fmt: skip
                taken[precision].append(time.process_time() - started)
                left[precision].append(attacked(model, test, LearnedAttack(adversary, threat), threat).accuracy)
        differences = [a - b for a, b in zip(left["bf16"], left["fp32"], strict=True)]
        mean, bounds = mean_interval(differences)
        ratios = [a / b for a, b in zip(taken["fp32"], taken["bf16"], strict=True)]
        each = ", ".join(f"{name} leaves {100 * statistics.mean(values):.2f} %" for name, values in left.items())
        interval = f"[{100 * bounds.low:+.2f}, {100 * bounds.high:+.2f}]"
        print(f"{kind:>4}: {each}; bf16 less fp32 {100 * mean:+.2f} points {interval}, p {t_test_p(differences):.2f}")
        print(
            f"      bf16 is {statistics.median(ratios):.2f} [{min(ratios):.2f}, {max(ratios):.2f}] times as fast",
            flush=True,
        )


if __name__ == "__main__":
    main()
