"""Work queues: order, bounds and disconnected clients."""

from __future__ import annotations

import asyncio
import threading

import pytest
from clients import problem

from udq import Collection, Example
from udq.photos.sandbox import Decoder
from udq.web.live_collection import LiveCollection
from udq.web.metrics import Metrics
from udq.web.problems import Problem
from udq.web.queue import Searches, WorkQueue, never_disconnected
from udq.web.renditions import file_of


def test_the_queue_is_first_in_first_out_and_bounded():
    async def scenario():
        queue, started, hold, order = WorkQueue(1, 3), threading.Event(), threading.Event(), []

        def first():
            started.set()
            hold.wait(30)

        running = [asyncio.create_task(queue.run(never_disconnected, first))]
        await asyncio.to_thread(started.wait, 30)
        for i in range(3):
            running.append(asyncio.create_task(queue.run(never_disconnected, lambda i=i: order.append(i))))
            await asyncio.sleep(0)
        with pytest.raises(Problem, match="the queue is full: 3 requests are waiting") as refused:
            await queue.run(never_disconnected, lambda: None)
        hold.set()
        await asyncio.gather(*running)
        queue.close()
        return refused.value, order

    refused, order = asyncio.run(scenario())
    assert order == [0, 1, 2]
    assert refused.status_code == 503
    assert int(refused.headers["retry-after"]) >= 1


def test_work_of_a_disconnected_client_is_skipped():
    async def disconnected():
        return True

    async def scenario():
        queue = WorkQueue(1, 1)
        with pytest.raises(Problem, match="the client disconnected"):
            await queue.run(disconnected, lambda: pytest.fail("run"))
        assert await queue.run(never_disconnected, lambda: 7) == 7  # the worker is free again
        queue.close()

    asyncio.run(scenario())


def test_a_full_search_queue_is_a_problem(client, service, monkeypatch):
    monkeypatch.setattr(service.searches, "queue", WorkQueue(1, 0))
    response = client.post("/api/v1/search", json={"examples": [{"photo": 0}]})

    assert "try again in 1 s" in problem(response, 503, "busy")
    assert response.headers["retry-after"] == "1"
    assert "udq_searches_refused_total 1.0" in client.get("/metrics").text
    service.searches.queue.close()


class HeldDecoder(Decoder):
    """A decoder whose first crop waits."""

    def __init__(self):
        super().__init__()
        self.held, self.free = threading.Event(), threading.Event()

    def load_crop(self, *arguments, **options):
        if not self.held.is_set():
            self.held.set()
            assert self.free.wait(120)
        return super().load_crop(*arguments, **options)


def test_a_feature_of_the_network_before_a_retraining_never_answers_for_the_new_one(place):
    live = LiveCollection(Collection.open(place / "x.udq", device="cpu"))
    old = live.current()
    coffee, coins = (Example(file_of(old.photo(number)), (10.0, 10.0, 300.0, 200.0)) for number in (1, 2))
    with HeldDecoder() as decoder:
        searches = Searches(decoder, Metrics(), 1)

        def search(view, example):
            return searches._search(view, [example], k=4, offset=0, min_score=None).to_json()["matches"]

        waiting = threading.Thread(target=search, args=(old, coffee))
        waiting.start()
        assert decoder.held.wait(60)
        other = old.collection.config.replace({"images": {"mirror": False}})
        Collection.retrain(place / "x.udq", config=other, device="cpu")
        new = live.current()
        search(new, coins)
        decoder.free.set()
        waiting.join(60)  # the old network's feature of the photo is complete now
        found = {view: (search(view, coffee), search(view, coffee)) for view in (new, old)}
        searches.queue.close()

    assert found[new] != found[old]
    assert new.collection.network_checksum != old.collection.network_checksum
    for view, answers in found.items():
        expected = view.collection.search(coffee.photo, coffee.box, k=4).to_json()["matches"]
        assert answers == (expected, expected)


def test_a_retraining_that_keeps_the_network_keeps_the_features(place):
    before = Collection.open(place / "x.udq", device="cpu")
    extractor = before.extractor
    Collection.retrain(place / "x.udq", config=before.config, device="cpu")
    after = before.refreshed()

    assert after is not before
    assert after.network_checksum == before.network_checksum
    assert after.extractor is extractor
