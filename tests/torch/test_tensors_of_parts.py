"""Tensors that are made of others (quantized, nested, distributed, sparse) stand for them.

test_pinned.py runs this file again, on a driver that can only pin host memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import giant_kitten
import pytest
import torch
from conftest import python
from giant_kitten import _library
from giant_kitten._torch.tensors import storage_of

MIB = 1 << 20


class Scaled(torch.Tensor):  # type: ignore[misc]
    """A quantized weight like those of torchao: integers and scales, and no memory of its own."""

    integers: torch.Tensor
    scales: torch.Tensor

    @staticmethod
    def __new__(cls, integers: torch.Tensor, scales: torch.Tensor) -> Scaled:
        made: Scaled = torch.Tensor._make_wrapper_subclass(
            cls, integers.shape, dtype=torch.float32, device=integers.device, requires_grad=False
        )
        made.integers, made.scales = integers, scales
        return made

    def __tensor_flatten__(self) -> tuple[list[str], None]:
        return ["integers", "scales"], None

    @staticmethod
    def __tensor_unflatten__(parts: dict[str, torch.Tensor], *_: Any) -> Scaled:
        return Scaled(parts["integers"], parts["scales"])

    @classmethod
    def __torch_dispatch__(cls, function: Any, types: Any, given: Any = (), named: Any = None) -> Any:
        if function is torch.ops.aten.detach.default:
            return Scaled(given[0].integers, given[0].scales)
        raise NotImplementedError(f"{function} of a quantized weight")


class State:
    """The quantization state of bitsandbytes, whose scales are quantized too."""

    def __init__(self, scales: torch.Tensor, nested: State | None = None) -> None:
        self.absmax, self.state2, self.shape, self.dtype = scales, nested, scales.shape, scales.dtype


class Four(torch.nn.Parameter):  # type: ignore[misc]
    """`Params4bit`: integers in its own memory, a state, and a reference to its module."""

    quant_state: State
    module: Any


class Eight(torch.nn.Parameter):  # type: ignore[misc]
    """`Int8Params`: scales as an attribute."""

    SCB: torch.Tensor


def known(seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 100, (3 * MIB,), dtype=torch.uint8, generator=generator)


def four() -> tuple[Any, list[torch.Tensor]]:
    parts = [known(seed).cuda() for seed in range(3)]
    weight = Four(parts[0], requires_grad=False)
    weight.quant_state = State(parts[1], State(parts[2]))
    weight.module = torch.nn.Linear(1024, 1024, device="cuda")
    return weight, parts


def eight() -> tuple[Any, list[torch.Tensor]]:
    parts = [known(seed).cuda() for seed in range(2)]
    weight = Eight(parts[0], requires_grad=False)
    weight.SCB = parts[1]
    return weight, parts


def state_of_a_module() -> tuple[Any, list[torch.Tensor]]:
    parts = [known(seed).cuda() for seed in range(3)]
    module = torch.nn.Module()
    module.weight = Eight(parts[0], requires_grad=False)
    module.state = State(parts[1])
    module.register_buffer("code", parts[2])
    return torch.nn.Sequential(module), parts


def wrapper() -> tuple[Any, list[torch.Tensor]]:
    parts = [known(seed).cuda() for seed in range(2)]
    return Scaled(*parts), parts


def wrapper_in_wrapper() -> tuple[Any, list[torch.Tensor]]:
    parts = [known(seed).cuda() for seed in range(3)]
    module = torch.nn.Module()
    module.weight = torch.nn.Parameter(Scaled(Scaled(*parts[:2]), parts[2]), requires_grad=False)
    return module, parts


def jagged() -> tuple[Any, list[torch.Tensor]]:
    made = torch.nested.nested_tensor([torch.ones(MIB, 1), torch.ones(2 * MIB, 1)], layout=torch.jagged, device="cuda")
    return made, [made.values(), made.offsets()]


def nested() -> tuple[Any, list[torch.Tensor]]:
    made = torch.nested.nested_tensor([torch.ones(MIB, 1), torch.ones(2 * MIB, 1)], device="cuda")
    return made, [made]


def masked() -> tuple[Any, list[torch.Tensor]]:
    data, mask = torch.ones(MIB, device="cuda"), torch.ones(MIB, dtype=torch.bool, device="cuda")
    made = torch.masked.masked_tensor(data, mask)
    return made, list(vars(made).values())


def by_channel() -> tuple[Any, list[torch.Tensor]]:
    scales = torch.ones(MIB)
    made = torch.quantize_per_channel(torch.ones(MIB, 4), scales, torch.zeros(MIB), 0, torch.qint8).cuda()
    return made, [made, made.q_per_channel_scales()]


def of_sparse() -> tuple[Any, list[torch.Tensor]]:
    made = torch.eye(2048).to_sparse_csr().cuda()
    return made, [made.crow_indices(), made.values()]


KINDS = [
    four, eight, state_of_a_module, wrapper, wrapper_in_wrapper, nested, masked, by_channel, of_sparse,
    *([jagged] if torch.__version__ >= "2.3" else []),
]  # fmt: skip


@pytest.fixture(autouse=True)
def thawed() -> Iterator[None]:
    giant_kitten.disable()
    yield


def tiers(parts: list[torch.Tensor]) -> set[str]:
    return {giant_kitten.tier(part) for part in parts}


def bytes_of(tensor: torch.Tensor) -> torch.Tensor:
    """The whole storage of a tensor."""
    return torch.tensor([], dtype=torch.uint8).set_(storage_of(tensor).cpu())


@pytest.mark.parametrize("make", KINDS, ids=lambda make: make.__name__)
def test_parts_move_with_the_whole(make: Callable[[], tuple[Any, list[torch.Tensor]]]) -> None:
    whole, parts = make()
    held = [bytes_of(part) for part in parts]
    assert giant_kitten.to_shared(whole) is whole
    assert giant_kitten.tier(whole) == "shared" and tiers(parts) == {"shared"}
    found = giant_kitten.residency(whole)
    assert found["dedicated"] == 0 and found["shared"] >= sum(before.numel() for before in held)
    giant_kitten.to_dedicated(whole)
    assert giant_kitten.tier(whole) == "dedicated" and tiers(parts) == {"dedicated"}
    assert all(torch.equal(bytes_of(part), before) for part, before in zip(parts, held))


@pytest.mark.parametrize("make", KINDS, ids=lambda make: make.__name__)
def test_parts_are_marked_and_placed_first(make: Callable[[], tuple[Any, list[torch.Tensor]]]) -> None:
    whole, parts = make()
    others = [torch.zeros(8 * MIB, dtype=torch.uint8, device="cuda") for _ in range(4)]
    giant_kitten.free_vram()
    capacity = giant_kitten.stats()["dedicated_capacity"]
    giant_kitten.activate(reserve=capacity - 28 * MIB, model=whole)
    assert tiers(parts) == {"dedicated"} and tiers(others) != {"dedicated"}


class Holding(torch.nn.Module):  # type: ignore[misc]
    """A module with one buffer, whose forward pass does nothing."""

    def __init__(self, held: torch.Tensor) -> None:
        super().__init__()
        self.register_buffer("held", held)

    def forward(self) -> None:
        pass


@pytest.mark.parametrize("make", KINDS, ids=lambda make: make.__name__)
def test_a_pass_that_is_followed_reads_the_parts(
    make: Callable[[], tuple[Any, list[torch.Tensor]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, parts = make()
    if isinstance(whole, torch.nn.Module):
        monkeypatch.setattr(type(whole), "forward", lambda _: None)
    module = whole if isinstance(whole, torch.nn.Module) else Holding(whole)
    read: dict[int, int] = {}
    monkeypatch.setattr(_library.library(), "gk_touch", lambda pointer, size: read.update({pointer.value: size}))
    with giant_kitten.follow(module):
        module()
    assert all(read[part.data_ptr()] == part.numel() * part.element_size() for part in parts)


def test_other_attributes_of_a_weight_are_not_its_parts() -> None:
    whole, _ = four()
    layer = torch.nn.Linear(1024, 1024, device="cuda")
    layer.weight.main_grad = torch.zeros(2 * MIB, device="cuda")
    layer.owner = State(torch.zeros(2 * MIB, device="cuda"))
    giant_kitten.to_shared([whole, layer])
    # Their ends may share a granule with memory that has moved.
    for other in (whole.module.weight, layer.weight.main_grad, layer.owner.absmax):
        assert giant_kitten.residency(other)["shared"] < 4 * MIB, "it moved along"
        assert giant_kitten.residency(other)["dedicated"] > 0


def test_tensors_without_memory_are_skipped() -> None:
    from torch._subclasses import FakeTensorMode

    kept = torch.zeros(3 * MIB, dtype=torch.uint8, device="cuda")
    with FakeTensorMode():
        fake = torch.empty(100, device="cuda")
    without: list[Any] = [
        fake,
        torch.empty(100, device="meta"),
        torch.zeros(100),
        torch.empty(0, device="cuda"),
        torch._to_functional_tensor(torch.zeros(100, device="cuda")),
        torch._efficientzerotensor((3,), device="cuda"),
        torch.nn.parameter.UninitializedParameter(device="cuda"),
        torch.zeros(2, 2).to_mkldnn(),
        Scaled(torch.empty(9, device="meta"), torch.empty(3)),
    ]

    def mapped(tensor: torch.Tensor) -> torch.Tensor:
        assert giant_kitten.residency(tensor)["shared"] == 0
        giant_kitten.mark(tensor)
        return tensor * 2

    torch.func.vmap(mapped)(torch.ones(3, 4, device="cuda"))
    for tensor in without:
        giant_kitten.mark(tensor)
        assert giant_kitten.to_dedicated(tensor) is tensor
        assert not any(giant_kitten.residency(tensor).values())
        with pytest.raises(giant_kitten.Error, match="not managed by giant-kitten"):
            giant_kitten.tier(tensor)
    lazy = torch.nn.Sequential(torch.nn.LazyLinear(4, device="cuda"))
    giant_kitten.to_shared([*without, kept, lazy])
    assert giant_kitten.tier(kept) == "shared"


def test_a_distributed_tensor_moves_with_its_own_part() -> None:
    if not torch.distributed.is_available():
        pytest.skip("this PyTorch is not built for distributed work")
    program = """
import torch, giant_kitten
from torch.testing._internal.distributed.fake_pg import FakeStore
torch.distributed.init_process_group("fake", store=FakeStore(), rank=0, world_size=2)
try:
    from torch.distributed.tensor import Shard, distribute_tensor
except ImportError:
    from torch.distributed._tensor import Shard, distribute_tensor
from torch.distributed.device_mesh import init_device_mesh
layer = torch.nn.Linear(1024, 1024, device="cuda")
layer.weight = torch.nn.Parameter(distribute_tensor(layer.weight.detach(), init_device_mesh("cuda", (2,)), [Shard(0)]))
giant_kitten.to_shared(layer)
print(giant_kitten.tier(layer.weight), giant_kitten.tier(layer.weight.to_local()), giant_kitten.tier(layer))
"""
    if torch.__version__ < "2.3":
        pytest.skip(f"PyTorch {torch.__version__} has no mesh of devices that it does not look at")
    printed = python(program, MASTER_ADDR="127.0.0.1", MASTER_PORT="29501")
    assert printed.splitlines()[-1] == "shared shared shared"
