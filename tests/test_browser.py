"""The main path of the pages in Chromium, on a phone and on a desk."""

import os
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from evolution.predictors.latency import LatencyModel
from service.app import create_app
from service.devices.probe import fingerprint
from service.processes import free_port
from service.searches.ask import create_search
from service.searches.job import run_search
from service.searches.schemas import SearchIn
from service.settings import Settings
from service.supernets.register import register_supernet
from tests.support.service import HOST, add_device
from tests.support.waiting import wait
from tests.support.worker import Steps

pytestmark = pytest.mark.slow  # it starts a browser

playwright = pytest.importorskip("playwright.sync_api", reason="no Playwright")
axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="no axe")
CHROMIUM = os.environ.get("SUPPLE_TEST_CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
TABLES_OVERFLOW = (
    "Math.max(0, ...[...document.querySelectorAll('.scroll')].map(box => box.scrollWidth - box.clientWidth))"
)
OVERFLOW = "document.documentElement.scrollWidth - innerWidth"


@pytest.fixture(scope="module")
def address(
    sqlite_template: Path,
    bundle_path: Path,
    measurements: dict[str, Any],
    latency_model: LatencyModel,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[str]:
    """A service with a supernet, a measured device that has a long name, another device, and a verified search."""
    directory = tmp_path_factory.mktemp("pages")
    shutil.copy(sqlite_template, directory / "supple.db")
    settings = Settings(data_directory=directory, port=free_port())
    app = create_app(settings)
    context = app.state.context
    with context.database.writing() as session:
        register_supernet(session, context.store, bundle_path)
    add_device(context, "a-phone-with-a-name-of-forty-two-letters--", measurements, latency_model, HOST)
    server = uvicorn.Server(uvicorn.Config(app, port=settings.port, log_level="warning"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    wait(lambda: server.started, "the service")
    add_device(context, "laptop", measurements, latency_model, fingerprint())
    body = SearchIn.model_validate({"device": "laptop", "max_latency_ms": 500, "max_flops": 2e6, "verify": True})
    run_search(context, Steps(), create_search(context, body).id)
    yield f"http://127.0.0.1:{settings.port}"
    server.should_exit = True
    thread.join()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if CHROMIUM is None:
        pytest.skip("no Chromium; set SUPPLE_TEST_CHROMIUM")
    with playwright.sync_playwright() as running:
        browser = running.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.mark.parametrize("width", [390, 1440])
def test_the_main_path_fits_says_nothing_in_the_console_and_asks_no_other_host(
    width: int, browser: Any, address: str
) -> None:
    page = browser.new_page(viewport={"width": width, "height": 900})
    messages: list[str] = []
    requests: list[str] = []
    page.on("console", lambda message: messages.append(message.text))
    page.on("pageerror", lambda error: messages.append(str(error)))
    page.on("request", lambda request: requests.append(request.url))

    def check(what: str) -> None:
        page.wait_for_load_state("networkidle")
        assert page.evaluate(OVERFLOW) <= 0, what

    page.goto(address)
    check("the form")
    button = page.locator("#budget > button")
    assert button.bounding_box()["y"] + button.bounding_box()["height"] <= 900
    page.fill("#max_flops", "1M")
    button.click()
    page.wait_for_url("**/searches/*")
    page.wait_for_selector(".chart canvas")
    check("the answer")
    page.get_by_role("link", name="Fronts").click()
    page.wait_for_selector(".chart canvas")
    check("the front over everything stored")
    if width == 1440:
        table = page.locator(".scroll:has(table.front)")
        assert table.evaluate("box => box.scrollWidth - box.clientWidth") <= 0
    page.goto(f"{address}/login")
    check("the login")
    assert messages == []
    assert all(url.startswith((address, "data:")) for url in requests)
    page.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1440])
def test_pages_have_no_fault_that_axe_knows_and_their_tables_fit_a_desk(
    width: int, scheme: str, browser: Any, address: str
) -> None:
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)

    def check(what: str) -> None:
        page.wait_for_load_state("networkidle")
        violations = axe.Axe().run(page).response["violations"]
        assert [(found["id"], [node["target"] for node in found["nodes"]]) for found in violations] == [], what
        assert page.evaluate(OVERFLOW) <= 0, what
        if width == 1440:
            assert page.evaluate(TABLES_OVERFLOW) <= 0, what

    page.goto(address)
    check("the form")
    page.locator("table.recent a").last.click()
    page.wait_for_selector("text=verified on 50 held-out images")
    check("a verified answer")
    page.fill("#max_flops", "1k")
    page.locator("#budget > button").click()
    page.wait_for_selector(".refusal")
    check("a refusal")
    page.goto(f"{address}/fronts")
    check("the front over everything stored")
    page.goto(f"{address}/nothing")
    check("a page that is not there")
    page.close()


def test_a_refused_form_says_why(browser: Any, address: str) -> None:
    page = browser.new_page()
    page.goto(address)
    page.fill("#max_flops", "1M")
    refusal = {"status": 403, "content_type": "application/problem+json", "body": '{"detail": "the key lacks a scope"}'}
    page.route("**/searches", lambda route: route.fulfill(**refusal))
    page.locator("#budget > button").click()
    page.wait_for_selector("text=The service answered 403: the key lacks a scope")
    page.unroute("**/searches")
    page.locator("#budget > button").click()
    page.wait_for_url("**/searches/*")
    page.wait_for_selector("#notice", state="hidden")
    page.close()


# Where the chart draws the dashed line of a limit, and where the limit is, in pixels.
LIMIT_LINE = """limit => {
  const chart = echarts.getInstanceByDom(document.querySelector(".chart"));
  const shapes = chart.getZr().storage.getDisplayList();
  const line = shapes.find(({ shape, style }) => shape && shape.x1 === shape.x2 && style.lineDash === "dashed");
  return [line.shape.x1, chart.convertToPixel({ xAxisIndex: 0 }, limit)];
}"""


def test_the_line_of_a_limit_is_drawn_at_the_limit_however_small(browser: Any, address: str) -> None:
    page = browser.new_page(viewport={"width": 1440, "height": 900})
    page.goto(address)
    page.fill("#max_latency_ms", "0.0454")
    page.locator("#budget > button").click()
    page.wait_for_url("**/searches/*")
    page.wait_for_selector(".chart canvas")
    drawn, limit = page.evaluate(LIMIT_LINE, 0.0454)
    assert drawn == pytest.approx(limit, abs=1)
    page.close()
