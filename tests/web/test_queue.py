"""Work queues: order, bounds and disconnected clients."""

from __future__ import annotations

import asyncio
import threading

import pytest
from clients import problem

from udq.web.problems import Problem
from udq.web.queue import WorkQueue, never_disconnected


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
