// What Streamlit leaves out for the keyboard and for screen readers. Runs once in each opened page of the browser.
(() => {
  if (window.capVizAccess) return;
  window.capVizAccess = true;
  const all = (selector, inside = document) => [...inside.querySelectorAll(selector)];
  const one = selector => document.querySelector(selector);
  const set = (element, name, value) => element.getAttribute(name) === value || element.setAttribute(name, value);
  const SIDEBAR = '[data-testid="stSidebarCollapseButton"] button, [data-testid="stExpandSidebarButton"]';
  const STOPS = 'a[href], button, input, textarea, select, summary, canvas, [tabindex="0"]';
  const WRITTEN = 'input:not([type=range], [type=radio], [type=checkbox]), textarea, select, [contenteditable=true]';

  const SEEN = {visibilityProperty: true};

  // An opened popover lies at the end of the page: Tab goes round in it and its button, as in a dialog.
  const goRound = event => {
    const button = one('[data-testid="stPopoverButton"][aria-expanded="true"]');
    const body = button && one('[data-testid="stPopoverBody"]');
    if (!body) return;
    body.tabIndex = -1;
    const inside = all(STOPS, body).filter(stop => stop.tabIndex >= 0 && !stop.disabled && stop.checkVisibility(SEEN));
    // Its content may still be on the way.
    const round = [button, ...inside.length ? inside : [body]], last = round.length - 1;
    // Focus that was lost when the button was drawn anew begins at the button again.
    const active = document.activeElement, found = round.indexOf(active);
    const place = found < 0 && !body.contains(active) ? 0 : found;
    const next = event.shiftKey ? {0: last, 1: 0}[place] : {0: 1, [last]: 0}[place];
    if (next === undefined) return;
    event.preventDefault();
    round[next % round.length].focus({focusVisible: true});
  };
  // Enter picks a row, as Shift and Space do, where a table's rows can be picked: their boxes are the grid's column 0.
  const pickRow = event => {
    const cell = event.target.closest?.('[data-testid^="glide-cell-"]');
    if (!cell || cell.id.split("-")[2] !== cell.getAttribute("aria-colindex")) return;
    event.preventDefault();
    event.stopImmediatePropagation();
    const space = {key: " ", code: "Space", keyCode: 32, shiftKey: true, bubbles: true, cancelable: true};
    cell.dispatchEvent(new KeyboardEvent("keydown", space));
  };
  const turnSidebar = event => {
    if (event.target.closest?.(WRITTEN) || event.metaKey || event.isComposing) return;
    const inSidebar = document.activeElement?.closest('[data-testid="stSidebar"]');
    one(SIDEBAR)?.click();
    if (inSidebar) setTimeout(() => one(SIDEBAR)?.focus(), 300);
  };
  document.addEventListener("keydown", event => {
    ({Tab: goRound, Enter: pickRow, "[": turnSidebar})[event.key]?.(event);
  }, true);

  // Names for what has none, and the current page's link. What Streamlit draws anew is named anew.
  const before = (element, path) =>
    document.evaluate(path, element, null, XPathResult.FIRST_ORDERED_NODE_TYPE, null).singleNodeValue;
  const words = element => (element?.textContent ?? "").replace(/\s+/g, " ").trim();
  const name = () => {
    for (const help of all('button[aria-label="Help"], button[data-named]')) {
      help.dataset.named = "";
      set(help, "aria-label", `Help for ${words(help.closest(".stElementContainer")).slice(0, 60)}`);
    }
    for (const grid of all('[data-testid="data-grid-canvas"]')) {
      const title = words(before(grid, "preceding::*[self::h1 or self::h2 or self::h3 or self::h4 or self::h5][1]"));
      for (const named of [grid, ...all('table[role="grid"]', grid)]) set(named, "aria-label", `Table: ${title}`);
    }
    const page = address => address.split("?")[0].split("/").pop();
    for (const link of all('[data-testid="stPageLink-NavLink"]')) {
      if (page(link.getAttribute("href")) === page(location.pathname)) set(link, "aria-current", "page");
      else link.removeAttribute("aria-current");
    }
    for (const button of all(SIDEBAR)) {
      set(button, "title", "Show or hide the sidebar: key [");
      set(button, "aria-keyshortcuts", "[");
    }
  };
  let waiting = false;
  const soon = () => {
    if (waiting) return;
    waiting = true;
    setTimeout(() => { waiting = false; name(); }, 100);
  };
  new MutationObserver(soon).observe(document.body, {childList: true, subtree: true});
  soon();
})();
