"""Known sets: the places looked in, the sums checked, the line that says what is missing. No network."""

import gzip
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from sparring.data import DataNotFound, load
from sparring.data import download as module
from sparring.data.download import FILES, KNOWN, KnownSet, cache_folder, known_arrays
from sparring.data.idx import idx_bytes, idx_sha256

Arrays = dict[str, NDArray[np.uint8]]


@pytest.fixture
def arrays() -> Arrays:
    rng = np.random.default_rng(0)
    sizes = {"train": 20, "t10k": 10}
    return {
        file: rng.integers(0, 256, (n, 28, 28), dtype=np.uint8)
        if "images" in file
        else (np.arange(n) % 10).astype(np.uint8)
        for file in FILES
        for n in [sizes[file.split("-")[0]]]
    }


@pytest.fixture(autouse=True)
def known(arrays: Arrays, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> KnownSet:
    """A small set under the name mnist, with no mirror; no variable and no cache of the user's."""
    monkeypatch.delenv("SPARRING_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path / "cache"))
    sums = {file: idx_sha256(array) for file, array in arrays.items()}
    small = replace(KNOWN["mnist"], mirrors=(), sha256=sums, n_train=20, n_test=10)
    monkeypatch.setitem(KNOWN, "mnist", small)
    monkeypatch.setitem(KNOWN, "kmnist", replace(KNOWN["kmnist"], mirrors=(), n_train=20, n_test=10))
    return small


def put(arrays: Arrays, folder: Path, *, gz: bool) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for file, array in arrays.items():
        content = idx_bytes(array)
        (folder / (file + ".gz" * gz)).write_bytes(gzip.compress(content) if gz else content)
    return folder


def serve(known: KnownSet, mirrors: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    uris = tuple(f"{folder.as_uri()}/" for folder in mirrors)
    monkeypatch.setitem(KNOWN, known.name, replace(known, mirrors=uris))


@pytest.mark.parametrize("gz", [False, True])
@pytest.mark.parametrize("layout", ["MNIST/raw", "mnist", "."])
def test_every_accepted_layout_is_found(arrays: Arrays, tmp_path: Path, layout: str, gz: bool) -> None:
    put(arrays, tmp_path / "root" / layout, gz=gz)
    train, test = load("mnist", root=tmp_path / "root", download=False)
    assert (len(train), len(test)) == (20, 10) and train.shape == (1, 28, 28) and train.n_classes == 10
    assert np.array_equal(train.images[:, 0].numpy(), arrays[FILES[0]])
    assert test.labels.tolist() == arrays[FILES[3]].tolist()


def test_the_given_root_comes_before_the_variable_and_the_variable_before_the_cache(
    arrays: Arrays, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    places = [tmp_path / "given", tmp_path / "variable", cache_folder()]
    monkeypatch.setenv("SPARRING_DATA", str(places[1]))
    for i, place in reversed(list(enumerate(places))):
        arrays["t10k-labels-idx1-ubyte"][:] = i
        put(arrays, place / "mnist", gz=True)
        found = known_arrays("mnist", root=places[0], download=False, allow_unknown=True)
        assert found[3][0] == i


def test_a_set_that_is_nowhere_is_one_line_that_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(DataNotFound) as caught:
        load("mnist", root=tmp_path / "nowhere")
    message = str(caught.value)
    assert "\n" not in message
    for word in (
        *FILES,
        str(tmp_path / "nowhere"),
        str(cache_folder()),
        "MNIST/raw",
        "SPARRING_DATA",
        "--data-root",
    ):
        assert word in message
    assert "--data digits" in message


def test_not_found_is_both_a_missing_file_and_a_wrong_input() -> None:
    assert issubclass(DataNotFound, FileNotFoundError) and issubclass(DataNotFound, ValueError)


def test_a_set_with_a_missing_file_names_it(arrays: Arrays, tmp_path: Path) -> None:
    (put(arrays, tmp_path / "mnist", gz=True) / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(DataNotFound, match=f"{tmp_path / 'mnist'} lacks t10k-labels-idx1-ubyte;"):
        load("mnist", root=tmp_path, download=False)


def test_a_set_with_a_truncated_file_names_it(arrays: Arrays, tmp_path: Path) -> None:
    path = put(arrays, tmp_path / "mnist", gz=False) / FILES[0]
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"mnist/train-images-idx3-ubyte: header says .*truncated"):
        load("mnist", root=tmp_path)


def test_a_changed_file_is_refused_unless_unknown_data_are_allowed(arrays: Arrays, tmp_path: Path) -> None:
    arrays[FILES[2]][3, 4, 5] ^= 1
    put(arrays, tmp_path / "mnist", gz=True)
    with pytest.raises(ValueError, match=r"t10k-images.* does not match the published .*--allow-unknown-data"):
        load("mnist", root=tmp_path)
    _, test = load("mnist", root=tmp_path, allow_unknown=True)
    assert len(test) == 10


def test_counts_that_differ_are_refused_even_among_unknown_data(arrays: Arrays, tmp_path: Path) -> None:
    arrays[FILES[1]] = arrays[FILES[1]][:-1]
    put(arrays, tmp_path / "mnist", gz=False)
    with pytest.raises(ValueError, match="do not fit"):
        load("mnist", root=tmp_path, allow_unknown=True)


def test_the_files_of_one_set_are_not_taken_for_another(arrays: Arrays, tmp_path: Path) -> None:
    put(arrays, tmp_path, gz=False)
    with pytest.raises(ValueError, match="it is the file of mnist"):
        load("kmnist", root=tmp_path)


def test_a_set_without_published_sums_must_have_the_right_shape_and_labels(arrays: Arrays, tmp_path: Path) -> None:
    for file in FILES[::2]:
        arrays[file] ^= 1
    for file in FILES[1::2]:
        arrays[file] = arrays[file][::-1].copy()
    put(arrays, tmp_path / "KMNIST" / "raw", gz=True)
    assert len(load("kmnist", root=tmp_path)[0]) == 20
    arrays[FILES[3]][0] = 10
    put(arrays, tmp_path / "KMNIST" / "raw", gz=True)
    with pytest.raises(ValueError, match=r"label 10, expected 0\.\.9"):
        load("kmnist", root=tmp_path)
    arrays[FILES[0]] = arrays[FILES[0]][:7]
    put(arrays, tmp_path / "KMNIST" / "raw", gz=True)
    with pytest.raises(ValueError, match=r"shape \(7, 28, 28\), expected \(20, 28, 28\)"):
        load("kmnist", root=tmp_path)


def test_a_download_lands_in_the_first_root_whole_and_is_then_found(
    arrays: Arrays, known: KnownSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    serve(known, [tmp_path / "empty", put(arrays, tmp_path / "mirror", gz=True)], monkeypatch)
    load("mnist", root=tmp_path / "root")
    landed = sorted(os.listdir(tmp_path / "root" / "MNIST" / "raw"))
    assert landed == sorted(f"{file}.gz" for file in FILES)
    load("mnist", root=tmp_path / "root", download=False)


def test_a_mirror_with_wrong_bytes_is_passed_over(
    arrays: Arrays, known: KnownSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = put(arrays, tmp_path / "good", gz=True)
    changed = put({**arrays, FILES[0]: arrays[FILES[0]] ^ 1}, tmp_path / "changed", gz=True)
    login = put(arrays, tmp_path / "login", gz=True)
    (login / f"{FILES[0]}.gz").write_text("<html>please log in</html>")
    serve(known, [login, changed, good], monkeypatch)
    assert len(load("mnist")[0]) == 20


def test_a_failed_download_leaves_nothing_and_says_why(
    arrays: Arrays, known: KnownSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changed = put({**arrays, FILES[0]: arrays[FILES[0]] ^ 1}, tmp_path / "changed", gz=True)
    serve(known, [changed], monkeypatch)
    with pytest.raises(DataNotFound, match=r"download failed: file:.*SHA-256 .*, expected ") as caught:
        load("mnist", root=tmp_path / "root", allow_unknown=True)
    assert "\n" not in str(caught.value) and ".tmp-" not in str(caught.value)
    assert os.listdir(tmp_path / "root" / "MNIST" / "raw") == []


def test_a_root_that_cannot_be_written_is_one_line(
    arrays: Arrays, known: KnownSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    serve(known, [put(arrays, tmp_path / "mirror", gz=True)], monkeypatch)
    (tmp_path / "file").write_text("")
    with pytest.raises(DataNotFound, match=r"download failed: .*file"):
        load("mnist", root=tmp_path / "file")


def test_the_publishers_sum_of_the_packed_file_is_compared(
    arrays: Arrays, known: KnownSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    serve(replace(known, md5_gz={FILES[0]: "0" * 32}), [put(arrays, tmp_path / "mirror", gz=True)], monkeypatch)
    with pytest.raises(DataNotFound, match=r"MD5 [0-9a-f]{32}, expected 0{32}"):
        load("mnist")


def test_every_request_has_a_timeout(known: KnownSet, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[float] = []

    def silent(url: str, timeout: float) -> None:
        asked.append(timeout)
        raise TimeoutError("timed out")

    monkeypatch.setattr(module.urllib.request, "urlopen", silent)
    monkeypatch.setitem(KNOWN, "mnist", replace(known, mirrors=("https://a.invalid/", "https://b.invalid/")))
    with pytest.raises(DataNotFound, match="timed out"):
        load("mnist")
    assert asked == [module.TIMEOUT] * 2  # after the first file, the others are not tried


@pytest.mark.parametrize(
    ("name", "nearest"), [("MNIST", "mnist"), ("fashion_mnist", "fashion-mnist"), ("digit", "digits")]
)
def test_an_unknown_name_is_answered_with_the_nearest_and_all_known(name: str, nearest: str) -> None:
    with pytest.raises(ValueError, match=f"did you mean '{nearest}'.*known: digits, mnist, fashion-mnist, kmnist"):
        load(name)
