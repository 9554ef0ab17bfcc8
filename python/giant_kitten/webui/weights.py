"""The weights of a WebUI's models, by which a new or reloaded model is recognised."""

from __future__ import annotations

import itertools
from typing import Any

from .. import _tensors
from .._torch.tensors import storage_of, weak


def is_on_gpu(model: Any) -> bool:
    """Whether all of a model is on the GPU."""
    return all(weight.device.type == "cuda" for weight in _tensors.tensors(model))


def weights(model: Any, most: int | None = None) -> list[Any]:
    """A model's weights on the GPU as weak references, at most `most` of them.

    They differ after another model was loaded into this one, and after the model was off the GPU.
    """
    found = (storage_of(weight) for weight in _tensors.on_gpu(model))
    return [weak(storage) for storage in itertools.islice(found, most)]
