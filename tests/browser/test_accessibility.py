"""Accessibility: axe-core finds no serious or critical violation."""

from __future__ import annotations

from pathlib import Path

import pytest

pytestmark = pytest.mark.browser


@pytest.fixture(scope="session")
def axe():
    """The script of axe-core, as a package carries it."""
    import axe_playwright_python

    return (Path(axe_playwright_python.__file__).parent / "axe.min.js").read_text()


def violations(page, axe):
    """Return the violations of serious or critical impact, each with its first elements."""
    page.evaluate(axe)
    found = page.evaluate("axe.run().then((results) => results.violations)")
    return [
        (one["id"], [node["html"][:200] for node in one["nodes"][:3]])
        for one in found
        if one["impact"] in ("serious", "critical")
    ]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", ["usual", "large", "hostile", "failed"])
def test_no_serious_violation(show, axe, name, scheme):
    page = show(name, color_scheme=scheme)
    page.evaluate("for (const one of document.querySelectorAll('.fold')) one.open = true")
    assert violations(page, axe) == []


def test_no_serious_violation_on_a_phone_without_script(show, axe):
    page = show("usual", width=390)
    page.evaluate("document.querySelector('.cells').hidden = false")
    page.evaluate("for (const one of document.querySelectorAll('details')) one.open = true")
    assert violations(page, axe) == []
