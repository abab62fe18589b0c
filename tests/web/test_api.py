"""The HTTP API of a small collection: real application, server, photos and decoders."""

from __future__ import annotations

import csv
import io
import json
import os
import platform
import shutil
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pillow_heif
import pytest
from clients import bytes_of, number_of, picture_of, problem, send, serving
from PIL import Image

from udq import Collection, Example
from udq.datasets.detection import load_all
from udq.errors import InputError
from udq.search.rerank import STAGES
from udq.store.transaction import Transaction
from udq.web.service import Service

BOX = [81, 20, 478, 386]


@pytest.fixture
def writable(place):
    """A client of a server that accepts changes, and the folder of its collection."""
    opened = Collection.open(place / "x.udq", device="cpu")
    with serving(Service.start(opened, write_to=place / "photos")) as client:
        yield client, place


def test_facts_of_the_collection(client, collection):
    facts = client.get("/api/v1/collection").json()

    assert facts["photos"] == len(collection) == 12
    assert facts["regions"] == collection.regions
    assert facts["bytes_per_region"] == 8
    assert (facts["name"], facts["writable"], facts["device"]) == ("photos.udq", False, "cpu")
    assert str(collection.path.parent) not in json.dumps(facts)


def test_photos_are_listed_by_id_in_pages(client, collection):
    listed, after = [], -1
    while after is not None:
        page = client.get("/api/v1/photos", params={"after": after, "limit": 5}).json()
        assert page["total"] == 12
        listed += page["photos"]
        after = page["next"]

    assert [photo["name"] for photo in listed] == collection.names
    assert [(photo["id"], photo["width"], photo["height"]) for photo in listed] == [
        (image.id, image.width, image.height) for image in collection.images
    ]


@pytest.mark.parametrize(
    ("query", "names"),
    [
        ({"q": "MOTOR left"}, ["views/motorcycle_left.png"]),
        ({"folder": "views"}, ["views/motorcycle_left.png", "views/motorcycle_right.png"]),
        ({"folder": "views/", "q": "right"}, ["views/motorcycle_right.png"]),
        ({"folder": "view"}, []),
        ({"q": "coffee", "after": 2**62}, []),
    ],
)
def test_photos_are_found_by_name_and_folder(client, query, names):
    page = client.get("/api/v1/photos", params=query).json()

    assert [photo["name"] for photo in page["photos"]] == names
    assert page["next"] is None


def test_folders_count_photos_in_subfolders(client):
    assert client.get("/api/v1/folders").json() == {
        "folders": [{"path": "", "photos": 12}, {"path": "views", "photos": 2}]
    }


def test_search_returns_the_matches_of_the_library(client, collection, photos):
    number = number_of(client, "coffee.png")
    body = {"examples": [{"photo": number, "box": BOX}], "k": 5}
    found = client.post("/api/v1/search", json=body).json()
    expected = collection.search(photos / "coffee.png", BOX, k=5).to_json()

    assert found["matches"] == expected["matches"]
    assert found["matches"][0]["id"] == number
    assert (found["matches"][0]["width"], found["matches"][0]["height"]) == (600, 400)
    assert found["query"]["image"] == "coffee.png"
    assert found["query"]["box"] == BOX
    assert set(found["elapsed_ms"]) == {"encode", "scan", "rerank", "total"}
    again = client.post("/api/v1/search", json=body).json()
    assert again["matches"] == found["matches"]
    assert again["elapsed_ms"]["encode"] < found["elapsed_ms"]["encode"]  # the feature comes from the cache


def test_concurrent_searches_do_not_mix(client, collection, photos):
    number = number_of(client, "coffee.png")
    boxes = [[10.0 * i, 10.0, 300.0 + 10 * i, 380.0] for i in range(16)]

    def search(box):
        return client.post("/api/v1/search", json={"examples": [{"photo": number, "box": box}], "k": 6}).json()

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(search, boxes))
    for box, body in zip(boxes, found, strict=True):
        expected = collection.search(photos / "coffee.png", box, k=6).to_json()["matches"]
        assert body["matches"] == expected
        assert body["query"]["box"] == box


def test_several_examples_form_one_query(client, collection, photos):
    named = [("coffee.png", BOX, False), ("chelsea.png", None, False), ("coins.png", None, True)]
    examples = [{"photo": number_of(client, name), "box": box, "wrong": wrong} for name, box, wrong in named]
    found = client.post("/api/v1/search", json={"examples": examples, "k": 12, "rerank": []}).json()
    of_library = [Example(photos / name, box, wrong) for name, box, wrong in named]
    expected = collection.search_examples(of_library, k=12, rerank=[])

    assert found["matches"] == expected.to_json()["matches"]
    assert {match["image"] for match in found["matches"][:2]} == {"coffee.png", "chelsea.png"}
    assert found["matches"][-1]["image"] == "coins.png"
    assert found["query"]["examples"][1]["box"] == [0, 0, 451, 300]


def test_examples_without_a_right_one_are_refused(collection, photos):
    for examples in ([], [Example(photos / "coffee.png", wrong=True)]):
        with pytest.raises(InputError, match="at least one that shows what is searched for"):
            collection.search_examples(examples)


def test_an_unexpected_exception_is_a_problem(client, monkeypatch, caplog):
    monkeypatch.setattr("udq.web.live_collection.LiveCollection.current", lambda live: 1 // 0)
    response = client.get("/api/v1/photos")

    assert "see the server's log" in problem(response, 500, "internal")
    assert "ZeroDivisionError" in caplog.text
    assert "ZeroDivisionError" not in response.text
    assert response.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize("stage", STAGES)
def test_every_rerank_stage_returns_the_matches_of_the_library(client, collection, photos, stage):
    body = {"examples": [{"photo": number_of(client, "coffee.png"), "box": BOX}], "k": 5, "rerank": [stage]}
    found = client.post("/api/v1/search", json=body).json()
    expected = collection.search(photos / "coffee.png", BOX, k=5, rerank=[stage]).to_json()

    assert found["rerank"] == [stage]
    assert found["matches"] == expected["matches"]
    assert client.post("/api/v1/search", json={**body, "rerank": ["magic"]}).status_code == 422


def test_pages_of_results_and_a_minimum_score(client):
    example = {"photo": number_of(client, "coffee.png"), "box": BOX}
    every = client.post("/api/v1/search", json={"examples": [example], "k": 12}).json()["matches"]
    rest = client.post("/api/v1/search", json={"examples": [example], "k": 5, "offset": 4}).json()["matches"]
    least = every[3]["score"]
    best = client.post("/api/v1/search", json={"examples": [example], "min_score": least}).json()["matches"]

    assert rest == every[4:9]
    assert best == every[:4]


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({"examples": []}, "at least 1 item"),
        ({"examples": [{"box": BOX}]}, "either 'photo' or 'upload'"),
        ({"examples": [{"photo": 0, "upload": "x"}]}, "either 'photo' or 'upload'"),
        ({"examples": [{"photo": 0, "wrong": True}]}, "at least one that shows what is searched for"),
        ({"examples": [{"photo": 0, "box": [0, 0, 10]}]}, "4 items"),
        ({"examples": [{"photo": 0, "box": [10, 10, 5, 5]}]}, "inverted or empty"),
        ({"examples": [{"photo": 0, "box": [0, 0, 9999, 10]}]}, "inside the photo, which is 512 x 512"),
        ({"examples": [{"photo": 0}], "k": 0}, "greater than or equal to 1"),
        ({"examples": [{"photo": 0}], "kk": 1}, "kk"),
        ({"examples": [{"photo": "0"}]}, "valid integer"),
    ],
)
def test_an_invalid_search_is_refused_with_its_reason(client, body, says):
    assert says in problem(client.post("/api/v1/search", json=body), 422, "invalid")


def test_a_body_that_is_not_json_is_refused(client):
    response = client.post("/api/v1/search", content=b'{"k": nope}', headers={"content-type": "application/json"})

    assert "expected JSON" in problem(response, 422, "invalid")


def test_unknown_ids_and_paths_are_not_found(client):
    for path in ("photos/99", "photos/99/file", "photos/99/thumbnail", "uploads/none/file", "nothing/at/all"):
        problem(client.get(f"/api/v1/{path}"), 404, "not-found")
    problem(client.post("/api/v1/search", json={"examples": [{"photo": 99}]}), 404, "not-found")
    problem(client.put("/api/v1/search"), 405, "method-not-allowed")


def test_a_photo_is_served_unchanged_with_ranges_and_etags(client, photos):
    number = number_of(client, "coffee.png")
    whole = client.get(f"/api/v1/photos/{number}/file")
    part = client.get(f"/api/v1/photos/{number}/file", headers={"range": "bytes=10-19"})
    tag = whole.headers["etag"]
    known = client.get(f"/api/v1/photos/{number}/file", headers={"if-none-match": f'"other", {tag}'})

    assert whole.content == (photos / "coffee.png").read_bytes()
    assert whole.headers["content-type"] == "image/png"
    assert "private" in whole.headers["cache-control"]
    assert (part.status_code, part.content) == (206, whole.content[10:20])
    assert (known.status_code, known.content, known.headers["etag"]) == (304, b"", tag)
    assert "sandbox" in whole.headers["content-security-policy"]


@pytest.mark.parametrize("header", ["bytes=5-2", "x", "bytes=a-b", "bytes=-", "bytes=", "lines=0-1", "bytes=0-1,9-3"])
def test_a_malformed_range_is_ignored(client, photos, header):
    number = number_of(client, "coffee.png")
    response = client.get(f"/api/v1/photos/{number}/file", headers={"range": header})

    assert (response.status_code, response.content) == (200, (photos / "coffee.png").read_bytes())


def test_ranges_that_the_file_does_not_have_are_refused_with_its_size(client, photos):
    number = number_of(client, "coffee.png")
    size = (photos / "coffee.png").stat().st_size
    response = client.get(f"/api/v1/photos/{number}/file", headers={"range": f"bytes={size}-"})
    last = client.get(f"/api/v1/photos/{number}/file", headers={"range": "bytes=-5"})

    assert (response.status_code, response.headers["content-range"]) == (416, f"bytes */{size}")
    assert (last.status_code, last.content) == (206, (photos / "coffee.png").read_bytes()[-5:])


def test_head_is_get_without_the_body(client):
    number = number_of(client, "coffee.png")
    for path in ("collection", "photos", f"photos/{number}/file", f"photos/{number}/thumbnail", "openapi.json", "none"):
        get, head = client.get(f"/api/v1/{path}"), client.head(f"/api/v1/{path}")
        assert (head.status_code, head.content) == (get.status_code, b"")
        for name in ("content-length", "content-type"):
            assert head.headers[name] == get.headers[name]
    assert client.head("/").status_code == client.head("/healthz").status_code == 200
    assert client.head("/api/v1/search").status_code == client.get("/api/v1/search").status_code


def test_renditions_keep_the_aspect_ratio_and_never_enlarge(client):
    number = number_of(client, "coffee.png")
    address = f"/api/v1/photos/{number}"

    assert picture_of(client.get(f"{address}/file?width=300")).size == (300, 200)
    assert picture_of(client.get(f"{address}/file?width=3000")).size == (600, 400)
    assert picture_of(client.get(f"{address}/thumbnail")).size == (256, 171)
    assert picture_of(client.get(f"{address}/thumbnail?box=0,0,100,200")).size == (128, 256)
    tag = client.get(f"{address}/thumbnail").headers["etag"]
    assert client.get(f"{address}/thumbnail", headers={"if-none-match": tag}).status_code == 304
    assert client.get(f"{address}/thumbnail?box=0,0,50,50").headers["etag"] != tag
    for wrong in ("1,2,3", "a,b,c,d", "0,0,nan,5", "0,0,601,5"):
        problem(client.get(f"{address}/thumbnail?box={wrong}"), 422, "invalid")


@pytest.mark.parametrize(
    ("name", "served"),
    [
        ("x.jpeg", "image/jpeg"),
        ("x.png", "image/png"),
        ("x.gif", "image/gif"),
        ("x.webp", "image/webp"),
        ("x.avif", "image/avif"),
        ("x.tiff", "image/jpeg"),
        ("x.bmp", "image/jpeg"),
        ("x.ppm", "image/jpeg"),
    ],
)
def test_photos_of_other_formats_are_served_as_jpeg(client, name, served):
    data = bytes_of(name)
    facts = send(client, data, "named.txt").json()
    found = client.get(f"/api/v1/uploads/{facts['id']}/file")

    assert (facts["name"], facts["width"], facts["height"]) == ("named.txt", 60, 40)
    assert found.headers["content-type"] == served
    assert Image.open(io.BytesIO(found.content)).size == (60, 40)
    assert (found.content == data) == (served.removeprefix("image/") == name.removeprefix("x."))


def test_photos_that_browsers_show_otherwise_are_served_as_they_are_decoded(client, tmp_path):
    heic = pillow_heif.from_pillow(Image.new("RGB", (60, 40), (200, 100, 0)))
    heic.save(tmp_path / "x.heic", quality=95)
    Image.fromarray(np.full((40, 60), 4000, np.uint16)).save(tmp_path / "x.png")  # 12 bits in 16: black in browsers
    for name, colour in (("x.heic", (200, 100, 0)), ("x.png", (249, 249, 249))):
        facts = send(client, (tmp_path / name).read_bytes(), name).json()
        for kind in ("file", "thumbnail"):
            found = np.asarray(picture_of(client.get(f"/api/v1/uploads/{facts['id']}/{kind}")))
            assert found.shape == (40, 60, 3)
            assert np.abs(found.astype(int) - colour).max() < 5


def test_an_upload_finds_the_matches_of_the_same_file(client, collection, photos):
    facts = send(client, (photos / "coffee.png").read_bytes(), "my cup.png").json()
    body = {"examples": [{"upload": facts["id"], "box": BOX}], "k": 3}
    found = client.post("/api/v1/search", json=body).json()

    same = collection.search(photos / "coffee.png", BOX, k=3).to_json()["matches"]
    # Only the confidence differs: the server does not know that the upload is a copy of a photo in the collection.
    assert [match | {"confidence": 0} for match in found["matches"]] == [match | {"confidence": 0} for match in same]
    assert found["query"]["examples"][0] == {
        "photo": None, "upload": facts["id"], "image": "my cup.png", "box": BOX, "wrong": False
    }  # fmt: skip
    assert picture_of(client.get(f"/api/v1/uploads/{facts['id']}/thumbnail?box=0,0,600,400")).size == (256, 171)


def test_boxes_are_exported(client, photos, tmp_path):
    boxes = [
        {"photo": number_of(client, "coffee.png"), "box": BOX, "score": 3.25},
        {"photo": number_of(client, "motorcycle_left"), "box": [1, 2, 31, 42.5]},
    ]
    written = {
        form: client.post("/api/v1/export", json={"format": form, "label": "cup", "boxes": boxes})
        for form in ("csv", "json", "coco")
    }
    rows = list(csv.DictReader(io.StringIO(written["csv"].text)))
    coco = written["coco"].json()

    assert [(row["image"], row["x2"], row["score"]) for row in rows] == [
        ("coffee.png", "478.0", "3.2500"),
        ("views/motorcycle_left.png", "31.0", ""),
    ]
    assert written["json"].json()["boxes"][0] == {"image": "coffee.png", **boxes[0]}
    assert [each["bbox"] for each in coco["annotations"]] == [[81, 20, 397, 366], [1, 2, 30, 40.5]]
    assert [each["file_name"] for each in coco["images"]] == ["coffee.png", "views/motorcycle_left.png"]
    assert coco["categories"] == [{"id": 1, "name": "cup"}]
    assert 'filename="udq-coco.json"' in written["coco"].headers["content-disposition"]
    # udq reads the exported files.
    for name, form in (("boxes.csv", "csv"), ("coco.json", "coco")):
        (tmp_path / name).write_bytes(written[form].content)
        assert "2 photos" in load_all([tmp_path / name], images=photos).summary()
    outside = {"format": "csv", "boxes": [{"photo": boxes[0]["photo"], "box": [0, 0, 601, 10]}]}
    problem(client.post("/api/v1/export", json=outside), 422, "invalid")


def test_health_and_metrics(client):
    client.get("/api/v1/photos/99")
    client.get("/no/such/file")
    text = client.get("/metrics").text

    assert (client.get("/healthz").text, client.get("/readyz").text) == ("ok\n", "ready\n")
    assert 'udq_requests_total{method="GET",route="/api/v1/photos/{number}",status="404"}' in text
    assert "udq_photos 12.0" in text
    assert "/no/such/file" not in text
    assert "udq_search_scan_ms_bucket" in text


def test_the_page_has_correct_content_types_and_no_third_parties(client):
    page = client.get("/")

    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert page.headers["content-security-policy"].startswith("default-src 'none'; script-src 'self'; style-src 'self'")
    assert "http://" not in page.text.replace("http://www.w3.org", "")
    assert "https://" not in page.text
    script = client.get("/main.js")
    assert script.headers["content-type"] == "text/javascript; charset=utf-8"
    assert client.get("/main.js", headers={"if-none-match": script.headers["etag"]}).status_code == 304
    for header in ("x-content-type-options", "referrer-policy", "x-frame-options"):
        assert header in script.headers


def test_changes_by_other_processes_are_visible_to_the_next_request(writable, photos):
    client, place = writable
    before = client.get("/api/v1/photos").json()
    shutil.copy(photos / "chelsea.png", place / "photos")
    Collection.open(place / "x.udq", device="cpu").add(place / "photos")
    Collection.open(place / "x.udq").remove("coins.png")
    after = client.get("/api/v1/photos").json()
    example = {"photo": number_of(client, "chelsea.png")}
    found = client.post("/api/v1/search", json={"examples": [example]}).json()

    assert (before["total"], after["total"]) == (4, 4)
    assert [photo["name"] for photo in after["photos"]] == ["astronaut.png", "coffee.png", "rocket.png", "chelsea.png"]
    assert found["matches"][0]["image"] == "chelsea.png"


def test_after_damage_on_disk_the_last_good_state_is_served(writable):
    client, place = writable
    (place / "x.udq" / "collection.json").write_text("{}")

    assert client.get("/api/v1/photos").json()["total"] == 4
    assert "last good state" in problem(client.get("/readyz"), 503, "unavailable")


def test_photos_are_added_and_removed_with_allow_write(writable, photos):
    client, place = writable
    data = (photos / "chelsea.png").read_bytes()
    added = send(client, data, "cat.png", "/api/v1/photos")
    photo = added.json()["photo"]

    assert (added.status_code, added.json()["photos"]) == (201, 5)
    assert added.headers["location"] == f"/api/v1/photos/{photo['id']}"
    assert (place / "photos" / "cat.png").read_bytes() == data
    assert Collection.open(place / "x.udq").names[-1] == "cat.png"
    assert "already exists" in problem(send(client, data, "cat.png", "/api/v1/photos"), 409, "conflict")
    removed = client.delete(f"/api/v1/photos/{photo['id']}")
    assert removed.json() == {"photo": photo, "photos": 4}
    assert (place / "photos" / "cat.png").exists()
    problem(client.delete(f"/api/v1/photos/{photo['id']}"), 404, "not-found")


def test_concurrent_removals_of_a_photo_named_like_a_pattern_remove_it_alone(place, photos):
    for name in ("*.jpg", "one.jpg", "two.jpg"):
        Image.open(photos / "chelsea.png").save(place / "photos" / name, "JPEG")
    opened, _ = Collection.open(place / "x.udq", device="cpu").add(
        [place / "photos" / name for name in ("*.jpg", "one.jpg", "two.jpg")]
    )
    with serving(Service.start(opened, write_to=place / "photos")) as client:
        number = number_of(client, "*.jpg")
        with ThreadPoolExecutor(8) as pool:
            statuses = [
                response.status_code
                for response in pool.map(lambda _: client.delete(f"/api/v1/photos/{number}"), range(8))
            ]
        left = Collection.open(place / "x.udq").names

    assert sorted(statuses) == [200] + [404] * 7
    assert left == ["astronaut.png", "coffee.png", "coins.png", "rocket.png", "one.jpg", "two.jpg"]


def test_the_name_of_a_removed_photo_can_be_used_again(writable, photos):
    client, place = writable
    stored = place / "photos"
    one, other = ((photos / name).read_bytes() for name in ("chelsea.png", "page.png"))
    first = send(client, one, "cat.png", "/api/v1/photos").json()["photo"]
    client.delete(f"/api/v1/photos/{first['id']}")
    # The same photo: its file is still there.
    again = send(client, one, "cat.png", "/api/v1/photos")
    assert again.status_code == 201
    assert again.json()["photo"]["name"] == "cat.png"
    client.delete(again.headers["location"])
    # Another photo: the file of the removed one is kept.
    names = []
    for data in (other, one):
        added = send(client, data, "cat.png", "/api/v1/photos")
        names.append((added.status_code, added.json()["photo"]["name"]))
        assert client.get(f"{added.headers['location']}/file").content == data
    assert names == [(201, "cat-2.png"), (201, "cat.png")]
    assert (stored / "cat.png").read_bytes() == one
    assert not (stored / "cat-3.png").exists()


def test_a_file_that_is_another_photo_is_not_used_for_an_added_one(writable, photos):
    client, place = writable
    (place / "photos" / "link.png").symlink_to(photos / "chelsea.png")
    data = (photos / "chelsea.png").read_bytes()
    added = send(client, data, "link.png", "/api/v1/photos").json()

    assert added["photo"]["name"] == "link-2.png"
    assert (place / "photos" / "link.png").is_symlink()


def test_a_conflict_reveals_nothing_about_the_server(writable, caplog):
    client, place = writable
    number = number_of(client, "coins.png")
    with Transaction(place / "x.udq"):
        for response in (
            client.delete(f"/api/v1/photos/{number}"),
            send(client, bytes_of("x.png"), "x.png", "/api/v1/photos"),
        ):
            detail = problem(response, 409, "conflict")
            for secret in (str(place), str(os.getpid()), platform.node()):
                assert secret not in detail
    assert not (place / "photos" / "x.png").exists()
    assert caplog.text.count(str(os.getpid())) == 2


def test_added_photos_need_plain_file_names(writable):
    client, place = writable
    before = sorted(place.rglob("*"))
    names = ("../cat.png", "/cat.png", "a/cat.png", "a\\cat.png", ".cat.png", "cat.html", "cat", "c:at.png", "*.png")
    for name in names:
        problem(send(client, bytes_of("x.png"), name, "/api/v1/photos"), 422, "invalid")

    assert sorted(place.rglob("*")) == before


def test_a_read_only_server_refuses_changes(client, collection):
    data = bytes_of("x.png")
    for response in (send(client, data, "x.png", "/api/v1/photos"), client.delete("/api/v1/photos/0")):
        assert "--allow-write" in problem(response, 403, "read-only")
    assert len(collection.refreshed()) == 12


def test_a_photo_whose_file_is_gone_is_a_problem(writable):
    client, place = writable
    (place / "photos" / "coins.png").unlink()
    number = number_of(client, "coins.png")
    for path in ("", "/file", "/thumbnail"):
        detail = problem(client.get(f"/api/v1/photos/{number}{path}"), 410, "photo-gone")
        assert str(place) not in detail
        assert "coins.png" in detail
    problem(client.post("/api/v1/search", json={"examples": [{"photo": number}]}), 410, "photo-gone")


def test_a_link_that_leads_out_of_the_folder_is_not_followed(writable, tmp_path):
    client, place = writable
    secret = place / "secret.png"
    shutil.move(place / "photos" / "coins.png", secret)
    (place / "photos" / "coins.png").symlink_to(secret)
    number = number_of(client, "coins.png")
    for path in ("", "/file", "/file?width=10", "/thumbnail", "/thumbnail?box=0,0,9,9"):
        problem(client.get(f"/api/v1/photos/{number}{path}"), 403, "outside-folder")


def test_html_and_svg_named_as_a_photo_are_never_served(writable):
    client, place = writable
    number = number_of(client, "coins.png")
    for data in (b"<html><script>alert(1)</script>", b"<svg xmlns='http://www.w3.org/2000/svg'/>"):
        (place / "photos" / "coins.png").write_bytes(data)
        for path in ("/file", "/file?width=10", "/thumbnail", "/thumbnail?box=0,0,9,9"):
            detail = problem(client.get(f"/api/v1/photos/{number}{path}"), 422, "unreadable-photo")
            assert str(place) not in detail
