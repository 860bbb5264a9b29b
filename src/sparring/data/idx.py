"""IDX files of bytes, .gz or raw: the one reader for MNIST, Fashion-MNIST and KMNIST.

An IDX file is two zero bytes, a type code (8 for unsigned bytes), the number of axes, one big-endian 32-bit
length per axis, and then the values, the last axis running fastest.
"""

import gzip
import hashlib
import math
import os
import struct
import zlib
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

MAX_BYTES = 2**31  # what one file may declare; the largest known set has 47 MB
MAX_INFLATION = 1032  # deflate cannot do better: 258 bytes from 2 bits
_CHUNK = 2**20
_GZIP_MAGIC = b"\x1f\x8b"


def read_idx(path: str | os.PathLike[str]) -> NDArray[np.uint8]:
    """The array in an IDX file of unsigned bytes; gzip is recognised by content, not by name.

    What the header declares is checked against the file before anything is allocated, and no more than that
    is inflated. Raises a one-line ValueError that names the file, what came and what was expected; a
    missing file is a FileNotFoundError.
    """
    path = Path(path)
    if path.exists() and not path.is_file():
        raise ValueError(f"{path}: not a regular file; expected an IDX file, .gz or raw")
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        zipped = file.read(2) == _GZIP_MAGIC
        file.seek(0)
        try:
            if zipped:
                with gzip.GzipFile(fileobj=file) as stream:
                    return _read_array(stream, path, size, zipped=True)
            return _read_array(file, path, size, zipped=False)
        except EOFError:
            raise ValueError(f"{path}: truncated gzip file of {size} bytes; fetch it again") from None
        except (gzip.BadGzipFile, zlib.error) as error:
            raise ValueError(f"{path}: damaged gzip file of {size} bytes ({error}); fetch it again") from None


def idx_bytes(array: NDArray[np.uint8]) -> bytes:
    """The raw IDX file that holds this array of unsigned bytes."""
    return _header(array) + array.tobytes()


def idx_sha256(array: NDArray[np.uint8]) -> str:
    """SHA-256, in hex, of the unpacked IDX file that holds this array.

    The format leaves no freedom and `read_idx` refuses trailing bytes, so this is the sum of the file it
    read.
    """
    digest = hashlib.sha256(_header(array))
    digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def _read_array(stream: IO[bytes] | gzip.GzipFile, path: Path, size: int, *, zipped: bool) -> NDArray[np.uint8]:
    shape, header_bytes = _read_shape(stream, path)
    expected = math.prod(shape)
    says = f"header says {'x'.join(map(str, shape))} = {expected} bytes"
    if not zipped and size != header_bytes + expected:
        fault = "trailing bytes" if size > header_bytes + expected else "truncated"
        raise ValueError(f"{path}: {says}, file has {size - header_bytes} ({fault})")
    if zipped and expected > MAX_INFLATION * size:
        raise ValueError(f"{path}: {says}, more than {size} bytes of gzip can hold")
    if expected > MAX_BYTES:
        raise ValueError(f"{path}: {says}, expected at most {MAX_BYTES}")
    # one byte more than expected finds trailing bytes, and makes gzip check its sum
    values = _read_at_most(stream, expected + 1)
    if len(values) > expected:
        raise ValueError(f"{path}: {says}, file has more (trailing bytes)")
    if len(values) < expected:
        raise ValueError(f"{path}: {says}, file has {len(values)} (truncated)")
    return np.frombuffer(values, dtype=np.uint8).reshape(shape)


def _read_shape(stream: IO[bytes] | gzip.GzipFile, path: Path) -> tuple[tuple[int, ...], int]:
    magic = stream.read(4)
    if len(magic) < 4:
        raise ValueError(f"{path}: truncated, {len(magic)} bytes; expected an IDX header of at least 8")
    if magic[:3] != b"\x00\x00\x08" or not 1 <= magic[3] <= 4:
        raise ValueError(
            f"{path}: magic number 0x{magic.hex()}; expected 0x00000803 (images) or 0x00000801 (labels), "
            "an IDX file of unsigned bytes"
        )
    lengths = stream.read(4 * magic[3])
    if len(lengths) < 4 * magic[3]:
        raise ValueError(f"{path}: truncated in the header; expected {magic[3]} lengths of 4 bytes")
    return struct.unpack(f">{magic[3]}I", lengths), 4 + len(lengths)


def _read_at_most(stream: IO[bytes] | gzip.GzipFile, n: int) -> bytearray:
    """Up to n bytes, in pieces, so that memory follows what is there and not what was declared."""
    values = bytearray()
    while len(values) < n and (piece := stream.read(min(_CHUNK, n - len(values)))):
        values += piece
    return values


def _header(array: NDArray[np.uint8]) -> bytes:
    assert array.dtype == np.uint8, array.dtype
    return bytes((0, 0, 8, array.ndim)) + struct.pack(f">{array.ndim}I", *array.shape)
