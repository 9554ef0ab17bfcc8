"""What is for a real GPU runs on the fake one; its results do not matter here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

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


def test_the_page_about_a_card_answers_every_question(tmp_path: Path) -> None:
    profile, out = tmp_path / "card.toml", tmp_path / "page.md"
    like = (SCRIPTS.parent / "crates" / "kitten-sim" / "profiles" / "nominal-6g.toml").read_text()
    profile.write_text(like.replace('"5.2 GiB"', '"1 GiB"').replace('"16 GiB"', '"2 GiB"'))
    given: dict[str, Any] = {"FAKE_CUDA_PROFILE": str(profile)}
    python("", "-m", "giant_kitten._card", str(out), native=True, **given)
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in out.read_text().splitlines() if "|" in line]
    answers = {row[0]: row[1] for row in rows}
    assert "the part" not in answers, answers
    assert answers["shared memory by"] == "host_numa" and answers["driver"].startswith("580")
    for where in ("in the main thread", "in another thread", "in a backward pass"):
        assert answers[where].startswith("100 of 100"), answers
    lie = answers["where six blocks of 128 MiB lie, with 512 MiB of dedicated memory"]
    assert lie.count("dedicated") == 4 and lie.count("shared") == 2 and answers["blocks with wrong contents"] == "0"
    assert answers["a handle beyond that"] == "refused: cuMemCreate answered 2"
    timed = ("to the card", "to the host", "a copy within the first", "a handle that is created after that")
    assert all(answers[what].endswith("GB/s") for what in timed), answers
    # A driver that creates more than the card has, as Windows' do.
    python("", "-m", "giant_kitten._card", str(out), native=True, FAKE_CUDA_OVERCOMMIT="1", **given)
    page = out.read_text()
    assert "the handle beyond, after half was freed" in page and "the part" not in page, page


def test_a_part_that_crashes_is_an_answer(tmp_path: Path) -> None:
    out = tmp_path / "page.md"
    python("", "-m", "giant_kitten._card", str(out), native=True, CUDA_VISIBLE_DEVICES="")
    assert out.read_text().count("| the part | ended with status 1: ") >= 4
    assert "usage" in python("", "-m", "giant_kitten._card", code_expected=2)


def test_one_pipeline_runs_five_ways(tmp_path: Path) -> None:
    out = tmp_path / "page.md"
    script = SCRIPTS.parent / "benches" / "torch" / "five_ways.py"
    given = "--small --dedicated 64MiB --pixels 64 --steps 4 --out".split()
    printed = python("", str(script), *given, str(out), native=True)
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in out.read_text().splitlines() if "|" in line]
    assert [row[0] for row in rows[2:]] == ["native", "group", "sequential", "in place", "ahead"], printed
    assert rows[2][1] == "CUDA out of memory"
    assert all(float(row[1]) > 0 and 0 < int(row[4]) <= 64 for row in rows[3:]), rows
    assert "the seconds mean nothing" in out.read_text()
