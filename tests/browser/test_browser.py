"""The page in a real browser with a real server."""

from __future__ import annotations

import csv
import json
import re
import shutil
from base64 import b64encode

import browsing
import nginx
import pytest
from configs import QUICK
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from udq import Collection

pytestmark = pytest.mark.browser

COFFEE = (81, 20, 478, 386)


def truth(path):
    """Yield query photo, its box, and {positive photo: box of the object, None if unknown}."""
    with path.open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            boxes = row["positive_boxes"].split("|")
            where = {
                name: [float(side) for side in box.split()] or None
                for name, box in zip(row["positives"].split("|"), boxes, strict=True)
            }
            yield row["query_image"], [float(row[side]) for side in ("x1", "y1", "x2", "y2")], where


def iou(a, b):
    """Intersection over union of two boxes."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    shared = max(0.0, width) * max(0.0, height)
    return shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared)


def search_and_check(here, query, box, where):
    """Search for a box; return whether the best other photo is a positive, and the IoU of its box (None if unknown)."""
    here.choose(query)
    here.draw(box)
    name, found = next((name, found) for name, found in here.results() if name != query)
    here.page.click("#new-search")
    return name in where, iou(found, where[name]) if where.get(name) else None


# ---- Behind a proxy.


@pytest.mark.parametrize("root", ["", "/udq"])
def test_the_page_works_behind_a_plain_http_proxy(visit, demo, demo_folder, tmp_path, root):
    """Browsers send no Sec-Fetch-Site to a plain HTTP address other than loopback."""
    setup = nginx.documented()["Over HTTP"]
    setup.block = setup.block.replace("location / {", f"location {root}/ {{")
    outer = f"http://{setup.host}:{(port := nginx.free_port())}"
    with (
        browsing.serving(demo["written"]["collection"], "--origin", outer, "--root-path", root) as inner,
        nginx.running(setup, tmp_path, int(inner.removesuffix(root).rpartition(":")[2]), port),
    ):
        assert inner.endswith(root)
        here = visit(outer, path=f"{root}/")
        here.page.set_input_files("#file", demo_folder / "photos" / "coffee.jpg")
        here.until("document.querySelector('#stage img')?.naturalWidth > 0")
        here.draw(COFFEE)
        assert here.results()[0][0] == "coffee.jpg"
        here.until("document.querySelector('#results img').naturalWidth > 0")
        assert here.page.evaluate("location.href").startswith(f"{outer}{root}/")
        here.page.close()
    # The browser notes that a header has no effect without HTTPS.
    here.errors[:] = [error for error in here.errors if "Cross-Origin-Opener-Policy" not in error]


# ---- Searching.


def test_copies_of_a_match_are_folded_below_it(visit, place, chromium):
    (place / "copies").mkdir()
    for number in range(3):
        shutil.copy(place / "photos" / "coffee.png", place / "copies" / f"again-{number}.png")
    Collection.open(place / "x.udq", device="cpu").add(place / "copies")
    with browsing.serving(place / "x.udq") as address:
        here = visit(address)
        here.choose("coffee.png")
        here.draw(COFFEE)
        card = here.page.locator(".card").first

        assert [name for name, _ in here.results()].count("coffee.png") == 1
        assert len(here.results()) == 4
        assert here.page.locator(".copies").count() == 1
        assert "· query" in card.locator(".score").inner_text()
        summary = card.locator("summary")
        assert summary.inner_text() == "+3 copies"
        assert not card.locator(".copies a").first.is_visible()
        summary.press("Enter")
        assert [link.get_attribute("title") for link in card.locator(".copies a").all()] == [
            f"again-{number}.png, the same file" for number in range(3)
        ]
        here.until("[...document.querySelectorAll('.copies img')].every((image) => image.naturalWidth > 0)")


def test_a_box_drawn_by_mouse_finds_the_object(visit, demo_server, demo_folder):
    here = visit(demo_server)
    known = {query: (box, where) for query, box, where in truth(demo_folder / "ground_truth.csv")}
    overlaps = []
    for query in ("coffee.jpg", "astronaut.jpg", "chelsea.jpg", "flower.jpg"):
        right, overlap = search_and_check(here, query, *known[query])
        overlaps.append(overlap)

        assert right, query
    assert sum(overlaps) / len(overlaps) >= 0.4, overlaps


@pytest.mark.shared_data
def test_objects_in_real_photos_are_found(visit, instre_server, shared_data):
    here = visit(instre_server)
    searched, overlaps = set(), []
    known = csv.DictReader((shared_data / "instre_dev" / "ground_truth.csv").open(encoding="utf-8"))
    objects = {row["query_image"]: row["object"] for row in known}
    for query, box, where in truth(shared_data / "instre_dev" / "ground_truth.csv"):
        if objects[query] in searched:
            continue
        searched.add(objects[query])
        here.choose(query)
        here.draw(box)
        others = [(name, found) for name, found in here.results() if name != query]
        here.page.click("#new-search")
        assert others[0][0] in where, query
        overlaps += [iou(found, where[name]) for name, found in others if where.get(name)]

    assert len(searched) == 15
    assert len(overlaps) > 20  # the ground truth has boxes of some photos only
    assert sorted(overlaps)[len(overlaps) // 2] >= 0.5


def test_a_box_is_moved_and_resized_by_its_handles(visit, demo_server):
    here = visit(demo_server)
    here.choose("coffee.jpg")
    assert here.draw(COFFEE)["examples"][0]["box"] == pytest.approx(COFFEE, abs=1)

    x1, y1, x2, y2 = here.draw((478, 386, 400, 300))["examples"][0]["box"]  # grips the corner
    assert (x1, y1, x2, y2) == pytest.approx((81, 20, 400, 300), abs=2)
    moved = here.draw((200, 150, 260, 190))["examples"]  # grips the inside
    assert [each["box"] for each in moved] == [pytest.approx((x1 + 60, y1 + 40, x2 + 60, y2 + 40), abs=2)]
    fresh = here.draw((20, 380, 70, 330))["examples"]  # outside: a new box replaces it
    assert [each["box"] for each in fresh] == [pytest.approx((20, 330, 70, 380), abs=2)]


def test_escape_clears_the_box(visit, demo_server):
    here = visit(demo_server)
    here.choose("coffee.jpg")
    here.draw(COFFEE)
    here.page.keyboard.press("Escape")

    assert here.page.locator(".box").count() == 0
    assert here.page.locator(".card").count() == 0
    assert "Draw a box" in here.page.inner_text("#no-results")


def test_several_boxes_form_one_query(visit, demo_server, demo_folder):
    known = {query: (box, where) for query, box, where in truth(demo_folder / "ground_truth.csv")}
    box, where = known["coffee.jpg"]
    other = next(iter(where))
    here = visit(demo_server)
    here.choose("coffee.jpg")
    here.draw(box)
    here.page.click("#add-there")
    assert "another photo" in here.page.inner_text("#browse-title")
    here.choose(other)
    request = here.draw(where[other])

    assert [each["box"] for each in request["examples"]] == [pytest.approx(each, abs=2) for each in (box, where[other])]
    assert here.page.locator("#examples .chip").count() == 2
    here.page.click("#add-here")
    assert len(here.draw((2, 2, 60, 60))["examples"]) == 3
    with here.searching() as response:
        here.page.locator("#examples .remove").nth(2).click()
    assert len(response.value.request.post_data_json["examples"]) == 2


def test_results_marked_right_and_wrong_refine_the_search(visit, demo_server, demo_folder):
    known = {query: (box, where) for query, box, where in truth(demo_folder / "ground_truth.csv")}
    box, where = known["coffee.jpg"]
    here = visit(demo_server)
    here.choose("coffee.jpg")
    here.draw(box)
    names = [name for name, _ in here.results()]
    right = [name for name in names if name in where][:2]
    wrong = next(name for name in names if name not in where and name != "coffee.jpg")
    for name in right:
        here.page.click(f'[aria-label="Right: {name}"]')
    here.page.click(f'[aria-label="Wrong: {wrong}"]')
    assert here.page.inner_text("#refine-text") == "2 right, 1 wrong"
    with here.searching() as response:
        here.page.click("#refine")
    here.settled()

    examples = response.value.request.post_data_json["examples"]
    assert [each["wrong"] for each in examples] == [False, False, False, True]
    refined = [name for name, _ in here.results()]
    assert set(right) <= set(refined[:4])
    assert wrong not in refined or refined.index(wrong) >= names.index(wrong)
    assert here.page.is_hidden("#refine")
    here.page.click("#clear-marks")
    assert here.page.is_visible("#refine")


def test_the_minimum_score_hides_results_and_more_can_be_loaded(visit, demo_server):
    here = visit(demo_server)
    here.choose("coffee.jpg")
    here.draw(COFFEE)
    assert len(here.results()) == 20
    here.page.focus("#threshold")
    here.page.keyboard.press("End")
    assert 1 <= len(here.results()) < 20
    assert "min=" in here.page.url
    here.page.keyboard.press("Home")
    assert len(here.results()) == 20
    with here.searching():
        here.page.click("#more")
    here.until("document.querySelectorAll('.card').length === 40")


def test_reranking_shows_inliers_and_confidence(visit, demo_server):
    here = visit(demo_server)
    here.choose("coffee.jpg")
    here.draw(COFFEE)
    here.until("document.querySelectorAll('.points').length > 3")
    with here.searching():
        here.page.select_option("#stages", "none")
    here.until("document.querySelectorAll('.points').length === 0")
    with here.searching():
        here.page.select_option("#stages", "diffusion,verify")
    here.until("document.querySelectorAll('.points').length > 3")
    assert "coffee.jpg" in [name for name, _ in here.results()[:5]]
    assert here.page.locator(".points").first.inner_text().endswith("points agree")
    assert "% sure" in here.page.locator(".score").nth(1).get_attribute("title")
    assert "rerank=diffusion,verify" in here.page.url
    with here.searching():
        here.page.select_option("#stages", "diffusion")
    here.until("document.querySelectorAll('.points').length === 0")
    again = visit(demo_server, path=here.page.url.removeprefix(demo_server))
    again.settled()
    assert again.page.input_value("#stages") == "diffusion"
    assert again.results() == here.results()


# ---- The large photo.


def test_a_result_opens_large_and_can_start_a_search(visit, demo_server):
    here = visit(demo_server)
    here.choose("coffee.jpg")
    here.draw(COFFEE)
    results = here.results()
    card = here.page.locator(".card .open").nth(1)
    card.hover()
    zoom = here.page.locator(".card .zoom").nth(1)
    assert zoom.evaluate("zoom => new DOMMatrix(getComputedStyle(zoom).transform).a") > 1
    card.click()
    viewer = here.page.locator("#viewer")
    assert viewer.get_attribute("open") is not None
    assert viewer.locator("#viewer-name").inner_text() == results[1][0]
    here.page.keyboard.press("ArrowRight")
    assert viewer.locator("#viewer-name").inner_text() == results[2][0]
    here.page.keyboard.press("r")
    assert viewer.locator("#viewer-right").get_attribute("aria-pressed") == "true"
    with here.searching() as response:
        viewer.locator("#viewer-search").click()
    here.settled()

    assert here.page.inner_text("#source-name") == results[2][0]
    here.until("document.activeElement.id === 'stage'")
    (example,) = response.value.request.post_data_json["examples"]
    assert example["box"] == pytest.approx(results[2][1], abs=1)
    here.page.go_back()
    here.until("document.querySelector('#source-name').textContent === 'coffee.jpg'")


# ---- Export, uploads and links.


def test_accepted_boxes_are_exported(visit, demo_server, tmp_path):
    here = visit(demo_server)
    here.choose("coffee.jpg")
    here.draw(COFFEE)
    _, right, other = here.results()[:3]
    here.page.click(f'[aria-label="Right: {right[0]}"]')
    here.page.click(f'[aria-label="Wrong: {other[0]}"]')
    files = {}
    for form in ("csv", "json", "coco"):
        here.page.click("#export")
        assert "2 boxes" in here.page.inner_text("#export-text")
        here.page.fill("#export-label", "the red cup")
        with here.page.expect_download() as download:
            here.page.click(f'#export-formats [value="{form}"]')
        files[form] = tmp_path / download.value.suggested_filename
        download.value.save_as(files[form])
        here.page.wait_for_selector("#export-dialog", state="hidden")

    expected = [("coffee.jpg", pytest.approx(COFFEE, abs=1)), (right[0], pytest.approx(right[1], abs=0.1))]
    rows = list(csv.DictReader(files["csv"].open(encoding="utf-8")))
    assert [(row["image"], [float(row[s]) for s in ("x1", "y1", "x2", "y2")]) for row in rows] == expected
    assert {row["label"] for row in rows} == {"the red cup"}
    document = json.loads(files["json"].read_text(encoding="utf-8"))
    assert [(each["image"], each["box"]) for each in document["boxes"]] == expected
    coco = json.loads(files["coco"].read_text(encoding="utf-8"))
    x, y, width, height = coco["annotations"][1]["bbox"]
    assert [x, y, x + width, y + height] == expected[1][1]
    assert coco["categories"] == [{"id": 1, "name": "the red cup"}]


@pytest.mark.parametrize("method", ["choose", "drop", "paste"])
def test_an_uploaded_photo_is_searched(visit, demo_server, demo_folder, tmp_path, method):
    photo = tmp_path / "my cup.jpg"
    photo.write_bytes((demo_folder / "photos" / "coffee.jpg").read_bytes())
    here = visit(demo_server)
    if method == "choose":
        here.page.set_input_files("#file", photo)
    else:
        here.page.evaluate(
            """([method, name, bytes]) => {
                const data = new DataTransfer();
                const content = Uint8Array.from(atob(bytes), (c) => c.charCodeAt(0));
                data.items.add(new File([content], name, { type: "image/jpeg" }));
                const bubbling = { bubbles: true, cancelable: true };
                const event = method === "drop"
                    ? new DragEvent("drop", { dataTransfer: data, ...bubbling })
                    : new ClipboardEvent("paste", { clipboardData: data, ...bubbling });
                document.body.dispatchEvent(event);
            }""",
            [method, photo.name, b64encode(photo.read_bytes()).decode("ascii")],
        )
    here.until("document.querySelector('#stage img')?.naturalWidth > 0")
    assert here.page.inner_text("#source-name") == "my cup.jpg"
    here.draw(COFFEE)

    assert here.results()[0][0] == "coffee.jpg"
    here.until("document.querySelector('#examples img').naturalWidth > 0")
    here.page.click("#copy")
    assert "cannot be part of a link" in here.page.inner_text("#alert")


def test_a_link_reproduces_a_search(visit, demo_server):
    here = visit(demo_server)
    here.choose("coffee.jpg")
    here.draw(COFFEE)
    names = [name for name, _ in here.results()]
    here.page.click(f'[aria-label="Right: {names[1]}"]')
    with here.searching():
        here.page.click("#refine")
    here.settled()
    here.page.click(f'[aria-label="Wrong: {names[9]}"]')
    here.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    here.page.click("#copy")
    here.until("document.querySelector('#copy').textContent === 'Copied'")
    link = here.page.evaluate("navigator.clipboard.readText()")
    there = visit(demo_server, path=link.removeprefix(demo_server))
    there.settled()

    assert there.results() == here.results()
    for part in ("#source-name", "#refine-text"):
        assert there.page.inner_text(part) == here.page.inner_text(part)
    assert there.page.locator("#examples .chip").count() == 2
    assert there.page.locator(".card.is-wrong .name").inner_text() == names[9]


# ---- Errors.


def test_an_upload_that_is_not_a_photo_shows_the_reason(visit, demo_server, tmp_path):
    letter = tmp_path / "letter.jpg"
    letter.write_text("Dear museum,")
    here = visit(demo_server)
    here.page.set_input_files("#file", letter)
    here.page.wait_for_selector("#alert:not([hidden])")

    assert "letter.jpg" in here.page.inner_text("#alert-text")
    assert "422" in here.errors.pop()  # the browser's console message about the response


def test_a_lost_connection_is_reported_and_can_be_retried(visit, demo_server):
    here = visit(demo_server)
    here.choose("coffee.jpg")
    # Requests are aborted instead of the whole browser set offline, which takes effect, and ends, some time later.
    here.page.route("**/api/v1/search", lambda route: route.abort("internetdisconnected"))
    here.drag(COFFEE[:2], COFFEE[2:])
    here.page.wait_for_selector("#alert:not([hidden])")
    assert "does not respond" in here.page.inner_text("#alert-text")
    here.page.unroute("**/api/v1/search")
    here.page.click("#alert-again")
    here.settled()

    assert here.page.is_hidden("#alert")
    assert all("ERR_INTERNET_DISCONNECTED" in error for error in here.errors)
    here.errors.clear()


@pytest.mark.parametrize(
    ("link", "words", "status"),
    [
        ("#drawn=6:81,20,478", "expected a photo and a box", None),
        ("#drawn=100000:1,2,30,40", "photo 100000", "404"),
        ("#drawn=6:-50,20,478,386", "box", "422"),
        ("#colour=red", "does not understand", None),
    ],
)
def test_a_broken_link_is_reported(visit, demo_server, link, words, status):
    here = visit(demo_server, path=f"/{link}")
    here.page.wait_for_selector("#alert:not([hidden])")

    assert words in here.page.inner_text("#alert-text").lower()
    assert bool(here.errors) == bool(status)
    assert all(status in error for error in here.errors)
    here.errors.clear()


def test_names_are_never_html_and_a_missing_file_is_reported(visit, chromium, demo_folder, tmp_path):
    hostile = "<img src=x onerror=document.title='owned'> & \"quoted\".jpg"
    (tmp_path / "photos" / "a folder").mkdir(parents=True)
    for name, copy in (("coffee", hostile), ("astronaut", "a folder/astronaut.jpg"), ("rocket", "a folder/rocket.jpg")):
        (tmp_path / "photos" / copy).write_bytes((demo_folder / "photos" / f"{name}.jpg").read_bytes())
    Collection.build(tmp_path / "photos", tmp_path / "x.udq", config=QUICK, device="cpu")
    with browsing.serving(tmp_path / "x.udq") as address:
        here = visit(address)
        here.page.wait_for_selector("#folder-field:not([hidden])")
        here.page.select_option("#folder", "a folder")
        here.until("document.querySelectorAll('.cell').length === 2")
        here.page.select_option("#folder", "")
        here.until("document.querySelectorAll('.cell').length === 3")
        here.page.locator(".cell", has_text="onerror").click()
        here.draw(COFFEE)
        assert here.results()[0][0] == here.page.inner_text("#source-name") == hostile
        (tmp_path / "photos" / "a folder" / "rocket.jpg").unlink()
        here.page.click("#new-search")
        here.page.locator(".cell", has_text="rocket").click()
        here.page.wait_for_selector("#alert:not([hidden])")
        assert "rocket.jpg: its file no longer exists" in here.page.inner_text("#alert-text")
        assert "owned" not in here.page.title()
    assert all("410" in error for error in here.errors)
    here.errors.clear()


def test_a_filter_without_matches_is_reported(visit, demo_server):
    here = visit(demo_server)
    here.page.fill("#filter", "no such thing")
    here.page.wait_for_selector("#no-photos:not([hidden])")

    assert "no such thing" in here.page.inner_text("#no-photos")


# ---- Accessibility and layout.


def test_everything_works_by_keyboard(visit, demo_server):
    here = visit(demo_server)
    press = here.page.keyboard.press
    here.page.wait_for_selector(".cell")
    for _ in range(10):
        press("Tab")
        if here.page.evaluate("document.activeElement.id") == "filter":
            break
    here.page.keyboard.type("coffee")
    here.until("document.querySelectorAll('.cell').length === 1")
    press("ArrowDown")
    press("Enter")
    assert here.page.evaluate("document.activeElement.id") == "stage"
    press("Enter")
    assert here.page.locator(".box.active").count() == 1
    for key in ("ArrowLeft", "ArrowUp", "Shift+ArrowRight", "Shift+ArrowDown", "Control+ArrowLeft"):
        press(key)
    with here.searching() as response:
        press("Enter")
    here.settled()
    # 600 x 400 photo: the centred box of half its size, moved in steps of 600 / 50 pixels and of one pixel.
    assert response.value.request.post_data_json["examples"][0]["box"] == [137, 88, 449, 300]
    press("Tab")
    assert here.page.evaluate("document.activeElement.id") == "skip"
    press("Enter")
    for _ in range(6):
        press("Tab")
        if here.page.evaluate("document.activeElement.className") == "open":
            break
    press("ArrowRight")
    press("r")
    press("ArrowRight")
    press("w")
    press("Enter")
    assert here.page.locator("#viewer").get_attribute("open") is not None
    press("ArrowRight")
    press("Escape")
    here.until("document.activeElement.getAttribute('aria-label').startsWith('Rank 4')")
    assert here.page.inner_text("#refine-text") == "1 right, 1 wrong"
    assert "marked wrong" in here.page.inner_text("#announcer")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 360])
def test_axe_finds_no_serious_violation(visit, demo_server, scheme, width):
    from axe_playwright_python.sync_playwright import Axe

    here = visit(demo_server, scheme=scheme, width=width)
    findings = []

    def check(where):
        report = Axe().run(here.page).response
        assert len(report["passes"]) > 10
        findings.extend(
            f"{where}: {each['id']}: {each['nodes'][0]['html']}"
            for each in report["violations"]
            if each["impact"] in ("serious", "critical")
        )

    here.page.wait_for_selector(".cell img[src]")
    check("choosing")
    here.choose("coffee.jpg")
    check("a photo without a box")
    here.draw(COFFEE)
    here.page.locator(".mark.right").nth(1).click()
    here.page.locator(".mark.wrong").nth(2).click()
    check("results")
    here.page.locator(".card .open").nth(1).click()
    check("a result, large")
    here.page.keyboard.press("Escape")
    here.page.click("#export")
    check("export")
    here.page.keyboard.press("Escape")
    here.page.goto(f"{demo_server}/#colour=red")
    here.page.wait_for_selector("#alert:not([hidden])")
    check("an error")

    assert findings == []


@pytest.mark.parametrize("width", [360, 768, 1440])
def test_the_page_is_not_wider_than_the_screen(visit, demo_server, width):
    here = visit(demo_server, width=width)
    overflow = "document.documentElement.scrollWidth - innerWidth"
    here.page.wait_for_selector(".cell")
    assert here.page.evaluate(overflow) <= 0
    here.choose("coffee.jpg")
    here.draw(COFFEE)
    here.page.locator(".mark.right").nth(1).click()
    assert here.page.evaluate(overflow) <= 0


def test_a_box_is_drawn_by_touch(visit, demo_server):
    here = visit(demo_server, width=360, height=740, touch=True)
    here.choose("coffee.jpg")
    touch = here.page.context.new_cdp_session(here.page)

    def finger(kind, *points):
        places = [dict(zip(("x", "y"), here.at(*point), strict=True)) for point in points]
        touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": places})

    scrolled = here.page.evaluate("scrollY")
    with here.searching() as response:
        finger("touchStart", COFFEE[:2])
        finger("touchMove", (300, 200))
        finger("touchMove", COFFEE[2:])
        finger("touchEnd")
    here.settled()

    assert response.value.request.post_data_json["examples"][0]["box"] == pytest.approx(COFFEE, abs=3)
    assert here.page.evaluate("scrollY") == scrolled
    assert here.results()[0][0] == "coffee.jpg"


def test_colours_follow_the_system_until_the_user_chooses(visit, demo_server):
    here = visit(demo_server, scheme="dark")
    background = "getComputedStyle(document.body).backgroundColor"
    dark = here.page.evaluate(background)
    here.page.click("#theme")
    light = here.page.evaluate(background)
    assert light != dark
    here.page.reload()
    assert here.page.evaluate(background) == light


def test_the_policy_allows_no_inline_code_and_no_other_origins(visit, demo_server):
    here = visit(demo_server)
    policy = here.page.evaluate("fetch('/').then((response) => response.headers.get('content-security-policy'))")

    assert re.search(r"default-src '(none|self)'", policy)
    assert "unsafe" not in policy
    assert "http" not in policy


# ---- The JavaScript modules of geometry and state.

SIZES = st.fixed_dictionaries({"width": st.integers(8, 4000), "height": st.integers(8, 4000)})
SHIFTS = st.integers(-5000, 5000)
GRIPS = st.sampled_from(["nw", "n", "ne", "e", "se", "s", "sw", "w"])


@pytest.fixture(scope="module")
def modules(chromium, demo_server):
    """A blank page of the same origin that imports the modules."""
    page = chromium.new_context().new_page()
    page.goto(f"{demo_server}/icon.svg")
    yield page
    page.context.close()


@st.composite
def sizes_and_boxes(draw):
    """Draw the size of a photo and a usable box in it."""
    size = draw(SIZES)
    x1, y1 = draw(st.integers(0, size["width"] - 8)), draw(st.integers(0, size["height"] - 8))
    x2, y2 = draw(st.integers(x1 + 8, size["width"])), draw(st.integers(y1 + 8, size["height"]))
    return size, [x1, y1, x2, y2]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(photo=sizes_and_boxes(), dx=SHIFTS, dy=SHIFTS, grip=GRIPS)
def test_moved_and_resized_boxes_stay_usable_and_inside_the_photo(modules, photo, dx, dy, grip):
    size, box = photo
    moved, resized = modules.evaluate(
        """async ([size, box, dx, dy, grip]) => {
            const boxes = await import("/geometry.js");
            return [boxes.moved(box, dx, dy, size), boxes.resized(box, grip, dx, dy, size)];
        }""",
        [size, box, dx, dy, grip],
    )

    assert [moved[2] - moved[0], moved[3] - moved[1]] == [box[2] - box[0], box[3] - box[1]]
    for x1, y1, x2, y2 in (moved, resized):
        assert 0 <= x1 <= x2 - 8 <= size["width"] - 8
        assert 0 <= y1 <= y2 - 8 <= size["height"] - 8
    untouched = [side for side, edge in enumerate("wnes") if edge not in grip]
    assert [resized[i] for i in untouched] == [box[i] for i in untouched]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(photo=sizes_and_boxes())
def test_zoom_shows_the_whole_box_and_nothing_outside_the_frame(modules, photo):
    size, (x1, y1, x2, y2) = photo
    aspect = 4 / 3
    zoom = modules.evaluate(
        "async ([box, size, aspect]) => (await import('/geometry.js')).zoomTo(box, size, aspect)",
        [[x1, y1, x2, y2], size, aspect],
    )
    width, height = size["width"], size["height"]
    frame = (width, width / aspect) if width / height > aspect else (height * aspect, height)
    left, top = (frame[0] - width) / 2, (frame[1] - height) / 2

    assert 1 <= zoom["scale"] <= 8
    for sides, inset, side, shift in (((x1, x2), left, frame[0], zoom["x"]), ((y1, y2), top, frame[1], zoom["y"])):
        for place in sides:
            assert -1e-6 <= zoom["scale"] * (inset + place) / side + shift <= 1 + 1e-6
        assert 1 - zoom["scale"] - 1e-9 <= shift <= 1e-9


PLACES = st.lists(st.integers(0, 5000), min_size=4, max_size=4).map(lambda sides: [float(side) for side in sides])
EXAMPLES = st.lists(
    st.fixed_dictionaries(
        {
            "photo": st.integers(0, 10**6),
            "box": st.none() | PLACES,
            "kind": st.sampled_from(["drawn", "right", "wrong"]),
        }
    ),
    max_size=5,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(examples=EXAMPLES, k=st.integers(1, 1000), least=st.none() | st.integers(0, 500).map(lambda n: n / 100))
def test_a_link_restores_the_whole_search(modules, examples, k, least):
    marks = [each for each in examples if each["kind"] != "drawn"]
    original, restored = modules.evaluate(
        """async (values) => {
            const states = await import("/state.js");
            const state = { ...states.fresh(), ...values };
            const restored = states.fromLink(states.toLink(state));
            return [state, restored].map((each) => [states.request(each), each.marks, each.minScore]);
        }""",
        {"examples": examples, "marks": marks, "k": k, "minScore": least},
    )

    assert restored == original
