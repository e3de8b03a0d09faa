"""Codecs of a sequence of symbols, uint8 below `alphabet`: packed bits, zstd, and range coding (ANS; Duda 2013)."""

from typing import Any

import numpy as np

from lightning_modules.compression.optional_import import optional_import

Buffer = bytes | memoryview
_MAX_SLOW_BYTES = 2**20  # zstd's best level takes seconds for each MiB
MANY_SYMBOLS = 2**15  # symbols: from here on the time to decode counts more than the last two percent of size
MAX_ANS_SYMBOLS = 2**18  # range coding takes 25 ns for each symbol, torch.load 2 ns for each weight
_NEGLIGIBLE_GAIN = 1.02


def encode_symbols(symbols: np.ndarray, alphabet: int) -> tuple[str, bytes]:
    """The coder that makes `symbols` [n] smallest, and what it makes of them."""
    if len(symbols) and (symbols == symbols[0]).all():
        return "constant", symbols[:1].tobytes()
    candidates = [("packed", _pack(symbols, alphabet))]
    if len(symbols):
        candidates.append(("zstd", zstd_compress(symbols.tobytes())))
    if 0 < len(symbols) <= MAX_ANS_SYMBOLS:
        candidates.append(("ans", _encode_ans(symbols)))
    return pick_smallest(candidates, len(symbols))


def decode_symbols(coder: str, data: Buffer, n: int, alphabet: int) -> np.ndarray:
    """Back to uint8 [n]. Raises ValueError where the data does not hold that, KeyError for a coder not known."""
    decoders = {"constant": _decode_constant, "packed": _unpack, "zstd": _decode_zstd, "ans": _decode_ans}
    symbols = decoders[coder](data, n, alphabet)
    if len(symbols) != n or (n and int(symbols.max()) >= alphabet):
        raise ValueError(f"{len(symbols)} symbols, not {n} below {alphabet}")
    return symbols


def pick_smallest(candidates: list[tuple[str, bytes]], n: int) -> tuple[str, bytes]:
    """The smallest of the candidates; of many symbols the first, thus fastest, that is within two percent of it."""
    least = min(len(data) for _, data in candidates)
    allowed = least * _NEGLIGIBLE_GAIN if n > MANY_SYMBOLS else least
    return next((name, data) for name, data in candidates if len(data) <= allowed)


def _decode_constant(data: Buffer, n: int, alphabet: int) -> np.ndarray:
    return np.full(n, np.frombuffer(data, np.uint8, 1)[0])


def _symbol_bits(alphabet: int) -> int:
    """Bits of a symbol: 1 to 8."""
    return max(1, (alphabet - 1).bit_length())


def _pack(symbols: np.ndarray, alphabet: int) -> bytes:
    bits = np.unpackbits(symbols[:, None], axis=1)[:, 8 - _symbol_bits(alphabet) :]
    return np.packbits(bits).tobytes()


def _unpack(data: Buffer, n: int, alphabet: int) -> np.ndarray:
    width = _symbol_bits(alphabet)
    if len(data) != -(-n * width // 8):
        raise ValueError(f"{len(data)} bytes for {n} symbols of {width} bits")
    if width == 8:
        return np.frombuffer(data, np.uint8)
    bits = np.unpackbits(np.frombuffer(data, np.uint8), count=n * width).reshape(n, width)
    return np.packbits(np.pad(bits, ((0, 0), (8 - width, 0))), axis=1)[:, 0]


def _decode_zstd(data: Buffer, n: int, alphabet: int) -> np.ndarray:
    return np.frombuffer(zstd_decompress(data, n), np.uint8)


def _encode_ans(symbols: np.ndarray) -> bytes:
    """Bytes: width of a frequency (1, 2), first symbol, last symbol; the frequencies; the coder's words."""
    first, last = int(symbols.min()), int(symbols.max())
    counts = np.bincount(symbols - first).astype(np.float64)
    made = []
    for width in (1, 2):
        # Rounded so that the table is short; a rare symbol rounded to 0 would take 24 bits.
        scaled = np.where(counts > 0, np.maximum(1, np.round(counts / counts.max() * (256**width - 1))), 0)
        table = scaled.astype(f"<u{width}")
        made.append(bytes((width, first, last)) + table.tobytes() + encode_ans_words(symbols - first, table))
    return min(made, key=len)


def _decode_ans(data: Buffer, n: int, alphabet: int) -> np.ndarray:
    width, first, last = data[0], data[1], data[2]
    if width not in (1, 2) or last <= first:
        raise ValueError("the table of frequencies is not one")
    table = np.frombuffer(data, f"<u{width}", last - first + 1, 3)
    return decode_ans_words(data[3 + table.nbytes :], table, n) + np.uint8(first)


def encode_ans_words(symbols: np.ndarray, frequencies: np.ndarray) -> bytes:
    """The range coder's words for symbols of these relative frequencies, whole numbers [K]."""
    constriction = optional_import("constriction")
    coder = constriction.stream.stack.AnsCoder()
    coder.encode_reverse(symbols.astype(np.int32), _categorical_model(frequencies))
    return bytes(coder.get_compressed().astype("<u4").tobytes())


def decode_ans_words(data: Buffer, frequencies: np.ndarray, n: int) -> np.ndarray:
    """Back to uint8 [n]. Raises ValueError where the words hold another number of symbols."""
    constriction = optional_import("constriction")
    coder = constriction.stream.stack.AnsCoder(np.frombuffer(data, "<u4").astype(np.uint32))
    symbols = np.asarray(coder.decode(_categorical_model(frequencies), n)).astype(np.uint8)
    if not coder.is_empty():
        raise ValueError(f"there are more than {n} symbols")
    return symbols


def _categorical_model(frequencies: np.ndarray) -> Any:
    weights = frequencies.astype(np.float64)
    return optional_import("constriction").stream.model.Categorical(weights / weights.sum(), perfect=False)


# --- zstd frames of a known size -----------------------------------------------------------------------------------


def zstd_compress(data: bytes, known: bytes = b"") -> bytes:
    """One frame without its size; `known`: text that is likely to occur in it.

    Long matches only, where they win: short ones spoil the entropy coding of noise.
    """
    module = optional_import("zstandard")
    options: dict[str, Any] = {"write_content_size": False, "write_dict_id": False}
    settings: list[tuple[int, dict[str, int]]] = [(1, {}), (6, {})]
    if len(data) <= _MAX_SLOW_BYTES:
        settings = [(1, {}), (19, {}), (19, {"min_match": 7})]
    frames = []
    for level, own in settings:
        parameters = module.ZstdCompressionParameters.from_level(level, **own, **options)
        coder = module.ZstdCompressor(compression_params=parameters, dict_data=_dictionary(known))
        frames.append(coder.compress(data))
    return bytes(min(frames, key=len))


def zstd_decompress(data: Buffer, size: int, known: bytes = b"") -> bytes:
    """Back, to `size` bytes and never more. Raises ValueError where the frame is another one."""
    module = optional_import("zstandard")
    try:
        # A size that the frame states would be allocated before any limit of ours.
        if module.get_frame_parameters(data).content_size not in (size, module.CONTENTSIZE_UNKNOWN):
            raise ValueError(f"a zstd frame is not of {size} bytes")
        coder = module.ZstdDecompressor(dict_data=_dictionary(known))
        plain = bytes(coder.decompress(data, max_output_size=max(1, size)))
    except module.ZstdError as error:
        raise ValueError(str(error)) from error
    if len(plain) != size:
        raise ValueError(f"a zstd frame is not of {size} bytes")
    return plain


def _dictionary(known: bytes) -> Any:
    module = optional_import("zstandard")
    return module.ZstdCompressionDict(known, dict_type=module.DICT_TYPE_RAWCONTENT) if known else None
