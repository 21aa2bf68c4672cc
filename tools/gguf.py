"""Reads and writes GGUF version 3 files, with values in F32, F16, BF16, Q8_0 and Q4_0.

A file is: magic, version, counts, metadata (key, type, value), tensor table (name, dims, type, offset), padding to
`general.alignment`, tensor data. All numbers are little-endian. GGUF lists dims innermost first; arrays here have numpy's order,
so a weight of dims [n_in, n_out] is an array (n_out, n_in).

    file = GgufFile.open("model.gguf")
    file.metadata["llama.block_count"].data        # 5
    file.array("token_embd.weight")                # float32 (n_vocab, n_embd)

    write("copy.gguf", file.metadata, [Tensor.pack("w", values, TensorType.Q8_0)])
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import IntEnum
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

MAGIC = b"GGUF"
VERSION = 3
DEFAULT_ALIGNMENT = 32
BLOCK = 32
MAX_DIMS = 4


class GgufError(ValueError):
    """A file that is not valid GGUF, or uses what this module does not know; the message names file and field."""


class ValueType(IntEnum):
    U8, I8, U16, I16, U32, I32, F32, BOOL, STRING, ARRAY, U64, I64, F64 = range(13)


class TensorType(IntEnum):
    F32 = 0
    F16 = 1
    Q4_0 = 2
    Q5_0 = 6
    Q8_0 = 8
    Q4_K = 12
    Q5_K = 13
    Q6_K = 14
    BF16 = 30


_SCALARS = {ValueType.U8: "<B", ValueType.I8: "<b", ValueType.U16: "<H", ValueType.I16: "<h", ValueType.U32: "<I",
            ValueType.I32: "<i", ValueType.F32: "<f", ValueType.BOOL: "<?", ValueType.U64: "<Q", ValueType.I64: "<q",
            ValueType.F64: "<d"}

# Elements and bytes of one block.
_BLOCKS = {TensorType.F32: (1, 4), TensorType.F16: (1, 2), TensorType.BF16: (1, 2), TensorType.Q8_0: (BLOCK, 34),
           TensorType.Q4_0: (BLOCK, 18), TensorType.Q5_0: (BLOCK, 22), TensorType.Q4_K: (256, 144), TensorType.Q5_K: (256, 176),
           TensorType.Q6_K: (256, 210)}

# Types whose values this module reads and writes; of the others it reads the bytes.
VALUE_TYPES = (TensorType.F32, TensorType.F16, TensorType.BF16, TensorType.Q8_0, TensorType.Q4_0)


@dataclass(frozen=True)
class Value:
    """A metadata value. Arrays hold a list of plain values, or of `Value` where `item` is ARRAY."""

    type: ValueType
    data: Any
    item: ValueType | None = None


def u32(data: int) -> Value:
    return Value(ValueType.U32, data)


def f32(data: float) -> Value:
    return Value(ValueType.F32, data)


def boolean(data: bool) -> Value:
    return Value(ValueType.BOOL, data)


def string(data: str) -> Value:
    return Value(ValueType.STRING, data)


def array(item: ValueType, data: Iterable[Any]) -> Value:
    return Value(ValueType.ARRAY, list(data), item)


@dataclass(frozen=True)
class Tensor:
    """A named tensor as stored: `shape` in numpy's order, `data` the bytes of all rows, without padding."""

    name: str
    shape: tuple[int, ...]
    type: TensorType
    data: NDArray[np.uint8]

    @classmethod
    def pack(cls, name: str, values: NDArray[Any], type: TensorType) -> Tensor:
        """Stores `values` (any shape) as `type`."""
        return cls(name, values.shape, type, quantize(values, type))

    def unpack(self) -> NDArray[np.float32]:
        """float32 values in `shape`; exact for every type here."""
        return dequantize(self.data, self.type, self.shape)


def data_bytes(shape: tuple[int, ...], type: TensorType) -> int:
    """Size of a tensor's data; the innermost dimension must be whole blocks."""
    elements, size = _BLOCKS[type]
    if shape and shape[-1] % elements:
        raise GgufError(f"rows of {shape[-1]} elements are not whole blocks of {elements} ({type.name})")
    return prod(shape) // elements * size


def quantize(values: NDArray[Any], type: TensorType) -> NDArray[np.uint8]:
    """Bytes of `values` (any shape) as `type`.

    Q8_0: d = max|x| / 127, q = round(x / d), halves away from zero. Q4_0: d = m / -8 where m is the value of largest
    magnitude, q = min(15, floor(x / d + 8.5)). The scales are stored as F16; q is computed with the unrounded d, as ggml does.
    """
    if type not in VALUE_TYPES:
        raise GgufError(f"values of {type.name} are not written")
    x = np.ascontiguousarray(values, dtype=np.float32)
    data_bytes(x.shape, type)
    if type == TensorType.F32:
        return x.reshape(-1).view(np.uint8)
    if type == TensorType.F16:
        return x.astype("<f2").reshape(-1).view(np.uint8)
    if type == TensorType.BF16:
        return _to_bf16(x).reshape(-1).view(np.uint8)
    blocks = x.reshape(-1, BLOCK)
    if type == TensorType.Q8_0:
        d = np.abs(blocks).max(axis=1) / np.float32(127)
        scaled = blocks * _reciprocal(d)[:, None]
        q = (np.sign(scaled) * np.floor(np.abs(scaled) + np.float32(0.5))).astype(np.int8)
        return _join_blocks(d, q.view(np.uint8))
    largest = blocks[np.arange(len(blocks)), np.abs(blocks).argmax(axis=1)]
    d = largest / np.float32(-8)
    q = np.clip(np.floor(blocks * _reciprocal(d)[:, None] + np.float32(8.5)), 0, 15).astype(np.uint8)
    return _join_blocks(d, q[:, :16] | (q[:, 16:] << 4))


def dequantize(data: NDArray[np.uint8], type: TensorType, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """float32 values (shape) of stored bytes."""
    if type not in VALUE_TYPES:
        raise GgufError(f"values of {type.name} are not read")
    if data.size != data_bytes(shape, type):
        raise GgufError(f"{data.size} bytes do not hold {shape} as {type.name}")
    if type == TensorType.F32:
        return data.view("<f4").reshape(shape)
    if type == TensorType.F16:
        return data.view("<f2").astype(np.float32).reshape(shape)
    if type == TensorType.BF16:
        return (data.view("<u2").astype(np.uint32) << 16).view(np.float32).reshape(shape)
    blocks = data.reshape(-1, _BLOCKS[type][1])
    d = np.ascontiguousarray(blocks[:, :2]).view("<f2").astype(np.float32)
    if type == TensorType.Q8_0:
        q = blocks[:, 2:].view(np.int8)
    else:
        q = np.concatenate((blocks[:, 2:] & 15, blocks[:, 2:] >> 4), axis=1).astype(np.int8) - np.int8(8)
    return (d * q).reshape(shape)


def _to_bf16(x: NDArray[np.float32]) -> NDArray[np.uint16]:
    """The upper half of each float32, rounded to nearest even; a NaN stays one."""
    bits = x.view(np.uint32)
    rounded = (bits.astype(np.uint64) + 0x7FFF + ((bits >> 16) & 1)) >> 16
    return np.where(np.isnan(x), (bits >> 16) | 0x40, rounded).astype("<u2")


def _reciprocal(d: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.divide(np.float32(1), d, out=np.zeros_like(d), where=d != 0)


def _join_blocks(d: NDArray[np.float32], q: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Scale (n_blocks) and bytes (n_blocks, size) side by side."""
    return np.concatenate((d.astype("<f2").view(np.uint8).reshape(-1, 2), q), axis=1).reshape(-1)


class _Cursor:
    """Reads values in file order; every read is checked against the end of the file."""

    def __init__(self, path: Path, data: NDArray[np.uint8]) -> None:
        self.path, self.data, self.at = path, data, 0

    def take(self, n_bytes: int, what: str) -> bytes:
        if n_bytes > self.data.size - self.at:
            raise GgufError(f"{self.path}: ends inside {what}")
        self.at += n_bytes
        return self.data[self.at - n_bytes:self.at].tobytes()

    def scalar(self, type: ValueType, what: str) -> Any:
        code = _SCALARS[type]
        return struct.unpack(code, self.take(struct.calcsize(code), what))[0]

    def text(self, what: str) -> str:
        raw = self.take(self.scalar(ValueType.U64, what), what)
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError as error:
            raise GgufError(f"{self.path}: {what} is not UTF-8") from error

    def kind(self, what: str) -> ValueType:
        code = self.scalar(ValueType.U32, what)
        try:
            return ValueType(code)
        except ValueError as error:
            raise GgufError(f"{self.path}: {what} has unknown value type {code}") from error

    def value(self, type: ValueType, what: str) -> Value:
        if type == ValueType.STRING:
            return Value(type, self.text(what))
        if type != ValueType.ARRAY:
            return Value(type, self.scalar(type, what))
        item, count = self.kind(what), self.scalar(ValueType.U64, what)
        if item == ValueType.STRING:
            return Value(type, [self.text(what) for _ in range(count)], item)
        if item == ValueType.ARRAY:
            return Value(type, [self.value(item, what) for _ in range(count)], item)
        code = _SCALARS[item]
        raw = self.take(count * struct.calcsize(code), what)
        return Value(type, [x for x, in struct.iter_unpack(code, raw)], item)


@dataclass(frozen=True)
class GgufFile:
    """An opened file: metadata and tensors by name, in file order. Tensor data stays in the file until it is used."""

    path: Path
    metadata: dict[str, Value]
    tensors: dict[str, Tensor]

    @classmethod
    def open(cls, path: str | Path) -> GgufFile:
        path = Path(path)
        try:
            data = np.memmap(path, dtype=np.uint8, mode="r")
        except (OSError, ValueError) as error:
            raise GgufError(f"{path}: cannot be read: {error}") from error
        cursor = _Cursor(path, data)
        if cursor.take(4, "magic") != MAGIC:
            raise GgufError(f"{path}: is not a GGUF file")
        version = cursor.scalar(ValueType.U32, "version")
        if version != VERSION:
            raise GgufError(f"{path}: GGUF version {version}, only {VERSION} is read")
        n_tensors, n_values = (cursor.scalar(ValueType.U64, what) for what in ("tensor count", "metadata count"))
        metadata: dict[str, Value] = {}
        for _ in range(n_values):
            key = cursor.text("metadata key")
            metadata[key] = cursor.value(cursor.kind(key), key)
        entries = [cls._read_entry(cursor) for _ in range(n_tensors)]
        alignment = metadata["general.alignment"].data if "general.alignment" in metadata else DEFAULT_ALIGNMENT
        if not isinstance(alignment, int) or alignment < 1 or alignment & (alignment - 1):
            raise GgufError(f"{path}: general.alignment {alignment} is not a power of two")
        base = _round_up(cursor.at, alignment)
        tensors: dict[str, Tensor] = {}
        for name, shape, type, offset in entries:
            begin, size = base + offset, data_bytes(shape, type)
            if begin % alignment or begin + size > data.size:
                raise GgufError(f"{path}: tensor {name} lies outside the file or off its alignment")
            tensors[name] = Tensor(name, shape, type, data[begin:begin + size])
        return cls(path, metadata, tensors)

    @staticmethod
    def _read_entry(cursor: _Cursor) -> tuple[str, tuple[int, ...], TensorType, int]:
        name = cursor.text("tensor name")
        n_dims = cursor.scalar(ValueType.U32, name)
        if n_dims > MAX_DIMS:
            raise GgufError(f"{cursor.path}: tensor {name} has {n_dims} dims, at most {MAX_DIMS} are read")
        dims = [cursor.scalar(ValueType.U64, name) for _ in range(n_dims)]
        code = cursor.scalar(ValueType.U32, name)
        if code not in iter(TensorType):
            raise GgufError(f"{cursor.path}: tensor {name} has type {code}, which is not read")
        return name, tuple(reversed(dims)), TensorType(code), cursor.scalar(ValueType.U64, name)

    def get(self, key: str, default: Any = None) -> Any:
        """The plain value of a metadata key; without a default the key must exist."""
        if key in self.metadata:
            return self.metadata[key].data
        if default is None:
            raise GgufError(f"{self.path}: metadata {key} is missing")
        return default

    def array(self, name: str) -> NDArray[np.float32]:
        """float32 values of a tensor."""
        if name not in self.tensors:
            raise GgufError(f"{self.path}: tensor {name} is missing")
        return self.tensors[name].unpack()


def _round_up(n: int, alignment: int) -> int:
    return (n + alignment - 1) // alignment * alignment


def _text_bytes(text: str) -> bytes:
    raw = text.encode("utf-8")
    return struct.pack("<Q", len(raw)) + raw


def _value_bytes(value: Value) -> bytes:
    """The value without its own type code."""
    if value.type == ValueType.STRING:
        return _text_bytes(value.data)
    if value.type != ValueType.ARRAY:
        return struct.pack(_SCALARS[value.type], value.data)
    if value.item is None:
        raise GgufError("an array value needs an item type")
    items = (_value_bytes(x if isinstance(x, Value) else Value(value.item, x)) for x in value.data)
    return struct.pack("<IQ", value.item, len(value.data)) + b"".join(items)


def write(path: str | Path, metadata: Mapping[str, Value], tensors: Iterable[Tensor]) -> None:
    """Writes a file; `general.alignment`, if among the metadata, is kept to."""
    tensors = list(tensors)
    alignment = metadata["general.alignment"].data if "general.alignment" in metadata else DEFAULT_ALIGNMENT
    header = bytearray(MAGIC + struct.pack("<IQQ", VERSION, len(tensors), len(metadata)))
    for key, value in metadata.items():
        header += _text_bytes(key) + struct.pack("<I", value.type) + _value_bytes(value)
    offset = 0
    for tensor in tensors:
        dims = struct.pack(f"<I{len(tensor.shape)}Q", len(tensor.shape), *reversed(tensor.shape))
        header += _text_bytes(tensor.name) + dims + struct.pack("<IQ", tensor.type, offset)
        offset = _round_up(offset + tensor.data.size, alignment)
    with open(path, "wb") as out:
        out.write(header.ljust(_round_up(len(header), alignment), b"\0"))
        for tensor in tensors:
            out.write(tensor.data.tobytes())
            out.write(bytes(-tensor.data.size % alignment))
