"""zstd frames of a known size."""

from typing import Any

from lightning_modules.compression.optional_import import optional_import

Buffer = bytes | memoryview
_MAX_SLOW_BYTES = 2**20  # zstd's best level takes seconds for each MiB


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
