// Head map: a cell per head, coloured by its effect. Hover, focus and the frame need no answer from the server.
const TEAL = "18,136,123", BROWN = "181,105,28";
const FADED = 0.38;
// Above this share of full colour a mark is legible in white only, in both themes.
const STRONG = 0.85;
const kept = new WeakMap();

const signed = (x, digits) => (x < 0 || Object.is(x, -0) ? "−" : "+") + Math.abs(x).toFixed(digits);

// What is said of a head: [its name, its effect, what follows].
function said(d, i) {
  const name = `Layer ${Math.floor(i / d.heads)}, head ${i % d.heads}`, x = d.mean[i], more = [];
  if (d.off.includes(i)) more.push("switched off");
  if (d.framed.includes(i)) more.push("framed");
  if (x === null) return [name, "no value yet", more];
  const limits = d.low && d.low[i] !== null ? ` [${signed(d.low[i], d.digits)}, ${signed(d.high[i], d.digits)}]` : "";
  const unclear = d.faded[i] === "1";
  if (d.faded) more.push(unclear ? "no clear effect" : d.ends[+(x > 0)]);
  if (d.rank) more.push(`rank ${d.rank[i]} of ${d.mean.length}`);
  if (d.marked && !unclear) more.push(d.marked[i] === "1" ? "beyond chance" : "not beyond chance");
  for (const [title, values] of d.also)
    more.push(`${title} ${d.whole.includes(title) ? values[i] : signed(values[i], d.digits)}`);
  return [name, `${signed(x, d.digits)} ${d.unit}${limits}`, more];
}

function saidOfBlock(d, layer, part) {
  const b = d.blocks, i = 2 * layer + part;
  const limits = b.low[i] === null ? "" : ` [${signed(b.low[i], 3)}, ${signed(b.high[i], 3)}]`;
  return [`Layer ${layer}, whole ${["attention", "MLP"][part]}`, `${signed(b.mean[i], 3)} ${d.unit}${limits}`, []];
}

const spoken = ([name, value, more]) => [`${name}: ${value}`, ...more].join(", ");

function share(x, limit, faded) {
  return x === null ? 0 : Math.min(1, Math.abs(x) / limit) * (faded ? FADED : 1);
}

function colour(x, alpha) {
  return alpha ? ` style="--effect:rgba(${x > 0 ? TEAL : BROWN},${alpha.toFixed(3)})"` : "";
}

function cell(d, i) {
  const x = d.mean[i], alpha = share(x, d.limit, d.faded[i] === "1"), marks = ["cell"];
  if (alpha >= STRONG) marks.push("strong");
  if (d.framed.includes(i)) marks.push("framed");
  if (d.off.includes(i)) marks.push("off");
  else if (Math.abs(x) > d.limit * (1 + 1e-9)) marks.push(d.marked[i] === "1" ? "beyond" : "beyond open");
  else if (d.marked[i] === "1") marks.push("dot");
  const label = spoken(said(d, i)).replaceAll("&", "&amp;").replaceAll('"', "&quot;");
  return `<div role="gridcell" tabindex="-1" class="${marks.join(" ")}" data-i="${i}" aria-label="${label}"`
    + `${colour(x, alpha)}></div>`;
}

function blockCells(d, layer) {
  if (!d.blocks) return "";
  const b = d.blocks;
  return `<i></i>` + [0, 1].map(part => {
    const i = 2 * layer + part, alpha = share(b.mean[i], b.limit, b.faded[i] === "1");
    return `<div role="gridcell" aria-disabled="true" class="block" data-block="${layer},${part}" `
      + `aria-label="${spoken(saidOfBlock(d, layer, part))}"${colour(b.mean[i], alpha)}></div>`;
  }).join("");
}

function legend(d) {
  if (d.small) return "";
  const end = (colours, word, value) => `<span><b style="background:rgb(${colours})"></b>${word} ${value}</span>`;
  return `<div class="bar" aria-hidden="true"></div><div class="ends">`
    + end(BROWN, d.ends[0], `−${d.top}`) + `<span>0 ${d.unit}</span>` + end(TEAL, d.ends[1], `+${d.top}`) + `</div>`;
}

function drawn(d) {
  const layers = d.mean.length / d.heads, range = n => [...Array(n).keys()];
  const every = (n, room) => Math.max(1, Math.ceil(n / Math.max(1, room)));
  const down = every(layers, Math.floor(layers * d.row / (d.text + 1)));
  const across = every(d.heads, Math.floor((d.small ? 99 : 176) / d.text));
  const rows = range(layers).map(layer => `<div role="row" class="row"><span class="tick" aria-hidden="true">`
    + `${layer % down ? "" : layer}</span>${range(d.heads).map(h => cell(d, layer * d.heads + h)).join("")}`
    + `${blockCells(d, layer)}</div>`);
  const below = range(d.heads).map(h => `<span>${h % across ? "" : h}</span>`).join("");
  const blocks = d.blocks ? "<i></i><span>attn</span><span>MLP</span>" : "";
  const names = d.small ? "" : `<div class="row axis title"><span class="tick">layer</span><span>head</span>`
    + (d.blocks ? `<span class="whole">whole layer, ±${d.blocks.top}</span>` : "") + `</div>`;
  return legend(d) + `<div role="grid" aria-label="${d.label.replaceAll('"', "&quot;")}" aria-readonly="true" class="grid">`
    + rows.join("") + `</div><div aria-hidden="true"><div class="row axis"><span class="tick"></span>${below}${blocks}</div>`
    + `${names}</div>`;
}

const cellAt = (state, i) => state.root.querySelector(`[data-i="${i}"]`);

// Frame the selected head; Tab leads to it, else to the first head.
function choose(state, i) {
  for (const one of state.root.querySelectorAll('[aria-selected="true"], [tabindex="0"]')) {
    one.removeAttribute("aria-selected");
    one.tabIndex = -1;
  }
  state.selected = i;
  if (i !== null) cellAt(state, i)?.setAttribute("aria-selected", "true");
  const entry = cellAt(state, i ?? 0);
  if (entry) entry.tabIndex = 0;
}

function tell(state, target) {
  const {tip, data} = state;
  if (!target) return tip.hidePopover();
  const place = target.dataset.block?.split(",").map(Number);
  const [name, value, more] = place ? saidOfBlock(data, ...place) : said(data, +target.dataset.i);
  tip.replaceChildren(Object.assign(document.createElement("b"), {textContent: name}), ...[value, more.join(", ")]
    .filter(Boolean).map(line => Object.assign(document.createElement("div"), {textContent: line})));
  tip.showPopover();
  const box = target.getBoundingClientRect(), {offsetWidth: width, offsetHeight: height} = tip;
  const left = Math.min(Math.max(4, box.left + box.width / 2 - width / 2), innerWidth - width - 4);
  tip.style.left = `${left}px`;
  tip.style.top = `${box.top - height - 6 > 0 ? box.top - height - 6 : box.bottom + 6}px`;
}

function moved(state, key, i, corner) {
  const {heads, mean} = state.data, start = i - i % heads;
  if (key === "Home") return corner ? 0 : start;
  if (key === "End") return corner ? mean.length - 1 : start + heads - 1;
  if (key === "ArrowLeft") return i % heads ? i - 1 : i;
  if (key === "ArrowRight") return i % heads < heads - 1 ? i + 1 : i;
  if (key === "ArrowUp") return i >= heads ? i - heads : i;
  if (key === "ArrowDown") return i + heads < mean.length ? i + heads : i;
  return null;
}

function listen(state) {
  const {root} = state;
  const found = event => event.target.closest?.("[data-i]");
  const pick = target => {
    if (!target || !state.data.clickable) return;
    const i = +target.dataset.i;
    choose(state, i);
    state.send("pick", [Math.floor(i / state.data.heads), i % state.data.heads]);
  };
  root.addEventListener("click", event => pick(found(event)));
  root.addEventListener("pointerover", event => tell(state, event.target.closest?.("[data-i], [data-block]")));
  root.addEventListener("pointerleave", () => tell(state, null));
  root.addEventListener("focusin", event => event.target.matches(":focus-visible") && tell(state, found(event)));
  root.addEventListener("focusout", () => tell(state, null));
  root.addEventListener("keydown", event => {
    const target = found(event);
    if (!target) return;
    if (event.key === "Escape") return tell(state, null);
    if (event.key === "Enter" || event.key === " ") {
      event.preventDefault();
      return pick(target);
    }
    const next = moved(state, event.key, +target.dataset.i, event.ctrlKey);
    if (next === null) return;
    event.preventDefault();
    target.tabIndex = -1;
    const reached = cellAt(state, next);
    reached.tabIndex = 0;
    reached.focus();
  });
}

export default function ({parentElement, data, setTriggerValue}) {
  const root = parentElement.querySelector(".map");
  let state = kept.get(root);
  if (!state) {
    state = {root, tip: parentElement.querySelector(".tip")};
    kept.set(root, state);
    listen(state);
  }
  state.send = setTriggerValue;
  const {selected, ...cells} = data, text = JSON.stringify(cells);
  if (text !== state.text) {
    const held = root.querySelector(":focus")?.dataset.i;
    state.data = data;
    root.style.setProperty("--row", `${data.row}px`);
    for (const one of [root, state.tip]) one.style.setProperty("--text", `${data.text}px`);
    root.style.maxWidth = `${data.width}px`;
    root.classList.toggle("clickable", data.clickable);
    root.innerHTML = drawn(data);
    choose(state, selected);
    if (held !== undefined) cellAt(state, held)?.focus();
  } else if (selected !== state.former) {
    choose(state, selected);
  }
  Object.assign(state, {text, former: selected});
}
