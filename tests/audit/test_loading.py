"""Models to audit: from a callable in a module, a file of weights or an exported program, and what cannot be loaded."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from sparring.auditing.loading import load_model
from sparring.errors import InputError
from sparring.models import mlp


def factory() -> nn.Module:
    return mlp((1, 8, 8), [16, 10])


class Pickled:
    """What a file with code would hold."""


def test_models_come_from_a_path_a_weights_file_and_an_exported_program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine.py").write_text(
        "from sparring.models import mlp\ndef net():\n    return mlp((1, 8, 8), [16, 10])\n"
    )
    monkeypatch.chdir(tmp_path)
    x, model = torch.rand(5, 1, 8, 8), factory().eval()
    with torch.no_grad():
        next(model.parameters()).add_(1.0)
    torch.save(model.state_dict(), tmp_path / "w.pt")
    save_file(model.state_dict(), tmp_path / "w.safetensors")
    assert load_model("mine:net")(x).shape == (5, 10)
    for name in ("w.pt", "w.safetensors"):
        assert torch.equal(load_model(str(tmp_path / name), "mine:net")(x), model(x))


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_an_exported_program_is_audited_at_any_batch_size(tmp_path: Path) -> None:
    model, x = factory().eval(), torch.rand(7, 1, 8, 8)
    torch.export.save(torch.export.export(model, (x[:4],)), tmp_path / "m.pt2")
    assert torch.allclose(load_model(str(tmp_path / "m.pt2"))(x), model(x), atol=1e-6)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("nowhere", "expected module:callable"),
        ("no_such_module:net", "cannot import"),
        ("sparring.models:nothing", "has no"),
        ("sparring.models:mlp", "without arguments"),
        ("sparring.models:__all__", "expected a function"),
        ("w.safetensors", "--factory"),
        ("w.pt2", "no file"),
    ],
)
def test_what_cannot_be_loaded_is_refused_in_one_line(target: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as raised:
        load_model(target)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("name", "body", "message"),
    [
        (
            "raises",
            "def net():\n    raise RuntimeError('no weights\\nat all')\n",
            "raises:net failed: RuntimeError: no weights",
        ),
        ("inner", "def net():\n    return len(3)\n", r"inner:net failed: TypeError: object of type 'int' has no len"),
        ("keys", "def net():\n    return {}['path']\n", "keys:net failed: KeyError: 'path'"),
        ("silent", "def net():\n    assert False\n", "silent:net failed: AssertionError$"),
        ("needs", "def net(width):\n    return width\n", "needs:net cannot be called without arguments: .*width"),
        ("broken", "def net(:\n", "cannot import 'broken': SyntaxError: "),
        ("stops", "raise RuntimeError('not here')\n", "cannot import 'stops': RuntimeError: not here"),
    ],
)
def test_a_factory_that_fails_is_named_in_one_line(
    name: str, body: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / f"factory_{name}.py").write_text(body)
    with pytest.raises(InputError, match=message.replace(name, f"factory_{name}", 1)) as raised:
        load_model(f"factory_{name}:net")
    assert "\n" not in str(raised.value)


def test_a_callable_that_does_not_tell_its_arguments_is_called() -> None:
    with pytest.raises(InputError, match=r"builtins:dict returned a dict; expected a torch.nn.Module"):
        load_model("builtins:dict")


def test_weights_with_code_are_not_run(tmp_path: Path) -> None:
    torch.save(Pickled(), tmp_path / "w.pt")
    with pytest.raises(InputError, match="state_dict"):
        load_model(str(tmp_path / "w.pt"), f"{__name__}:factory")
    (tmp_path / "bad.safetensors").write_bytes(b"nothing")
    with pytest.raises(InputError, match="cannot be read"):
        load_model(str(tmp_path / "bad.safetensors"), f"{__name__}:factory")
