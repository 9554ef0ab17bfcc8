"""The check for a real GPU runs on the fake one; its results do not matter here."""

from __future__ import annotations

import json
from pathlib import Path

from conftest import python

SCRIPTS = Path(__file__).parents[2] / "scripts"
SCRIPT = SCRIPTS / "gpu_check_products.py"


def test_products_are_timed_with_their_weights_in_both_tiers(tmp_path: Path) -> None:
    profile, out = tmp_path / "profile.toml", tmp_path / "products.json"
    profile.write_text("link_to_device = 13000000000.0\nin_place_reread = 1.0\n")
    printed = python("", str(SCRIPT), str(out), str(profile), native=True)
    rows = json.loads(out.read_text())["rows"]
    assert len(rows) == 8 and printed.count(" dedicated ") == 8
    assert all(row["weight_bytes"] > 0 and row["reread"] >= 0 for row in rows)
    # The times of a fake card are not written to a profile.
    assert "in_place_reread = 1.0\n" in profile.read_text()
    profile.write_text("")
    assert "run kitten-bench probe first" in python("", str(SCRIPT), str(out), str(profile), code_expected=1)


def test_copies_are_timed_beside_work_and_ahead_of_layers(tmp_path: Path) -> None:
    out = tmp_path / "copies.json"
    printed = python("", str(SCRIPTS / "gpu_check_copies.py"), str(out), native=True)
    found = json.loads(out.read_text())
    assert {row["work"] for row in found["overlap"]} == {"product", "addition in memory"}
    assert [row["pieces"] for row in found["small_uploads"]] == [0, 1, 8, 32]
    assert "record an event" in found["calls"] and "copied ahead" in found["stack"][0]
    assert printed.count("4 KiB uploaded") == 4
