"""Pack what a bare GPU machine without a network lacks: ``python scripts/gpu_pack.py [images=ARCHIVE]``.

The machine has Python 3.12, torch 2.11, torchvision, Lightning, torchmetrics, transformers, timm, onnx, onnxruntime,
scipy, scikit-learn, pandas and pytest. Into `.gpu_pack/` (ignored by git) go the other packages as wheels and Fashion-MNIST;
with `images=` a second folder `.gpu_pack_images/` takes an archive of colour images. The last line printed is the command
that installs offline and starts the benchmark.
"""

import lzma
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACK, IMAGES = ROOT / ".gpu_pack", ROOT / ".gpu_pack_images"
LIMIT_MIB = 62  # of the tracked tree and the pack together
# Pinned by constraints.txt. mlflow-skinny with a SQL store takes the place of mlflow, whose server is not needed.
PACKAGES = (
    "hydra-core", "omegaconf", "antlr4-python3-runtime", "mlflow-skinny", "sqlalchemy", "alembic", "Mako", "sqlparse",
    "databricks-sdk", "fastapi", "starlette", "cryptography", "cffi", "pycparser", "gitpython", "gitdb", "smmap", "cachetools",
    "importlib_metadata", "zipp", "opentelemetry-api", "opentelemetry-sdk", "opentelemetry-proto",
    "opentelemetry-semantic-conventions", "python-dotenv", "pydantic", "pydantic_core", "annotated-types",
    "typing-inspection", "typing_extensions", "optuna", "colorlog", "cmaes", "mnist1d", "torch-pruning", "torchao",
    "constriction", "zstandard", "kornia", "detect-secrets", "nvidia-ml-py", "pytest-xdist", "execnet", "pytest-timeout",
)  # fmt: skip
PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_27_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64")


def main() -> None:
    images = _archive(sys.argv[1:])
    shutil.rmtree(PACK, ignore_errors=True)
    wheels = PACK / "wheels"
    wheels.mkdir(parents=True)
    download(wheels)
    pack_fashion_mnist(PACK / "fashion-mnist.tar.xz")
    if images:
        IMAGES.mkdir(exist_ok=True)
        shutil.copy(images, IMAGES / "images.tar.xz")
    size = (_tracked_bytes() + sum(file.stat().st_size for file in PACK.rglob("*") if file.is_file())) / 2**20
    print(f"{len(list(wheels.glob('*.whl')))} wheels; tracked tree and pack: {size:.1f} of {LIMIT_MIB} MiB")
    if size > LIMIT_MIB:
        sys.exit(f"gpu_pack.py: the pack is too large: {size:.1f} MiB, expected at most {LIMIT_MIB} MiB")
    print(command(bool(images)))


def _archive(words: list[str]) -> Path | None:
    if not words:
        return None
    if len(words) > 1 or not words[0].startswith("images="):
        sys.exit(f"gpu_pack.py: {' '.join(words)}: expected nothing or images=ARCHIVE.tar.xz")
    path = Path(words[0].removeprefix("images=")).expanduser()
    if not path.is_file():
        sys.exit(f"gpu_pack.py: images={path}: there is no such file")
    return path


def download(folder: Path) -> None:
    """Fetch wheels for Python 3.12 on Linux, and build those of packages that publish sources only."""
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
    pinned = ["--no-deps", "-c", str(ROOT / "constraints.txt")]
    for_312 = ["--only-binary=:all:", "--python-version=3.12", "--implementation=cp"]
    for_312 += [word for platform in PLATFORMS for word in ("--platform", platform)]
    for package in PACKAGES:
        fetch = [*pip, "download", *pinned, *for_312, "-d", str(folder), package]
        if subprocess.run(fetch, capture_output=True, check=False).returncode:
            subprocess.run([*pip, "wheel", *pinned, "-w", str(folder), package], check=True)
    if foreign := [wheel.name for wheel in folder.glob("*-cp*-linux*.whl") if "cp312" not in wheel.name]:
        sys.exit(f"gpu_pack.py: built for another Python than 3.12: {', '.join(foreign)}")


def pack_fashion_mnist(path: Path) -> None:
    """The four files, unpacked and compressed anew by xz, which takes a third less than gzip."""
    import gzip

    from lightning_modules.zoo.data.image_datasets import FashionMNIST

    with tarfile.open(path, "w:xz", preset=6 | lzma.PRESET_EXTREME) as archive:
        for file in FashionMNIST().files():
            raw = PACK / file.name.removesuffix(".gz")
            raw.write_bytes(gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes())
            archive.add(raw, f"FashionMNIST/raw/{raw.name}")
            raw.unlink()


def _tracked_bytes() -> int:
    names = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout.split(b"\0")
    return sum((ROOT / name.decode()).lstat().st_size for name in names if name and (ROOT / name.decode()).exists())


def command(images: bool) -> str:
    """One line for the machine's shell, run in the project's root; its exit code is that of the checks."""
    site, data = "/tmp/touchstone-site", "/tmp/touchstone-data"
    parts = [
        f"python3 -m pip install -q --no-index --no-deps --target {site} .gpu_pack/wheels/*.whl",
        f"mkdir -p {data}",
        f"tar -xJf .gpu_pack/fashion-mnist.tar.xz -C {data}",
    ]
    environment = f"PYTHONPATH={site} TOUCHSTONE_DATA={data} MLFLOW_DISABLE_TELEMETRY=true"
    if images:
        parts.append(f"tar -xJf .gpu_pack_images/images.tar.xz -C {data}")
        environment += f" TOUCHSTONE_COLOUR_IMAGES={data}"
    return " && ".join([*parts, f"{environment} python3 scripts/benchmark.py gpu minutes=8"])


if __name__ == "__main__":
    main()
