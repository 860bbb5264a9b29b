"""Write a results folder's numbers into README.md, between its markers, and the whole ledger into the folder's README.

    python runs/readme.py results/paper-mnist

No number in those places is written by hand: after a reproduction this script is run again.
"""

import sys
from pathlib import Path

from sparring.records import (
    AuditRecord,
    BestResponseRecord,
    ClaimRecord,
    OutPaths,
    ReproductionRecord,
    SummaryRecord,
    read,
    read_json,
    restore,
)

BEGIN, END = "<!-- results:begin -->", "<!-- results:end -->"
PAPER = {  # clean accuracy in the paper, section 4
    "vanilla": "98.26",
    "noise": "98.44",
    "fgsm": "98.50",
    "gan_tanh": "98.23",
    "gan_scaled": "98.29",
    "gan_tanh_init": "98.23",
    "gan_scaled_init": "98.19",
    "pgd": "-",
}
NAMES = {
    "vanilla": "vanilla",
    "noise": "random noise",
    "fgsm": "FGSM-adversarial",
    "gan_tanh": "GAN tanh",
    "gan_scaled": "GAN scaled",
    "gan_tanh_init": "initialised GAN tanh",
    "gan_scaled_init": "initialised GAN scaled",
    "pgd": "PGD-7 (not in the paper)",
}


def main(folder: Path) -> None:
    """Fill both files from the folder's records."""
    out = OutPaths(folder)
    head = restore(ReproductionRecord, read_json(out.reproduction))
    summary = [s for name in ("summary", "robust", "gaps") for s in read(out.records(name), SummaryRecord)]
    responses = [r for r in read(out.records("responses"), BestResponseRecord) if r.eps == 0.1]
    audits = read(out.records("audits"), AuditRecord)
    claims = [restore(ClaimRecord, claim) for claim in read_json(out.claims)]
    readme = Path(__file__).parent.parent / "README.md"
    text = readme.read_text(encoding="utf-8")
    before, rest = text.split(BEGIN)
    after = rest.split(END)[1]
    readme.write_text(
        before + BEGIN + "\n" + results(folder, head, summary, claims, audits) + END + after, encoding="utf-8"
    )
    page = ledger(head, claims) + audited(head, summary, audits) + exploited(folder, head, summary, responses)
    (folder / "README.md").write_text(page, encoding="utf-8")


def results(
    folder: Path,
    head: ReproductionRecord,
    summary: list[SummaryRecord],
    claims: list[ClaimRecord],
    audits: list[AuditRecord],
) -> str:
    """The README's section: one table, one figure, the claims that matter most, the command."""
    counts = {v: sum(c.verdict == v for c in claims) for v in ("reproduced", "explained", "refuted", "undecided")}
    lines = [
        f"{head.data.upper()}, {head.n_test:,} test images, {len(head.seeds)} seeds; mean over seeds [95 % t interval], in %. "
        "Attacks at eps 0.1, batch norm in evaluation mode.",
        "",
        f"| training | paper, clean | clean | FGSM | PGD-40 | in-game | fresh adversaries | worst case{fewer(head, summary)} |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for recipe in head.recipes:
        cells = [
            cell(summary, recipe, "accuracy", "clean", 0.0, 2),
            cell(summary, recipe, "accuracy", "fgsm", 0.1),
            cell(summary, recipe, "accuracy", "pgd", 0.1),
            cell(summary, recipe, "in_game", None, 0.1),
            cell(summary, recipe, "fresh", None, 0.1),
            worst(summary, audits, recipe, 0.1),
        ]
        lines.append(f"| {NAMES[recipe]} | {PAPER[recipe]} | " + " | ".join(cells) + " |")
    lines += [
        "",
        "*In-game* is accuracy against the adversary that the defender trained with; *fresh adversaries* is what survives all "
        "of the new ones, trained against the finished defender. Like a single FGSM step, that is a loose upper bound on "
        "robust accuracy. " + told(audits),
        "",
        f"Of the paper's {len(claims)} claims {counts['reproduced']} are reproduced, {counts['explained']} explained by another "
        f"reading of its protocol, {counts['refuted']} refuted, {counts['undecided']} undecided: "
        f"[the ledger]({folder.as_posix()}/README.md).",
        "",
    ]
    lines += [
        f"- **{c.id}, {c.claim}** (paper: {c.paper}): {c.verdict}. {c.sentence}"
        for c in claims
        if c.id in ("N8", "N11", "F2a")
    ]
    lines += [
        "",
        f"![Accuracy over eps for every training regime]({folder.as_posix()}/figures/figure2.svg)",
        "",
        "```",
        head.command,
        "```",
        "",
        f"took {head.seconds / 60:.0f} minutes on {machine(head)} and at most {head.peak_memory_mb or 0:.0f} MB in all its "
        "processes, the report not counted."
        + (
            ""
            if not audits
            else f" The last column: `sparring audit {folder.as_posix()} --eps {radii(audits)} --level "
            f"{audits[0].level} --full`."
        ),
    ]
    return "\n".join(lines) + "\n"


def cell(
    summary: list[SummaryRecord], recipe: str, metric: str, attack: str | None, eps: float, digits: int = 1
) -> str:
    """A mean and its interval in percent, or a dash."""
    for r in summary:
        if (r.recipe, r.metric, r.eps, r.protocol) == (recipe, metric, eps, "sound") and attack in (None, r.attack):
            mean = f"{100 * r.mean:.{digits}f}"
            if r.low is None or r.high is None:
                return mean
            return f"{mean} [{100 * max(r.low, 0):.{digits}f}, {100 * min(r.high, 1):.{digits}f}]"
    return "-"


def fewer(head: ReproductionRecord, summary: list[SummaryRecord]) -> str:
    """The number of seeds that were audited, where it is not all of them."""
    audited = {record.n_seeds for record in summary if record.metric == "worst_case"}
    return "" if audited in (set(), {len(head.seeds)}) else f" ({' to '.join(map(str, sorted(audited)))} seeds)"


def machine(head: ReproductionRecord) -> str:
    """What it ran on: the GPU, where there was one, and the processor's cores."""
    device = str(head.machine["device"])
    return (f"one {device.removeprefix('cuda: ')} and " if device.startswith("cuda") else "") + (
        f"{head.machine['cores']} cores"
    )


def worst(summary: list[SummaryRecord], audits: list[AuditRecord], recipe: str, eps: float) -> str:
    """Robust accuracy over the audit's attacks, or that it is withheld."""
    if any(audit.withheld for audit in audits if audit.recipe == recipe):
        return "withheld"
    return cell(summary, recipe, "worst_case", None, eps)


def radii(audits: list[AuditRecord]) -> str:
    """The radii of the audits, the claimed one first, as the command line takes them."""
    return " ".join(f"{h.eps:g}" for h in audits[0].headlines)


def told(audits: list[AuditRecord]) -> str:
    """What the last column is, and the audit's verdicts."""
    if not audits:
        return "PGD-40 comes closest here."
    verdicts = {v: sum(a.verdict == v for a in audits) for v in dict.fromkeys(a.verdict for a in audits)}
    counted = "; ".join(f"{verdict} ({n} runs)" for verdict, n in verdicts.items())
    return (
        "*Worst case* is what survives every attack of the [audit](docs/evaluation.md#the-audit), per image: Auto-PGD on three "
        "losses, Square, FGSM and every learned adversary. It is an upper bound on robust accuracy. "
        f"Verdicts at level {audits[0].level}: {counted}."
    )


def audited(head: ReproductionRecord, summary: list[SummaryRecord], audits: list[AuditRecord]) -> str:
    """What survives the audit's attacks at every eps, with the verdicts."""
    if not audits:
        return ""
    grid = sorted({h.eps for audit in audits for h in audit.headlines})
    size = {h.eps: h.n for audit in audits for h in audit.headlines}
    lines = [
        "",
        "# The audit",
        "",
        f"`sparring audit` at level {audits[0].level}, thresholds {audits[0].thresholds}, self-test: {audits[0].self_test}. "
        "Images that survive every attack, in %, mean over seeds [95 % t interval]; "
        + ", ".join(f"n = {size[eps]:,} at eps {eps:g}" for eps in grid)
        + ". Every check of every run is in `audits.jsonl`.",
        "",
        "| training | " + " | ".join(f"eps {eps:g}" for eps in grid) + " | verdict |",
        "|---|" + "---|" * (len(grid) + 1),
    ]
    for recipe in head.recipes:
        verdicts = dict.fromkeys(audit.verdict for audit in audits if audit.recipe == recipe)
        if verdicts:
            cells = [worst(summary, audits, recipe, eps) for eps in grid]
            lines.append(f"| {NAMES[recipe]} | " + " | ".join(cells) + f" | {'; '.join(verdicts)} |")
    return "\n".join(lines) + "\n"


def exploited(
    folder: Path, head: ReproductionRecord, summary: list[SummaryRecord], responses: list[BestResponseRecord]
) -> str:
    """What best responses leave of every recipe, by what they see."""
    if not responses:
        return ""
    kinds = list(dict.fromkeys(r.kind for r in responses))
    seen = {"x": "x only", "xy": "x and the label", "xg": "x and the gradient", "xyg": "x, label and gradient"}
    fresh = sorted({len(r.left) for r in responses})
    seeds = f"{' or '.join(map(str, fresh))} fresh {'seed' if fresh == [1] else 'seeds'}"
    precision = " and ".join(sorted({r.precision for r in responses}))
    lines = [
        "",
        "# Best responses",
        "",
        f"`sparring exploit {folder.as_posix()} --fresh-seeds {fresh[-1]}`: adversaries of the game's size, trained against "
        f"the frozen defender in {precision}; per run the worst case over {seeds}. Accuracy left and gap to the in-game "
        f"accuracy, in % and points, mean over the runs' seeds [95 % t interval]; n = {responses[0].n:,}. *Gain*: accuracy that "
        "the second half of the training took, the largest of the recipe's runs and kinds. *Seen*: millions of examples in the "
        "training of each, and of the game's own adversary.",
        "",
        "| training | in-game | " + " | ".join(f"{seen[k]}: left | gap" for k in kinds) + " | gain | seen |",
        "|---|---|" + "---|---|" * len(kinds) + "---|---|",
    ]
    for recipe in head.recipes:
        runs = [r for r in responses if r.recipe == recipe]
        if runs:
            cells = [cell(summary, recipe, "in_game", None, 0.1)]
            for k in kinds:
                cells += [cell(summary, recipe, m, k, 0.1) for m in ("best_response", "best_response_gap")]
            gain = f"{100 * max(r.gain for r in runs):.1f}"
            own = max(r.co_trained_examples or 0 for r in runs)
            seen_in = f"{max(r.examples for r in runs) / 1e6:.2f}" + (f", own {own / 1e6:.2f}" if own else "")
            lines.append(f"| {NAMES[recipe]} | " + " | ".join(cells) + f" | {gain} | {seen_in} |")
    return "\n".join(lines) + "\n"


def ledger(head: ReproductionRecord, claims: list[ClaimRecord]) -> str:
    """Every claim with its verdict."""
    lines = [
        "# The paper's claims, one by one",
        "",
        f"Written by `python runs/readme.py` from `claims.json`; `{head.command}`, commit {head.commit}, {head.started[:10]}. "
        "[docs/claims.md](../../docs/claims.md) says how each is tested.",
        "",
        "| id | claim | paper | measured | interval | seeds | verdict | |",
        "|---|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {c.id} | {c.claim} | {c.paper} | {c.measured} | {c.interval} | {c.n_seeds} | **{c.verdict}** | {c.sentence} |"
        for c in claims
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main(Path(sys.argv[1]))
