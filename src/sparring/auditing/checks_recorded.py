"""Group I, second part: the data, the labels, and the threat model as it was."""

import copy
import hashlib
from collections.abc import Callable

import torch
from torch import Tensor, nn

from sparring import modes
from sparring.attacks import Attack
from sparring.auditing.check import Check, Status
from sparring.auditing.evidence import Evidence
from sparring.auditing.given import linear_model
from sparring.auditing.runs import AttackRun
from sparring.data import Data
from sparring.randomness import own_draws
from sparring.threat import ThreatModel

GREY = 1e-4  # of a grey level: so near to it, a float pixel is that of an 8-bit image
BLACK, UNTRIED = "black-box", "use of labels could not be tried"


def i9(e: Evidence) -> Check:
    """Data, their fingerprint, duplicates between training and test, and whether attacks use the true labels."""
    counts = e.y.bincount(minlength=e.data.n_classes).tolist()
    evidence = f"SHA-256 {e.subject.data.fingerprint[:12]}, classes {min(counts)} to {max(counts)} images"
    predicted, note = ignores_labels(e.white_box, e.data)
    if predicted:
        return Check("I9", "FAIL", "predicted labels", "true labels", evidence, "attack the true label, not the answer")
    evidence += f"; {note}" if note else ""
    if note.startswith(UNTRIED):
        advice = "see that the attack is given true labels, and repeats itself under one seed"
        return Check("I9", "WARN", f"N = {e.n}", "true labels", evidence, advice)
    if e.subject.train is None:
        return Check("I9", "PASS", f"N = {e.n}", "", evidence + "; no training data given, duplicates not looked for")
    known = _hashes(e.subject.train)
    twice = sum(h in known for h in _hashes(e.subject.data, unique=False))
    share = 100 * twice / len(e.subject.data)
    limit = e.thresholds.of("I9", "duplicates")
    status: Status = "WARN" if share > limit else "PASS"
    advice = "remove test images that the model was trained on" if status == "WARN" else ""
    return Check("I9", status, f"N = {e.n}, {twice} of {len(e.subject.data)} test images in training",
                 f"<= {limit:g} %", evidence, advice, statistic=share)  # fmt: skip


def i10(e: Evidence) -> Check:
    """The threat model is recorded whole, and passes were counted by hooks."""
    record = recorded(e)
    missing = [name for name, value in record.items() if value in (None, "", 0) and name not in ("eps",)]
    if missing:
        advice = "state it, or use an attack whose passes a hook can count"
        return Check("I10", "FAIL", f"missing: {', '.join(missing)}", "nothing missing", "", advice, record)
    text = f"l_inf, eps {e.eps:g} of a pixel range 0..1, {record['knowledge']}"
    scores = "; the white box asks for no gradient: it sees scores only" if record["knowledge"] == BLACK else ""
    return Check("I10", "PASS", text, "nothing missing", f"{record['passes']} example passes{scores}", numbers=record)


def recorded(e: Evidence) -> dict[str, object]:
    """The threat model as measured and as stated."""
    white, runs = e.white, list(e.runs.values())
    trained = (
        f"{len(e.training_data)} examples of {e.training_data.name}" if e.training_data else "no adversary trained"
    )
    return {
        "norm": "l_inf",
        "eps": ", ".join(f"{eps:g}" for eps in e.subject.eps),
        "pixel scale": "0..1",
        "knowledge": knowledge(white),
        "steps": _steps(white),
        "restarts": f"{e.level.restarts}",
        "queries": f"{e.level.queries}",
        "averaging": f"{e.draws} draws" if e.subject.declared_random else "none: deterministic",
        "adversary's training data": trained,
        "passes": f"{sum(r.forwards for r in runs)} forwards, {sum(r.backwards for r in runs)} backwards"
        if runs
        else "",
    }


def knowledge(run: AttackRun) -> str:
    """What an attack asked for, by the passes that were counted: gradients, scores, or nothing, which is no threat model."""
    return "white-box" if run.backwards else BLACK if run.forwards else ""


def _steps(run: AttackRun) -> float | str:
    """Gradients per example; empty for an attack that made no pass."""
    if not run.backwards:
        return "0 gradients" if run.forwards else ""
    return float(f"{run.backwards / max(1, int(run.attacked.sum())):.4g}")


def ignores_labels(attack: Callable[[ThreatModel], Attack], data: Data) -> tuple[bool, str]:
    """Whether an attack asks a linear classifier and does the same whatever labels it is given; and what else there is to say.

    An attack that asks nothing cannot follow predicted labels.
    """
    threat = ThreatModel(0.05, data.shape)
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(32, *data.shape, generator=generator).to(data.images.device)
    model = linear_model(x, data.n_classes, generator)
    with torch.no_grad():
        answers = model(x).argmax(-1)
    found, asked = list[Tensor](), list[nn.Module]()
    for module in model.modules():
        module.register_forward_pre_hook(lambda module, _: asked.append(module))
    for labels in (answers, answers, (answers + 1) % data.n_classes):
        with own_draws(x.device) as draw_from:
            draw_from(0)
            try:
                found.append(_run_once(_as_new(attack(threat)), model, x, labels))
            except Exception as problem:  # anyone's attack may ask anything of a model
                return False, f"{UNTRIED}: {_line(problem)}"
    if not torch.equal(found[0], found[1]):
        return False, f"{UNTRIED}: the attack does not repeat itself"
    same = torch.equal(found[0], found[2])
    return same and bool(asked), "the attack needs neither labels nor the model" if same else ""


def _as_new(attack: Attack) -> Attack:
    """A copy, so that the attack itself learns nothing here, nor one call from another; where there is none, the attack."""
    try:
        return copy.deepcopy(attack)
    except Exception:  # anyone's attack may hold anything
        return attack


def _run_once(attack: Attack, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    for value in vars(attack).values() if hasattr(attack, "__dict__") else ():
        if hasattr(value, "seek"):
            value.seek(0)
    with modes.frozen(model):
        return attack(model, x.clone(), y.clone()).detach()


def _line(problem: Exception) -> str:
    """What went wrong, in one short line."""
    return (str(problem).splitlines() or [""])[0][:80] or type(problem).__name__


def _hashes(data: Data, *, unique: bool = True) -> "set[bytes] | list[bytes]":
    found = [
        hashlib.blake2b(row.numpy().tobytes(), digest_size=16).digest()
        for part in data.images.cpu().flatten(1).split(1000)
        for row in _common(part)
    ]
    return set(found) if unique else found


def _common(images: Tensor) -> list[Tensor]:
    """Images (M, D) in a form that is the same for uint8 and floats: 8-bit levels where all pixels lie on them, else floats."""
    if images.dtype == torch.uint8:
        return list(images)
    levels = images * 255
    nearest = levels.round()
    eight_bit = ((levels - nearest).abs() <= GREY).all(1).tolist()
    return [nearest[k].to(torch.uint8) if is_so else images[k] for k, is_so in enumerate(eight_bit)]
