"""Known data sets: where their files may lie, where they can be fetched, and what their bytes must be.

A root is searched for `ROOT/MNIST/raw/` (torchvision's layout, with FashionMNIST and KMNIST likewise),
`ROOT/mnist/` and ROOT itself; each of the four files may be raw or .gz. Roots come in this order: the one
given, the folder that the variable SPARRING_DATA names, the user's cache.
"""

import contextlib
import hashlib
import http.client
import logging
import os
import secrets
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sparring.data.idx import idx_sha256, read_idx

FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)
VARIABLE = "SPARRING_DATA"
TIMEOUT = 10.0  # seconds without an answer, per mirror
MAX_DOWNLOAD = 2**26  # bytes; the largest of these files has 26 MB

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class KnownSet:
    """A published set of four IDX files.

    `sha256` holds the sums of the *unpacked* files; where it has none, shapes and label range are all that is
    checked. `md5_gz` are the sums that the publisher gives for the .gz files; they are compared after
    downloading.
    """

    name: str
    folder: str  # torchvision's
    mirrors: tuple[str, ...]
    sha256: Mapping[str, str] = field(default_factory=dict)
    md5_gz: Mapping[str, str] = field(default_factory=dict)
    n_train: int = 60_000
    n_test: int = 10_000
    n_classes: int = 10

    def shape(self, file: str) -> tuple[int, ...]:
        """The shape of the array in one of the four files."""
        n = self.n_train if file.startswith("train") else self.n_test
        return (n, 28, 28) if "images" in file else (n,)


KNOWN: dict[str, KnownSet] = {
    "mnist": KnownSet(
        "mnist",
        "MNIST",
        (
            "https://ossci-datasets.s3.amazonaws.com/mnist/",
            "https://storage.googleapis.com/cvdf-datasets/mnist/",
        ),
        sha256={  # of the original distribution by LeCun, Cortes and Burges
            "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
            "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
            "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
            "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
        },
    ),
    "fashion-mnist": KnownSet(
        "fashion-mnist",
        "FashionMNIST",
        ("http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",),
        md5_gz={  # as its authors and torchvision list them
            "train-images-idx3-ubyte": "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
            "train-labels-idx1-ubyte": "25c81989df183df01b3e8a0aad5dffbe",
            "t10k-images-idx3-ubyte": "bef4ecab320f06d8554ea6380940ec79",
            "t10k-labels-idx1-ubyte": "bb300cfdad3c16e7a12a480ee83cd310",
        },
    ),
    "kmnist": KnownSet(
        "kmnist",
        "KMNIST",
        ("http://codh.rois.ac.jp/kmnist/dataset/kmnist/",),
        md5_gz={  # as torchvision lists them
            "train-images-idx3-ubyte": "bdb82020997e1d708af4cf47b453dcf7",
            "train-labels-idx1-ubyte": "e144d726b3acfaa3e44228e80efcd344",
            "t10k-images-idx3-ubyte": "5c965bf0a639b31b8f53240b1b52f4d7",
            "t10k-labels-idx1-ubyte": "7320c461ea6c1c855c0b718fb2a4b134",
        },
    ),
}


class DataNotFound(FileNotFoundError, ValueError):
    """A known data set is neither on this machine nor to be had; the message says what to put where."""


def known_arrays(
    name: str,
    *,
    root: str | os.PathLike[str] | None = None,
    download: bool = True,
    allow_unknown: bool = False,
) -> tuple[NDArray[np.uint8], ...]:
    """Training images and labels, test images and labels of a known set, checked against the published ones.

    The first complete folder is used. Without one the set is downloaded into the first root, in torchvision's
    layout. Raises DataNotFound when that cannot be, ValueError for a damaged file and, unless
    `allow_unknown`, for one that is not the published file.
    """
    known = KNOWN[name]
    folder, partial = _find(known, root)
    if folder is None:
        failure = _download(known, _roots(root)[0] / known.folder / "raw") if download else "downloading is off"
        if failure:
            raise DataNotFound(_not_found(known, root, partial, failure))
        folder = _roots(root)[0] / known.folder / "raw"
    arrays = tuple(_checked(known, folder, file, allow_unknown) for file in FILES)
    for images, labels in (arrays[:2], arrays[2:]):
        if images.ndim != 3 or labels.shape != images.shape[:1] or images.size == 0:
            raise ValueError(
                f"{folder}: labels {labels.shape} do not fit images {images.shape}; expected (N,), (N, H, W)"
            )
    return arrays


def cache_folder() -> Path:
    """Where downloads go by default: in LOCALAPPDATA on Windows, else in XDG_CACHE_HOME or ~/.cache."""
    variable = "LOCALAPPDATA" if os.name == "nt" else "XDG_CACHE_HOME"
    base = os.environ.get(variable) or os.path.join(os.path.expanduser("~"), ".cache")
    return Path(base) / "sparring"


def _roots(root: str | os.PathLike[str] | None) -> list[Path]:
    named = [root, os.environ.get(VARIABLE), cache_folder()]
    return list(dict.fromkeys(Path(place).expanduser() for place in named if place))


def _folders(known: KnownSet, root: Path) -> list[Path]:
    return [root / known.folder / "raw", root / known.name, root]


def _find(known: KnownSet, root: str | os.PathLike[str] | None) -> tuple[Path | None, str]:
    """The first folder with all four files, or None and what the first folder with some of them lacks."""
    partial = ""
    for folder in (folder for place in _roots(root) for folder in _folders(known, place)):
        missing = [file for file in FILES if _path(folder, file) is None]
        if not missing:
            return folder, ""
        if len(missing) < len(FILES) and not partial:
            partial = f"{folder} lacks {', '.join(missing)}"
    return None, partial


def _path(folder: Path, file: str) -> Path | None:
    return next((path for path in (folder / file, folder / f"{file}.gz") if path.is_file()), None)


def _checked(known: KnownSet, folder: Path, file: str, allow_unknown: bool) -> NDArray[np.uint8]:
    path = _path(folder, file)
    assert path is not None, (folder, file)
    array = read_idx(path)
    if not allow_unknown and (fault := _difference(known, file, array)):
        raise ValueError(
            f"{path} does not match the published file of {known.name} ({fault}); "
            "fetch it again, or --allow-unknown-data (allow_unknown=True) to use it anyway"
        )
    return array


def _difference(known: KnownSet, file: str, array: NDArray[np.uint8]) -> str:
    """What sets this array apart from the published one; empty when nothing does."""
    if array.shape != known.shape(file):
        return f"shape {array.shape}, expected {known.shape(file)}"
    if "labels" in file and (highest := int(array.max())) >= known.n_classes:
        return f"label {highest}, expected 0..{known.n_classes - 1}"
    digest = idx_sha256(array)
    if file in known.sha256:
        return "" if digest == known.sha256[file] else f"SHA-256 {digest}, expected {known.sha256[file]}"
    others = [other.name for other in KNOWN.values() if other.sha256.get(file) == digest]
    return f"it is the file of {others[0]}" if others else ""


def _download(known: KnownSet, folder: Path) -> str:
    """Fetches what is missing in `folder`; returns why it failed, or nothing."""
    for file in FILES:
        failures = []
        if _path(folder, file) is None:
            for mirror in known.mirrors:
                failure = _fetch(known, file, f"{mirror}{file}.gz", folder / f"{file}.gz")
                if not failure:
                    break
                failures.append(failure)
            else:
                return "download failed: " + "; ".join(failures)
    return ""


def _fetch(known: KnownSet, file: str, url: str, target: Path) -> str:
    """One verified file at `target`, whole or not at all, whoever else fetches it; returns why not, if so."""
    temporary = target.with_name(f"{target.name}.tmp-{os.getpid()}-{secrets.token_hex(4)}")
    _log.info("downloading %s", url)
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT) as answer:
            packed = answer.read(MAX_DOWNLOAD)
        target.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("xb") as out:
            out.write(packed)
            out.flush()
            os.fsync(out.fileno())
        if file in known.md5_gz:
            md5 = hashlib.md5(packed, usedforsecurity=False).hexdigest()
            if md5 != known.md5_gz[file]:
                return f"{url}: MD5 {md5}, expected {known.md5_gz[file]}"
        fault = _difference(known, file, read_idx(temporary))
        if fault:
            return f"{url}: {fault}"
        os.replace(temporary, target)
        return ""
    except (
        OSError,
        http.client.HTTPException,
        ValueError,
    ) as error:  # no network, no such file, no room, or not an IDX file
        return f"{url}: {' '.join(str(error).split())}".replace(temporary.name, target.name)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def _not_found(known: KnownSet, root: str | os.PathLike[str] | None, partial: str, failure: str) -> str:
    return (
        f"{known.name} is not here: wanted {', '.join(FILES)} (each raw or .gz); "
        f"looked in {', '.join(map(str, _roots(root)))} and there in {known.folder}/raw and {known.name}; "
        f"{partial + '; ' if partial else ''}{failure}; put the files there, or name their folder by "
        f"--data-root or {VARIABLE}, or use --data digits, which needs no files"
    )
