"""The file around the tensors: a safetensors file of one byte tensor and its digest, written atomically.

The tensor starts with a header: JSON in one zstd frame, with a dictionary of what most headers contain, since a small
network is 16 kB in all.
"""

import hashlib
import json
import os
from pathlib import Path

import numpy as np

from lightning_modules.compression.container.symbol_codecs import zstd_compress, zstd_decompress
from lightning_modules.config.errors import UserError
from lightning_modules.config.plain import PlainDict

Header = PlainDict  # JSON
VERSION = 1
_TENSOR_NAME = "compressed"  # the name of the tensor, and the key of the metadata "VERSION SHA256"
_DIGEST_PLACEHOLDER = b"0" * 64  # replaces the digest while it is computed
_MAX_HEADER_BYTES = 2**28  # enough for a million tensors
_LENGTH_BYTES = 8  # the sizes of the frame and of the JSON before the frame, little-endian uint32 each
# A raw-content dictionary of zstd (RFC 8878, section 5). It is part of the format version: never change it.
_DICTIONARY = (
    b'{"name":"mnist-lenet5","model":{"_target_":"lightning_modules.model.resnet.ResNet","_target_":"torchvision.models.'
    b'"lightning_modules.model.lenet.LeNet5","lightning_modules.model.mlp.MLP","hidden":[300,100],"activation":"relu",'
    b'"dropout":0.0,"residual":false,"input_shape":[1,28,28],"num_outputs":10},'
    b'"task":{"_target_":"lightning_modules.task.classification.Classification","kind":"multiclass","num_outputs":10,'
    b'"loss":{"_target_":"torch.nn.CrossEntropyLoss"},"label_smoothing":0.0,"class_weights":null,"top_k":5,'
    b'"metrics":{"val":null,"test":null},"l1":0.0,"l2":0.0,"class_names":["T-shirt/top","Trouser","Pullover","Dress",'
    b'"Coat","Sandal","Shirt","Sneaker","Bag","Ankle boot","0","1","2","3","4","5","6","7","8","9"]},'
    b'"preprocess":{"_target_":"lightning_modules.data.preprocess.Affine","shift":[0.286],"scale":[0.353],"fitted":true}'
    b'{"name":"num_batches_tracked","dtype":"int64","shape":[],"codec":"pool","values":[]},'
    b'{"name":"running_mean","dtype":"float32","shape":[64],"codec":"pool","values":[]},{"name":"running_var",'
    b'"few":{"bits":8,"groups":64,"zero_point":false},"codec":"bitmask+int8+zstd","kept":["bitmask ","codec":"grid",'
    b'["zstd",["constant",1]],"codec":"plain",'
    b'.weight","dtype":"float32","shape":[10,100],"few":{"centroids":[32],"dtype":"float32"},"codec":"codebook",'
    b'"values":[["packed",32]],"values":[["ans",32]],"kept":["gaps ans",50,"kept":["gaps geometric",50,50,40],'
    b'"masked":true},{"name":".bias","dtype":"float32","shape":[10],"codec":"pool","values":[]}]},'
    b'{"header":{"passport":{"steps":[],"pools":{"float32":[506,[["packed",506],["packed",506],["packed",506],["ans",2]]]},'
    b'"tensors":[{"name":"'
)


def wrap(header: Header, data: bytes) -> bytes:
    """The bytes of a file with this header and data."""
    from safetensors.numpy import save

    content = np.frombuffer(_encode_header(header) + data, np.uint8)
    file = bytearray(save({_TENSOR_NAME: content}, {_TENSOR_NAME: f"{VERSION} {_DIGEST_PLACEHOLDER.decode()}"}))
    at = file.index(_DIGEST_PLACEHOLDER)
    file[at : at + len(_DIGEST_PLACEHOLDER)] = hashlib.sha256(file).hexdigest().encode()
    return bytes(file)


def unwrap(path: Path) -> tuple[Header, memoryview]:
    """The header and the data. Raises UserError for a file that is missing, damaged, newer, or of another kind."""
    file = _read(path)
    try:
        return _decode_header(_checked_tensor(path, file))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise damaged_file(path, error) from error


def damaged_file(path: Path, why: object) -> UserError:
    return UserError(f"{path} is not a compressed model, or it is damaged ({why}); write or copy it again")


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read the compressed model {path}: {error.strerror}") from error


def _checked_tensor(path: Path, file: bytes) -> memoryview:
    """The bytes of the tensor. Raises UserError for a newer version, ValueError for any changed byte."""
    end = 8 + int.from_bytes(file[:8], "little")
    if not 8 < end <= len(file):
        raise ValueError("it is empty" if not file else f"it ends after {len(file)} bytes")
    outer = json.loads(file[8:end])
    version, _, digest = outer["__metadata__"][_TENSOR_NAME].partition(" ")
    if not version.isdecimal() or int(version) > VERSION:
        raise UserError(f"{path} has format version '{version}', but this version reads {VERSION}; update Touchstone")
    at = file.index(digest.encode(), 8, end)
    found = hashlib.sha256(file[:at])
    found.update(_DIGEST_PLACEHOLDER)
    found.update(memoryview(file)[at + len(_DIGEST_PLACEHOLDER) :])
    if found.hexdigest() != digest:
        raise ValueError("its sha256 does not match")
    start, stop = outer[_TENSOR_NAME]["data_offsets"]
    if (start, stop) != (0, len(file) - end):
        raise ValueError("its tensor does not fill the file")
    return memoryview(file)[end:]


def write_atomic(path: Path, file: bytes) -> None:
    """Write a temporary file and rename it, so that `path` is the old or the complete new file. Raises UserError."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        try:
            with temporary.open("wb") as stream:
                stream.write(file)
                stream.flush()
                os.fsync(stream.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}; an existing file was not changed") from error


def _encode_header(header: Header) -> bytes:
    """Sizes and frame."""
    plain = json.dumps(header, separators=(",", ":")).encode()
    frame = zstd_compress(plain, _DICTIONARY)
    return len(frame).to_bytes(4, "little") + len(plain).to_bytes(4, "little") + frame


def _decode_header(data: memoryview) -> tuple[Header, memoryview]:
    """The header, and the data after it. Raises ValueError."""
    end, size = _LENGTH_BYTES + int.from_bytes(data[:4], "little"), int.from_bytes(data[4:_LENGTH_BYTES], "little")
    if end > len(data) or size > min(1000 * len(data), _MAX_HEADER_BYTES):
        raise ValueError(f"a header of {size} bytes in {len(data)}")
    header = json.loads(zstd_decompress(data[_LENGTH_BYTES:end], size, _DICTIONARY))
    if not isinstance(header, dict):
        raise ValueError("the header is not a mapping")
    return header, data[end:]
