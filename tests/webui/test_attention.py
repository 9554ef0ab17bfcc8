"""AUTOMATIC1111's own attention is limited to the card, and to both tiers if it must be."""

from __future__ import annotations

import math
import types
from typing import Any

import pytest
from giant_kitten.webui.automatic1111.attention import fit

GIB = 1 << 30
BOTH = 16 * GIB


def theirs(tells: bool = True) -> Any:
    """Their module, with an attention that returns the size of its slices.

    If it gives up, it says how much memory it needs.
    """
    module = types.SimpleNamespace(get_available_vram=lambda: BOTH)

    def split(need: int, broken: str = "") -> float:
        if broken:
            raise RuntimeError(broken)
        steps = 2 ** max(0, math.ceil(math.log2(need / module.get_available_vram())))
        if steps > 64:
            said = f"Need: {need / 64 / GIB:0.1f}GB free" if tells else "Sorry"
            raise RuntimeError(f"Not enough memory, use lower resolution (max approx. 64x64). {said}, Have: ...")
        return float(need / steps)

    module.split_cross_attention_forward = split
    return module


@pytest.mark.parametrize(("tells", "pieces"), [(True, 64), (False, 16)])
def test_slices_fit_the_card_and_otherwise_are_the_smallest_possible(tells: bool, pieces: int) -> None:
    module = theirs(tells)
    fit(module, lambda: 2 * GIB)
    attention = module.split_cross_attention_forward
    assert attention(GIB) == GIB and attention(20 * GIB) == 1.25 * GIB and attention(128 * GIB) == 2 * GIB
    assert attention(129 * GIB) == 129 * GIB / pieces and attention(1024 * GIB) == 16 * GIB
    assert attention(20 * GIB) == 1.25 * GIB, "and only those"


def test_a_full_card_causes_no_division_by_zero() -> None:
    module = theirs()
    fit(module, lambda: -5)
    assert module.get_available_vram() == 1 << 20
    assert module.split_cross_attention_forward(20 * GIB) == 20 * GIB / 64


def test_slices_beyond_both_tiers_fail_as_before_and_other_errors_pass() -> None:
    module = theirs()
    fit(module, lambda: 2 * GIB)
    with pytest.raises(RuntimeError, match="Not enough memory, use lower resolution"):
        module.split_cross_attention_forward(65 * BOTH)
    assert module.get_available_vram() == 2 * GIB
    with pytest.raises(RuntimeError, match="shapes"):
        module.split_cross_attention_forward(GIB, "shapes do not match")


def test_it_is_undone_and_done_again_where_a_model_has_taken_it() -> None:
    module = theirs()
    before = dict(vars(module))
    undo = fit(module, lambda: 2 * GIB)
    taken = module.split_cross_attention_forward
    undo()
    assert {name: vars(module)[name] for name in before} == before
    assert taken(20 * GIB) == 10 * GIB, "as without us"
    # Like "Reload UI": the model continues with the attention that it has taken.
    fit(module, lambda: GIB)
    assert taken(20 * GIB) == 20 * GIB / 32 and taken(129 * GIB) == 129 * GIB / 64
    assert module.split_cross_attention_forward is taken


def test_it_becomes_a_method() -> None:
    module = types.SimpleNamespace(
        get_available_vram=lambda: BOTH, split_cross_attention_forward=lambda self, x: (self, x)
    )
    fit(module, lambda: GIB)
    layer = type("CrossAttention", (), {"forward": module.split_cross_attention_forward})()
    assert layer.forward(7) == (layer, 7)


def test_a_webui_without_it_is_left_alone() -> None:
    module = types.SimpleNamespace(other=1)
    fit(module, lambda: 0)()
    assert vars(module) == {"other": 1}
