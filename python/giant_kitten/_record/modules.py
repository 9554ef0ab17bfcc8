"""Which module runs, and with which weights."""

from __future__ import annotations

import threading
import weakref
from collections import Counter
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.modules import module as nn_module
from torch.optim import optimizer as optim

from .._tensors import tensors
from .._torch import compiler
from .._torch.operations import is_backward

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from .blocks import Blocks


class Modules:
    """Hooks of all modules and optimizers, for the time of a recording."""

    def __init__(self, blocks: Blocks, begin_pass: Callable[[str, bool], None]) -> None:
        self._blocks, self._begin_pass = blocks, begin_pass
        self._thread = threading.get_ident()
        # What is said of the modules that run in a thread, one within the other.
        self._running = threading.local()
        self._names: weakref.WeakKeyDictionary[Any, str] = weakref.WeakKeyDictionary()
        # How many modules of a class were called outside all others, and their names.
        self._classes: Counter[str] = Counter()
        self._roots: weakref.WeakKeyDictionary[Any, str] = weakref.WeakKeyDictionary()
        compiler.watch()
        self._handles = [
            nn_module.register_module_forward_pre_hook(self._before),
            nn_module.register_module_forward_hook(self._after, always_call=True),
            optim.register_optimizer_step_post_hook(self._stepped),
        ]

    def remove(self) -> None:
        """Removes the hooks."""
        for handle in self._handles:
            handle.remove()

    def running(self) -> dict[str, Any]:
        """What a trace says of the module that runs in this thread; nothing if there is none."""
        stack = self._stack()
        return stack[-1] if stack else {}

    def _stack(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] | None = getattr(self._running, "stack", None)
        if found is None:
            found = self._running.stack = []
        return found

    def _before(self, module: Any, arguments: tuple[Any, ...]) -> None:
        compiler.call(self._enter, (module, arguments))

    def _after(self, *_: Any) -> None:
        compiler.call(self._leave, ())

    def _enter(self, module: Any, arguments: tuple[Any, ...]) -> None:
        stack = self._stack()
        # Autograd calls modules again if their activations were not kept.
        if not stack and threading.get_ident() == self._thread and not is_backward():
            name = self._root(module)
            self._begin_pass(name, next(module.children(), None) is not None)
            for part, weight in _weights(module):
                self._blocks.keep(weight, f"{name}.{part}".rstrip("."), is_weight=True)
        said: dict[str, Any] = {"mod": self._names.get(module) or type(module).__name__}
        if torch.is_grad_enabled() and _needs_gradients(module, arguments):
            said["grad"] = True
        stack.append(said)

    def _leave(self) -> None:
        stack = self._stack()
        if stack:
            stack.pop()

    def _root(self, module: Any) -> str:
        """The name of a module that is called outside all others; all its parts get names too."""
        name = self._roots.get(module)
        if name is None:
            of_class = type(module).__name__
            self._classes[of_class] += 1
            number = self._classes[of_class]
            name = self._roots[module] = of_class if number == 1 else f"{of_class} ({number})"
        for part, inner in module.named_modules():
            self._names[inner] = f"{name}.{part}".rstrip(".")
        return name

    def _stepped(self, optimizer: Any, *_: Any) -> None:
        """What an optimizer remembers stays for the next step."""
        for state in list(optimizer.state.values()):
            for part, value in state.items():
                if hasattr(value, "untyped_storage"):
                    self._blocks.keep(value, f"optimizer.{part}", is_weight=False)


def _needs_gradients(module: Any, arguments: tuple[Any, ...]) -> bool:
    """Whether autograd keeps what a module reads. Its weights are not lent then."""
    of_module = (parameter.requires_grad for parameter in module.parameters(recurse=False))
    return any(of_module) or any(isinstance(one, torch.Tensor) and one.requires_grad for one in arguments)


def _weights(module: Any) -> Iterator[tuple[str, Any]]:
    """The parameters and buffers of a module with their names, and what these are made of."""
    for named in (module.named_parameters(), module.named_buffers()):
        for name, tensor in named:
            yield name, tensor
            for part in tensors(tensor):
                yield name, part
    for part in tensors(module):
        yield "", part
