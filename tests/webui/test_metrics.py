"""The monitor's metrics, read as Prometheus reads them, and the dashboard that draws them."""

from __future__ import annotations

import json
import re
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import giant_kitten
import pytest
import torch
from giant_kitten import _state
from giant_kitten._monitor import metrics, notes, own, watch
from giant_kitten._monitor.server import Server

DASHBOARD = Path(__file__).resolve().parents[2] / "examples" / "grafana.json"
_LABEL = r'[a-zA-Z_]\w*="(?:[^"\\\n]|\\\\|\\"|\\n)*"'
SAMPLE = re.compile(rf"([a-zA-Z_:][\w:]*)\{{({_LABEL}(?:,{_LABEL})*)\}} (\d+)")
UNESCAPED = {"\\\\": "\\", '\\"': '"', "\\n": "\n"}

Labels = frozenset[tuple[str, str]]


def parse(text: str) -> dict[str, dict[Labels, int]]:
    """The samples of each metric. The text must be as the description of the format has it."""
    found: dict[str, dict[Labels, int]] = {}
    kinds: dict[str, str] = {}
    assert text.endswith("\n")
    for line in text.splitlines():
        if line.startswith("# HELP "):
            name, about = line[7:].split(" ", 1)
            assert name not in found and about, "all lines of a metric stand together"
            found[name] = {}
        elif line.startswith("# TYPE "):
            name, kind = line[7:].split(" ")
            assert name == list(found)[-1] and kind in ("gauge", "counter")
            assert (kind == "counter") == name.endswith("_total")
            kinds[name] = kind
        else:
            sample = SAMPLE.fullmatch(line)
            assert sample, line
            name, inside, value = sample.groups()
            assert name == list(kinds)[-1] and name == list(found)[-1]
            pairs = [part.split("=", 1) for part in re.findall(_LABEL, inside)]
            labels = frozenset((key, re.sub(r"\\.", lambda m: UNESCAPED[str(m[0])], text[1:-1])) for key, text in pairs)
            assert labels not in found[name], "each set of labels is there once"
            found[name][labels] = int(value)
    assert all(found.values())
    return found


@pytest.fixture(scope="module")
def used(card: None) -> Iterator[torch.Tensor]:
    """Memory of this program on the card, some of it the weights of a module that is followed."""
    model = torch.nn.Linear(1024, 4096, device="cuda")
    with giant_kitten.follow(model, "unet"):
        yield model(torch.ones(4096, 1024, device="cuda"))


def of(found: dict[Labels, int], **labels: str) -> int:
    (value,) = [value for key, value in found.items() if set(labels.items()) <= key]
    return value


def test_the_metrics_are_the_statistics(used: torch.Tensor) -> None:
    found = parse(metrics.text([("program", _state.state())]))
    stats, kinds = giant_kitten.stats(), giant_kitten.memory_map()["bytes"]
    assert of(found["giant_kitten_up"], program="program") == 1
    for tier in ("dedicated", "shared"):
        for name in ("capacity", "allocated", "mapped", "reserved"):
            assert of(found[f"giant_kitten_tier_{name}_bytes"], tier=tier, device="0") == stats[f"{tier}_{name}"]
        for kind, count in kinds[tier].items():
            assert of(found["giant_kitten_kind_bytes"], tier=tier, kind=kind) == count
    assert of(found["giant_kitten_tier_allocated_bytes"], tier="dedicated") >= 16 << 20
    assert of(found["giant_kitten_device_info"], rung=stats["rung"], phase=stats["phase_name"]) == 1
    assert of(found["giant_kitten_migrated_bytes_total"]) == stats["migrated_bytes"]
    on_card, in_host = (of(found["giant_kitten_module_bytes"], module="unet", tier=tier) for tier in metrics._TIERS)
    assert on_card + in_host == (1024 + 1) * 4096 * 4


def test_titles_of_any_kind_and_programs_with_a_problem(used: torch.Tensor) -> None:
    state, title = _state.state(), 'a "b"\\n\nü,{}= #'
    found = parse(metrics.text([(title, state), ("b", state), ("c", {"problem": "busy", "devices": []})]))
    assert [of(found["giant_kitten_up"], program=name) for name in (title, "b", "c")] == [1, 1, 0]
    assert len(found["giant_kitten_reserve_bytes"]) == 2
    assert metrics.text([]) == ""


def test_every_metric_of_the_dashboard_is_there_and_its_labels_too(used: torch.Tensor) -> None:
    found = parse(metrics.text([("program", _state.state())]))
    dashboard = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    asked = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    asked += [one["query"] for one in dashboard["templating"]["list"] if one["type"] == "query"]
    assert len(asked) > 10
    for expression in asked:
        (name,) = re.findall(r"giant_kitten_\w+", expression)
        labels = {key for sample in found[name] for key, _ in sample}
        wanted = re.findall(r"(\w+)=~?\"", expression) + re.findall(r"label_values\(\w+, (\w+)\)", expression)
        assert wanted and set(wanted) <= labels, expression
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(set(ids)) == len(ids)


@pytest.fixture
def servers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Server, Server]]:
    """The page of this program, and that of all programs, which finds it by its note."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    tmp_path.chmod(0o700)
    made = (Server(0, own._find), watch.watch())
    for server in made:
        threading.Thread(target=server.serve_forever, daemon=True).start()
    with notes.Folder() as folder:
        folder.write(notes.own("title", made[0].url))
    yield made
    for server in made:
        server.shutdown()
        server.server_close()


def get(url: str) -> Any:
    return urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url, timeout=20)


def status(url: str) -> int:
    try:
        with get(url) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as answer:
        answer.close()
        return answer.code


def test_both_pages_serve_them_under_their_token_alone(used: torch.Tensor, servers: tuple[Server, Server]) -> None:
    for server in servers:
        with get(server.url + "metrics") as answer:
            assert answer.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
            found = parse(answer.read().decode())
        assert list(found["giant_kitten_up"].values()) == [1] and found["giant_kitten_kind_bytes"]
        bare = server.url.replace(f"{server.token}/", "")
        assert status(bare + "metrics") == status(f"{bare}{'x' * 32}/metrics") == 404


def test_an_error_is_a_status_and_no_metrics(servers: tuple[Server, Server], monkeypatch: pytest.MonkeyPatch) -> None:
    def fails() -> Any:
        raise RuntimeError("no figures")

    monkeypatch.setattr(_state, "state", fails)
    assert status(servers[0].url + "metrics") == 500
