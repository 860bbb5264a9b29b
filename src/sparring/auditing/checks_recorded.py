"""Group I, second part: the data, the labels, and the threat model as it was."""

import hashlib
from collections.abc import Callable

import torch
from torch import Tensor, nn

from sparring import modes
from sparring.attacks import Attack
from sparring.auditing.check import Check, Status
from sparring.auditing.evidence import Evidence
from sparring.data import Data
from sparring.threat import ThreatModel


def i9(e: Evidence) -> Check:
    """Data, their fingerprint, duplicates between training and test, and whether attacks use the true labels."""
    counts = e.y.bincount(minlength=e.data.n_classes).tolist()
    evidence = f"SHA-256 {e.subject.data.fingerprint[:12]}, classes {min(counts)} to {max(counts)} images"
    if ignores_labels(e.white_box, e.data):
        return Check("I9", "FAIL", "predicted labels", "true labels", evidence, "attack the true label, not the answer")
    if e.subject.train is None:
        return Check("I9", "PASS", f"N = {e.n}", "", evidence + "; no training data given, duplicates not looked for")
    known = _hashes(e.subject.train)
    twice = sum(h in known for h in _hashes(e.subject.data, unique=False))
    share = 100 * twice / len(e.subject.data)
    limit = e.thresholds.of("I9", "duplicates")
    status: Status = "WARN" if share > limit else "PASS"
    advice = "remove test images that the model was trained on" if status == "WARN" else ""
    return Check("I9", status, f"N = {e.n}, {twice} of {len(e.subject.data)} test images in training",
                 f"<= {limit:g} %", evidence, advice)  # fmt: skip


def i10(e: Evidence) -> Check:
    """The threat model is recorded whole, and passes were counted by hooks."""
    record = recorded(e)
    missing = [name for name, value in record.items() if value in (None, "", 0) and name not in ("eps",)]
    if missing:
        advice = "state it, or use an attack whose passes a hook can count"
        return Check("I10", "FAIL", f"missing: {', '.join(missing)}", "nothing missing", "", advice, record)
    text = f"l_inf, eps {e.eps:g} of a pixel range 0..1, {record['knowledge']}"
    return Check("I10", "PASS", text, "nothing missing", f"{record['passes']} example passes", numbers=record)


def recorded(e: Evidence) -> dict[str, object]:
    """The threat model as measured and as stated."""
    runs = list(e.runs.values())
    trained = (
        f"{len(e.training_data)} examples of {e.training_data.name}" if e.training_data else "no adversary trained"
    )
    return {
        "norm": "l_inf",
        "eps": ", ".join(f"{eps:g}" for eps in e.subject.eps),
        "pixel scale": "0..1",
        "knowledge": "white-box",
        "steps": round(e.white.backwards / max(1, int(e.white.attacked.sum())), 1),
        "restarts": f"{e.level.restarts}",
        "queries": f"{e.level.queries}",
        "averaging": f"{e.draws} draws" if e.subject.declared_random else "none: deterministic",
        "adversary's training data": trained,
        "passes": f"{sum(r.forwards for r in runs)} forwards, {sum(r.backwards for r in runs)} backwards"
        if runs
        else "",
    }


def ignores_labels(attack: Callable[[ThreatModel], Attack], data: Data) -> bool:
    """Whether an attack, on a linear classifier with known gradients, does the same whatever labels it is given."""
    threat = ThreatModel(0.05, data.shape)
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(32, *data.shape, generator=generator).to(data.images.device)
    model = nn.Sequential(nn.Flatten(), nn.Linear(x[0].numel(), data.n_classes)).to(x.device)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
        answers = model(x).argmax(-1)
    found = []
    for labels in (answers, answers, (answers + 1) % data.n_classes):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            fresh = attack(threat)
            found.append(_run_once(fresh, model, x, labels))
    return bool(torch.equal(found[0], found[1]) and torch.equal(found[0], found[2]))


def _run_once(attack: Attack, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    for value in vars(attack).values() if hasattr(attack, "__dict__") else ():
        if hasattr(value, "seek"):
            value.seek(0)
    with modes.frozen(model):
        return attack(model, x.clone(), y.clone()).detach()


def _hashes(data: Data, *, unique: bool = True) -> "set[bytes] | list[bytes]":
    rows = data.images.cpu().flatten(1).contiguous().numpy()
    found = [hashlib.blake2b(row.tobytes(), digest_size=16).digest() for row in rows]
    return set(found) if unique else found
