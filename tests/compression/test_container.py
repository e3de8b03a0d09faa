"""The compressed file: bit-exact, refused where a byte is wrong, whole on a full disk, and near what theory allows."""

import hashlib
import json
import math
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from lightning_modules.compression import container
from lightning_modules.compression.compressed_state import Codebook, CompressedState, QuantGrid
from lightning_modules.compression.container import envelope
from lightning_modules.compression.container.envelope import unwrap, wrap
from lightning_modules.compression.container.symbol_codecs import zstd_compress
from lightning_modules.compression.container.tensor_encoding import DTYPES, to_bit_patterns
from lightning_modules.config.errors import UserError


def same(a: Tensor, b: Tensor) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and np.array_equal(to_bit_patterns(a), to_bit_patterns(b))


def round_trip(
    tmp_path: Path, tensors: dict[str, Tensor], state: CompressedState | None = None
) -> tuple[dict[str, Tensor], CompressedState]:
    """Write and read; the tensors must be the same but for the sign of masked zeros."""
    state = state or CompressedState()
    container.write(tmp_path / "model", tensors, state, {})
    _, found, found_form = container.read(tmp_path / "model")
    assert list(found) == list(tensors)
    for name, tensor in tensors.items():
        mask = state.masks.get(name)
        assert same(found[name], tensor if mask is None else torch.where(mask, tensor, torch.zeros_like(tensor))), name
    assert found_form.masks.keys() == state.masks.keys()
    assert all(torch.equal(found_form.masks[name], mask) for name, mask in state.masks.items())
    return found, found_form


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=str)
@pytest.mark.parametrize("shape", [(), (0,), (0, 3), (1,), (7,), (3, 5, 7), (2000,)], ids=str)
def test_any_bits_of_any_type_and_shape_come_back(tmp_path: Path, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    size = math.prod(shape) * dtype.itemsize
    generator = torch.Generator().manual_seed(size)
    noise = torch.randint(0, 2 if dtype == torch.bool else 256, (size,), dtype=torch.uint8, generator=generator)
    tensors = {"noise": noise.view(dtype).view(shape), "zeros": torch.zeros(shape, dtype=dtype)}
    tensors["mostly zero"] = torch.where(torch.arange(math.prod(shape)).view(shape) % 9 == 2, *tensors.values())
    round_trip(tmp_path, tensors)


def test_nans_infinities_and_negative_zeros_keep_their_bits(tmp_path: Path) -> None:
    odd = torch.tensor([0x7FC00001, 0x7F800001, -1, 0x7F800000, -0x80000000, 1, 0]).int().view(torch.float32)
    round_trip(tmp_path, {"few": odd, "many": odd.repeat(400), "sparse": torch.cat([odd, torch.zeros(3000)])})
    mask = torch.tensor([True, True, True, True, True, False, False])
    with pytest.raises(UserError, match="'w' cannot be compressed: 1 of its values differ"):
        container.write(tmp_path / "model", {"w": odd.roll(1)}, CompressedState(masks={"w": mask}), {})
    round_trip(tmp_path, {"w": torch.where(mask, odd, torch.tensor(-0.0))}, CompressedState(masks={"w": mask}))


def test_tensors_that_are_views_come_back(tmp_path: Path) -> None:
    base = torch.randn(40, 60, generator=torch.Generator().manual_seed(0))
    round_trip(tmp_path, {"transposed": base.t(), "strided": base[::2, ::3], "expanded": base[:1].expand(9, 60)})


@pytest.mark.parametrize("density", [0.0, 0.05, 0.5, 1.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64], ids=str)
def test_masks_come_back_with_kept_zeros(tmp_path: Path, density: float, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(51, 67, generator=generator).mul(3).round().to(dtype)  # about one in seven is 0
    mask = torch.rand(weight.shape, generator=generator) < density
    round_trip(tmp_path, {"w": weight * mask, "b": weight[0]}, CompressedState(masks={"w": mask}))


@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize("rows", [None, 13], ids=["per layer", "per channel"])
@pytest.mark.parametrize("masked", [False, True])
def test_codebooks_come_back(tmp_path: Path, bits: int, rows: int | None, masked: bool) -> None:
    generator = torch.Generator().manual_seed(bits)
    k = 2**bits - (bits > 2)  # not always a power of two
    shape = (13, 5, 3, 3)
    centroids = torch.randn((rows, k) if rows else (k,), generator=generator)
    indices = torch.randint(0, k, shape, dtype=torch.uint8, generator=generator)
    mask = torch.rand(shape, generator=generator) < 0.2
    state = CompressedState(masks={"w": mask} if masked else {}, codebooks={"w": Codebook(indices, centroids)})
    tensors = {"w": torch.empty(shape)}
    state.apply_to(tensors)
    _, found = round_trip(tmp_path, tensors, state)
    assert same(found.codebooks["w"].centroids, centroids)
    assert torch.equal(found.codebooks["w"].indices, torch.where(mask, indices, 0) if masked else indices)
    assert torch.equal(found.codebooks["w"].values() * (mask if masked else 1), tensors["w"])


@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize("groups", [1, 12, 36])
@pytest.mark.parametrize("zero_point", [False, True])
@pytest.mark.parametrize("density", [None, 0.1, 0.6])
def test_grids_come_back(tmp_path: Path, bits: int, groups: int, zero_point: bool, density: float | None) -> None:
    generator = torch.Generator().manual_seed(bits)
    low, high = -(2 ** (bits - 1)), 2 ** (bits - 1)
    q = torch.randint(low, high, (12, 9), dtype=torch.int8, generator=generator)
    scale = torch.rand(groups, 1, generator=generator)
    zero = torch.randint(low, high, (groups, 1), dtype=torch.int8, generator=generator) if zero_point else None
    mask = None if density is None else torch.rand(q.shape, generator=generator) < density
    state = CompressedState({} if mask is None else {"w": mask}, grids={"w": QuantGrid(q, scale, bits, zero)})
    tensors = {"w": torch.empty(q.shape)}
    state.apply_to(tensors)
    _, found = round_trip(tmp_path, tensors, state)
    grid = found.grids["w"]
    assert grid.bits == bits and same(grid.scale, scale) and (zero is None or torch.equal(grid.zero_point, zero))
    assert torch.equal(grid.q if mask is None else grid.q[mask], q if mask is None else q[mask])
    assert mask is None or not grid.values()[~mask].any()


def test_a_half_precision_tensor_on_a_float32_codebook_comes_back(tmp_path: Path) -> None:
    state = CompressedState(codebooks={"w": Codebook(torch.arange(6, dtype=torch.uint8).view(2, 3), torch.randn(6))})
    round_trip(tmp_path, {"w": state.codebooks["w"].values().bfloat16()}, state)


def int8_and_sparse(n: int = 300_000) -> tuple[dict[str, Tensor], CompressedState]:
    generator = torch.Generator().manual_seed(0)
    weight, mask = torch.randn(100, n // 100, generator=generator), torch.rand(100, n // 100, generator=generator) < 0.3
    scale = weight.abs().amax(1, keepdim=True) / 127
    state = CompressedState({"w": mask}, grids={"w": QuantGrid((weight / scale).round().to(torch.int8), scale, 8)})
    state.apply_to(tensors := {"w": weight})
    return tensors, state


def test_a_large_sparse_int8_tensor_is_near_its_entropy(tmp_path: Path) -> None:
    tensors, state = int8_and_sparse()
    round_trip(tmp_path, tensors, state)
    written = container.write(tmp_path / "model", tensors, state, {})
    assert written.tensors[0].codec.startswith("grid of 8 bits") and written.size_bytes < 1.03 * written.bound_bytes


def test_masked_int8_in_one_frame_with_its_mask_is_read_as_earlier_versions_wrote_it(tmp_path: Path) -> None:
    tensors, state = int8_and_sparse(5000)
    path, mask, grid = tmp_path / "model", state.masks["w"], state.grids["w"]
    container.write(path, tensors, state, {})
    header, data = unwrap(path)
    shared = bytes(data[: sum(length for _, streams in header["pools"].values() for _, length in streams)])
    frame = zstd_compress(np.packbits(mask.numpy()).tobytes() + grid.q[mask].numpy().tobytes())
    record = header["tensors"][0]
    del record["values"]
    record |= {"codec": "bitmask+int8+zstd", "kept": ["bitmask+int8+zstd", int(mask.sum()), 0, len(frame)]}
    path.write_bytes(wrap(header, shared + frame))
    _, found, found_state = container.read(path)
    assert torch.equal(found["w"], tensors["w"]) and torch.equal(found_state.masks["w"], mask)
    assert torch.equal(found_state.grids["w"].q[mask], grid.q[mask])


def test_the_header_and_the_steps_come_back(tmp_path: Path) -> None:
    header = {"passport": {"name": "größe", "list": [1, 2.5, None, True]}}
    state = CompressedState(steps=[{"do": "channels", "history": [[0, [1, 2]]]}])
    container.write(tmp_path / "model", {"w": torch.ones(3)}, state, header)
    found, _, found_form = container.read(tmp_path / "model")
    assert found == container.read_header(tmp_path / "model") == header and found_form.steps == state.steps


def test_any_safetensors_reader_opens_the_file_and_the_same_network_gives_the_same_bytes(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    tensors, state = small()
    for name in ("a", "b"):
        container.write(tmp_path / name, tensors, state, {"x": 1})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert load_file(tmp_path / "a")["compressed"].dtype == torch.uint8


def small() -> tuple[dict[str, Tensor], CompressedState]:
    generator = torch.Generator().manual_seed(3)
    weight, mask = torch.randn(20, 30, generator=generator), torch.rand(20, 30, generator=generator) < 0.2
    few = Codebook(torch.randint(0, 8, (20, 30), dtype=torch.uint8, generator=generator), torch.randn(8))
    state = CompressedState({"a": mask, "c": mask}, {"c": few})
    tensors = {"a": weight * mask, "b": weight[0].clone(), "c": few.values() * mask, "n": torch.tensor(5)}
    return tensors, state


def test_a_change_of_any_byte_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model"
    container.write(path, *small(), {"x": 1})
    whole = path.read_bytes()
    for at in (*range(300), *range(300, len(whole), 5)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ (1 << at % 8)]) + whole[at + 1 :])
        with pytest.raises(UserError, match="model"):
            container.read(path)
    path.write_bytes(whole)
    container.read(path)


def test_a_file_that_is_cut_off_or_longer_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model"
    container.write(path, *small(), {"x": 1})
    whole = path.read_bytes()
    for length in (0, 1, 7, 8, 9, 100, 200, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        for read in (container.read, container.read_header):
            with pytest.raises(UserError, match=r"model is not a compressed model, or it is damaged"):
                read(path)
    path.write_bytes(whole + b"\0")
    with pytest.raises(UserError, match="damaged"):
        container.read(path)


def test_files_of_another_kind_or_none_are_refused(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    with pytest.raises(UserError, match=r"cannot read the compressed model .*missing: No such file"):
        container.read(tmp_path / "missing")
    with pytest.raises(UserError, match=r"cannot read .*directory"):
        container.read(tmp_path)
    save_file({"w": torch.ones(3)}, tmp_path / "plain")
    torch.save({"w": torch.ones(3)}, tmp_path / "pickle")
    for name in ("plain", "pickle"):
        with pytest.raises(UserError, match="is not a compressed model"):
            container.read(tmp_path / name)


def test_a_newer_format_asks_for_an_update(tmp_path: Path) -> None:
    container.write(tmp_path / "model", *small(), {})
    file = (tmp_path / "model").read_bytes()
    (tmp_path / "model").write_bytes(file.replace(b'"1 ', b'"2 '))
    with pytest.raises(UserError, match=r"has format version .2., but this version reads 1; update"):
        container.read(tmp_path / "model")


def _change(record: dict[str, Any], **values: Any) -> None:
    record.update(values)


@pytest.mark.parametrize(
    ("lie", "message"),
    [
        (lambda h: _change(h["tensors"][0], codec="huffman"), "does not support: 'huffman'"),
        (lambda h: _change(h["tensors"][2], values=[["lzma", 3]]), "does not support: 'lzma'"),
        (lambda h: _change(h["tensors"][0], dtype="object"), "does not support: 'object'"),
        (lambda h: h["tensors"][0]["kept"].__setitem__(0, "list raw"), "does not support"),
        (lambda h: _change(h["tensors"][0], shape=[2**40, 30]), "cannot hold .* bytes of tensors"),
        (lambda h: _change(h["tensors"][0], shape=[-20, -30]), "negative size"),
        (lambda h: _change(h["tensors"][0], shape=[20, 31]), "damaged"),
        (lambda h: _change(h["tensors"][0], shape="20"), "damaged"),
        (lambda h: h["tensors"][0]["kept"].__setitem__(1, 2**50), "entries are kept"),
        (lambda h: h["tensors"][0]["kept"].__setitem__(3, 2**50), r"expected \d+ bytes"),
        (lambda h: h["pools"].update(float32=[2**50, []]), "cannot hold .* bytes of tensors"),
        (lambda h: h["tensors"].pop(), "data after the last tensor"),
        (lambda h: h.pop("pools"), "no 'pools'"),
        (lambda h: _change(h["tensors"][2]["few"], centroids=[2**31]), "damaged"),
        (lambda h: _change(h["tensors"][2]["few"], centroids=[2, 4]), "centroids"),
    ],
)
def test_a_header_that_lies_under_a_right_digest_is_refused(tmp_path: Path, lie: Any, message: str) -> None:
    path = tmp_path / "model"
    container.write(path, *small(), {})
    header, data = unwrap(path)
    lie(header)
    path.write_bytes(wrap(header, bytes(data)))
    with pytest.raises(UserError, match=message):
        container.read(path)


@contextmanager
def disk_of(free: int) -> Iterator[None]:
    """No file of this process can grow beyond so many bytes: as on a full disk, a write ends in the middle."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (free, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_leaves_the_old_file_whole_and_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "model"
    container.write(path, {"w": torch.arange(5.0)}, CompressedState(), {})
    with disk_of(1000), pytest.raises(UserError, match=r"cannot write .*model: .*an existing file was not changed"):
        container.write(path, {"w": torch.randn(5000)}, CompressedState(), {})
    assert torch.equal(container.read(path)[1]["w"], torch.arange(5.0))
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(UserError, match="cannot write"):
        container.write(tmp_path / "no folder" / "model", {"w": torch.ones(2)}, CompressedState(), {})


def test_tensors_that_are_not_what_the_form_says_are_refused_and_nothing_is_written(tmp_path: Path) -> None:
    tensors, state = small()
    path = tmp_path / "model"
    for wrong, message in (
        ({**tensors, "a": tensors["a"] + 1}, "'a' cannot be compressed"),
        ({**tensors, "c": tensors["c"] * 2}, "'c' cannot be compressed"),
        ({"a": tensors["a"]}, "'c' cannot be compressed: it is not there"),
        ({**tensors, "a": tensors["a"][:5]}, r"it is \[5, 30\], and its mask or codes are \[20, 30\]"),
        ({**tensors, "z": torch.ones(2, dtype=torch.complex64)}, "cannot store .*complex64"),
    ):
        with pytest.raises(UserError, match=message):
            container.write(path, wrong, state, {})
    assert not path.exists()


def lenet_300_100() -> tuple[dict[str, Tensor], CompressedState]:
    """Gaussian weights, the largest 5 % of each layer kept, on 32 shared values: evenly spread, then k-means."""
    generator, tensors, state = torch.Generator().manual_seed(0), {}, CompressedState()
    for i, (out, into) in enumerate(((300, 784), (100, 300), (10, 100))):
        weight = torch.randn(out, into, generator=generator) / into**0.5
        mask = weight.abs() > weight.abs().flatten().kthvalue(round(0.95 * weight.numel())).values
        kept = weight[mask]
        centroids = torch.linspace(float(kept.min()), float(kept.max()), 32)
        for _ in range(3):
            nearest = (kept[:, None] - centroids).abs().argmin(1)
            sums = torch.zeros(32).index_add(0, nearest, kept)
            centroids = torch.where((n := nearest.bincount(minlength=32)) > 0, sums / n.clamp(1), centroids)
        indices = torch.bucketize(weight, (centroids[1:] + centroids[:-1]) / 2).to(torch.uint8)
        state.masks[f"{i}.weight"], state.codebooks[f"{i}.weight"] = mask, Codebook(indices, centroids)
        tensors |= {f"{i}.weight": weight, f"{i}.bias": torch.randn(out, generator=generator) / into**0.5}
    state.apply_to(tensors)
    return tensors, state


def test_lenet_300_100_takes_a_sixtieth_and_at_most_five_percent_more_than_its_entropy(tmp_path: Path) -> None:
    tensors, state = lenet_300_100()
    task_spec = {
        "name": "fashion_mnist-mlp",
        "model": {"_target_": "lightning_modules.model.mlp.MLP", "hidden": [300, 100]},
    }
    round_trip(tmp_path, tensors, state)
    written = container.write(tmp_path / "model", tensors, state, {"passport": task_spec})
    dense = sum(tensor.numel() * 4 for tensor in tensors.values())
    mask_bits = sum(_entropy(mask.flatten().long()) for mask in state.masks.values())
    index_bits = sum(_entropy(state.codebooks[name].indices[mask].long()) for name, mask in state.masks.items())
    plain = sum(4 * tensor.numel() for name, tensor in tensors.items() if "bias" in name) + 3 * 32 * 4
    assert written.dense_bytes == dense and written.size_bytes == (tmp_path / "model").stat().st_size
    assert written.bound_bytes < (mask_bits + index_bits) / 8 + plain  # no looser than with the biases as they are
    assert written.size_bytes <= 1.05 * written.bound_bytes
    assert dense / written.size_bytes >= 60


def _entropy(symbols: Tensor) -> float:
    share = symbols.flatten().bincount() / symbols.numel()
    return float(-(share[share > 0].log2() * share[share > 0]).sum() * symbols.numel())


def test_the_table_says_where_the_bytes_are(tmp_path: Path) -> None:
    tensors, state = small()
    written = container.write(tmp_path / "model", tensors, state, {})
    rows = {row.name: row for row in written.tensors}
    assert rows["a"].zeros == int((tensors["a"] == 0).sum()) and rows["a"].dense_bytes == 2400
    assert 0 < sum(row.stored_bytes for row in written.tensors) < written.size_bytes
    lines = written.table().splitlines()
    assert len(lines) == 2 + len(tensors) + 2
    assert "codebook of 8" in lines[4] and "20x30" in lines[4]
    json.dumps([row.__dict__ for row in written.tensors])


def test_the_dictionary_of_the_format_never_changes() -> None:
    digest = "f8bb9034e55e56c6616a67cfd3a26bad979950c912d1eda429c32d886cadf115"
    assert hashlib.sha256(envelope._DICTIONARY).hexdigest() == digest, "files of earlier versions could not be read"
