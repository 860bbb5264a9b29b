"""The IDX reader: what it reads is what was written, and every defect is one line that names the file."""

import gzip
import hashlib
import random
import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from sparring.data.idx import idx_bytes, idx_sha256, read_idx


def images(*shape: int) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def refusal(path: Path) -> str:
    with pytest.raises(ValueError) as caught:
        read_idx(path)
    message = str(caught.value)
    assert str(path) in message and "\n" not in message
    return message


@pytest.mark.parametrize("shape", [(7,), (5, 4, 3), (0, 4, 4)])
def test_raw_and_gz_files_give_the_array_that_was_written(tmp_path: Path, shape: tuple[int, ...]) -> None:
    array = images(*shape)
    (tmp_path / "a").write_bytes(idx_bytes(array))
    (tmp_path / "a.gz").write_bytes(gzip.compress(idx_bytes(array)))
    for name in ("a", "a.gz"):
        read = read_idx(tmp_path / name)
        assert read.dtype == np.uint8 and read.flags.writeable
        assert np.array_equal(read, array) and read.shape == shape


def test_a_header_worked_out_by_hand_is_read(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(bytes.fromhex("00000803 00000001 00000002 00000003") + bytes(range(6)))
    assert read_idx(tmp_path / "a").tolist() == [[[0, 1, 2], [3, 4, 5]]]


def test_the_sum_is_that_of_the_unpacked_file(tmp_path: Path) -> None:
    array = images(5, 4, 3)
    assert idx_sha256(array) == hashlib.sha256(idx_bytes(array)).hexdigest()


def test_a_wrong_magic_number_is_named_with_the_expected_ones(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"PK\x03\x04" + bytes(100))
    message = refusal(tmp_path / "a")
    assert "0x504b0304" in message and "0x00000803" in message and "0x00000801" in message


def test_a_truncated_file_says_what_the_header_says_and_what_it_has(tmp_path: Path) -> None:
    header = struct.pack(">4I", 0x803, 10000, 28, 28)
    (tmp_path / "a").write_bytes(header + bytes(512))
    assert "header says 10000x28x28 = 7840000 bytes, file has 512" in refusal(tmp_path / "a")
    (tmp_path / "a.gz").write_bytes(gzip.compress(header + random.Random(0).randbytes(8000)))
    assert "header says 10000x28x28 = 7840000 bytes, file has 8000" in refusal(tmp_path / "a.gz")


@pytest.mark.parametrize("size", [0, 3, 7])
def test_a_file_cut_within_the_header_is_truncated(tmp_path: Path, size: int) -> None:
    (tmp_path / "a").write_bytes(idx_bytes(images(5, 4, 3))[:size])
    assert "truncated" in refusal(tmp_path / "a")


@pytest.mark.parametrize("kept", [12, 100, -9, -4])
def test_a_truncated_gzip_file_is_named_as_such(tmp_path: Path, kept: int) -> None:
    (tmp_path / "a.gz").write_bytes(gzip.compress(idx_bytes(images(50, 8, 8)))[:kept])
    assert "truncated gzip" in refusal(tmp_path / "a.gz")


def test_a_flipped_bit_in_a_gzip_file_is_found(tmp_path: Path) -> None:
    packed = bytearray(gzip.compress(idx_bytes(images(50, 8, 8))))
    packed[len(packed) // 2] ^= 16
    (tmp_path / "a.gz").write_bytes(packed)
    assert "damaged gzip" in refusal(tmp_path / "a.gz")


def test_two_billion_images_are_refused_before_anything_is_allocated(tmp_path: Path) -> None:
    content = struct.pack(">4I", 0x803, 2**31 - 1, 28, 28) + bytes(512)
    (tmp_path / "a").write_bytes(content)
    (tmp_path / "a.gz").write_bytes(gzip.compress(content))
    for name in ("a", "a.gz"):
        assert "header says 2147483647x28x28 = 1683627179248 bytes" in refusal(tmp_path / name)


def test_trailing_bytes_are_refused(tmp_path: Path) -> None:
    content = idx_bytes(images(5, 4, 3)) + b"x"
    (tmp_path / "a").write_bytes(content)
    (tmp_path / "a.gz").write_bytes(gzip.compress(content))
    for name in ("a", "a.gz"):
        assert "trailing bytes" in refusal(tmp_path / name)


def test_inflation_stops_at_the_declared_size(tmp_path: Path) -> None:
    content = idx_bytes(images(5, 4, 3)) + bytes(2**27)
    (tmp_path / "bomb.gz").write_bytes(gzip.compress(content, 1))

    tracemalloc.start()
    assert "trailing bytes" in refusal(tmp_path / "bomb.gz")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**23


def test_a_folder_is_not_a_regular_file(tmp_path: Path) -> None:
    assert "not a regular file" in refusal(tmp_path)


def test_mutated_files_are_read_or_refused_in_one_line(tmp_path: Path) -> None:
    rng, path = random.Random(20), tmp_path / "a"
    raw = idx_bytes(images(6, 5, 4))
    for i in range(600):
        content = bytearray(gzip.compress(raw) if i % 2 else raw)
        for _ in range(rng.randint(1, 4)):
            content[rng.randrange(min(len(content), 40))] = rng.randrange(256)
        path.write_bytes(content[: rng.choice([len(content), rng.randrange(len(content))])])
        try:
            read_idx(path)
        except ValueError as error:
            assert str(path) in str(error) and "\n" not in str(error)
