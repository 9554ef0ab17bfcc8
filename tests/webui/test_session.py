"""The session without a page: values of forms, actions, generations, guidance."""

from __future__ import annotations

import re
import subprocess
import sys
from typing import Any

import giant_kitten
import pytest
import torch
from giant_kitten._guide import STEP, Observation, chosen, guide, observe
from giant_kitten.webui.actions import Action, Refused, parse_action
from giant_kitten.webui.cost import cost
from giant_kitten.webui.session import NO_MODEL, Host, Session

GIB = 1 << 30
MIB = 1 << 20


def test_the_originals_values_in_its_order() -> None:
    assert parse_action(2, 1.6, 0.5, True, False, True) == Action(
        "activate", int(1.6 * GIB), GIB // 2, True, False, True
    )
    assert parse_action(0).name == "disable" and parse_action(1.0).name == "free VRAM"
    for text in ("GK: activate", "activate", "Activate"):
        assert parse_action(text).name == "activate"


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ((3,), "no action 3"),
        ((-1,), "no action -1"),
        ((None,), "no action None"),
        (("start",), "no action 'start'"),
        ((True,), "no action True"),
        ((1.5,), "no action 1.5"),
        (([],), "no action []"),
        ((2, "much"), "“reserve” must be a number of GiB, such as 1.6, not 'much'"),
        ((2, -1), "from 0 to the card's size, not -1"),
        ((2, float("nan")), "not nan"),
        ((2, float("inf")), "not inf"),
        ((2, True), "not True"),
        ((2, {}), "such as 1.6, not {}"),
        ((2, 1, 0, "maybe"), "“no abort” must be yes or no"),
        ((2, 1, 0, 0, 2), "“sort reversed” must be yes or no"),
        ((2, 1, 0, 0, 0, [1]), "“ignored model” must be yes or no"),
    ],
)
def test_wrong_values_are_answered_in_a_sentence(values: tuple[Any, ...], said: str) -> None:
    with pytest.raises(Refused) as refused:
        parse_action(*values, most=8 * GIB)
    assert said in str(refused.value) and str(refused.value).endswith(".")


def test_sizes_mean_nothing_where_nothing_is_reserved() -> None:
    for name in ("disable", "free VRAM"):
        found = parse_action(name, 24, 1, most=8 * GIB)
        assert (found.reserve, found.persist, found.note) == (0, 0, "")
        with pytest.raises(Refused, match="“reserve” must be a number"):
            parse_action(name, "much", most=8 * GIB)


def test_sizes_above_the_card_become_the_cards() -> None:
    # The last step of a slider rounds up to at most a tenth more.
    assert parse_action(2, 3.8, most=int(3.75 * GIB)) == Action("activate", int(3.75 * GIB))
    assert parse_action(2, 3.8, most=int(3.75 * GIB)).note == ""
    found = parse_action(2, 24, 9, most=8 * GIB)
    assert (found.reserve, found.persist) == (8 * GIB, 8 * GIB)
    assert found.note.startswith("“reserve” is 24 GiB, and the card has 8.0 GiB") and "“persist” is 9 GiB" in found.note
    assert parse_action(2, 24) == Action("activate", 24 * GIB)


def test_defaults_are_those_of_the_original() -> None:
    assert parse_action(2, None, "", None, None, "") == Action("activate", 0)


STATS = {
    "dedicated_capacity": 8 * GIB, "persist": 0, "dedicated_allocated": 7 * GIB, "shared_allocated": 0,
    "shared_allocated_peak": 0, "reserve": 0, "reserve_reason": "given",
}  # fmt: skip


def test_the_sensible_reserves_are_as_the_original_explains_them() -> None:
    # 0.6 GiB of 8 were free before, and the peak of shared memory was 1 GiB: from 0.6 to 1.6 GiB.
    before = {**STATS, "dedicated_allocated": int(7.4 * GIB)}
    observation = observe(before, {**STATS, "shared_allocated_peak": GIB})
    found = guide(STATS, observation)
    assert found is not None
    assert (found.smallest, found.largest) == (8 * GIB - int(7.4 * GIB), 9 * GIB - int(7.4 * GIB))
    assert found.largest <= found.suggested < found.largest + GIB // 10
    assert "from 614.4 MiB" in found.text and "to 1.60 GiB" in found.text and "1.00 GiB that overflowed" in found.text


def test_one_reserve_is_named_where_the_smallest_and_the_largest_are_the_same_to_a_slider() -> None:
    found = guide(STATS, Observation(free=GIB, overflow=1000))
    assert found is not None and "a reserve of 1.10 GiB is sensible" in found.text
    assert found.suggested == 11 * STEP


def test_work_that_fits_needs_no_reserve_and_without_work_nothing_is_known() -> None:
    assert guide(STATS, None) is None
    found = guide(STATS, Observation(free=GIB, overflow=0))
    assert found is not None and found.suggested == 0 and "a larger reserve would gain nothing" in found.text
    assert not found.prefers_automatic


def test_a_reserve_that_would_drive_out_the_model_is_not_suggested() -> None:
    for overflow in (4 * GIB, 20 * GIB):
        found = guide(STATS, Observation(free=GIB, overflow=overflow))
        assert found is not None and found.suggested == 0 and found.prefers_automatic
        assert "none is suggested" in found.text
    found = guide(STATS, Observation(free=GIB, overflow=2 * GIB))
    assert found is not None and found.suggested == -(-3 * GIB // STEP) * STEP
    # Where the automatic mode has taken the model out already, little overflows.
    out = {**STATS, "dedicated_allocated": GIB // 4, "shared_allocated": 2 * GIB}
    found = guide(STATS, observe(out, {**out, "shared_allocated_peak": 2 * GIB + 1000}))
    assert found is not None and found.suggested == 0 and found.prefers_automatic
    # A small model on a large card is not driven out by a large reserve.
    found = guide(STATS, Observation(free=7 * GIB, overflow=GIB // 4))
    assert found is not None and found.suggested > 7 * GIB


COUNTED = {"fell_to_shared_bytes": 0, "migrated_bytes": 0, "copied_ahead_bytes": 0, "allocated_peak": 0}


def test_the_cost_of_a_generation_in_words() -> None:
    before = {**STATS, **COUNTED}
    found = cost(before, {**before, "allocated_peak": 8 * GIB}, 0.5)
    assert found.short() == "0.50 s a step; all in VRAM"
    assert found.text() == "A step took 0.50 s. Everything lay in VRAM."
    after = {
        **before, "shared_allocated_peak": 2 * GIB, "fell_to_shared_bytes": GIB, "migrated_bytes": 3 * GIB,
        "copied_ahead_bytes": 4 * GIB, "allocated_peak": 9 * GIB,
    }  # fmt: skip
    found = cost(before, after, None)
    assert found.short() == "2.00 GiB in shared memory; 3.00 GiB moved; 4.00 GiB copied ahead"
    assert found.text() == (
        "At most 2.00 GiB lay in host memory; 1.00 GiB were allocated there because VRAM was full; 4.00 GiB of weights "
        "were copied ahead of their use; 3.00 GiB moved between VRAM and host memory. It would fit into 1.00 GiB more "
        "VRAM."
    )


CHOSEN = """
import torch
from giant_kitten.webui.session import Host, Session

used = torch.zeros(1, device="cuda")
print(Session(Host("test")).state()["devices"][0]["chosen"])
"""


def test_why_a_reserve_is_in_force(card: None) -> None:
    assert chosen({**STATS, "reserve": GIB, "reserve_reason": "given"}) == "Reserve 1.00 GiB (given)."
    # Which reason it is depends on what a process has done before: this one has done nothing.
    done = subprocess.run([sys.executable, "-c", CHOSEN], capture_output=True, text=True, check=True, timeout=120)
    assert "everything has fitted" in done.stdout


@pytest.fixture
def model(card: None) -> Any:
    return torch.nn.Sequential(*[torch.nn.Linear(2048, 2048, bias=False) for _ in range(8)]).cuda()


@pytest.fixture
def session(model: Any) -> Any:
    made = Session(Host("test", model=lambda: model, bring=lambda found: found.cuda()))
    yield made
    made.restore()


def test_actions_report_their_results_and_lose_nothing(session: Session, model: Any) -> None:
    known = [torch.arange(2048 * 2048, dtype=torch.float32).view(2048, 2048) + layer for layer in range(8)]
    for layer, values in zip(model, known):
        layer.weight.data.copy_(values)
    addresses = [layer.weight.data_ptr() for layer in model]
    assert "everything still works" in session.act(Action("free VRAM"))
    assert giant_kitten.tier(model) == "shared"
    assert "Disabled" in session.act(Action("disable"))
    assert giant_kitten.tier(model) == "dedicated"
    said = session.act(Action("activate", reserve=GIB))
    assert "the reserve is 1.00 GiB" in said
    found = giant_kitten.stats()
    assert (found["phase_name"], found["automatic"], found["reserve"]) == ("active", 0, GIB)
    assert session.automatic().startswith("Activated: the reserve is determined automatically")
    assert giant_kitten.stats()["automatic"] == 1
    assert [layer.weight.data_ptr() for layer in model] == addresses
    assert all(torch.equal(layer.weight.cpu(), values) for layer, values in zip(model, known))


@pytest.mark.parametrize("wanted", [None, Action("activate", reserve=GIB, persist=GIB // 2), Action("disable")])
def test_free_vram_is_left_for_what_was_in_force(session: Session, wanted: Action | None) -> None:
    assert "is not free" in session.take_back()
    if wanted is not None:
        session.act(wanted)
    before = giant_kitten.stats()
    for _ in range(2):
        assert "“take back”" in session.act(Action("free VRAM"))
        state = session.state()
        assert state["freed"] and state["by_hand"] == (wanted is not None)
        assert state["devices"][0]["phase"] == "VRAM is free"
    session.take_back()
    after = giant_kitten.stats()
    for name in ("automatic", "persist", "reserve") if wanted else ("automatic", "persist"):
        assert after[name] == before[name]
    assert after["phase_name"] == ("disabled" if wanted == Action("disable") else "active")
    assert not session.state()["freed"]


def test_a_new_checkpoint_stays_out_of_vram_that_is_free(session: Session) -> None:
    session.act(Action("activate", reserve=GIB // 2))
    session.act(Action("free VRAM"))
    fresh = torch.nn.Linear(4096, 4096, device="cuda")
    session.host.model = lambda: fresh
    session.begin("64x64")
    session.end()
    assert giant_kitten.stats()["phase_name"] == "freed"


def test_unloading_ends_the_state_in_which_vram_is_free(session: Session) -> None:
    session.act(Action("free VRAM"))
    session.restore()
    assert (giant_kitten.stats()["automatic"], session.is_freed) == (1, False)


def test_what_others_have_of_the_card_is_counted(session: Session) -> None:
    used = torch.zeros(1, device="cuda")
    assert session.state()["devices"][0]["others"] == 0
    del used


def test_without_a_model_the_originals_advice_is_given(card: None) -> None:
    session = Session(Host("test"))
    for action in ("activate", "disable"):
        with pytest.raises(Refused, match="check “ignored model”"):
            session.act(Action(action))
        session.act(Action(action, ignored_model=True))
    assert "ignored model" in NO_MODEL
    session.restore()


def test_a_reserve_that_is_given_before_the_first_model_holds_for_it(card: None) -> None:
    session = Session(Host("test"))
    for wanted in (Action("disable"), Action("activate", reserve=GIB)):
        session.act(wanted, without_model=True)
    session.act(Action("free VRAM"))
    session.take_back()
    assert giant_kitten.stats()["reserve"] == GIB
    before, fresh = marked(), torch.nn.Linear(4096, 4096, device="cuda")
    session.host.model = lambda: fresh
    session.begin("64x64")
    session.end()
    assert marked() - before == fresh.weight.nbytes + fresh.bias.nbytes
    assert session.by_hand == Action("activate", reserve=GIB), "the model is not ignored"
    session.restore()


def test_a_parked_model_is_brought_over_first(card: None) -> None:
    model = torch.nn.Linear(1024, 1024)
    session = Session(Host("test", model=lambda: model, bring=lambda found: found.cuda()))
    session.act(Action("activate", reserve=0))
    assert model.weight.device.type == "cuda"
    session.restore()


def test_unloading_restores_the_automatic_mode(session: Session) -> None:
    session.act(Action("activate", reserve=GIB, persist=GIB))
    assert giant_kitten.stats()["persist"] == GIB
    session.restore()
    found = giant_kitten.stats()
    assert (found["automatic"], found["persist"]) == (1, 0) and session.by_hand is None


def test_a_new_checkpoint_is_placed_as_the_one_before(session: Session) -> None:
    session.act(Action("activate", reserve=GIB // 2))
    fresh = torch.nn.Linear(4096, 4096, device="cuda")
    session.host.model = lambda: fresh
    before = giant_kitten.memory_map()["bytes"]["dedicated"]["model"]
    session.begin("64x64")
    session.end()
    after = giant_kitten.memory_map()["bytes"]["dedicated"]["model"]
    assert after - before == fresh.weight.nbytes + fresh.bias.nbytes
    assert giant_kitten.stats()["reserve"] == GIB // 2


def marked() -> int:
    kinds = giant_kitten.memory_map()["bytes"]
    return int(kinds["dedicated"]["model"] + kinds["shared"]["model"])


def test_a_model_that_was_away_is_marked_again_wherever_it_comes_back_to(session: Session, model: Any) -> None:
    for act in (session.automatic, lambda: session.act(Action("activate", reserve=0))):
        act()
        all_of_it = marked()
        assert all_of_it >= sum(layer.weight.nbytes for layer in model)
        model.cpu().cuda()
        assert marked() < all_of_it
        session.begin("work")
        assert marked() == all_of_it
        session.end()


def test_a_model_that_arrives_during_a_generation_is_placed(session: Session, model: Any) -> None:
    session.act(Action("activate", reserve=0))
    all_of_it = marked()
    model.cpu()
    session.begin("work")
    assert marked() == all_of_it - sum(layer.weight.nbytes for layer in model)
    model.cuda()
    session.iteration()
    assert marked() == all_of_it and giant_kitten.memory_map()["bytes"]["dedicated"]["scratch"] == 0
    # Another model for the later steps, like a refiner.
    other = torch.nn.Linear(4096, 4096, bias=False, device="cuda")
    session.host.model = lambda: other
    session.iteration()
    assert marked() == all_of_it + other.weight.nbytes
    session.end()


def test_companions_are_marked_and_nothing_moves(session: Session) -> None:
    session.act(Action("activate", reserve=GIB))
    before, moved = marked(), giant_kitten.stats()["migrated_bytes"]
    companion = torch.nn.Linear(4096, 4096, bias=False)
    session.host.companions = lambda: [companion]
    session.begin("work")
    session.iteration()
    assert marked() == before
    companion.cuda()
    session.iteration()
    session.iteration()
    assert marked() == before + companion.weight.nbytes and giant_kitten.stats()["migrated_bytes"] == moved
    session.end()
    session.act(Action("activate", reserve=GIB))
    assert giant_kitten.memory_map()["bytes"]["dedicated"]["scratch"] == 0


def overflow() -> None:
    """Fills VRAM until a block falls to host memory, and frees all again.

    What is left to others is given up before that, bit by bit: afterwards it is over, until an
    action withholds it again.
    """
    before, held = giant_kitten.stats()["fell_to_shared"], []
    while giant_kitten.stats()["fell_to_shared"] == before:
        held.append(torch.empty(20 * MIB, dtype=torch.uint8, device="cuda"))


def test_a_generation_is_observed(session: Session) -> None:
    session.act(Action("activate", reserve=0))
    overflow()
    capacity = giant_kitten.stats()["dedicated_capacity"]
    noted = session.begin("work")
    assert noted == "by hand; reserve 0 B; 0 B in shared memory"
    free = capacity - giant_kitten.stats()["dedicated_allocated"]
    for _ in range(3):
        scratch = [torch.empty(size, dtype=torch.uint8, device="cuda") for size in (free // 2, free // 2, 60 * MIB)]
        scratch.clear()
        session.iteration()
    state = session.state()
    assert state["work"]["running"] and state["work"]["iterations"] == 3 and state["work"]["seconds_per_iteration"] >= 0
    assert re.fullmatch(r"by hand; \d\.\d\d s a step; .* in shared memory", session.note())
    assert state["work"]["cost"] is None
    session.end()
    assert session.note() == ""
    state = session.state()
    assert not state["work"]["running"] and "lay in host memory" in state["work"]["cost"]
    advice = state["devices"][0]["guide"]
    assert advice["smallest"] == free
    assert 58 * MIB <= advice["largest"] - advice["smallest"] <= 70 * MIB
    session.iteration()
    assert session.state()["work"]["iterations"] == 3


def test_steps_that_are_reported_irregularly_are_counted(session: Session) -> None:
    session.begin("work")
    for done, told in ((1, False), (3, True), (20, True), (1, False), (20, True)):
        session.iteration(done)
        work = session.state()["work"]
        assert work["iterations"] == done and (work["seconds_per_iteration"] is not None) == told
    session.end()


def test_the_map_counts_every_byte(session: Session, model: Any) -> None:
    session.act(Action("activate", reserve=0))
    scratch = torch.empty(40 * MIB, dtype=torch.uint8, device="cuda")
    found = giant_kitten.memory_map()
    stats = giant_kitten.stats()
    for tier in ("dedicated", "shared"):
        kinds = found["bytes"][tier]
        assert kinds["model"] + kinds["other"] + kinds["scratch"] == stats[f"{tier}_allocated"]
        assert sum(kinds.values()) == stats[f"{tier}_mapped"]
    assert found["bytes"]["dedicated"]["scratch"] >= scratch.nbytes
    letters = "".join(arena["granules"] for arena in found["arenas"])
    assert set(letters) <= set("MOSFmosf.") and letters.count("M") == 8 * 2048 * 2048 * 4 // found["granule"]
