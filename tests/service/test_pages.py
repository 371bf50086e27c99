import html
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from sqlalchemy import func, select, update

from evolution.costs import CostTables
from evolution.predictors.latency import LatencyModel
from service.app import create_app
from service.context import Context
from service.costs import counted_costs
from service.devices.measurements import fit
from service.devices.schemas import MeasurementsIn
from service.jobs.locks import lock_patiently
from service.keys.keys import create_key
from service.pages import show
from service.pages.router import router
from service.searches.job import run_search
from service.settings import Settings
from service.storage.tables import LatencyModelRow, Search, Supernet
from service.web.auth import COOKIE
from supernet.space import Architecture
from tests.support.databases import sqlite_unless_asked
from tests.support.service import LOCAL, add_device

PAGES = Path(show.__file__).parent
COUNTED = [kind.name for kind in counted_costs()]
NASTY = "<script>alert(1)</script>"

database_url = sqlite_unless_asked  # no page speaks to the database itself


def text(page: str) -> str:
    """What a person reads: no tags, single spaces."""
    return re.sub(r"\s+", " ", html.unescape(re.sub(r"<script.*?</script>|<[^>]*>", " ", page, flags=re.S)))


def ask(client: TestClient, **fields: str) -> Any:
    return client.post("/searches", data=fields)


def api(client: TestClient, page: Any) -> Any:
    """What the API says of the search that a page shows."""
    return client.get(f"/v1{page.url.path}").json()


def data_of(page: Any) -> Any:
    found = re.search(r'<script type="application/json"[^>]*>(.*?)</script>', page.text, re.S)
    assert found
    return json.loads(found[1])


def value_of(page: str, field: str) -> str:
    found = re.search(rf'<input id="{field}"[^>]*? value="([^"]*)"', page)
    assert found
    return html.unescape(found[1])


def error_at(page: str, field: str) -> str:
    """The message at a field, which the field refers to."""
    assert re.search(rf'<input id="{field}"[^>]*aria-invalid="true" aria-describedby="{field}-error"', page)
    found = re.search(rf'id="{field}-error">(.*?)</p>', page, re.S)
    assert found
    return html.unescape(found[1])


def searches(context: Context) -> int:
    with context.database.reading() as session:
        return session.scalar(select(func.count()).select_from(Search)) or 0


def test_an_address_without_a_page_is_answered_with_a_page(client: TestClient) -> None:
    answer = client.get("/nothing<b>", headers={"Accept": "text/html,*/*"})
    assert answer.status_code == 404
    assert "There is no such page Nothing is at /nothing<b>." in text(answer.text)
    assert 'href="/"' in answer.text
    for path, accept in (("/nothing", "*/*"), ("/v1/nothing", "text/html")):
        answer = client.get(path, headers={"Accept": accept})
        assert answer.headers["content-type"] == "application/problem+json"


def test_the_first_page_says_what_the_service_is(client: TestClient, request: pytest.FixtureRequest) -> None:
    assert "A supernet is one trained network" in text(client.get("/").text)
    request.getfixturevalue("supernet")
    page = client.get("/").text
    assert "A supernet is one trained network" in text(page)
    labels = re.findall(r"<label[^>]*>(.*?)</label>", page, re.S)
    assert len(set(labels)) == len(labels)


# The form.


def test_without_a_supernet_the_page_says_how_to_get_one(client: TestClient) -> None:
    page = client.get("/")
    assert page.status_code == 200
    assert "<code>supple demo</code>" in page.text
    assert "<code>supple register BUNDLE</code>" in page.text
    assert 'id="budget"' not in page.text
    refused = ask(client, max_flops="1M")
    assert refused.status_code == 422
    assert "supple demo" in refused.text


def test_the_form_offers_what_is_stored_and_says_how_far_costs_reach(
    client: TestClient, device: str, supernet: str, tables: CostTables
) -> None:
    page = client.get("/").text
    assert f'<option value="{supernet}" selected>untrained digits' in page
    assert f"<option selected>{device}</option>" in page
    assert [f'<option value="{side}" >' in page for side in tables.space.resolutions] == [True] * 3
    largest = tables.space.encode(tables.space.largest())[None]
    for cost in (tables.flops_cost, tables.params_cost, tables.model_bytes_cost, tables.peak_memory_cost):
        reach = (show.cost(float(value), cost.name) for value in (cost.floors.min(), cost(largest)[0]))
        assert "smallest {}, largest {}".format(*reach) in re.sub(r"\s*\n\s*", " ", page)
    assert "None yet" in page


def test_without_a_measured_device_there_is_no_latency_to_limit(client: TestClient, supernet: str) -> None:
    page = client.get("/").text
    assert "supple probe" in page
    assert "max_latency_ms" not in page
    assert "latency_ms" not in page
    answer = ask(client, supernet=supernet, max_flops="1M")
    assert answer.status_code == 200
    assert "Latency" not in text(answer.text)


def test_bad_input_is_explained_at_its_field_and_nothing_is_searched(
    client: TestClient, context: Context, device: str
) -> None:
    typed = {"max_latency_ms": "abc", "max_flops": "-3", "max_params": "nan", "min_accuracy": "98", "device": device}
    page = ask(client, **typed)
    assert page.status_code == 422
    assert page.headers["hx-push-url"] == "false"
    assert error_at(page.text, "max_latency_ms") == "'abc' is not a quantity here; write it as 8.5 or 8.5ms"
    assert error_at(page.text, "max_flops") == "'-3' is not a limit; a positive number is needed"
    assert error_at(page.text, "max_params") == "'nan' is not a limit; a positive number is needed"
    assert error_at(page.text, "min_accuracy") == "'98' is not a fraction between 0 and 1; write 98% or 0.98"
    assert {field: value_of(page.text, field) for field in typed if field != "device"} | {"device": device} == typed
    assert "Nothing was searched: some fields" in text(page.text)
    assert searches(context) == 0


def test_an_unknown_supernet_or_resolution_is_refused(client: TestClient, context: Context, supernet: str) -> None:
    unknown = ask(client, supernet="nope", max_flops="1M")
    assert unknown.status_code == 422
    assert "There is no supernet 'nope'" in text(unknown.text)
    other = ask(client, supernet=supernet, resolution="13")
    assert other.status_code == 422
    assert "This cannot be searched Resolution is 13; mbv3-digits has 8, 12, 16." in text(other.text)
    assert ask(client, supernet=supernet, resolution="wide").status_code == 422
    assert searches(context) == 0


# The answer.


def test_the_answer_shows_the_numbers_of_the_api(client: TestClient, supernet: str, device: str) -> None:
    page = ask(client, supernet=supernet, device=device, max_latency_ms="0.05", max_flops="2M")
    search = api(client, page)
    best, shown, x = search["best"], text(page.text), show.TIMES
    assert page.history[0].status_code == 303
    assert search["request"]["limits"] == [
        {"cost": "flops", "max": 2e6, "device": None, "confidence": None},
        {"cost": "latency_ms", "max": 0.05, "device": device, "confidence": None},
    ]
    assert "The most accurate network within the limits" in shown
    half = f"{196 * best['predicted_accuracy_std']:.2f}"
    assert f"Accuracy {100 * best['predicted_accuracy']:.2f} % predicted, ± {half} % Not verified." in shown
    latency = show.milliseconds(best["predicted_latency_ms"][device])
    assert f"Latency on {device} {latency} ms predicted Not measured." in shown
    assert f"multiply-adds {best['flops']:,}" in shown
    assert f"{best['params']:,}" in shown
    assert "≤ 2 M holds, as counted" in shown
    assert "≤ 0.05 ms holds, as predicted" in shown
    assert f'<a class="button onnx" href="{best["onnx"]}"' in page.text
    space = client.get(f"/v1/supernets/{supernet}").json()["space"]
    for number, stage in enumerate(best["arch"]["stages"], 1):
        meaning = "; ".join(f"kernel size {kernel}, expansion ratio {ratio}" for kernel, ratio in stage)
        assert f"Stage {number}: {meaning}" in shown
        assert all(f">{kernel}{x}{kernel} · {x}{ratio}</span>" in page.text for kernel, ratio in stage)
    assert page.text.count('<span class="box out"') >= sum(
        max(depths) - len(stage) for stage, depths in zip(best["arch"]["stages"], space["depths"], strict=True)
    )


def test_the_answer_says_what_a_little_more_buys(client: TestClient, device: str) -> None:
    page = ask(client, device=device, max_latency_ms="0.05")
    (one,) = api(client, page)["sensitivity"]
    shown, gene = text(page.text), one["cheapest"]
    assert "What a higher or lower limit changes" in shown
    assert f"≤ 0.05 ms {100 * one['gained_per_unit'] * 0.001:.3g} % per 0.001 ms" in shown
    saved = show.cost(-gene["cost"], "latency_ms").replace(show.GAP, " ")
    assert f"{gene['old']:g} → {gene['new']:g} saves {saved}, accuracy {100 * gene['accuracy']:+.3g} %" in shown
    assert "What a higher or lower limit changes" not in text(ask(client, resolution="8").text)


def test_the_front_is_a_table_and_a_chart_of_the_same_candidates(client: TestClient, device: str) -> None:
    page = ask(client, device=device, max_latency_ms="0.05")
    search = api(client, page)
    rows = dict(re.findall(r'<tr id="c-(\w+)"(.*?)</tr>', page.text, re.S))
    assert set(rows) == {one["id"] for one in search["front"]}
    for one in search["front"]:
        row = text(rows[one["id"]])
        assert f"{100 * one['predicted_accuracy']:.2f} %" in row
        counted = text(" ".join(show.cost(one[name], name) for name in COUNTED))
        assert all(f'data-value="{one[name]}" title="{one[name]:,}"' in rows[one["id"]] for name in COUNTED)
        assert f"{show.milliseconds(one['predicted_latency_ms'][device])} {counted}" in row
        assert f'href="{one["onnx"]}"' in rows[one["id"]]
    chart = data_of(page)
    assert [(axis["name"], axis["limit"]) for axis in chart["axes"]] == [
        (f"Latency on {device}", 0.05),
        ("FLOPs", None),
        ("Parameters", None),
        ("File size", None),
        ("Peak memory", None),
    ]
    points = {point["id"]: point for point in chart["points"]}
    assert set(points) == set(rows)
    for one in search["front"]:
        point = points[one["id"]]
        assert point["predicted"] == one["predicted_accuracy"]
        assert point["verified"] is None
        assert point["costs"] == [one["predicted_latency_ms"][device], *(one[name] for name in COUNTED)]
        assert point["best"] == (one["id"] == search["best"]["id"])


def test_an_answer_has_an_address_and_is_listed(client: TestClient, device: str) -> None:
    page = ask(client, device=device, max_latency_ms="0.05", max_flops="2M", resolution="12")
    assert client.get(page.url.path).text == page.text
    assert value_of(page.text, "max_latency_ms") == "0.05"
    assert value_of(page.text, "max_flops") == "2M"
    assert '<option value="12" selected>' in page.text
    home = client.get("/").text
    assert f'href="{page.url.path}"' in home
    assert f"FLOPs ≤ 2 M , Latency on {device} ≤ 0.05 ms" in text(home)


def test_the_shown_request_asks_the_api_the_same(client: TestClient, device: str) -> None:
    page = ask(client, device=device, max_latency_ms="0.05")
    found = re.search(r"-d &#39;(.*?)&#39; |-d '(.*?)' ", page.text)
    assert found
    request = json.loads(html.unescape(found[1] or found[2]))
    again = client.post("/v1/searches", json=request)
    assert again.status_code == 200
    assert again.json()["answered_from"] == api(client, page)["id"]


def test_a_question_asked_before_leads_to_its_answer_and_says_so(
    client: TestClient, context: Context, device: str
) -> None:
    first, again = (ask(client, device=device, max_latency_ms="0.05") for _ in range(2))
    assert again.url.path == first.url.path
    assert "This search ran before" in text(again.text)
    assert "This search ran before" not in text(first.text)
    assert searches(context) == 1


def test_a_front_is_asked_for_and_shown_with_its_hypervolume(client: TestClient, device: str) -> None:
    page = ask(client, device=device, front="latency_ms", max_latency_ms="0.09")
    search, shown = api(client, page), text(page.text)
    assert search["request"]["objectives"] == ["latency_ms"]
    assert "The front of accuracy against latency within the limit" in shown
    assert shown.index("Pareto front") < shown.index("Its most accurate network")
    volumes = search["hypervolume"]["per_generation"]
    assert f"Hypervolume {volumes[-1]:.5g}, counted up to accuracy 0 %, Latency on board 0.0900 ms" in shown
    assert "proven the whole front for the predictor" in shown
    body = {"objective": "pareto", "objectives": ["flops"], "strategy": "nsga2"}
    step_by_step = client.post("/v1/searches", json=body).json()
    drawn = re.search(r'id="volume-data">(.*?)</script>', client.get(f"/searches/{step_by_step['id']}").text)
    assert drawn
    assert json.loads(drawn[1])["sizes"] == step_by_step["hypervolume"]["per_generation"]
    chart = data_of(page)
    assert chart["axes"][chart["axis"]]["name"] == f"Latency on {device}"
    assert '<option value="latency_ms" selected>the front against latency' in page.text
    assert "front against latency, Latency on board ≤ 0.09 ms" in text(client.get("/").text)
    both = ask(client, device=device, front="flops", min_accuracy="95%")
    assert both.status_code == 422
    assert "Objective is 'pareto' and min_accuracy is 0.95" in text(both.text)


def test_what_all_searches_found_is_a_page(client: TestClient, device: str, supernet: str) -> None:
    assert "No search has found any network" in text(client.get("/fronts").text)
    for front in ("latency_ms", "flops"):
        ask(client, device=device, front=front)
    query = {"supernet": supernet, "device": device, "x": "flops", "y": "latency_ms"}
    page = client.get("/fronts", params=query)
    front = client.get("/v1/fronts", params=query).json()
    assert set(re.findall(r'<tr id="c-(\w+)"', page.text)) == {one["id"] for one in front["items"]}
    chart, shown = data_of(page), text(page.text)
    assert chart["axes"][chart["axis"]]["name"] == "FLOPs"
    assert {point["id"] for point in chart["points"]} == {one["id"] for one in front["items"]}
    assert f"{front['candidates']:,} networks that searches kept, merged" in shown
    assert f"Hypervolume {front['hypervolume']:.5g}, counted up to" in shown
    first = data_of(client.get("/fronts"))
    assert first["axes"][first["axis"]]["name"] == f"Latency on {device}"
    for wrong, message in (
        ({"x": "watts"}, "Not understood"),
        ({"x": "flops", "y": "flops"}, "X and y are both flops"),
    ):
        refused = client.get("/fronts", params=wrong)
        assert refused.status_code == 422
        assert message in text(refused.text)


def test_without_a_supernet_the_fronts_lead_to_the_form(client: TestClient) -> None:
    assert "supple register BUNDLE" in client.get("/fronts").text


def test_a_least_accuracy_asks_for_the_cheapest_network(client: TestClient, device: str) -> None:
    page = ask(client, device=device, min_accuracy="95%", objective="params", max_flops="2M")
    search = api(client, page)
    assert search["request"]["objective"] == "params"
    assert search["request"]["min_accuracy"] == 0.95
    assert search["best"]["predicted_accuracy"] >= 0.95
    assert "The network with the fewest parameters and at least 95.00 % accuracy within the limit" in text(page.text)
    assert value_of(page.text, "min_accuracy") == "95%"
    assert '<option value="params" selected>' in page.text
    fastest = ask(client, device=device, min_accuracy="0.95", objective="latency_ms")
    assert api(client, fastest)["request"]["device"] == device
    assert data_of(fastest)["min_accuracy"] == 0.95


def test_a_refusal_shows_the_floors_and_leads_to_a_budget_that_works(
    client: TestClient, context: Context, device: str
) -> None:
    body = {"device": device, "max_latency_ms": 1e-4, "max_params": 10.0, "max_flops": 1e9}
    refusal = client.post("/v1/searches", json=body).json()
    page = ask(client, device=device, max_latency_ms="0.0001", max_params="10", max_flops="1G")
    shown = text(page.text)
    assert page.status_code == 422
    assert refusal["title"] in shown
    assert show.named(refusal["detail"], refusal["limits"])[1:] in shown
    assert "latency_ms" not in shown
    for name, value in refusal["floors"].items():
        needed, nearest = refusal["smallest"]["costs"][name], show.nearest(refusal["nearest"][name], name)
        row = (show.exact(refusal["limits"][name], name), show.cost(value, name), nearest, show.cost(needed, name))
        assert re.sub(r"\s+", " ", f"{show.cost_name(name)} {' '.join(row)}") in shown
    assert searches(context) == 0
    link = re.search(r'<a class="button" href="([^"]*)"', page.text)
    assert link
    filled = client.get(html.unescape(link[1])).text
    raised = {field: value_of(filled, field) for field in ("max_latency_ms", "max_params", "max_flops")}
    assert raised["max_flops"] == "1G"
    answer = ask(client, device=device, **raised)
    assert answer.status_code == 200
    assert api(client, answer)["status"] == "done"


def test_too_much_accuracy_is_answered_with_the_most_accurate_and_says_so(client: TestClient, device: str) -> None:
    page = ask(client, device=device, min_accuracy="99.99%", objective="flops", max_flops="1M")
    assert page.status_code == 200
    search, shown = api(client, page), text(page.text)
    assert search["min_accuracy_reached"] is False
    assert "The most accurate network within the limit" in shown
    assert "It is proven that no network within the limit has 99.99 % predicted accuracy or more; this is" in shown
    body = {"objective": "flops", "min_accuracy": 0.9999, "max_flops": 1e6, "strategy": "random", "evaluations": 50}
    unproven = client.post("/v1/searches", json=body).json()
    shown_unproven = text(client.get(f"/searches/{unproven['id']}").text)
    assert (
        "No network with at least 99.99 % predicted accuracy was found within the limit; this is the most accurate"
        in (shown_unproven)
    )
    assert f"{100 * search['best']['predicted_accuracy']:.2f} % predicted" in shown


def test_file_size_peak_memory_and_resolution_are_limited_in_words(client: TestClient, supernet: str) -> None:
    typed = {"max_model_bytes": "200KB", "max_peak_memory_bytes": "32KiB"}
    page = ask(client, supernet=supernet, max_resolution="12", **typed)
    assert page.status_code == 200
    search = api(client, page)
    limits = {limit["cost"]: limit["max"] for limit in search["limits"]}
    assert limits == {"model_bytes": 200_000, "peak_memory_bytes": 2**15}
    assert search["request"]["max_resolution"] == 12
    assert search["best"]["resolution"] <= 12
    assert {field: value_of(page.text, field) for field in typed} == typed
    assert f"≤ 200{show.GAP}KB" in page.text
    assert f"≤ 32{show.GAP}KiB" in page.text
    assert '<option value="12" selected>' in page.text
    refused = text(ask(client, supernet=supernet, max_peak_memory_bytes="1KB", max_params="1M").text)
    problem = client.post("/v1/searches", json={"max_peak_memory_bytes": 1000, "max_params": 1e6}).json()
    nearest = show.nearest(problem["nearest"]["peak_memory_bytes"], "peak_memory_bytes")
    assert re.sub(r"\s+", " ", f"Peak memory 1 KB {nearest} {nearest}") in refused
    assert problem["nearest"]["params"] == {"max": None, "proven": True}
    assert "none" in refused


@pytest.mark.slow
def test_choices_are_restricted_in_the_form(client: TestClient, supernet: str) -> None:
    page = ask(client, supernet=supernet, max_flops="1M", choices="stage3.depth=2 kernel_size=3,5")
    search = api(client, page)
    assert search["request"]["choices"] == {"kernel_size": [3, 5], "stage3.depth": [2]}
    assert all(kernel_size < 7 for stage in search["best"]["arch"]["stages"] for kernel_size, _ in stage)
    assert value_of(page.text, "choices") == "kernel_size=3,5 stage3.depth=2"
    assert "only kernel_size 3 or 5, stage3.depth 2" in text(page.text)
    short = text(ask(client, supernet=supernet, choices="kernel_size=3", min_accuracy="99.99%", objective="flops").text)
    assert "no network with these choices has 99.99 % predicted accuracy or more" in short
    unknown = text(ask(client, supernet=supernet, choices="colour=3").text)
    assert "mbv3-digits has no gene 'colour'; its genes are resolution, depth, kernel_size, expand_ratio" in unknown
    refused = text(ask(client, supernet=supernet, max_flops="0.2M", choices="kernel_size=7").text)
    assert "no architecture of mbv3-digits with kernel_size 7 is below" in refused


def test_a_search_that_verifies_is_waited_for(client: TestClient, context: Context, device: str) -> None:
    with context.database.writing() as session:  # of a published table, so that nothing is to be measured
        session.execute(update(LatencyModelRow).values(host={}))
    waiting = ask(client, device=device, max_latency_ms="0.05", verify="on")
    path = waiting.url.path
    assert "Waiting for a worker" in text(waiting.text)
    assert "No worker runs, so this search waits." in text(waiting.text)
    assert "No worker runs. Long and verified searches" in text(client.get("/").text)
    worker = lock_patiently(context.database, "a")
    assert "A worker runs it after the jobs before it." in text(client.get(path).text)
    assert "No worker" not in client.get(path).text + client.get("/").text
    worker.release()
    assert f'hx-get="{path}" hx-trigger="every 1s"' in waiting.text
    run_search(context, lambda _, function: function(), path.rpartition("/")[2])
    page = client.get(path)
    best = api(client, page)["best"]
    shown = text(page.text)
    assert "every 1s" not in page.text
    assert f"{100 * best['predicted_accuracy']:.2f} % predicted" in shown
    verified = f"{100 * best['verified_accuracy']:.2f} % verified on {best['verified_images']} held-out images"
    assert f"{verified} " in shown
    big = re.search('<p class="big">([^<]*)</p>', page.text)
    assert big
    assert big[1] == show.percent(best["verified_accuracy"])
    assert best["measured_latency_ms"] is None
    assert show.sentence(best["measured_latency_reason"]) in shown
    assert {point["verified"] for point in data_of(page)["points"] if point["best"]} == {best["verified_accuracy"]}
    assert "checked" in page.text[page.text.index('id="verify"') :][:60]

    with context.database.writing() as session:
        manifest = session.scalars(select(Supernet.manifest)).one()
        session.execute(update(Supernet).values(manifest={**manifest, "views": {"count": 8, "seed": 0}}))
    assert f"{verified}, each perturbed in 8 ways " in text(client.get(path).text)


def test_a_search_that_waits_for_a_probe_says_so(client: TestClient, context: Context, device: str) -> None:
    waiting = ask(client, device=device, max_latency_ms="0.05", verify="on")
    run_search(context, lambda _, function: function(), waiting.url.path.rpartition("/")[2])
    page = client.get(waiting.url.path)
    assert "every 1s" in page.text
    assert "5 networks to be measured on board: no probe there has asked for work yet; start" in text(page.text)
    assert "No worker runs, so" not in text(page.text)


def test_a_waiting_search_can_be_cancelled(client: TestClient, device: str) -> None:
    waiting = ask(client, device=device, max_latency_ms="0.05", verify="on")
    cancelled = client.post(f"{waiting.url.path}/cancel")
    assert cancelled.url.path == waiting.url.path
    assert "Cancelled" in text(cancelled.text)
    assert api(client, cancelled)["status"] == "cancelled"
    assert client.post(f"{waiting.url.path}/cancel").status_code == 409


def test_an_unknown_search_is_a_page_that_says_so(client: TestClient) -> None:
    page = client.get("/searches/nothing")
    assert page.status_code == 404
    assert page.headers["content-type"].startswith("text/html")
    assert "There is no search 'nothing'" in text(page.text)


def test_a_device_measured_in_part_refuses_with_what_is_known(
    client: TestClient,
    context: Context,
    supernet: str,
    tables: CostTables,
    measurements: dict[str, Any],
) -> None:
    networks = [one for one in measurements["networks"] if one["architecture"]["resolution"] == 16]
    genomes = np.array([tables.space.encode(Architecture.from_json(one["architecture"])) for one in networks])
    run = {tables.block_keys[i] for i in tables.index(genomes).ravel()}
    blocks = {key: ms for key, ms in measurements["blocks"].items() if key in run}
    assert len(blocks) < len(measurements["blocks"])
    body = MeasurementsIn(**{**measurements, "networks": networks, "blocks": blocks})
    add_device(context, "part", body.model_dump(), fit(tables, body), {})
    page = ask(client, device="part", max_latency_ms="0.0001", max_params="10")
    assert page.status_code == 422
    assert "No architecture fits these limits" in text(page.text)
    link = re.search(r'<a class="button" href="([^"]*)"', page.text)  # of the closest network all is known
    assert link
    filled = client.get(html.unescape(link[1])).text
    raised = {field: value_of(filled, field) for field in ("max_latency_ms", "max_params")}
    assert ask(client, device="part", **raised).status_code == 200
    nowhere = ask(client, device="part", max_latency_ms="0.0001", resolution="8")
    assert "cannot be predicted for any architecture of mbv3-digits at resolution 8" in text(nowhere.text)
    assert f"Latency on part 0.0001 ms {show.UNKNOWN} none {show.UNKNOWN}" in text(nowhere.text)
    assert '<a class="button"' not in nowhere.text


def test_two_devices_and_two_limits_of_one_are_told_apart(
    client: TestClient, context: Context, device: str, measurements: dict[str, Any], latency_model: LatencyModel
) -> None:
    add_device(context, "phone", measurements, latency_model, {})
    limits: list[dict[str, Any]] = [
        {"cost": "latency_ms", "device": device, "max": 0.07},
        {"cost": "latency_ms", "device": device, "max": 0.08, "confidence": 0.9},
        {"cost": "latency_ms", "device": "phone", "max": 0.09},
    ]
    search = client.post("/v1/searches", json={"limits": limits, "budget": 200}).json()
    page = client.get(f"/searches/{search['id']}")
    shown = text(page.text)
    for limit in ("≤ 0.07 ms holds, as predicted", "≤ 0.08 ms its upper bound at 90.00 % confidence", "≤ 0.09 ms"):
        assert limit in shown
    for name in (device, "phone"):
        assert f"Latency on {name}, ms, predicted" in shown


def test_an_unexpected_error_is_a_page_and_in_the_log(
    client: TestClient, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: Any) -> None:
        raise KeyError("secret")

    monkeypatch.setattr("service.pages.router._home", fail)
    page = client.get("/")
    assert page.status_code == 500
    assert page.headers["content-type"].startswith("text/html")
    assert "An unexpected error, which the service's log describes" in text(page.text)
    assert "secret" not in page.text
    assert "secret" in caplog.text


# Safety.


def test_names_and_typed_text_are_escaped(client: TestClient, context: Context, supernet: str, device: str) -> None:
    with context.database.writing() as session:
        session.execute(update(Supernet).values(name=NASTY))
    pages = [
        client.get("/"),
        client.get("/", params={"max_flops": f'">{NASTY}'}),
        ask(client, supernet=supernet, max_flops=f'">{NASTY}'),
        ask(client, supernet=f"{NASTY}", max_flops="1M"),
        ask(client, supernet=supernet, max_flops="1M"),
        client.get(f"/searches/{NASTY.replace('/', '')}"),
    ]
    for page in pages:
        assert "<script>alert" not in page.text
        assert "alert(1)" in html.unescape(page.text)


def test_pages_run_nothing_inline_and_load_from_here_alone(client: TestClient, device: str) -> None:
    for page in (client.get("/"), client.get("/login"), ask(client, device=device, max_latency_ms="0.05")):
        policy = page.headers["content-security-policy"]
        assert "default-src 'none'; script-src 'self'; style-src 'self'" in policy
        assert "unsafe" not in policy
        assert set(re.findall(r"<script([^>]*)>[^<]", page.text)) <= {' type="application/json" id="front-data"'}
        assert not re.search(r'\sstyle="|\son\w+="|<style', page.text)
        loaded = re.findall(r'<(?:script|link)[^>]*(?:src|href)="([^"]*)"', page.text)
        assert len(loaded) == 5
        for address in loaded:
            assert address.startswith("/static/")
            assert client.get(address).status_code == 200


def test_what_is_vendored_has_its_licence_beside_it() -> None:
    files = {path.name: path.read_text() for path in (PAGES / "static").iterdir()}
    assert sum(map(len, files.values())) < 3_000_000
    assert "Zero-Clause BSD" in files["htmx.LICENSE"]
    assert "Apache License" in files["echarts.LICENSE"]
    assert "Apache ECharts" in files["echarts.NOTICE"]
    assert "BSD 3-Clause" in files["zrender.LICENSE"]
    assert "Redistributions in binary form" in files["echarts.LICENSE-d3"]
    assert "Apache License" in files["swagger-ui.LICENSE"]
    assert "SmartBear" in files["swagger-ui.NOTICE"]
    assert "DOMPurify" in files["swagger-ui-bundle.LICENSES"]


def test_a_form_of_another_site_is_refused(client: TestClient, context: Context, device: str) -> None:
    for site in ("cross-site", "same-site"):
        page = client.post("/searches", data={"max_flops": "2M"}, headers={"Sec-Fetch-Site": site})
        assert page.status_code == 403
        assert "sent from another site" in page.text
    assert searches(context) == 0
    assert client.post("/searches", data={"max_flops": "2M"}, headers={"Sec-Fetch-Site": "same-origin"}).is_success


@pytest.fixture
def keyed(context: Context, settings: Settings, device: str) -> tuple[TestClient, str, str]:
    """The same service on an address that needs a key, the key, and the path of an answer."""
    client = TestClient(create_app(settings), base_url=LOCAL)
    path = ask(client, device=device, max_latency_ms="0.05").url.path
    with context.database.writing() as session:
        key = create_key(session, "mine", ["admin"])
    open_to_all = settings.model_copy(update={"host": "0.0.0.0"})
    return TestClient(create_app(open_to_all), base_url="https://supple.example"), key, path


def test_without_a_key_no_page_says_anything(keyed: tuple[TestClient, str, str], context: Context) -> None:
    client, _, path = keyed
    before = searches(context)
    for route in router.routes:
        address = str(getattr(route, "path", "")).replace("/searches/{search_id}", path)
        for method in getattr(route, "methods", ()):
            page = client.request(method, address)
            assert page.status_code == 401
            assert "asks for a key" in page.text
            assert "digits" not in page.text
            assert "board" not in page.text
            assert page.headers["hx-refresh"] == "true"
    assert len(router.routes) == 5
    assert searches(context) == before


def test_a_key_opens_the_pages_until_signing_out(keyed: tuple[TestClient, str, str]) -> None:
    client, key, path = keyed
    assert f'name="next" value="{path}"' in client.get(path).text
    wrong = client.post("/login", data={"key": "wrong", "next": path})
    assert wrong.status_code == 401
    assert "This key is not known" in text(wrong.text)
    assert COOKIE not in client.cookies
    answer = client.post("/login", data={"key": f" {key}\r\n", "next": path}, follow_redirects=False)
    assert answer.status_code == 303
    assert answer.headers["location"] == path
    cookie = answer.headers["set-cookie"].lower()
    assert all(attribute in cookie for attribute in ("httponly", "samesite=lax", "secure"))
    assert "expires" not in cookie
    assert "max-age" not in cookie
    page = client.get(path)
    assert page.status_code == 200
    assert "Pareto front" in page.text
    assert 'curl -H "Authorization: Bearer $SUPPLE_KEY" -H' in html.unescape(page.text)
    assert page.headers["cache-control"] == "no-store"
    assert client.get("/v1/searches").status_code == 200
    (form_token,) = set(re.findall(r'name="form_token" value="(\w+)"', page.text))
    token = client.cookies[COOKIE]
    assert token not in page.text
    for action in ("/logout", f"{path}/cancel", "/searches"):
        for sent in ("", token, form_token[::-1]):
            refused = client.post(action, data={"form_token": sent})
            assert refused.status_code == 403, f"{action} took a form of another session"
            assert "this form is of an earlier session" in refused.text.lower()
    form = {"device": "board", "max_latency_ms": "0.05", "form_token": form_token}
    assert client.post("/searches", data=form).url.path == path
    assert client.post("/logout", data={"form_token": form_token}).status_code == 200
    assert client.get(path).status_code == 401
    client.cookies.set(COOKIE, token)
    assert client.get(path).status_code == 401, "the session went on after signing out"


@pytest.mark.parametrize("key", ["schl\N{LATIN SMALL LETTER U WITH DIAERESIS}ssel", "\N{KEY}"])
def test_a_key_that_no_cookie_can_hold_is_not_known(
    client: TestClient, keyed: tuple[TestClient, str, str], key: str
) -> None:
    for each in (client, keyed[0]):
        page = each.post("/login", data={"key": key})
        assert page.status_code == 401
        assert "No key has such characters" in text(page.text)
        assert COOKIE not in each.cookies


@pytest.mark.parametrize("elsewhere", ["https://example.org", "//example.org", "/\\example.org", "example.org"])
def test_signing_in_leads_nowhere_else(keyed: tuple[TestClient, str, str], elsewhere: str) -> None:
    client, key, _ = keyed
    answer = client.post("/login", data={"key": key, "next": elsewhere}, follow_redirects=False)
    assert answer.headers["location"] == "/"
