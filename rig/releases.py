"""The releases of PyTorch, and the packages that each needs."""

from __future__ import annotations

from dataclasses import dataclass

MODELS = ("diffusers==0.35.2", "transformers==4.57.1", "accelerate==1.11.0", "tokenizers<0.23")
OLDER_MODELS = ("diffusers==0.29.2", "transformers==4.41.2", "accelerate==0.30.1", "tokenizers<0.20")


@dataclass(frozen=True)
class Release:
    """A release of PyTorch, and the headers that its fake libraries are built with."""

    version: str
    headers: tuple[str, ...]
    numpy: str = "numpy"
    # The libraries of models that the tests import. They need no weights: the tests make them of
    # zeros.
    models: tuple[str, ...] = MODELS


CUDA_12_1 = ("nvidia-cuda-runtime-cu12==12.1.105", "nvidia-cuda-nvcc-cu12==12.1.105")
RELEASES = {
    "2.15.0": Release("2.15.0", ("nvidia-cuda-runtime==13.2.86", "nvidia-cuda-crt==13.2.86")),
    "2.6.0": Release("2.6.0", ("nvidia-cuda-runtime-cu12==12.4.127", "nvidia-cuda-nvcc-cu12==12.4.131")),
    "2.3.1": Release("2.3.1", CUDA_12_1, "numpy<2", OLDER_MODELS),
    "2.1.2": Release("2.1.2", CUDA_12_1, "numpy<2", OLDER_MODELS),
}
DEFAULT = "2.15.0"
# The packages that PyTorch itself imports, without the libraries that are faked.
NEEDED = ("typing_extensions", "filelock", "fsspec", "jinja2", "sympy", "networkx")
# The packages that the tests import in addition to the models.
TESTS = ("pytest==9.0.1", "pytest-xdist==3.8.0", "execnet==2.1.2", "zstandard==0.25.0")
# The packages that the tests' packages import.
TESTS_NEED = (
    "iniconfig", "pluggy", "packaging", "pygments", "huggingface_hub<1", "safetensors", "regex",
    "pyyaml", "requests", "tqdm", "pillow", "importlib_metadata", "psutil",
)  # fmt: skip
# The packages that ComfyUI 0.3.64 imports in addition: its requirements, except those that
# PyTorch's own packages would bring. The first tuple is installed without dependencies.
COMFYUI = (
    ("torchvision==0.29.2", "torchsde", "trampoline", "kornia", "kornia_rs", "spandrel"),
    (
        "einops", "sentencepiece", "safetensors", "aiohttp>=3.11.8", "yarl>=1.18.0", "pyyaml", "pillow", "scipy", "tqdm",
        "psutil", "alembic", "SQLAlchemy", "av>=14.2.0", "pydantic~=2.0", "pydantic-settings~=2.0",
    ),
)  # fmt: skip
# The packages that PyTorch's own tests import in addition.
PYTORCH_TESTS = ("expecttest==0.3.0",)
