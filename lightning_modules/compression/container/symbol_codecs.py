"""Codecs of a sequence of symbols, uint8 below `alphabet`: packed bits, zstd, and range coding (ANS; Duda 2013)."""

import numpy as np

from lightning_modules.compression import optional_import
from lightning_modules.config.plain import PlainDict

Buffer = bytes | memoryview
_MAX_SLOW_BYTES = 2**20  # zstd's best level takes seconds for each MiB
MANY_SYMBOLS = 2**15  # from here on decoding time matters more than the last two percent of size
MAX_ANS_SYMBOLS = 2**18  # range coding takes 25 ns per symbol, torch.load 2 ns per weight
_NEGLIGIBLE_GAIN = 1.02


def encode_symbols(symbols: np.ndarray, alphabet: int) -> tuple[str, bytes]:
    """The name of the codec that makes `symbols` [n] smallest, and the encoded bytes."""
    if len(symbols) and (symbols == symbols[0]).all():
        return "constant", symbols[:1].tobytes()
    candidates = [("packed", _pack(symbols, alphabet))]
    if len(symbols):
        candidates.append(("zstd", zstd_compress(symbols.tobytes())))
    if 0 < len(symbols) <= MAX_ANS_SYMBOLS:
        candidates.append(("ans", _encode_ans(symbols)))
    return pick_smallest(candidates, len(symbols))


def decode_symbols(coder: str, data: Buffer, n: int, alphabet: int) -> np.ndarray:
    """Decode to uint8 [n]. Raises ValueError for invalid data, KeyError for an unknown codec."""
    decoders = {"constant": _decode_constant, "packed": _unpack, "zstd": _decode_zstd, "ans": _decode_ans}
    symbols = decoders[coder](data, n, alphabet)
    if len(symbols) != n or (n and int(symbols.max()) >= alphabet):
        raise ValueError(f"{len(symbols)} symbols, not {n} below {alphabet}")
    return symbols


def pick_smallest(candidates: list[tuple[str, bytes]], n: int) -> tuple[str, bytes]:
    """The smallest candidate or, for many symbols, the first (fastest) within two percent of it."""
    least = min(len(data) for _, data in candidates)
    allowed = least * _NEGLIGIBLE_GAIN if n > MANY_SYMBOLS else least
    return next((name, data) for name, data in candidates if len(data) <= allowed)


def _decode_constant(data: Buffer, n: int, alphabet: int) -> np.ndarray:
    return np.full(n, np.frombuffer(data, np.uint8, 1)[0])


def _symbol_bits(alphabet: int) -> int:
    """Bits of a packed symbol: 1 to 8."""
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
    """Width of a frequency in bytes (1 or 2), first symbol, last symbol, frequencies, words of the coder."""
    first, last = int(symbols.min()), int(symbols.max())
    counts = np.bincount(symbols - first).astype(np.float64)
    made = []
    for width in (1, 2):
        # Rounded for a short table; a rare symbol rounded to 0 would take 24 bits.
        scaled = np.where(counts > 0, np.maximum(1, np.round(counts / counts.max() * (256**width - 1))), 0)
        table = scaled.astype(f"<u{width}")
        made.append(bytes((width, first, last)) + table.tobytes() + encode_ans_words(symbols - first, table))
    return min(made, key=len)


def _decode_ans(data: Buffer, n: int, alphabet: int) -> np.ndarray:
    width, first, last = data[0], data[1], data[2]
    if width not in (1, 2) or last <= first:
        raise ValueError("invalid frequency table")
    table = np.frombuffer(data, f"<u{width}", last - first + 1, 3)
    return decode_ans_words(data[3 + table.nbytes :], table, n) + np.uint8(first)


def encode_ans_words(symbols: np.ndarray, frequencies: np.ndarray) -> bytes:
    """Encode symbols with relative frequencies, integers [K]."""
    constriction = optional_import("constriction")
    coder = constriction.stream.stack.AnsCoder()
    coder.encode_reverse(symbols.astype(np.int32), _categorical_model(frequencies))
    return bytes(coder.get_compressed().astype("<u4").tobytes())


def decode_ans_words(data: Buffer, frequencies: np.ndarray, n: int) -> np.ndarray:
    """Decode to uint8 [n]. Raises ValueError for another number of symbols."""
    constriction = optional_import("constriction")
    coder = constriction.stream.stack.AnsCoder(np.frombuffer(data, "<u4").astype(np.uint32))
    symbols = np.asarray(coder.decode(_categorical_model(frequencies), n)).astype(np.uint8)
    if not coder.is_empty():
        raise ValueError(f"more than {n} symbols")
    return symbols


def _categorical_model(frequencies: np.ndarray) -> object:
    weights = frequencies.astype(np.float64)
    return optional_import("constriction").stream.model.Categorical(weights / weights.sum(), perfect=False)


# --- zstd frames of a known size -----------------------------------------------------------------------------------


def zstd_compress(data: bytes, known: bytes = b"") -> bytes:
    """One frame without its size; `known`: a dictionary of text that is likely to occur.

    One setting allows long matches only: short ones disturb the entropy coding of noise.
    """
    module = optional_import("zstandard")
    options: PlainDict = {"write_content_size": False, "write_dict_id": False}
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
    """Decompress to exactly `size` bytes. Raises ValueError for any other frame."""
    module = optional_import("zstandard")
    try:
        # zstandard allocates the size stated in the frame, whatever max_output_size is.
        if module.get_frame_parameters(data).content_size not in (size, module.CONTENTSIZE_UNKNOWN):
            raise ValueError(f"expected a zstd frame of {size} bytes")
        coder = module.ZstdDecompressor(dict_data=_dictionary(known))
        plain = bytes(coder.decompress(data, max_output_size=max(1, size)))
    except module.ZstdError as error:
        raise ValueError(str(error)) from error
    if len(plain) != size:
        raise ValueError(f"expected a zstd frame of {size} bytes")
    return plain


def _dictionary(known: bytes) -> object:
    module = optional_import("zstandard")
    return module.ZstdCompressionDict(known, dict_type=module.DICT_TYPE_RAWCONTENT) if known else None
