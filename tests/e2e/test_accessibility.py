"""Every page for keyboards, screen readers and weak eyes, in both themes, and how much it says at once.

Each page is opened once for all its tests.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import pytest
from axe_playwright_python.base import AXE_SCRIPT
from playwright.sync_api import Browser, Page, expect

from tests.e2e.conftest import PATIENCE_MS, OpenTab, Tab, opened_tab

pytestmark = pytest.mark.e2e

VIEWS = (
    "",
    "heads",
    "tasks",
    "prune?sparsity=20",
    "compare",
    "circuit?model=toy-reasoner&task=toy_math",
    "playground?model=toy-reasoner",
    "runs",
    "learn",
    "glossary",
)
MOST_WORDS = 180
# A list of everything, and a table (drawn on a canvas).
WORDY = ("glossary",)
FOCUSED = "document.activeElement"

SERIOUS = """async () => {
  const {violations} = await axe.run(document, {resultTypes: ["violations"], iframes: false});
  const serious = violations.filter(one => ["serious", "critical"].includes(one.impact));
  return serious.flatMap(one => one.nodes.map(node => `${one.id}: ${node.html.slice(0, 200)} ${node.failureSummary}`));
}"""
# Contrast as WCAG 2.2 computes it, of a colour (as any CSS) on what is painted behind an element.
CONTRAST = """
  const brush = document.createElement("canvas").getContext("2d", {willReadFrequently: true});
  const rgba = css => {
    brush.clearRect(0, 0, 1, 1); brush.fillStyle = css; brush.fillRect(0, 0, 1, 1);
    return [...brush.getImageData(0, 0, 1, 1).data];
  };
  const ground = element => {
    for (let at = element; at; at = at.parentElement) {
      const colour = rgba(getComputedStyle(at).backgroundColor);
      if (colour[3] === 255) return colour;
    }
    return [255, 255, 255, 255];
  };
  const light = colour => [0.2126, 0.7152, 0.0722].reduce((sum, weight, i) => {
    const share = colour[i] / 255;
    return sum + weight * (share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4);
  }, 0);
  const contrast = (css, element) => {
    const [over, under] = [rgba(css), ground(element)], opacity = over[3] / 255;
    const mixed = [0, 1, 2].map(i => opacity * over[i] + (1 - opacity) * under[i]);
    const [dark, bright] = [light(mixed), light(under)].sort((a, b) => a - b);
    return (bright + 0.05) / (dark + 0.05);
  };
"""
# Words in figures: beside the marks, so not those inside a cell or a bar, which stand on its colour.
PALE_WORDS = f"""() => {{ {CONTRAST}
  const found = new Set();
  for (const figure of document.querySelectorAll(".js-plotly-plot")) {{
    for (const text of figure.querySelectorAll("text:not(.textpoint *, .bartext, .point *)")) {{
      const {{fill, opacity}} = getComputedStyle(text), words = text.textContent.trim();
      if (words && +opacity && contrast(fill, figure) < 4.5) found.add(`${{fill}} ${{words}}`);
    }}
  }}
  return [...found];
}}"""
# Opaque colours of marks that stand on the page; in a heatmap they stand on its cells.
PALE_MARKS = f"""() => {{ {CONTRAST}
  const found = new Set();
  for (const figure of document.querySelectorAll(".js-plotly-plot")) {{
    if (figure.data.some(trace => trace.type === "heatmap")) continue;
    for (const {{marker, line, mode = ""}} of figure.data) {{
      const colours = [marker?.color, mode.includes("lines") ? line?.color : null].flat();
      for (const colour of colours.filter(one => typeof one === "string" && !one.startsWith("rgba"))) {{
        if (contrast(colour, figure) < 3) found.add(colour);
      }}
    }}
  }}
  return [...found];
}}"""
NAMELESS = """() => [...document.querySelectorAll("button, canvas[tabindex]")]
  .filter(one => one.checkVisibility({visibilityProperty: true}))
  .filter(one => ["", "Help"].includes((one.getAttribute("aria-label") ?? one.textContent).trim()))
  .map(one => one.outerHTML.slice(0, 200))"""
# Words with a letter that are at least partly on the first screen, without the sidebar and icons' names.
WORDS = r"""() => {
  const inside = document.querySelector('[data-testid="stMain"]'), found = [];
  const walker = document.createTreeWalker(inside, NodeFilter.SHOW_TEXT), range = document.createRange();
  for (let node = walker.nextNode(); node; node = walker.nextNode()) {
    const parent = node.parentElement;
    if (parent.closest('[data-testid="stIconMaterial"], style, script, canvas')) continue;
    if (!parent.checkVisibility({visibilityProperty: true, opacityProperty: true})) continue;
    for (const word of node.data.matchAll(/\S*\p{L}\S*/gu)) {
      range.setStart(node, word.index); range.setEnd(node, word.index + word[0].length);
      const {top, bottom, left, width} = range.getBoundingClientRect();
      if (width > 1 && bottom > 0 && top < innerHeight && left < innerWidth) found.push(word[0]);
    }
  }
  return found;
}"""
# Whether the focused element looks the same without the focus. What can show it: styles of the element, of what is
# around it, and of its label's parts. Null where there is nothing to compare.
UNSEEN = """async () => {
  const drawn = () => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)));
  // A table hands the focus on to a cell, whose ring it paints on a canvas.
  await drawn();
  if (document.activeElement === document.body) return null;
  if (document.activeElement.closest('[data-testid^=glide-cell]')) return null;
  // A component keeps its stops in a shadow root.
  const at = document.activeElement.shadowRoot?.activeElement ?? document.activeElement;
  const look = async () => {
    await drawn();
    const around = [at];
    while (around.length < 6 && around.at(-1).parentElement) around.push(around.at(-1).parentElement);
    around.push(...(at.closest("label")?.querySelectorAll("*") ?? []));
    return around.map(one => {
      const {outline, boxShadow, borderColor, backgroundColor} = getComputedStyle(one);
      return [outline, boxShadow, borderColor, backgroundColor].join();
    }).join("|");
  };
  const focused = await look();
  at.blur();
  const unseen = await look() === focused;
  at.focus({focusVisible: true});
  return unseen ? at.outerHTML.slice(0, 200) : null;
}"""


@pytest.fixture(scope="module", params=VIEWS, ids=lambda view: view.partition("?")[0] or "overview")
def tab(request: pytest.FixtureRequest, browser: Browser, server: str) -> Iterator[Tab]:
    """A page at rest, for all tests of it in turn."""
    with opened_tab(browser, f"{server}/{request.param}") as opened:
        opened.settle()
        opened.page.evaluate(AXE_SCRIPT)
        yield opened


def view_of(tab: Tab) -> str:
    return tab.page.url.partition("?")[0].rpartition("/")[2]


def test_the_first_screen_is_short(tab: Tab) -> None:
    if view_of(tab) in WORDY:
        pytest.skip("a list of everything")
    words = tab.page.evaluate(WORDS)
    assert 5 < len(words) <= MOST_WORDS, " ".join(words)


def test_everything_has_a_name(tab: Tab) -> None:
    tab.page.wait_for_function(f"() => !({NAMELESS})().length")
    # A page is the current one for screen readers, too.
    expect(tab.page.locator("[data-testid=stSidebar] a[aria-current=page]")).to_have_count(1)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_everything_can_be_read(tab: Tab, scheme: Literal["light", "dark"]) -> None:
    tab.use_theme(scheme)
    assert tab.page.evaluate(SERIOUS) == []
    assert tab.page.evaluate(PALE_WORDS) == []
    assert tab.page.evaluate(PALE_MARKS) == []


def test_tab_enters_what_was_opened_and_escape_leaves_it(tab: Tab) -> None:
    buttons = tab.page.get_by_test_id("stPopoverButton").filter(visible=True).all()
    if not buttons:
        pytest.skip("nothing to open")
    for button in buttons:
        button.press("Enter")
        body = tab.page.get_by_test_id("stPopoverBody")
        expect(body).to_be_visible(timeout=PATIENCE_MS)
        expect(body.get_by_test_id("stSkeleton")).to_have_count(0, timeout=PATIENCE_MS)
        tab.settle()
        if not body.locator("button, input, textarea").count():
            # Text to read, without a stop of its own.
            tab.page.keyboard.press("Escape")
            expect(body).to_have_count(0, timeout=PATIENCE_MS)
            continue
        assert tab.page.evaluate(SERIOUS) == []
        tab.page.keyboard.press("Tab")
        assert in_popover(tab.page), button.inner_text()
        tab.page.keyboard.press("Shift+Tab")
        expect(button).to_be_focused()
        # Backwards to the last control, and from there round again.
        tab.page.keyboard.press("Shift+Tab")
        assert in_popover(tab.page), button.inner_text()
        tab.page.keyboard.press("Escape")
        expect(body).to_have_count(0)
        expect(button).to_be_focused()


def in_popover(page: Page) -> bool:
    return bool(page.evaluate(f"() => !!{FOCUSED}.closest('[data-testid=stPopoverBody]')"))


def test_the_focus_can_be_seen(tab: Tab) -> None:
    """Wherever Tab leads, something looks other than without the focus."""
    tab.page.add_style_tag(content="* { transition: none !important; }")
    tab.page.evaluate("() => { document.activeElement.blur(); window.scrollTo(0, 0); }")
    unseen = []
    for _ in range(40):
        tab.page.keyboard.press("Tab")
        unseen.append(tab.page.evaluate(UNSEEN))
    assert [one for one in unseen if one] == []


def test_a_key_hides_the_sidebar_and_brings_it_back(tab: Tab) -> None:
    sidebar = tab.page.get_by_test_id("stSidebar")
    tab.page.evaluate("() => document.activeElement.blur()")
    tab.page.keyboard.press("[")
    expect(sidebar).to_have_attribute("data-collapsed", "true")
    tab.page.keyboard.press("[")
    expect(sidebar).to_have_attribute("data-collapsed", "false")
    # Its button can be reached and seen without a mouse; the keyboard's place stays in the page.
    button = sidebar.get_by_role("button", name="Collapse sidebar")
    button.focus()
    expect(button).to_be_focused()
    button.press("Enter")
    expect(tab.page.get_by_test_id("stExpandSidebarButton")).to_be_visible()
    tab.page.get_by_test_id("stExpandSidebarButton").press("Enter")
    expect(sidebar).to_have_attribute("data-collapsed", "false")


def test_enter_picks_a_row(open_tab: OpenTab, server: str) -> None:
    tab = open_tab(f"{server}/runs")
    tab.settle()
    grid = tab.page.get_by_test_id("data-grid-canvas").first
    expect(grid.locator("tbody tr").first).to_be_attached()
    grid.focus()
    expect(grid.locator("td[id$='-0']:focus")).to_be_attached()
    tab.page.keyboard.press("ArrowDown")
    expect(grid.locator("td[id$='-1']:focus")).to_be_attached()
    tab.page.keyboard.press("Enter")
    expect(grid.locator("tbody tr[aria-selected=true]")).to_have_count(1)


def test_typing_is_left_alone(open_tab: OpenTab, server: str) -> None:
    """The sidebar's key is a character in a text box, and no hint is laid over a number that is typed."""
    tab = open_tab(f"{server}/glossary")
    tab.settle()
    box = tab.page.get_by_test_id("stMain").get_by_role("textbox").first
    box.press("[")
    expect(box).to_have_value("[")
    expect(tab.page.get_by_test_id("stSidebar")).to_have_attribute("data-collapsed", "false")
    tab.goto(f"{server}/heads")
    tab.settle()
    number = tab.page.get_by_test_id("stNumberInput").filter(visible=True).first
    number.locator("input").press("5")
    expect(number.get_by_test_id("InputInstructions").filter(visible=True)).to_have_count(0)
    assert tab.errors == []
