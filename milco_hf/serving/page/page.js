"use strict";
// The search page. Whatever comes from the index or the caller enters the page as text, never as HTML.

const $ = (id) => document.getElementById(id);
const TERMS = 8;
let latest = 0;
let soon = 0;

function element(tag, className, text) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

async function ask(path, body) {
  const headers = {};
  const token = $("token").value || sessionStorage.getItem("token");
  if (token) headers.Authorization = `Bearer ${token}`;
  if (body) headers["Content-Type"] = "application/json";
  const answer = await fetch(path, { method: body ? "POST" : "GET", headers, body: body && JSON.stringify(body) });
  if (answer.status === 401) {
    $("token-row").hidden = false;
    $("token").focus();
  } else if (answer.ok && token) {
    sessionStorage.setItem("token", token);
    $("token-row").hidden = true;
  }
  if (!answer.ok) {
    const error = await answer.json().catch(() => ({}));
    throw new Error(error.error || `The server answered with status ${answer.status}.`);
  }
  return answer;
}

function say(text, bad = false) {
  $("status").textContent = text;
  $("status").classList.toggle("bad", bad);
}

async function describe() {
  const info = await (await ask("info")).json();
  const index = info.index || {};
  $("about").textContent = `${info.model_id} on ${info.devices.join(", ")} · ${index.documents} documents`;
  offer("language", languages(index).map(([language, count]) => [language, `${language} (${count})`]));
  // only encoders with language adapters read each language in its own way
  const adapters = info.language_adapters || [];
  offer("query-language", adapters.map((language) => [language, `query: ${language}`]));
  $("query-language").hidden = adapters.length === 0;
  $("mass-note").textContent =
    `Prunes the query alone, before the search; 100 %: ${pruning(info.query)}. ` +
    `Documents stay as the index holds them: ${pruning(info.document)}.`;
}

// Fills a choice; what was chosen stays so, or is what the address says.
function offer(id, options) {
  const select = $(id);
  const chosen = select.value || new URLSearchParams(location.search).get(id) || "";
  while (select.options.length > 1) select.remove(1);
  for (const [value, text] of options) {
    const option = element("option", "", text);
    option.value = value;
    select.append(option);
  }
  select.value = chosen;
  if (select.selectedIndex < 0) select.value = ""; // the address names none of them
}

function pruning(kind) {
  const named = Object.entries(kind.prune).map(([view, how]) => (view === "both" ? how : `${view} ${how}`));
  return named.length ? `pruned by ${named.join(", ")}` : "not pruned";
}

// {"de": 12, …}; documents without a language cannot be asked for
function languages(index) {
  return Object.entries(index.languages || {}).filter(([name]) => name !== "und");
}

async function search() {
  const query = $("query").value;
  if (!query.trim()) return;
  const number = ++latest;
  const mass = Number($("mass").value) / 100;
  const language = $("language").value;
  const queryLanguage = $("query-language").value;
  const place = new URLSearchParams({ q: query });
  if (language) place.set("language", language);
  if (queryLanguage) place.set("query-language", queryLanguage);
  if (mass < 1) place.set("mass", String(mass));
  history.replaceState(null, "", `?${place}`);
  say("Searching …");
  const start = performance.now();
  const body = { query, k: 10, terms: TERMS, truncate: true };
  if (language) body.language = language;
  if (queryLanguage) body.query_language = queryLanguage;
  if (mass < 1) body.prune = `mass:${mass}`;
  try {
    const found = await (await ask("search", body)).json();
    if (number !== latest) return; // a later search is on its way
    const seconds = ((performance.now() - start) / 1000).toFixed(2);
    const { dimensions, searched } = found.query;
    const count = found.hits.length;
    say(
      `${count === 0 ? "No document shares a term with the query" : `${count} document${count === 1 ? "" : "s"}`}, ` +
        `${seconds} s. Searched with ${searched} of the query's ${dimensions} dimensions.`,
    );
    $("results").replaceChildren(...found.hits.map((hit, row) => result(hit, row, body)));
  } catch (error) {
    if (number !== latest) return;
    $("results").replaceChildren();
    say(error.message, true);
  }
}

function result(hit, row, asked) {
  const item = element("li");
  const meta = element("div", "meta");
  meta.append(element("span", "place", `${row + 1}`));
  if (hit.language) meta.append(element("span", "language", hit.language));
  meta.append(element("span", "score", hit.score.toFixed(2)), element("span", "id", hit.id));
  item.append(meta);
  if (hit.title) item.append(readable(element("h2", "title", hit.title), hit));
  item.append(readable(element("p", "text", shown(hit)), hit));
  const below = element("div", "below");
  const list = element("ul", "terms");
  for (const term of hit.terms || []) {
    const chip = element("li", `term ${term.view}`);
    const share = Math.round(100 * term.share);
    chip.append(element("bdi", "", readableName(term)), " ", element("b", "", share ? `${share} %` : "<1 %"));
    chip.title =
      `${term.view === "english" ? "English term" : "source token"}: query ${term.query} × document ${term.document}`;
    list.append(chip);
  }
  const why = element("button", "", "Why?");
  why.type = "button";
  why.setAttribute("aria-expanded", "false");
  why.setAttribute("aria-label", `Why did result ${row + 1} match?`);
  why.addEventListener("click", () => explain(why, item, hit, asked));
  below.append(list, why);
  item.append(below);
  return item;
}

// A source token as people read it: the mark for the space before it goes.
function readableName(term) {
  return (term.view === "source" && term.term.replaceAll("\u2581", " ").trim()) || term.term;
}

function readable(made, hit) {
  made.dir = "auto";
  if (/^[A-Za-z]{2,3}([-_][A-Za-z0-9]+)*$/.test(hit.language || "")) made.lang = hit.language.replace("_", "-");
  return made;
}

// The passage that matched, in code points as the server counts them, and no more than fits a list.
function shown(hit) {
  const points = Array.from(hit.text);
  const [start, end] = hit.passage || [0, points.length];
  const longest = 600;
  const text = points.slice(start, Math.min(end, start + longest)).join("");
  return (start > 0 ? "… " : "") + text + (Math.min(end, start + longest) < points.length ? " …" : "");
}

async function explain(button, item, hit, asked) {
  const open = item.querySelector("iframe");
  if (open) {
    open.remove();
    button.setAttribute("aria-expanded", "false");
    return;
  }
  if (button.getAttribute("aria-busy")) return;
  button.setAttribute("aria-busy", "true"); // not disabled: that would take the keyboard's place away
  try {
    const { query, prune, query_language } = asked;
    const body = { query, prune, query_language, id: hit.id, format: "html" }; // JSON leaves out what is undefined
    if (hit.passage) body.passage = hit.passage;
    const page = await (await ask("explain", body)).text();
    const frame = element("iframe");
    frame.setAttribute("sandbox", "allow-scripts"); // an origin of its own: it cannot reach this page
    frame.title = `Why result ${item.querySelector(".place").textContent} matched`;
    frame.srcdoc = page;
    item.append(frame);
    button.setAttribute("aria-expanded", "true");
  } catch (error) {
    say(error.message, true);
  } finally {
    button.removeAttribute("aria-busy");
  }
}

$("form").addEventListener("submit", (event) => {
  event.preventDefault();
  if ($("token").value) describe().catch((error) => say(error.message, true));
  search();
});
$("mass").addEventListener("input", () => ($("mass-shown").textContent = $("mass").value));
$("mass").addEventListener("change", () => {
  clearTimeout(soon); // a key that is held down moves the slider many times
  soon = setTimeout(search, 200);
});
for (const id of ["language", "query-language"]) $(id).addEventListener("change", search);
document.addEventListener("keydown", (event) => {
  if (event.key === "/" && !event.target.closest("input, select, button")) {
    event.preventDefault();
    $("query").focus();
  }
});

const wanted = new URLSearchParams(location.search);
$("query").value = wanted.get("q") || "";
if (Number(wanted.get("mass")) > 0) $("mass").value = String(100 * Number(wanted.get("mass")));
$("mass-shown").textContent = $("mass").value;
describe().then(search, (error) => say(error.message, true));
