"""The page in a real browser."""

import re
from dataclasses import replace

import pytest
from playwright.sync_api import expect
from serving import API_KEY, running, wait_until_ready

from routerretriever.server import Limits, Settings

QUERY = "word100 word100 word60"


def ask(page, query=QUERY):
    page.fill("#query", query)
    page.keyboard.press("Enter")
    page.wait_for_selector("#answers:not([aria-busy]) #bars > .bar")


def ids(page, column):
    return page.eval_on_selector_all(f"#{column}-results > li", "all => all.map(li => li.dataset.id)")


def test_before_the_first_query_it_explains_itself(client, open_page):
    page = open_page(client)
    page.wait_for_selector("#map-frame.drawn")
    assert page.is_visible("#empty") and not page.is_visible("#answers")
    page.click("#examples .example-query >> nth=0")
    page.wait_for_selector("#routed-results > li[data-id]")
    assert not page.is_visible("#empty")


def test_what_is_typed_while_the_page_loads_stays(client, open_page):
    held = []
    page = open_page(
        client,
        "/",
        before=lambda page: page.route("**/v1/experts", lambda route: held.append(route), times=1),
    )
    page.fill("#query", QUERY)
    expect(page.locator("#query")).to_have_value(QUERY)
    while not held:
        page.wait_for_timeout(50)
    held[0].continue_()
    page.wait_for_selector("#map-frame.drawn")
    assert page.input_value("#query") == QUERY
    page.keyboard.press("Enter")
    page.wait_for_selector("#answers:not([aria-busy]) #bars > .bar")


def test_routed_and_base_stand_side_by_side_with_what_moved(client, open_page):
    page = open_page(client)
    ask(page)
    shown = {
        name: client.post("/v1/search", json={"query": QUERY, "expert": expert}).json()["results"][0]
        for name, expert in (("routed", None), ("base", "base"))
    }
    order = {name: [hit["id"] for hit in result["hits"]] for name, result in shown.items()}
    assert (ids(page, "routed"), ids(page, "base")) == (order["routed"], order["base"])
    assert shown["routed"]["expert"] in page.inner_text("#routed-title")
    keys = {
        name: [(hit["collection"], hit["id"]) for hit in result["hits"]] for name, result in shown.items()
    }
    texts = page.locator("#routed-results .moved").all_inner_texts()
    for rank, (key, text) in enumerate(zip(keys["routed"], texts, strict=True)):
        up = keys["base"].index(key) - rank if key in keys["base"] else None
        expected = "new" if up is None else "=" if up == 0 else f"▲ {up}" if up > 0 else f"▼ {-up}"
        assert text.strip() == expected
    boxes = [page.locator(f"#{column}-results").bounding_box() for column in ("routed", "base")]
    assert boxes[0]["x"] + boxes[0]["width"] <= boxes[1]["x"]
    scores = [float(text) for text in page.locator("#base-results .score").all_inner_texts()]
    assert scores == sorted(scores, reverse=True)


def test_matched_words_are_marked(client, open_page):
    page = open_page(client)
    ask(page, "word1 word60")
    marked = {text.lower() for text in page.locator("#base-results mark").all_inner_texts()}
    assert marked and marked <= {"word1", "word60"}


def test_document_text_is_text(admin, open_page):
    hostile = "word1 <img src=x onerror=alert(1)> <script>alert(2)</script>"
    admin.post(
        "/v1/documents", json={"documents": [{"id": "<b>h</b>", "title": "<i>t</i>", "text": hostile}]}
    )
    page = open_page(admin, complaining=True)
    page.on("dialog", lambda dialog: pytest.fail("a script ran"))
    page.fill("#key", API_KEY)
    page.keyboard.press("Enter")
    page.wait_for_selector("#experts tbody tr[data-expert]")
    ask(page, "word1 img src onerror alert script")
    assert "<img src=x onerror=alert(1)>" in page.inner_text("#base-results")
    assert page.locator("#base-results img, #base-results script, #base-results i").count() == 0


def test_the_route_is_shown_with_its_reasons(client, open_page):
    page = open_page(client)
    ask(page)
    (route,) = client.post("/v1/route", json={"query": QUERY}).json()["routes"]
    assert page.inner_text("#chosen") == route["expert"] and page.inner_text("#reason") == route["reason"]
    bars = page.eval_on_selector_all(
        "#bars > .bar", "all => all.map(b => [b.dataset.candidate, +b.dataset.gain])"
    )
    assert dict(bars) == pytest.approx(route["gains"])
    assert [gain for _, gain in bars] == sorted((gain for _, gain in bars), reverse=True)
    widths = {
        name: page.locator(f'.bar[data-candidate="{name}"] .fill').bounding_box()["width"]
        for name, gain in bars
        if gain
    }
    largest = max((name for name, _ in bars), key=lambda name: abs(route["gains"][name]))
    assert widths[largest] == max(widths.values())
    shown = page.locator("#pilots .example").all_inner_texts()
    assert shown == [pilot["example"] for pilot in route["pilots"]]
    assert page.is_visible("#abstained") is route["abstained"]


def test_it_says_when_the_router_abstained(client, open_page):
    strange = next(
        query
        for query in (
            "zap cord lamp tide",
            "tide",
            "lamp zap",
            "word199 zap",
            "word1",
            "word150 tide word2 lamp",
        )
        if client.post("/v1/route", json={"query": query}).json()["routes"][0]["abstained"]
    )
    page = open_page(client)
    ask(page, strange)
    assert page.is_visible("#abstained") and "abstained" in page.inner_text("#abstained")


def test_pinning_an_expert_changes_the_results(client, open_page):
    page = open_page(client)
    ask(page)
    page.select_option("#pin", "gamma")
    page.wait_for_selector('#routed-title:has-text("gamma")')
    page.wait_for_selector("#answers:not([aria-busy])")
    found = client.post("/v1/search", json={"query": QUERY, "expert": "gamma"}).json()["results"][0]["hits"]
    assert ids(page, "routed") == [hit["id"] for hit in found]
    assert "expert=gamma" in page.url
    choices = page.locator("#pin option").all_inner_texts()
    assert choices == ["routed", "base", "merged", "alpha", "beta", "gamma"]


def test_the_map_places_the_query_zooms_and_tells(client, open_page):
    page = open_page(client)
    page.wait_for_selector("#map-frame.drawn")
    points = client.get("/v1/map").json()["points"]
    assert page.locator("#map circle.point").count() == len(points)
    ask(page)
    page.wait_for_selector("#map-query:not([display])")
    page.click("#zoom-in")
    page.wait_for_selector('#map:not([data-zoom="1.00"])')
    page.click("#zoom-reset")
    page.wait_for_selector('#map[data-zoom="1.00"]')
    page.locator("#map").scroll_into_view_if_needed()
    page.locator("#map").hover()
    page.mouse.wheel(0, -300)
    page.wait_for_selector('#map:not([data-zoom="1.00"])')
    page.focus("#map")
    page.keyboard.press("0")
    page.keyboard.press("n")
    page.wait_for_selector("#map-tip:visible")
    assert page.inner_text("#map-tip .example") in {point["example"] for point in points}
    # Points move away under the resting pointer; the keyboard's stays told of.
    page.keyboard.press("+")
    page.wait_for_selector('#map:not([data-zoom="1.00"])')
    page.dispatch_event("#map", "pointerout")
    page.wait_for_selector("#map-tip:visible")
    page.keyboard.press("Escape")
    page.wait_for_selector("#map-tip", state="hidden")
    page.click("#legend .chip >> nth=0")
    hidden = page.get_attribute("#legend .chip >> nth=0", "data-expert")
    assert page.locator(f'#map circle.point[data-expert="{hidden}"]:visible').count() == 0


def test_the_experts_and_how_much_they_served(client, open_page):
    client.post("/v1/embeddings", json={"input": ["word1"] * 7, "model": "gamma"})
    page = open_page(client)
    page.wait_for_selector("#experts tbody tr[data-expert]")
    listing = client.get("/v1/experts").json()
    for expert in listing["experts"]:
        row = page.inner_text(f'#experts tr[data-expert="{expert["name"]}"]')
        assert expert["name"] in row
    served = page.inner_text('#experts tr[data-expert="gamma"] .served')
    assert int(served) == next(e for e in listing["experts"] if e["name"] == "gamma")["served_last_hour"] >= 7


def test_gains_on_generated_queries_are_marked(client, open_page):
    def trained_without_labels(route):
        answer = route.fetch()
        body = answer.json()
        for expert in body["experts"]:
            expert |= {"held_out": 9, "gain": 0.05, "gain_on_generated": expert["name"] == "gamma"}
        route.fulfill(response=answer, json=body)

    page = open_page(client, before=lambda page: page.route("**/v1/experts", trained_without_labels))
    gain = page.locator('#experts tr[data-expert="gamma"] .gain')
    expect(gain).to_have_text("+5.0 (generated)")
    assert "synthetic" in gain.get_attribute("title")
    expect(page.locator('#experts tr[data-expert="alpha"] .gain')).to_have_text("+5.0")


def test_an_address_can_be_shared_and_gone_back_to(client, open_page):
    page = open_page(client, "/#q=word3%20word5")
    page.wait_for_selector("#routed-results > li[data-id]")
    assert page.input_value("#query") == "word3 word5"
    first = ids(page, "base")
    ask(page)
    page.go_back()
    expect(page.locator("#query")).to_have_value("word3 word5")
    page.wait_for_selector("#answers:not([aria-busy])")
    assert ids(page, "base") == first


def test_everything_works_from_the_keyboard(client, open_page):
    page = open_page(client)
    page.wait_for_selector("#map-frame.drawn")
    page.keyboard.press("/")
    page.keyboard.type(QUERY)
    page.keyboard.press("Enter")
    page.wait_for_selector("#routed-results > li[data-id]")
    reached = set()
    for _ in range(60):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.id || document.activeElement.className"))
    assert {"pin", "go", "map", "zoom-in", "theme", "skip"} <= reached


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_light_and_dark(client, open_page, scheme):
    page = open_page(client, color_scheme=scheme)
    ask(page)

    def brightness():
        colour = page.evaluate("getComputedStyle(document.body).backgroundColor")
        return sum(int(float(part)) for part in re.findall(r"[\d.]+", colour)[:3]) / 3

    assert (brightness() > 128) is (scheme == "light")
    page.click("#theme")
    assert (brightness() > 128) is (scheme == "dark")
    page.reload()
    page.wait_for_selector("#bars > .bar")
    assert (brightness() > 128) is (scheme == "dark")


@pytest.mark.parametrize("width", [360, 390, 768])
def test_readable_on_a_phone(client, open_page, width):
    page = open_page(client)
    page.set_viewport_size({"width": width, "height": 800})
    ask(page)
    page.wait_for_selector("#map-frame.drawn")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    size = page.evaluate("parseFloat(getComputedStyle(document.querySelector('.text')).fontSize)")
    assert size >= 13


def test_a_server_that_is_gone_is_said_to_be_so(own, open_page):
    with running(replace(own, api_keys=())) as client:
        wait_until_ready(client)
        page = open_page(client, complaining=True)
        ask(page)
    page.fill("#query", "word3")
    page.keyboard.press("Enter")
    page.wait_for_selector('#message[data-kind="unreachable"]')
    assert "cannot be reached" in page.inner_text("#message") and page.is_visible("#retry")


def test_a_busy_server_is_asked_again(client, open_page):
    page = open_page(client, complaining=True)
    page.wait_for_selector("#map-frame.drawn")
    engine, limits = client.engine, client.engine.batcher.queue.limits
    engine.batcher.queue.limits = Limits(waiting_requests=0)
    try:
        page.fill("#query", QUERY)
        page.keyboard.press("Enter")
        page.wait_for_selector('#message[data-kind="busy"]')
    finally:
        engine.batcher.queue.limits = limits
    page.wait_for_selector("#routed-results > li[data-id]")
    assert not page.is_visible("#message")


def test_a_key_is_asked_for_and_kept_for_the_session(own, open_page):
    with running(own) as client:
        wait_until_ready(client)
        page = open_page(client, complaining=True)
        page.wait_for_selector('#message[data-kind="key"]')
        page.fill("#key", "not the right key")
        page.keyboard.press("Enter")
        page.wait_for_selector('#message[data-kind="key"]')
        page.fill("#key", API_KEY)
        page.keyboard.press("Enter")
        ask(page)
        page.reload()
        page.wait_for_selector("#routed-results > li[data-id]")
        assert API_KEY not in page.url


def test_without_an_index_the_route_is_shown(built, open_page):
    with running(Settings(model=built / "model")) as client:
        wait_until_ready(client)
        page = open_page(client, complaining=True)  # it outlives the server
        ask(page)
        assert page.is_visible("#no-index") and "routerretriever index" in page.inner_text("#no-index")
        assert page.inner_text("#chosen")
