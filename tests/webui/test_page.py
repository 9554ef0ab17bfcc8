"""The extension in our stand-in, with gradio as AUTOMATIC1111 and Forge pin it, in Chromium."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from bad_bodies import BAD_BODIES
from conftest import Server, picture
from playwright.sync_api import Locator, Page, expect

GRADIO = ("3.41.2", "4.40.0")
GIB = 1 << 30
MIB = 1 << 20


@pytest.fixture(scope="module", params=GRADIO)
def gradio(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def server(host: Any, gradio: str) -> Iterator[Server]:
    with host(gradio, "--api") as found:
        yield found


@pytest.fixture
def fresh(server: Server) -> Server:
    """The server after everything that was done by hand is undone."""
    assert server.post("giant-kitten/v1/act", {"action": "automatic"})[0] == 200
    return server


def unfold(page: Page) -> Locator:
    """Opens the panel."""
    page.locator("#generate").wait_for()
    page.get_by_text("Giant kitten: memory").first.click()
    found = page.locator("giant-kitten-map")
    found.get_by_role("region").wait_for()
    return found


def choose_script(page: Page) -> None:
    page.locator("#script_list input").first.click()
    page.locator("ul.options li", has_text="Giant kitten").click()
    page.get_by_label("GK: no abort").wait_for()


def generate(page: Page, wanted: str) -> str:
    """Presses Generate and waits for a text in the result."""
    page.locator("#generate").click()
    result = page.locator("#result").first
    result.get_by_text(re.compile(wanted)).wait_for()
    return str(result.inner_text())


def open_tab(page: Page, name: str) -> None:
    page.locator("button", has_text=name).first.click()


def set_slider(page: Page, selector: str, value: float) -> None:
    field = page.locator(f"{selector} input[type=number]")
    field.fill(str(value))
    field.press("Enter")
    field.blur()


def by_id(name: str) -> str:
    return f"#script_txt2img_giant_kitten_{name}"


def panel(name: str) -> str:
    return f"#script_txt2img_giant_kitten_memory_{name}"


def test_the_map_is_folded_away_and_shows_itself(fresh: Server, open_page: Callable[..., Page], gradio: str) -> None:
    page = open_page(fresh.url)
    page.locator("#generate").wait_for()
    assert not page.locator("giant-kitten-map").is_visible()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.wait_for_timeout(2500)
    assert [url for url in asked if "giant-kitten/state" in url] == [], "a folded panel asks for nothing"
    found = unfold(page)
    assert found.get_by_text("automatic", exact=True).first.is_visible()
    page.wait_for_timeout(2500)
    assert len([url for url in asked if "giant-kitten/state" in url]) >= 2
    picture(page, f"panel-{gradio}")


def test_every_action_of_the_script(fresh: Server, open_page: Callable[..., Page], gradio: str) -> None:
    page = open_page(fresh.url)
    choose_script(page)
    page.get_by_text("GK: activate").first.click()
    set_slider(page, by_id("reserve"), 0.1)
    picture(page, f"script-{gradio}")
    said = generate(page, "Activated")
    assert "the reserve is 102.4 MiB" in said and "check “GK: no abort”" in said
    stats = fresh.device()["stats"]
    assert (stats["phase_name"], stats["automatic"]) == ("active", 0) and 0 < stats["reserve"] <= GIB // 10
    page.get_by_label("GK: no abort").check()
    assert "Steps: 4" in generate(page, "Steps")
    page.get_by_label("GK: no abort").uncheck()
    page.get_by_text("GK: free VRAM").first.click()
    assert "VRAM is free" in generate(page, "VRAM is free")
    assert fresh.device()["stats"]["dedicated_allocated"] == 0
    page.get_by_label("GK: no abort").check()
    page.get_by_text("GK: disable").first.click()
    generate(page, "Steps")
    stats = fresh.device()["stats"]
    assert (stats["phase_name"], stats["shared_allocated"]) == ("disabled", 0)


def test_generating_works_with_the_vram_lent_away(fresh: Server) -> None:
    assert fresh.post("giant-kitten/v1/act", {"action": "free VRAM"})[0] == 200
    status, answer = fresh.post("sdapi/v1/txt2img", {"width": 256, "height": 256})
    assert status == 200 and answer["images"] == ["picture"]


def test_persist_sort_reversed_and_ignored_model(fresh: Server, open_page: Callable[..., Page]) -> None:
    page = open_page(fresh.url)
    choose_script(page)
    page.get_by_text("GK: activate").first.click()
    set_slider(page, by_id("persist"), 0.2)
    page.get_by_label("GK: sort reversed").check()
    page.get_by_label("GK: ignored model").check()
    generate(page, "Activated")
    assert 200 * MIB < fresh.device()["stats"]["persist"] <= 0.2 * GIB
    page.get_by_text("GK: disable").first.click()
    generate(page, "Disabled")
    assert fresh.device()["stats"]["persist"] == 0


def test_sliders_end_with_the_card(fresh: Server, open_page: Callable[..., Page]) -> None:
    page = open_page(fresh.url)
    choose_script(page)
    for name in ("reserve", "persist"):
        assert page.locator(f"{by_id(name)} input[type=range]").get_attribute("max") == "0.3"


def test_too_large_a_value_is_answered_in_a_sentence(fresh: Server, open_page: Callable[..., Page]) -> None:
    page = open_page(fresh.url)
    choose_script(page)
    page.get_by_text("GK: activate").first.click()
    field = page.locator(f"{by_id('reserve')} input[type=number]")
    field.fill("900")
    # gradio may correct the value itself; if it does not, the sentence says what was taken.
    generate(page, "Activated: the reserve is 256.0 MiB")


def test_the_end_of_the_slider_is_accepted(fresh: Server) -> None:
    # It is the card's 0.25 GiB, rounded up to the slider's step.
    for name in ("reserve", "persist"):
        status, answer = fresh.post("giant-kitten/v1/act", {"action": "activate", name: 0.3})
        assert status == 200 and answer["detail"].startswith("Activated"), answer["detail"]
    status, answer = fresh.post("giant-kitten/v1/act", {"action": "activate", "reserve": 24})
    assert status == 200 and answer["detail"].startswith("“reserve” is 24 GiB, and the card has 0.2 GiB")
    assert fresh.device()["stats"]["reserve"] == 256 * MIB


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ([2, 0.1, 0, False, False, False], "Activated: the reserve is"),
        (["GK: activate", 0.1, 0, False, False, False], "Activated: the reserve is"),
        ([1, 0, 0, False, False, False], "VRAM is free"),
        ([0, 0, 0, False, False, True], "Disabled"),
        ([2, 0.1, 0, True, False, False], "Steps: 4"),
        ([7, 0, 0, False, False, False], "There is no action 7"),
        ([2, "a lot", 0, False, False, False], "“reserve” must be a number of GiB"),
        ([2, 99, 0, False, False, False], "“reserve” is 99 GiB, and the card has 0.2 GiB for giant-kitten"),
        ([2, None, None, None, None, None], "Activated"),
        ([None], "There is no action None"),
        ([], "takes six values"),
        ([2, 0, 0, False, False, False, "more"], "takes six values"),
    ],
)
def test_the_originals_calls_over_the_api(fresh: Server, values: list[Any], said: str) -> None:
    body = {"script_name": "Giant kitten", "script_args": values, "width": 128, "height": 128}
    status, answer = fresh.post("sdapi/v1/txt2img", body)
    assert status == 200 and said in answer["info"]
    assert bool(answer["images"]) == said.startswith("Steps")


def test_the_routes_of_the_actions(fresh: Server) -> None:
    status, answer = fresh.post("giant-kitten/v1/act", {"action": "activate", "reserve": 0.1, "sort_reversed": True})
    assert status == 200 and answer["detail"].startswith("Activated") and answer["state"]["by_hand"]
    assert fresh.get("giant-kitten/v1/state")["devices"][0]["stats"]["phase_name"] == "active"
    for body, said in (
        (b"no JSON", "Expected a JSON object"),
        ([1], "Expected a JSON object"),
        ({}, "Expected a JSON object"),
        ({"action": "dance"}, "There is no action 'dance'"),
        ({"action": {"a": 1}}, "There is no action"),
        ({"action": "activate", "reserve": "x"}, "“reserve” must be a number"),
        ({"action": "activate", "colour": 1}, "There is no field 'colour'"),
    ):
        status, answer = fresh.post("giant-kitten/v1/act", body)
        assert status == 422 and said in answer["detail"], (body, answer)
    assert "/giant-kitten/v1/act" in fresh.get("openapi.json")["paths"]


def test_every_invalid_body_gets_a_sentence(fresh: Server) -> None:
    for body in BAD_BODIES:
        status, answer = fresh.post("giant-kitten/v1/act", body)
        assert 400 <= status < 500 and answer["detail"], (body[:100], status, answer)
    status, answer = fresh.post("giant-kitten/v1/act", b" " * (1 << 17))
    assert status == 413 and "too large" in answer["detail"]


def test_a_page_of_somebody_elses_cannot_act(fresh: Server) -> None:
    body, own = {"action": "free VRAM"}, fresh.url.rstrip("/")
    for status, headers in (
        (415, {"Content-Type": "text/plain"}),
        (415, {"Content-Type": "application/x-www-form-urlencoded", "Origin": own}),
        (403, {"Origin": "https://evil.example"}),
        (403, {"Origin": "https://evil.example", "Sec-Fetch-Site": "cross-site"}),
        (200, {"Origin": own, "Sec-Fetch-Site": "same-origin"}),
    ):
        found, answer = fresh.post("giant-kitten/v1/act", body, headers)
        assert found == status and answer["detail"], headers
        freed = fresh.get("giant-kitten/v1/state")["devices"][0]["stats"]["phase_name"] == "freed"
        assert freed == (status == 200)


def test_with_a_password_nobody_else_has_the_actions(host: Any) -> None:
    with host(GRADIO[0], "--api", "--api-auth", "me:secret") as server:
        body = {"action": "free VRAM"}
        assert server.post("giant-kitten/v1/act", body)[0] == 401
        for password, status in (("wrong", 401), ("secret", 200)):
            login = "Basic " + base64.b64encode(f"me:{password}".encode()).decode()
            assert server.post("giant-kitten/v1/act", body, {"Authorization": login})[0] == status
        assert server.get("giant-kitten/state")["problem"] is None


@pytest.mark.parametrize("given", ["me", "me:", ":", ","])
def test_a_missing_password_closes_the_actions(host: Any, given: str) -> None:
    with host(GRADIO[0], "--api", "--api-auth", given) as server:
        for login in ("me:", ":", "me:me", ","):
            header = {"Authorization": "Basic " + base64.b64encode(login.encode()).decode()}
            assert server.post("giant-kitten/v1/act", {"action": "free VRAM"}, header)[0] == 401
        assert server.post("giant-kitten/v1/act", {"action": "free VRAM"})[0] == 401


def test_the_panel_by_hand_and_back_to_automatic(fresh: Server, open_page: Callable[..., Page], gradio: str) -> None:
    page = open_page(fresh.url)
    found = unfold(page)
    page.locator(panel("mode")).get_by_text("by hand", exact=True).click()
    set_slider(page, panel("reserve"), 0.1)
    page.locator(panel("apply")).click()
    page.locator(panel("said")).first.get_by_text("Activated: the reserve is 102.4 MiB").wait_for()
    found.get_by_text("Reserve 102.4 MiB (given).").wait_for()
    picture(page, f"by-hand-{gradio}")
    # It is saved in the settings.
    open_tab(page, "Settings")
    assert page.locator("#setting_giant_kitten_mode").is_visible()
    open_tab(page, "txt2img")
    page.locator(panel("mode")).get_by_text("automatic", exact=True).click()
    page.locator(panel("apply")).click()
    page.locator(panel("said")).first.get_by_text("determined automatically").wait_for()
    assert fresh.device()["stats"]["automatic"] == 1


def test_buttons_lend_the_card_and_bring_everything_back(fresh: Server, open_page: Callable[..., Page]) -> None:
    page = open_page(fresh.url)
    unfold(page)
    page.locator(panel("free")).click()
    page.locator(panel("said")).first.get_by_text("VRAM is free").wait_for()
    assert fresh.device()["stats"]["dedicated_allocated"] == 0
    page.locator(panel("disable")).click()
    page.locator(panel("said")).first.get_by_text("Disabled").wait_for()
    assert fresh.device()["stats"]["shared_allocated"] == 0


def test_an_overflowing_generation_tells_which_reserve_is_sensible_and_a_button_applies_it(
    fresh: Server, open_page: Callable[..., Page], gradio: str
) -> None:
    assert fresh.post("host/model", {"width": 640})[0] == 200
    assert fresh.post("giant-kitten/v1/act", {"action": "activate", "reserve": 0})[0] == 200
    page = open_page(fresh.url)
    found = unfold(page)
    set_slider(page, "#width", 704)
    set_slider(page, "#height", 704)
    generate(page, "704x704, Giant kitten: by hand; .* s a step; .* in shared memory")
    found.get_by_text("is sensible for work like it").wait_for()
    found.get_by_text("seconds per iteration").wait_for()
    found.get_by_text("in host memory").first.wait_for()
    advice = fresh.device()["guide"]
    assert 0 < advice["smallest"] < advice["largest"] <= advice["suggested"] + GIB
    picture(page, f"advice-{gradio}")
    page.locator(panel("suggest")).click()
    page.locator(panel("said")).first.get_by_text("Activated").wait_for()
    assert abs(fresh.device()["stats"]["reserve"] - advice["suggested"]) <= 2 * 2 * MIB
    # At this size the model would have to go.
    set_slider(page, "#width", 2048)
    set_slider(page, "#height", 2048)
    generate(page, "2048x2048, Giant kitten: by hand")
    found.get_by_text("none is suggested").wait_for()
    page.locator(panel("suggest")).click()
    page.locator(panel("said")).first.get_by_text("determined automatically").wait_for()
    assert fresh.post("host/model", {})[0] == 200


def test_two_tabs_show_the_same(fresh: Server, open_page: Callable[..., Page]) -> None:
    one, two = open_page(fresh.url), open_page(fresh.url)
    unfold(one)
    other = unfold(two)
    one.locator(panel("free")).click()
    other.get_by_text("VRAM is free").first.wait_for()
    two.locator(panel("disable")).click()
    one.locator("giant-kitten-map").get_by_text("disabled", exact=True).wait_for()


def test_the_controls_of_another_tab_follow(fresh: Server, open_page: Callable[..., Page]) -> None:
    one, two = open_page(fresh.url), open_page(fresh.url)
    for page in (one, two):
        unfold(page)
    one.locator(panel("mode")).get_by_text("by hand", exact=True).click()
    set_slider(one, panel("reserve"), 0.2)
    one.locator(panel("apply")).click()
    two.locator(panel("mode")).get_by_label("by hand").and_(two.locator(":checked")).wait_for()
    expect(two.locator(f"{panel('reserve')} input[type=number]")).to_have_value("0.2")
    one.locator(panel("mode")).get_by_text("automatic", exact=True).click()
    one.locator(panel("apply")).click()
    two.locator(panel("mode")).get_by_label("automatic").and_(two.locator(":checked")).wait_for()


@pytest.mark.parametrize("chosen", [None, 0.1, 0])
def test_free_vram_is_left_for_what_was_in_force(
    fresh: Server, open_page: Callable[..., Page], chosen: float | None
) -> None:
    if chosen is not None:
        assert fresh.post("giant-kitten/v1/act", {"action": "activate", "reserve": chosen})[0] == 200
    before = fresh.device()["stats"]
    page = open_page(fresh.url)
    found = unfold(page)
    page.locator(panel("free")).click()
    page.locator(panel("said")).first.get_by_text("VRAM is free").wait_for()
    found.get_by_text("VRAM is free").first.wait_for()
    # The controls still show the mode that comes back.
    label = "automatic" if chosen is None else "by hand"
    assert page.locator(panel("mode")).get_by_label(label).is_checked()
    assert fresh.post("sdapi/v1/txt2img", {"width": 128, "height": 128})[1]["images"] == ["picture"]
    assert fresh.device()["stats"]["phase_name"] == "freed"
    page.locator(panel("back")).click()
    page.locator(panel("said")).first.get_by_text("Activated").wait_for()
    after = fresh.device()["stats"]
    assert (after["automatic"], after["phase_name"]) == (before["automatic"], "active")
    assert chosen is None or after["reserve"] == before["reserve"]
    page.locator(panel("back")).click()
    page.locator(panel("said")).first.get_by_text("VRAM is not free").wait_for()


def test_a_reserve_of_0_is_kept(fresh: Server, open_page: Callable[..., Page]) -> None:
    assert fresh.post("giant-kitten/v1/act", {"action": "activate", "reserve": 0.2})[0] == 200
    page = open_page(fresh.url)
    found = unfold(page)
    set_slider(page, panel("reserve"), 0)
    page.locator(panel("apply")).click()
    found.get_by_text("Reserve 0 B (given).").wait_for()
    page.wait_for_timeout(1500)
    assert page.locator(f"{panel('reserve')} input[type=number]").input_value() == "0"
    page.reload()
    unfold(page)
    assert page.locator(panel("mode")).get_by_label("by hand").is_checked()
    assert page.locator(f"{panel('reserve')} input[type=number]").input_value() == "0"


def test_a_server_that_is_gone_is_reported(host: Any, gradio: str, open_page: Callable[..., Page]) -> None:
    with host(gradio) as server:
        page = open_page(server.url, ignored=".")
        found = unfold(page)
        server.process.kill()
        server.process.wait()
        page.locator(panel("free")).click()
        found.get_by_text("The program does not answer").wait_for()


def test_without_the_package_the_page_says_what_to_do(host: Any, gradio: str, open_page: Callable[..., Page]) -> None:
    with host(gradio, "--without-package", GIANT_KITTEN="") as server:
        page = open_page(server.url)
        page.locator("#generate").wait_for()
        page.get_by_text("Giant kitten: memory").first.click()
        page.get_by_text("The package giant-kitten is not in this WebUI's Python").first.wait_for()
        assert page.locator(panel("free")).count() == 0
        assert server.post("sdapi/v1/txt2img", {})[1]["images"] == ["picture"]


def test_the_originals_name_is_ours(fresh: Server) -> None:
    body = {"script_name": "Giant kitten (v1.0)", "script_args": [2, 0.1, 0, False, False, False]}
    status, answer = fresh.post("sdapi/v1/txt2img", body)
    assert status == 200 and "Activated" in answer["info"]
    for name, ours in (("Giant kitten (v1.0)", "Giant kitten"), ("X/Y/Z plot", "X/Y/Z plot")):
        assert fresh.post("host/paste", {"Script": name})[1] == {"Script": ours}
    assert fresh.post("host/paste", {"Steps": 4})[1] == {"Steps": 4}


def test_the_description_of_a_picture_says_what_it_cost(fresh: Server) -> None:
    assert fresh.post("giant-kitten/v1/act", {"action": "activate", "reserve": 0})[0] == 200
    _, small = fresh.post("sdapi/v1/txt2img", {"width": 128, "height": 128})
    assert re.search(r"Giant kitten: by hand; \d+\.\d\d s a step; ", small["info"])
    _, large = fresh.post("sdapi/v1/txt2img", {"width": 2048, "height": 2048})
    assert " in shared memory" in large["info"]
    told = fresh.get("giant-kitten/state")["work"]["cost"]
    assert "were allocated there because VRAM was full" in told and "It would fit into" in told


def test_a_reload_shows_what_is_in_force(fresh: Server, open_page: Callable[..., Page]) -> None:
    assert fresh.post("giant-kitten/v1/act", {"action": "activate", "reserve": 0.1})[0] == 200
    page = open_page(fresh.url)
    page.reload()
    unfold(page)
    page.wait_for_timeout(500)
    assert page.locator(panel("mode")).get_by_label("by hand").is_checked()
    assert page.locator(f"{panel('reserve')} input[type=number]").input_value() == "0.1"


def test_settings_are_taken_at_the_next_generation_and_kept(fresh: Server, open_page: Callable[..., Page]) -> None:
    page = open_page(fresh.url)
    open_tab(page, "Settings")
    page.locator("#setting_giant_kitten_mode").get_by_text("by hand", exact=True).click()
    set_slider(page, "#setting_giant_kitten_reserve", 0.2)
    page.locator("#setting_giant_kitten_infotext input").uncheck()
    page.locator("#settings_apply").click()
    page.locator("#settings_kept").first.get_by_text("kept").wait_for()
    status, answer = fresh.post("sdapi/v1/txt2img", {"width": 128, "height": 128})
    assert status == 200 and "Giant kitten" not in answer["info"]
    stats = fresh.device()["stats"]
    assert stats["automatic"] == 0 and abs(stats["reserve"] - 0.2 * GIB) <= 2 * MIB
    kept = json.loads((fresh.log.parent / "settings.json").read_text())
    assert kept["giant_kitten_mode"] == "by hand" and kept["giant_kitten_reserve"] == 0.2
    page.locator("#setting_giant_kitten_mode").get_by_text("automatic", exact=True).click()
    page.locator("#setting_giant_kitten_infotext input").check()
    page.locator("#settings_apply").click()
    page.wait_for_timeout(500)
    status, answer = fresh.post("sdapi/v1/txt2img", {"width": 128, "height": 128})
    assert "Giant kitten: automatic" in answer["info"] or "automatic" in answer["info"]
    assert fresh.device()["stats"]["automatic"] == 1


def test_settings_that_are_no_numbers_leave_the_panel_as_it_is(
    host: Any, gradio: str, tmp_path: Path, open_page: Callable[..., Page]
) -> None:
    settings = tmp_path / "bad.json"
    settings.write_text('{"giant_kitten_interval": "often", "giant_kitten_reserve": null}')
    with host(gradio, "--settings", str(settings)) as server:
        page = open_page(server.url)
        unfold(page)
        assert page.locator(f"{panel('reserve')} input[type=number]").input_value() == "0"


def test_a_new_checkpoint_is_placed_as_the_one_before(fresh: Server) -> None:
    assert fresh.post("giant-kitten/v1/act", {"action": "activate", "reserve": 0.1})[0] == 200
    for body in ({"width": 160}, {"width": 320, "parked": True}):
        assert fresh.post("host/model", body)[0] == 200
        assert fresh.post("sdapi/v1/txt2img", {"width": 128, "height": 128})[1]["images"] == ["picture"]
        device = fresh.device()
        kinds = device["map"]["bytes"]
        assert device["stats"]["phase_name"] == "active"
        assert kinds["dedicated"]["model"] + kinds["shared"]["model"] > MIB


def test_unloading_the_script_restores_everything(fresh: Server) -> None:
    body = {"action": "activate", "reserve": 0.1, "persist": 0.1}
    assert fresh.post("giant-kitten/v1/act", body)[0] == 200
    assert fresh.device()["stats"]["persist"] > 0
    assert fresh.post("host/unload", {})[0] == 200
    stats = fresh.device()["stats"]
    assert (stats["automatic"], stats["persist"]) == (1, 0)
    assert fresh.post("sdapi/v1/txt2img", {})[1]["images"] == ["picture"]


def test_preload_is_early_enough_and_without_the_option_api_there_are_no_actions(host: Any) -> None:
    with host(GRADIO[0], "--preload", GIANT_KITTEN="") as server:
        assert server.get("giant-kitten/state")["problem"] is None
        assert server.post("sdapi/v1/txt2img", {})[1]["images"] == ["picture"]
        assert server.post("giant-kitten/v1/act", {"action": "disable"})[0] in (404, 405)


def test_it_can_be_switched_off(host: Any) -> None:
    with host(GRADIO[0], "--preload", "--api", GIANT_KITTEN="0") as server:
        assert "switched off" in server.get("giant-kitten/state")["problem"]
        assert server.post("sdapi/v1/txt2img", {})[1]["images"] == ["picture"]


def test_too_late_is_reported_in_one_sentence_and_nothing_breaks(
    host: Any, gradio: str, open_page: Callable[..., Page]
) -> None:
    with host(gradio, "--late", "--preload", "--api", GIANT_KITTEN="") as server:
        page = open_page(server.url)
        page.locator("#generate").wait_for()
        page.get_by_text("Giant kitten: memory").first.click()
        page.locator("giant-kitten-map").get_by_text("giant-kitten came too late").wait_for()
        picture(page, f"too-late-{gradio}")
        for name in ("apply", "suggest", "free", "back", "disable"):
            page.locator(panel(name)).click()
            page.locator(panel("said")).first.get_by_text("giant-kitten came too late").wait_for()
        # The same sentence answers all of them, so another one would be seen now.
        page.wait_for_timeout(1500)
        assert "giant-kitten came too late" in page.locator(panel("said")).first.inner_text()
        body = {"script_name": "Giant kitten", "script_args": [2, 0.1, 0, False, False, False]}
        assert "giant-kitten came too late" in server.post("sdapi/v1/txt2img", body)[1]["info"]
        status, answer = server.post("giant-kitten/v1/act", {"action": "activate"})
        assert status == 422 and "GIANT_KITTEN=1" in answer["detail"]
        assert server.post("sdapi/v1/txt2img", {})[1]["images"] == ["picture"]
