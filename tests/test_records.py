"""Records: to JSON lines and back, whole or not at all."""

import dataclasses
import inspect
import json
import math
import os
import types
import typing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparring import records
from sparring.errors import InputError
from sparring.records import BinRecord, EpochRecord, OutPaths, RunPaths, RunRecord, SummaryRecord

KINDS = [kind for name, kind in inspect.getmembers(records, inspect.isclass) if name.endswith("Record")]
FLOATS = st.floats(allow_nan=False, allow_infinity=False)
TEXT = st.text(max_size=20)  # with quotes, newlines, signs from everywhere


def values(hint: Any) -> st.SearchStrategy[Any]:
    """Any value of an annotated type."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return st.one_of([st.none() if a is type(None) else values(a) for a in arguments])
    if origin is typing.Literal:
        return st.sampled_from(arguments)
    if origin is tuple:
        return st.lists(values(arguments[0]), max_size=3).map(tuple)
    if origin is dict:
        return st.dictionaries(TEXT, values(arguments[1]), max_size=3)
    if dataclasses.is_dataclass(hint):
        return st.builds(hint, **fields(hint))  # type: ignore[arg-type]
    plain: dict[Any, st.SearchStrategy[Any]] = {
        int: st.integers(-(2**53), 2**53),
        float: FLOATS,
        str: TEXT,
        bool: st.booleans(),
        Any: st.one_of(st.none(), st.integers(0, 9), TEXT),
    }
    return plain[hint]


def fields(kind: Any) -> dict[str, st.SearchStrategy[Any]]:
    return {name: values(hint) for name, hint in typing.get_type_hints(kind).items()}


def test_there_are_records_of_many_kinds() -> None:
    assert len(KINDS) >= 13


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_every_record_survives_its_file(kind: Any, data: st.DataObject) -> None:
    some = data.draw(st.lists(st.builds(kind, **fields(kind)), max_size=3))
    lines = [records.line(record) for record in some]
    assert all("\n" not in text and "\r" not in text for text in lines)
    assert [records.restore(kind, json.loads(text)) for text in lines] == some


def a_run(seed: int = 0, seconds: float = 1.5) -> RunRecord:
    return RunRecord("gan_tanh", seed, "done", 3, "3 épochs\n", seconds, 10, 20, "ab" * 32, "")


def test_a_file_is_written_and_read_and_appended_to(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "runs.jsonl"
    records.write(path, [a_run(0), a_run(1)])
    records.append(path, a_run(2))
    assert records.read(path, RunRecord) == [a_run(0), a_run(1), a_run(2)]
    records.write(path, [])
    assert records.read(path, RunRecord) == [] and path.exists()
    assert records.read(tmp_path / "none.jsonl", RunRecord) == []


@pytest.mark.parametrize("cut", [1, 2, 10, 40])
def test_a_cut_last_line_is_dropped(cut: int, tmp_path: Path) -> None:
    path = tmp_path / "runs.jsonl"
    records.write(path, [a_run(0), a_run(1)])
    path.write_bytes(path.read_bytes()[:-cut])
    assert records.read(path, RunRecord) == [a_run(0)]


def test_what_is_appended_after_a_cut_line_is_not_lost(tmp_path: Path) -> None:
    path = tmp_path / "runs.jsonl"
    records.write(path, [a_run(0), a_run(1)])
    path.write_bytes(path.read_bytes()[:-10])
    records.append(path, a_run(2))
    assert records.read(path, RunRecord) == [a_run(0), a_run(2)]


@pytest.mark.parametrize(
    "foreign",
    [
        b"not json",
        b"{}",
        b"[]",
        b"3",
        b'""',
        b"null",
        b'{"recipe": "x"}',
        b'{"recipe": "x", "colour": "red"}',
        b"",
        b"\xff\xfe",
    ],
)
def test_a_foreign_line_is_an_input_error_that_names_it(foreign: bytes, tmp_path: Path) -> None:
    path = tmp_path / "runs.jsonl"
    good = records.line(a_run()).encode()
    path.write_bytes(good + b"\n" + foreign + b"\n" + good + b"\n")
    with pytest.raises(InputError, match=r"runs\.jsonl"):
        records.read(path, RunRecord)


def test_a_record_of_another_kind_is_an_input_error(tmp_path: Path) -> None:
    path = tmp_path / "bins.jsonl"
    records.write(path, [BinRecord(0.0, 0.1, 3, 0.05, 0.0, 0.0, 0.6)])
    with pytest.raises(InputError, match=r"bins\.jsonl:1 is not a sparring RunRecord"):
        records.read(path, RunRecord)


def test_numbers_that_are_not_finite_are_null_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "runs.jsonl"
    records.write(path, [a_run(seconds=math.nan), a_run(seconds=math.inf)])
    text = path.read_text()
    assert text.count('"seconds":null') == 2 and "NaN" not in text and "Infinity" not in text
    assert all(math.isnan(r.seconds) for r in records.read(path, RunRecord))
    summary = SummaryRecord("r", "area", "pgd", None, "sound", 0.5, math.nan, math.inf, 1, (0.5, math.nan))
    restored = records.restore(SummaryRecord, json.loads(records.line(summary)))
    assert restored.low is None and restored.high is None  # an interval that does not exist
    assert restored.values[0] == 0.5 and math.isnan(restored.values[1])


def test_a_number_that_json_writes_without_a_point_is_still_the_same() -> None:
    record = EpochRecord("r", 0, "main", 1, 5, 1.0, None, 1e300, 5e-324, None, None, 0.1, 1 / 3, 0.0, 2.0)
    assert records.restore(EpochRecord, json.loads(records.line(record))) == record


def test_a_json_file_is_written_whole_and_read_back(tmp_path: Path) -> None:
    path = tmp_path / "a" / "config.json"
    records.write_json(path, {"x": (1, 2), "path": tmp_path, "nan": math.nan, "run": a_run()})
    value = records.read_json(path)
    assert value["x"] == [1, 2] and value["path"] == str(tmp_path) and value["nan"] is None
    assert records.restore(RunRecord, value["run"]) == a_run()
    path.write_text("{")
    with pytest.raises(InputError, match="is not JSON"):
        records.read_json(path)


def test_an_atomic_write_leaves_the_old_file_or_the_new_and_nothing_aside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "runs.jsonl"
    records.atomically(path, b"old")
    assert [p.name for p in tmp_path.iterdir()] == ["runs.jsonl"]
    for step in ("fsync", "chmod", "replace"):

        def fails(*arguments: Any, **more: Any) -> None:
            raise OSError("the disk is full")

        with monkeypatch.context() as patch:
            patch.setattr(os, step, fails)
            with pytest.raises(OSError, match="disk is full"):
                records.atomically(path, b"new")
        assert path.read_bytes() == b"old"
        assert [p.name for p in tmp_path.iterdir()] == ["runs.jsonl"]
    with pytest.raises(TypeError):
        records.write(path, [object()])
    assert path.read_bytes() == b"old"
    records.atomically(path, b"new")
    assert path.read_bytes() == b"new" and [p.name for p in tmp_path.iterdir()] == ["runs.jsonl"]


def test_every_file_of_a_run_has_a_name_of_its_own(tmp_path: Path) -> None:
    for paths in (RunPaths(tmp_path), OutPaths(tmp_path)):
        names = [getattr(paths, name) for name, value in inspect.getmembers(type(paths)) if isinstance(value, property)]
        assert len(set(names)) == len(names) > 3
    assert RunPaths(tmp_path).checkpoint(7).name == "checkpoint-000000007.safetensors"
    assert OutPaths(tmp_path).run("fgsm", 3).folder == tmp_path / "runs" / "fgsm" / "seed3"
