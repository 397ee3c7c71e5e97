"""Opens reports in a headless Chromium, and checks that they request nothing and log nothing."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_runs import FakeRun, fill_large, fill_usual
from hostile_runs import fill_hostile

from slr_bench.record import Outcome
from slr_bench.report.formats.documents import render_html
from slr_bench.report.run_report.content import read_content

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    """Yield the Chromium of this machine, or the one that $CHROMIUM names."""
    from playwright import sync_api  # not at the top: a machine without it collects these tests, too

    found = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        pytest.fail("no Chromium: `apt-get install chromium`, or CHROMIUM=/path/to/it")
    arguments = ["--no-sandbox"] if os.geteuid() == 0 else []  # its sandbox refuses root
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=arguments)
        yield browser
        browser.close()


def _failed(run: FakeRun) -> Path:
    run.record(run.cell("baseline"), 0, outcome=Outcome.CRASH, reason="signal 11")
    run.record(run.cell("optimized"), 0, outcome=Outcome.OOM_HOST, reason="the kernel killed it")
    return run.write()


MADE: dict[str, Callable[[FakeRun], Path]] = {
    "usual": lambda run: fill_usual(run).write(),
    "large": lambda run: fill_large(run, 200, repeats=1).write(),
    "hostile": fill_hostile,
    "failed": _failed,
}


@pytest.fixture(scope="session")
def report(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """``report("large")`` -> path of that page; each made once."""
    pages: dict[str, Path] = {}

    def page(name: str) -> Path:
        if name not in pages:
            directory = tmp_path_factory.mktemp(name)
            pages[name] = directory / "report.html"
            pages[name].write_text(render_html(read_content(MADE[name](FakeRun(directory / "run"))).report))
        return pages[name]

    return page


@pytest.fixture
def show(chromium: Any, report: Callable[[str], Path]) -> Iterator[Callable[..., Any]]:
    """``show("usual", color_scheme="dark")`` -> the page, open. The page may request nothing and log nothing."""
    contexts, requested, logged = [], [], []

    def opened(name: str, hash: str = "", width: int = 1280, **options: Any) -> Any:
        context = chromium.new_context(viewport={"width": width, "height": 900}, **options)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: logged.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: logged.append(str(error)))
        page.on("dialog", lambda dialog: (logged.append(f"dialog {dialog.message}"), dialog.dismiss()))
        page.on("request", lambda request: requested.append(request.url))
        page.goto(report(name).as_uri() + hash)
        return page

    yield opened
    for context in contexts:
        context.close()
    assert logged == []
    assert {url.partition("#")[0] for url in requested} <= {report(name).as_uri() for name in MADE}
