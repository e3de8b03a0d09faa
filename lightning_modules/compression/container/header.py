"""The header: JSON in one zstd frame, with what most headers say known beforehand (a small network is 16 kB in all)."""

import json
from typing import Any

from lightning_modules.compression.container.zstd_frame import zstd_compress, zstd_decompress

_MAX_HEADER_BYTES = 2**28  # of a header: a million tensors
_LENGTH_BYTES = 8  # bytes before the frame: of the frame and of the JSON, uint32 each, little-endian
# A raw-content dictionary of zstd (RFC 8878, section 5). It belongs to the format's version: never change it.
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


def encode_header(header: dict[str, Any]) -> bytes:
    """Lengths and frame."""
    plain = json.dumps(header, separators=(",", ":")).encode()
    frame = zstd_compress(plain, _DICTIONARY)
    return len(frame).to_bytes(4, "little") + len(plain).to_bytes(4, "little") + frame


def decode_header(data: memoryview) -> tuple[dict[str, Any], memoryview]:
    """Back to the header, and the data behind it. Raises ValueError where it is none."""
    end, size = _LENGTH_BYTES + int.from_bytes(data[:4], "little"), int.from_bytes(data[4:_LENGTH_BYTES], "little")
    if end > len(data) or size > min(1000 * len(data), _MAX_HEADER_BYTES):
        raise ValueError(f"a header of {size} bytes in {len(data)}")
    header = json.loads(zstd_decompress(data[_LENGTH_BYTES:end], size, _DICTIONARY))
    if not isinstance(header, dict):
        raise ValueError("the header is no mapping")
    return header, data[end:]
