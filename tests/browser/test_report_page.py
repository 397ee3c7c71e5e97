"""The page in a browser: sorting, filtering, choosing, tooltips, themes, phone, print, without script."""

from __future__ import annotations

import re
from itertools import pairwise
from statistics import median

import pytest

pytestmark = pytest.mark.browser

EVERY = ("usual", "large", "hostile", "failed")
SCROLLS = "document.documentElement.scrollWidth - document.documentElement.clientWidth"


def column(page, table, place):
    """The visible texts of a column."""
    return page.evaluate(
        """([table, place]) => [...document.querySelectorAll(`${table} tbody tr`)].filter((row) => !row.hidden)
           .map((row) => row.cells[place].textContent.trim())""",
        [table, place],
    )


def heading(page, table, text):
    return page.locator(f"{table} thead th", has_text=text).locator("button").first


GRID = "#grid .table:nth-of-type(1) table"


def mib(text):
    number, unit = re.match(r"([\d.]+) (MiB|GiB)", text).groups()
    return float(number) * (1024 if unit == "GiB" else 1)


def test_column_sorts_in_both_directions_with_unknown_values_last(show):
    page = show("large")
    place = page.evaluate(
        f"[...document.querySelectorAll('{GRID} thead th')].findIndex(h => /Tensor/.test(h.textContent))"
    )
    button = heading(page, GRID, "Tensor memory")
    for direction, turn in (("ascending", 1), ("descending", -1)):
        button.click()
        assert button.locator("..").get_attribute("aria-sort") == direction
        texts = column(page, GRID, place)
        known = [mib(text) for text in texts if not text.startswith("–")]
        assert len(known) == 180
        assert texts[180:] == [text for text in texts if text.startswith("–")]
        assert all(turn * (after - before) >= -0.051 for before, after in pairwise(known))


def test_headings_sort_by_keyboard_and_text_sorts_numerically(show):
    page = show("large")
    heading(page, GRID, "Setting").focus()
    page.keyboard.press("Enter")
    batches = [int(re.search(r"batch_size (\d+)", text)[1]) for text in column(page, GRID, 1)]
    assert batches == sorted(batches)


def test_rows_are_filtered_by_words_and_values_and_the_count_is_announced(show):
    page = show("large")
    tools = page.locator("#grid .tools").first
    tools.locator("input").fill("bf16 TECHNIQUE")
    assert len(column(page, GRID, 1)) == 90
    assert all("bf16" in text for text in column(page, GRID, 1))
    assert all(text.startswith("technique") for text in column(page, GRID, 0))
    assert "90 of 200 rows" in tools.inner_text()
    tools.locator("input").fill("")
    tools.locator("select").nth(1).select_option("out of GPU memory")
    assert len(column(page, GRID, 0)) == 20
    assert page.locator("#said").inner_text() == "train_step: 20 of 200 rows"
    tools.locator("input").fill("no such thing")
    assert column(page, GRID, 0) == []


def test_sorting_and_filtering_200_rows_takes_at_most_100_ms(show):
    """Time from the interaction to the frame that shows it. The quickest of five counts: other work may delay one."""
    page = show("large")
    took = page.evaluate(
        """async (grid) => {
          const frame = () => new Promise((done) => requestAnimationFrame(() => {
            const channel = new MessageChannel();
            channel.port1.onmessage = done;
            channel.port2.postMessage(null);
          }));
          const timed = async (act) => {
            await frame();
            const start = performance.now();
            act();
            await frame();
            return performance.now() - start;
          };
          const table = document.querySelector(grid);
          const button = table.querySelectorAll("thead button")[3];
          const input = table.closest(".table").querySelector(".tools input");
          const type = (text) => { input.value = text; input.dispatchEvent(new Event("input", { bubbles: true })); };
          const sort = [], filter = [];
          for (let turn = 0; turn < 5; turn++) {
            sort.push(await timed(() => button.click()));
            filter.push(await timed(() => type(turn % 2 ? "" : "bf16")));
          }
          return { sort, filter };
        }""",
        GRID,
    )
    for kind, times_ms in took.items():
        print(f"\n{kind}: median {median(times_ms):.0f} ms, quickest {min(times_ms):.0f} ms of 200 rows")
        assert min(times_ms) <= 100


def test_any_two_cells_can_be_shown_side_by_side(show):
    page = show("usual")
    first, second = page.locator(".picked select").all()
    assert page.locator(".picked .inside:visible").count() == 2
    second.select_option(label="train_step baseline · batch_size 64: out of RAM")
    shown = page.locator(".picked .inside:visible").nth(1)
    assert "the kernel killed it" in shown.inner_text()
    # The same cell twice makes no sense: the two change places.
    first.select_option(label="train_step baseline · batch_size 64: out of RAM")
    assert "the kernel killed it" in page.locator(".picked .inside:visible").first.inner_text()
    assert (
        second.evaluate("one => one.selectedOptions[0].textContent") == "train_step baseline · own setting: 800.0 MiB"
    )
    assert page.locator(".picked .inside:visible").count() == 2


def test_links_and_url_fragments_open_a_cell(show):
    page = show("usual")
    page.locator("#grid tbody a", has_text="optimized").nth(1).click()
    focused = page.evaluate("document.activeElement.id")
    assert focused.startswith("cell-c")
    assert page.locator(f".picked #{focused}").is_visible()
    again = show("usual", f"#{focused}")
    assert again.locator(f".picked #{focused}").is_visible()


def test_dots_tiles_and_notes_have_tooltips(show):
    page = show("large")
    tip = page.locator("#tip")
    dot = page.locator(".plot a.dot").last
    dot.hover()
    assert re.search(r"\(batch_size \d+.*\): [\d.]+ [MG]iB, [\d.]+ m?s", tip.inner_text())
    page.keyboard.press("Escape")
    assert not tip.is_visible()
    dot.focus()
    assert tip.is_visible()
    tile = page.locator(".picked .tiles li").nth(1)
    said = tile.get_attribute("title")
    assert re.fullmatch(r"backbone\.layer0\.0\.conv [\d.]+ MiB", said)
    tile.hover()
    assert tip.inner_text() == said
    assert tile.get_attribute("title") is None  # the browser's own would lie over it
    note = page.locator("#grid sup a").first
    note.focus()
    assert tip.inner_text() == page.locator(note.get_attribute("href")).inner_text()


CUT_OFF = """(() => [...document.querySelectorAll(".tiles li")].filter((one) => one.checkVisibility()).flatMap((tile) =>
  [...tile.querySelectorAll("b")].map((line) => {
    const range = document.createRange();
    range.selectNodeContents(line);
    const text = range.getBoundingClientRect(), frame = line.parentNode.getBoundingClientRect();
    const box = line.getBoundingClientRect(), [right, bottom] = [Math.min(box.right, frame.right), frame.bottom];
    const isHidden = text.left >= frame.right - 1 || text.top >= Math.min(box.bottom, bottom) - 1;
    const isWhole = text.right <= right + 1 && text.bottom <= Math.min(box.bottom, bottom) + 3;
    return [line.textContent, isHidden ? "hidden" : isWhole ? "whole" : "cut"];
  })))()"""


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("script", [True, False])
@pytest.mark.parametrize("name", ["large", "hostile"])
def test_text_of_a_tile_is_shown_completely_or_not_at_all(show, name, width, script):
    found = show(name, width=width, java_script_enabled=script).evaluate(CUT_OFF)
    assert [text for text, how in found if how == "cut"] == []
    assert {how for _, how in found} == {"hidden", "whole"}


def test_timeline_shows_values_by_mouse_and_arrow_keys(show):
    page = show("large")
    field = page.locator(".picked .area .field").first
    field.scroll_into_view_if_needed()
    peak = mib(re.search(r"Peak ([\d.]+ [MG]iB)", field.get_attribute("aria-label"))[1])
    dot = page.locator(".picked .area .at").first.bounding_box()
    page.mouse.move(dot["x"] + dot["width"] / 2, dot["y"] + 30)
    lines = page.locator("#tip").inner_text().splitlines()
    assert mib(lines[0].partition("≈ ")[2]) == pytest.approx(peak, rel=0.005)
    parts = [mib(line.partition("≈ ")[2]) for line in lines[1:]]
    assert sum(parts) == pytest.approx(peak, rel=0.01)
    assert {line.partition(" ≈")[0] for line in lines[1:]} == {
        "saved activation",
        "temporary",
        "parameter",
        "optimizer state",
    }
    field.focus()
    page.keyboard.press("Home")
    start = page.locator("#tip").inner_text()
    assert page.locator("#said").text_content() == start
    page.keyboard.press("ArrowRight")
    assert page.locator("#tip").inner_text() != start
    page.keyboard.press("Tab")
    assert not page.locator(".picked .area .cursor").first.is_visible()


@pytest.mark.parametrize(("scheme", "first", "then"), [("light", 230, 60), ("dark", 60, 230)])
def test_theme_follows_the_system_until_it_is_switched(show, scheme, first, then):
    page = show("usual", color_scheme=scheme)
    ground = "Number(/\\d+/.exec(getComputedStyle(document.body).backgroundColor)[0])"
    is_bright = page.evaluate(ground) > 150
    assert is_bright == (first > 150)
    page.locator("#theme").click()
    assert (page.evaluate(ground) > 150) == (then > 150)
    page.reload()
    assert (page.evaluate(ground) > 150) == (then > 150)


@pytest.mark.parametrize("name", EVERY)
def test_page_is_complete_without_script(show, name):
    page = show(name, java_script_enabled=False)
    assert page.locator("h1").is_visible()
    assert page.locator("#grid tbody tr").first.is_visible()
    assert not page.locator("#theme").is_visible()
    closed = page.locator("details:not([open])").element_handles()
    assert len(closed) >= 2
    for fold in closed[:4]:
        fold.query_selector("summary").click()
        assert fold.query_selector("summary + *").is_visible()
    page.locator("#grid tbody th a").first.click()
    assert page.locator(".cell .inside:visible").count() >= 1


def test_link_opens_its_cell_without_script(show):
    page = show("large", java_script_enabled=False)
    link = page.locator("#grid tbody th a").nth(150)
    link.click()
    assert page.locator(link.get_attribute("href")).is_visible()


@pytest.mark.parametrize("width", [390, 768, 1280])
@pytest.mark.parametrize("name", EVERY)
def test_the_page_never_scrolls_sideways(show, name, width):
    page = show(name, width=width)
    page.evaluate("for (const one of document.querySelectorAll('details')) one.open = true")
    assert page.evaluate(SCROLLS) == 0
    page = show(name, width=width, java_script_enabled=False)
    assert page.evaluate(SCROLLS) == 0


def test_hostile_names_are_shown_as_text(show):
    page = show("hostile")
    assert page.evaluate("window.taken") is None
    assert page.locator("img, iframe, object").count() == 0
    assert "<script>alert(1)" in page.locator("body").inner_text()
    for select in page.locator(".picked select").all():
        select.select_option(index=1)
    page.locator(".picked .tiles li").first.hover()
    page.locator(".plot a.dot").first.focus()
    assert page.evaluate("window.taken") is None
    assert page.evaluate("document.querySelectorAll('script').length") == 1


def test_printed_page_has_folded_sections_and_only_the_chosen_cells(show):
    page = show("large")
    page.emulate_media(media="print")
    assert not page.locator("nav").is_visible()
    assert not page.locator("#grid .tools").first.is_visible()
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert page.locator("#methods table").is_visible()
    assert page.locator(".inside:visible").count() == 2
    assert page.evaluate(SCROLLS) == 0


def test_page_of_200_cells_with_timelines_is_smaller_than_1_mb(report):
    text = report("large").read_text()
    assert len(text.encode()) <= 1_000_000
    assert text.count('class="area"') >= 180


def test_name_of_the_chosen_cell_is_complete_and_not_repeated_without_script(show):
    page = show("usual", width=390)
    chosen = page.locator(".picked select").first.evaluate("one => one.selectedOptions[0].textContent")
    name = page.locator(".picked .inside .name").first
    assert name.is_visible()
    assert chosen.startswith(f"{name.inner_text()}: ")
    assert name.evaluate("one => one.scrollWidth <= one.clientWidth")
    plain = show("usual", width=390, java_script_enabled=False)
    assert not plain.locator(".cell[open] .name").first.is_visible()


def test_table_that_overflows_has_a_shadow_at_its_edge(show):
    page = show("usual", width=390)
    wide = page.locator("#grid .scroll").first
    assert wide.evaluate("one => one.scrollWidth > one.clientWidth")
    assert (
        wide.evaluate("one => getComputedStyle(one).backgroundAttachment")
        == "local, scroll, local, local, scroll, scroll"
    )
