"""Recording a program's work as a trace."""

from __future__ import annotations

import builtins
import gzip
import json
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import giant_kitten
import pytest
import torch
from torch import nn
from torch._subclasses import FakeTensorMode

WIDTH = 64
IS_NEW = tuple(map(int, torch.__version__.split(".")[:2])) >= (2, 6)


class Net(nn.Module):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self.inside = nn.Linear(WIDTH, 4 * WIDTH)
        self.outside = nn.Linear(4 * WIDTH, WIDTH)
        self.register_buffer("shift", torch.zeros(WIDTH))

    def forward(self, x: Any) -> Any:
        return x + self.outside(torch.relu(self.inside(x))) + self.shift


def lines(path: Path) -> list[dict[str, Any]]:
    """The lines of a trace, of which every one keeps the promises of the format."""
    found = [json.loads(line) for line in path.read_text().splitlines()]
    assert (found[0]["ev"], found[0]["format"], found[-1]) == ("header", "gpu-op-trace/1", {"ev": "end"})
    live: dict[int, int] = {}
    ever: set[int] = set()
    for line in found:
        if line["ev"] == "alloc":
            assert line["id"] not in ever and line["bytes"] > 0
            ever.add(line["id"])
            live[line["id"]] = line["bytes"]
        elif line["ev"] == "free":
            del live[line["id"]]
        elif line["ev"] == "op":
            for ids, sizes in (("reads", "read_bytes"), ("writes", "write_bytes")):
                assert len(line[ids]) == len(line[sizes])
                assert all(size <= live[block] for block, size in zip(line[ids], line[sizes]))
    return found


def phases(found: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """The lines of each phase."""
    parts: dict[str, list[dict[str, Any]]] = {}
    for line in found[1:-1]:
        if line["ev"] == "phase":
            current = parts.setdefault(line["name"], [])
        else:
            current.append(line)
    return parts


def weights(found: list[dict[str, Any]]) -> dict[str, int]:
    return {line.get("name", ""): line["bytes"] for line in found if line["ev"] == "alloc" and line["kind"] == "param"}


def bytes_of(part: list[dict[str, Any]], kind: str) -> int:
    return sum(line["bytes"] for line in part if line["ev"] == "alloc" and line["kind"] == kind)


@pytest.mark.parametrize("device", ["cpu", "meta", "cuda"])
def test_weights_and_steps_are_recognised_on_every_device(tmp_path: Path, device: str) -> None:
    path = tmp_path / "net.jsonl"
    net, x = Net().to(device), torch.zeros(8, WIDTH, device=device)
    with giant_kitten.record(path, device="cuda:0" if device == "cuda" else device), torch.no_grad():
        for _ in range(2):
            x = net(x)
    found = lines(path)
    parts = phases(found)
    assert list(parts) == ["load", "Net 0", "Net 1", "end"]
    names = [f"Net.{name}" for name in ("inside.weight", "inside.bias", "outside.weight", "outside.bias", "shift")]
    assert [name for name in weights(found) if name.startswith("Net.")] == names
    assert weights(found)["Net.inside.weight"] == 4 * WIDTH * WIDTH * 4
    operations = [line for line in parts["Net 1"] if line["ev"] == "op"]
    assert [line["name"] for line in operations if line["flops"]] == ["aten::addmm"] * 2
    assert [line["flops"] for line in operations if line["flops"]] == [2 * 8 * WIDTH * 4 * WIDTH] * 2
    assert {line.get("mod") for line in operations} == {"Net", "Net.inside", "Net.outside"}
    assert not any("grad" in line for line in operations)


def test_a_card_is_recorded_as_tensors_without_values_are(tmp_path: Path) -> None:
    def recorded(device: str) -> list[Any]:
        path = tmp_path / f"{device}.jsonl"
        net = nn.TransformerEncoderLayer(WIDTH, 4, dropout=0.0, batch_first=True, device=device, dtype=torch.float16)
        x = torch.zeros(2, 16, WIDTH, device=device, dtype=torch.float16)
        with giant_kitten.record(path):
            net(x).sum().backward()
        return [
            (line["name"], line["read_bytes"], line["write_bytes"], line["flops"])
            for line in lines(path)
            if line["ev"] == "op"
        ]

    on_a_card = recorded("cuda")
    assert any("flash_attention_backward" in name for name, *_ in on_a_card)
    assert on_a_card == recorded("meta")


def test_fake_tensors_are_on_the_card_that_they_name(tmp_path: Path) -> None:
    path = tmp_path / "fake.jsonl"
    with FakeTensorMode():
        with torch.device("cuda:0"):
            net = Net()
        with giant_kitten.record(path), torch.no_grad():
            net(torch.zeros(8, WIDTH, device="cuda:0"))
    found = lines(path)
    assert found[0]["device"] == "cuda:0"
    assert weights(found)["Net.outside.weight"] == 4 * WIDTH * WIDTH * 4


def test_a_recording_from_the_start_of_a_program_tells_loading_from_work(tmp_path: Path) -> None:
    path = tmp_path / "whole.jsonl"

    def program() -> None:
        net = Net().to("meta")
        net(torch.zeros(8, WIDTH, device="meta"))
        net(torch.zeros(8, WIDTH, device="meta"))

    with giant_kitten.record(path, device="meta"), torch.no_grad():
        program()
    parts = phases(lines(path))
    parameters = 4 * (2 * 4 * WIDTH * WIDTH + 6 * WIDTH)
    assert bytes_of(parts["load"], "param") == parameters
    # The program has freed them; the last step has not.
    freed = {line["id"] for line in parts["end"] if line["ev"] == "free"}
    assert freed >= {line["id"] for line in parts["load"] if line.get("kind") == "param"}


def test_training_keeps_what_the_optimizer_remembers(tmp_path: Path) -> None:
    path = tmp_path / "training.jsonl"
    net = Net().to("meta")
    optimizer = torch.optim.AdamW(net.parameters(), foreach=False)
    with giant_kitten.record(path):
        for _ in range(2):
            net(torch.zeros(8, WIDTH, device="meta")).sum().backward()
            optimizer.step()
            optimizer.zero_grad()
    parts = phases(lines(path))
    assert list(parts) == ["load", "Net 0", "Net 1", "end"]
    trained = sum(parameter.numel() * 4 for parameter in net.parameters())
    state = sum(line["bytes"] for line in parts["load"] if line.get("name", "").startswith("optimizer.exp_avg"))
    assert state == 2 * trained
    assert {line["name"] for line in parts["Net 1"] if line["ev"] == "op"} >= {"aten::addcdiv_"}
    assert all(line["grad"] for line in parts["Net 1"] if line.get("mod") == "Net.inside")


def test_a_program_names_its_phases(tmp_path: Path) -> None:
    path = tmp_path / "named.jsonl"
    net = Net().to("meta")
    with giant_kitten.record(path, about={"model": "a net"}) as recording, torch.no_grad():
        recording.phase("inputs")
        x = torch.zeros(8, WIDTH, device="meta")
        for step in range(2):
            recording.phase(f"step {step}")
            net(net(x))
    found = lines(path)
    assert found[0]["model"] == "a net" and found[0]["trace"] == "named"
    assert list(phases(found)) == ["load", "inputs", "step 0", "step 1", "end"]
    assert bytes_of(phases(found)["inputs"], "input") == 8 * WIDTH * 4
    with pytest.raises(TypeError, match="step 0"):
        recording.phase("")
    with pytest.raises(giant_kitten.Error, match="belongs inside the recording"):
        recording.phase("step 2")


def test_of_several_devices_the_card_is_recorded_or_the_one_that_is_named(tmp_path: Path) -> None:
    def recorded(device: str | None) -> tuple[str, list[str]]:
        path = tmp_path / "x.jsonl"
        with giant_kitten.record(path, device=device):
            torch.zeros(64, device="meta").exp()
            torch.zeros(8).sin().to("cuda").cos().cpu()
        found = lines(path)
        return found[0]["device"], [line["name"] for line in found if line["ev"] == "op"]

    card = ("cuda:0", ["aten::_to_copy", "aten::cos"])
    assert recorded(None) == recorded("cuda") == recorded("cuda:0") == card
    assert recorded("meta") == ("meta", ["aten::zeros", "aten::exp"])
    assert recorded("cpu") == ("cpu", ["aten::zeros", "aten::sin", "aten::_to_copy"])


def test_work_without_modules_is_one_phase(tmp_path: Path) -> None:
    path = tmp_path / "plain.jsonl"
    weight = torch.zeros(WIDTH, WIDTH, device="meta")
    with giant_kitten.record(path):
        torch.zeros(8, WIDTH, device="meta") @ weight
    parts = phases(lines(path))
    assert list(parts) == ["load", "work", "end"]
    assert bytes_of(parts["load"], "param") == WIDTH * WIDTH * 4


def test_attention_without_values_is_that_of_a_card(tmp_path: Path) -> None:
    def recorded(dtype: torch.dtype, heads: int = 4, **keywords: Any) -> list[str]:
        path = tmp_path / "attention.jsonl"
        query = torch.zeros(1, 4, 16, 32, device="meta", dtype=dtype)
        key = torch.zeros(1, heads, 16, 32, device="meta", dtype=dtype)
        with giant_kitten.record(path):
            result = nn.functional.scaled_dot_product_attention(query, key, key, **keywords)
        assert result.shape == query.shape
        return [line["name"] for line in lines(path) if line["ev"] == "op"]

    flash, efficient = ("aten::_scaled_dot_product_" + name for name in ("flash_attention", "efficient_attention"))
    assert recorded(torch.float16) == recorded(torch.float16, heads=2, enable_gqa=True) == [flash]
    assert recorded(torch.float32) == [efficient]
    mask = torch.zeros(16, 16, device="meta", dtype=torch.bool)
    assert recorded(torch.float16, attn_mask=mask)[-1] == efficient


def test_files_are_plain_or_compressed(tmp_path: Path) -> None:
    zstandard = pytest.importorskip("zstandard")
    for name in ("x.jsonl", "x.jsonl.gz", "x.zst"):
        with giant_kitten.record(tmp_path / name):
            torch.zeros(8, device="meta")
    plain = (tmp_path / "x.jsonl").read_bytes()
    assert gzip.decompress((tmp_path / "x.jsonl.gz").read_bytes()) == plain
    with open(tmp_path / "x.zst", "rb") as file:
        assert zstandard.ZstdDecompressor().stream_reader(file).read() == plain
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.jsonl", "x.jsonl.gz", "x.zst"]


def test_what_cannot_be_written_is_said_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name in ("zstandard", "compression"):
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    cases = {"x.zst": "pip install zstandard", "no/x.jsonl": "there is no folder", "": "is a folder"}
    for name, said in cases.items():
        with pytest.raises(giant_kitten.Error, match=said), giant_kitten.record(tmp_path / name):
            pytest.fail("the work began")
    assert not list(tmp_path.iterdir())


def test_an_error_leaves_no_file_and_says_so(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text("the one before")
    notes = "__notes__"
    with pytest.raises(ZeroDivisionError) as raised, giant_kitten.record(path):
        torch.zeros(8, device="meta")
        1 / 0  # noqa: B018
    assert "has not written" in "".join(getattr(raised.value, notes, ["has not written"]))
    with pytest.raises(RuntimeError) as no_value, giant_kitten.record(path):
        torch.zeros((), device="meta").item()
    assert "record on a card or on the CPU" in "".join(
        getattr(no_value.value, notes, [".. record on a card or on the CPU"])
    )
    with (
        pytest.raises(giant_kitten.Error, match="'banana' names no device"),
        giant_kitten.record(path, device="banana"),
    ):
        pytest.fail("the work has run")
    with pytest.raises(giant_kitten.Error, match="no operation on cuda:7 ran in this thread"):
        with giant_kitten.record(path, device="cuda:7"):
            torch.zeros(8, device="meta")
    assert [file.name for file in tmp_path.iterdir()] == ["x.jsonl"] and path.read_text() == "the one before"


def test_nothing_is_left_behind(tmp_path: Path) -> None:
    net = Net().to("meta")
    for _ in range(2):
        with giant_kitten.record(tmp_path / "x.jsonl"):
            net(torch.zeros(8, WIDTH, device="meta"))
    hooks = nn.modules.module
    assert not hooks._global_forward_hooks and not hooks._global_forward_pre_hooks


def vit() -> tuple[Any, dict[str, Any]]:
    from transformers import ViTConfig, ViTModel
    from transformers.modeling_utils import no_init_weights

    config = ViTConfig(hidden_size=64, num_hidden_layers=2, num_attention_heads=2, intermediate_size=128, image_size=64)
    # Its initialisation looks at values.
    with no_init_weights():
        return ViTModel(config), {"pixel_values": torch.zeros(1, 3, 64, 64)}


def whisper() -> tuple[Any, dict[str, Any]]:
    from transformers import WhisperConfig, WhisperForConditionalGeneration

    config = WhisperConfig(
        d_model=64, encoder_layers=2, decoder_layers=2, encoder_attention_heads=2, decoder_attention_heads=2,
        encoder_ffn_dim=128, decoder_ffn_dim=128, vocab_size=256, max_source_positions=64, pad_token_id=0,
        bos_token_id=1, eos_token_id=2, decoder_start_token_id=1, begin_suppress_tokens=None,
    )  # fmt: skip
    heard = torch.zeros(1, 80, 128)
    return WhisperForConditionalGeneration(config), {
        "input_features": heard, "decoder_input_ids": torch.zeros(1, 4, dtype=torch.long)
    }  # fmt: skip


def video() -> tuple[Any, dict[str, Any]]:
    from diffusers import WanTransformer3DModel

    model = WanTransformer3DModel(
        num_attention_heads=2, attention_head_dim=24, in_channels=4, out_channels=4, text_dim=32, freq_dim=32,
        ffn_dim=64, num_layers=2, rope_max_seq_len=32,
    )  # fmt: skip
    return model, {
        "hidden_states": torch.zeros(1, 4, 3, 8, 8), "timestep": torch.zeros(1),
        "encoder_hidden_states": torch.zeros(1, 16, 32),
    }  # fmt: skip


@pytest.mark.skipif(not IS_NEW, reason="the models of older releases differ")
@pytest.mark.parametrize("build", [vit, whisper, video])
def test_models_of_other_people_are_recorded_as_they_are(tmp_path: Path, build: Any) -> None:
    operations = {}
    for device in ("cuda", "fake", "meta"):
        path = tmp_path / f"{device}.jsonl"
        with FakeTensorMode() if device == "fake" else nullcontext():
            with torch.device("meta" if device == "meta" else "cuda:0"):
                model, given = build()
            with giant_kitten.record(path, device="meta" if device == "meta" else "cuda:0"), torch.no_grad():
                model.eval()(**given)
        found = lines(path)
        name = type(model).__name__
        assert list(phases(found)) == ["load", f"{name} 0", "end"]
        weights_of_model = {parameter.untyped_storage()._cdata: parameter for parameter in model.parameters()}
        size = sum(parameter.numel() * parameter.element_size() for parameter in weights_of_model.values())
        named = sum(size for weight, size in weights(found).items() if weight.startswith(f"{name}."))
        buffers = sum(buffer.untyped_storage().nbytes() for buffer in model.buffers())
        assert size <= named <= size + buffers
        operations[device] = [line for line in phases(found)[f"{name} 0"] if line["ev"] == "op"]
    done = {device: [(line["name"], line["flops"]) for line in part] for device, part in operations.items()}
    assert done["cuda"] == done["fake"]
    assert all(any("efficient_attention" in name for name, _ in part) for part in done.values())


@pytest.mark.skipif(not IS_NEW, reason="the models of older releases differ")
def test_a_model_that_generates_is_a_phase_for_each_token(tmp_path: Path) -> None:
    path = tmp_path / "heard.jsonl"
    model, given = whisper()
    with giant_kitten.record(path, device="cpu"):
        model.generate(given["input_features"], max_new_tokens=3, min_new_tokens=3)
    decoding = [name for name in phases(lines(path)) if name.startswith("WhisperForConditionalGeneration ")]
    assert len(decoding) == 3
