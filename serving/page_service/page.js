"use strict";
(() => {
  const one = (selector, root = document) => root.querySelector(selector);
  // Texts are only ever set as text: what stands in a title cannot become markup.
  const make = (tag, properties = {}, ...children) => {
    const node = document.createElement(tag);
    for (const [name, value] of Object.entries(properties)) {
      if (name === "class") node.className = value;
      else if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
      else if (typeof value === "boolean") node.toggleAttribute(name, value);
      else node.setAttribute(name, value);
    }
    node.append(...children);
    return node;
  };
  const search = one("#search"), options = one("#options"), note = one("#search-note");
  const list = one("#history"), go = one("#go"), clear = one("#clear"), k = one("#k");
  const user = one("#user"), newOnly = one("#new-only");
  const answers = [...document.querySelectorAll(".answer")];
  const spelled = (item) => item.semantic_id.join("");
  const titled = (item) => item.title || `item ${item.item_id}`;
  const details = (item) => make("span", { class: "meta" },
    ...(item.category ? [make("span", {}, item.category)] : []),
    make("span", {}, item.item_id), make("span", { class: "sid" }, spelled(item)));
  const percent = (value) => {
    if (value >= 0.001) return `${(100 * value).toFixed(1)} %`;
    return value > 0 ? "< 0.1 %" : "0 %";
  };

  async function ask(path, settings) {
    let response;
    try {
      response = await fetch(path, settings);
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new Error("The service does not answer. Is it still running?");
    }
    let body = null;
    try { body = await response.json(); } catch (error) { if (error.name === "AbortError") throw error; }
    if (response.ok && body) return body;
    const detail = body && typeof body.detail === "string" ? body.detail : `status ${response.status}`;
    throw new Error(response.status === 503
      ? `The service is busy; try again in ${response.headers.get("Retry-After") || "a few"} s.` : detail);
  }

  // --- search ---
  let found = [], active = -1, searching = null, timer = 0;

  function close() {
    found = []; active = -1;
    options.hidden = true;
    options.replaceChildren();
    search.setAttribute("aria-expanded", "false");
    search.removeAttribute("aria-activedescendant");
  }

  function choose(index) {
    active = index;
    [...options.children].forEach((option, at) => option.setAttribute("aria-selected", String(at === index)));
    if (index < 0) return search.removeAttribute("aria-activedescendant");
    search.setAttribute("aria-activedescendant", `option-${index}`);
    options.children[index].scrollIntoView({ block: "nearest" });
  }

  async function look() {
    if (searching) searching.abort();
    const query = search.value.trim();
    if (!query) { close(); note.textContent = ""; return; }
    searching = new AbortController();
    const { signal } = searching;
    note.textContent = "Searching…";
    try {
      const answer = await ask(`items?limit=12&query=${encodeURIComponent(query)}`, { signal });
      close();
      found = answer.items;
      options.replaceChildren(...found.map((item, index) => make("li",
        { role: "option", id: `option-${index}`, "aria-selected": "false", onmousedown: (event) => {
          event.preventDefault();  // the focus stays in the search box
          add(found[index]);
        } }, titled(item), details(item))));
      options.hidden = found.length === 0;
      search.setAttribute("aria-expanded", String(found.length > 0));
      note.textContent = found.length ? `${found.length} found; arrows and Enter choose` : "No item is like this.";
      if (found.length) choose(0);
    } catch (error) {
      if (error.name === "AbortError") return;
      close();
      note.textContent = error.message;
    }
  }

  search.addEventListener("input", () => { clearTimeout(timer); timer = setTimeout(look, 120); });
  search.addEventListener("blur", () => { close(); });
  search.addEventListener("focus", () => { if (search.value.trim()) look(); });
  search.addEventListener("keydown", (event) => {
    if (event.key === "Escape") { close(); return; }
    if (event.key === "Enter") {
      if (active >= 0) { event.preventDefault(); add(found[active]); }
      else if (!search.value.trim() && history.length) recommend();
      return;
    }
    if (!found.length || !["ArrowDown", "ArrowUp"].includes(event.key)) return;
    event.preventDefault();
    choose((active + (event.key === "ArrowDown" ? 1 : found.length - 1)) % found.length);
  });

  // --- history ---
  let history = [];

  function add(item) {
    history.push(item);
    search.value = "";
    note.textContent = `Added: ${titled(item)}`;
    close();
    changed();
  }

  function tool(label, sign, index, disabled, act) {
    const title = titled(history[index]);
    return make("button", { type: "button", "aria-label": `${label}: ${title}`, title: label, disabled, onclick: () => {
      act();
      changed();
      // The list was drawn anew: the focus goes where it was.
      const rows = list.children;
      (rows.length ? one("button:not(:disabled)", rows[Math.min(index, rows.length - 1)]) : search).focus();
    } }, sign);
  }

  function changed() {
    list.replaceChildren(...history.map((item, index) => make("li", {},
      make("div", {}, titled(item), details(item)),
      make("div", { class: "tools" },
        tool("Earlier", "↑", index, index === 0, () => history.splice(index - 1, 0, ...history.splice(index, 1))),
        tool("Later", "↓", index, index === history.length - 1, () => history.splice(index + 1, 0, ...history.splice(index, 1))),
        tool("Remove", "×", index, false, () => history.splice(index, 1))))));
    one("#count").textContent = history.length ? `${history.length}, oldest first` : "";
    one("#history-empty").hidden = history.length > 0;
    go.disabled = clear.disabled = history.length === 0;
    for (const answer of answers) outdate(answer);
  }

  async function load() {
    const name = user.value.trim();
    if (!name) return user.focus();
    try {
      history = (await ask(`history?user=${encodeURIComponent(name)}`)).items;
      note.textContent = "";
      changed();
      go.focus();
    } catch (error) { note.textContent = error.message; }
  }
  one("#load").addEventListener("click", load);
  user.addEventListener("keydown", (event) => { if (event.key === "Enter") load(); });

  clear.addEventListener("click", () => { history = []; changed(); search.focus(); });
  one("#example").addEventListener("click", async () => {
    try {
      const { items } = await ask("items?limit=50");
      const drawn = new Set();
      while (drawn.size < Math.min(3, items.length)) drawn.add(items[Math.floor(Math.random() * items.length)]);
      history = [...drawn];
      changed();
      go.focus();
    } catch (error) { note.textContent = error.message; }
  });

  // --- answers ---
  let running = null;

  function show(answer, kind, ...content) {
    const state = one(".state", answer);
    state.className = `state ${kind}`;
    state.setAttribute("aria-busy", String(kind === "busy"));
    state.replaceChildren(...content);
  }

  function outdate(answer) {
    const state = one(".state", answer);
    if (state.classList.contains("done") && !state.classList.contains("stale")) {
      state.classList.add("stale");
      state.prepend(make("p", { class: "outdated", role: "status" }, "The history has changed since; this is for the earlier one."));
    }
  }

  function recommend() {
    if (!history.length || !k.reportValidity()) return;
    if (running) running.abort();
    running = new AbortController();
    const { signal } = running;
    // The service reads a limited number of entries; the prompt shows far fewer, the latest.
    const asked = { history: history.slice(-200).map((item) => item.item_id), k: Number(k.value), exclude_history: newOnly.checked };
    for (const answer of answers) fill(answer, asked, signal);
  }

  async function fill(answer, asked, signal) {
    const mode = answer.dataset.mode, began = performance.now();
    const clock = make("span", {}, "0.0 s");
    const tick = setInterval(() => { clock.textContent = `${((performance.now() - began) / 1000).toFixed(1)} s`; }, 100);
    show(answer, "busy", make("div", { class: "waiting", role: "status" }, make("i"),
      mode === "reasoning" ? "Writing a chain, then looking for items" : "Looking for items", clock));
    try {
      const body = JSON.stringify({ ...asked, mode });
      const found = await ask("recommend", { method: "POST", headers: { "Content-Type": "application/json" }, body, signal });
      show(answer, "done", ...(found.reasoning ? chain(found.reasoning) : []), ...ranked(found), ...trie(found.items),
        make("p", { class: "note time" }, `${((performance.now() - began) / 1000).toFixed(2)} s`
          + (found.left_out ? `; the ${found.left_out} earliest items do not fit the prompt and were left out` : "")));
      if (asked.history.join("\n") !== history.slice(-200).map((item) => item.item_id).join("\n")) outdate(answer);
    } catch (error) {
      if (error.name === "AbortError") return;
      show(answer, "error", make("div", { class: "failed", role: "alert" }, make("b", {}, "No list. "), error.message,
        make("button", { type: "button", onclick: () => fill(answer, asked, signal) }, "Try again")));
    } finally {
      clearInterval(tick);
    }
  }

  function chain(reasoning) {
    const heading = make("h3", {}, "Chain of reasoning");
    if (reasoning.evidence === null) {
      return [heading, make("p", { class: "note" }, "The chain does not follow the five stages; this is what the model wrote."),
        make("pre", { class: "raw-chain", tabindex: "0" }, reasoning.text)];
    }
    const stages = [["Evidence", reasoning.evidence], ["Preference", reasoning.preference],
      ["Intent", reasoning.intent], ["Recommendation", reasoning.recommendation]];
    const kept = reasoning.kept.length ? make("ol", {}, ...reasoning.kept.map((item) => make("li", {}, titled(item))))
      : "no item of the catalogue";
    return [heading, make("ol", { class: "stages" },
      ...stages.map(([name, text]) => make("li", {}, make("b", {}, name), text)),
      make("li", {}, make("b", {}, "History without noise"), kept))];
  }

  function light(root, key, on) {
    for (const part of root.querySelectorAll("[data-path]")) {
      // A branch lies on an item's path where its own path begins it.
      const hit = key === part.dataset.path || (!part.dataset.rank && key.startsWith(`${part.dataset.path} `));
      part.classList.toggle("on", on && hit);
    }
  }

  function linked(node, key) {
    const turn = (on) => () => light(node.closest(".answer"), key, on);
    node.addEventListener("mouseenter", turn(true));
    node.addEventListener("mouseleave", turn(false));
    node.addEventListener("focusin", turn(true));
    node.addEventListener("focusout", turn(false));
    return node;
  }

  function ranked(found) {
    const best = Math.max(...found.items.map((item) => Math.exp(item.score)));
    return [make("h3", {}, "Recommended"), make("ol", { class: "items ranked" }, ...found.items.map((item) => {
      const chance = Math.exp(item.score), key = item.semantic_id.join(" ");
      const bar = make("i");
      bar.style.setProperty("--share", `${best > 0 ? (100 * chance) / best : 0}%`);
      return linked(make("li", { "data-path": key, "data-rank": String(item.rank) },
        make("div", {}, titled(item), details(item)),
        make("button", { type: "button", class: "add", title: "Add to the history",
          "aria-label": `Add to the history: ${titled(item)}`, onclick: () => add(item) }, "+"),
        make("span", { class: "chance", title: `log-probability ${item.score.toFixed(3)}` }, bar, percent(chance))), key);
    }))];
  }

  function trie(items) {
    const root = { below: new Map() };
    for (const item of items) {
      let node = root;
      item.semantic_id.forEach((token, depth) => {
        if (!node.below.has(token)) node.below.set(token, { below: new Map(), mass: 0, path: item.semantic_id.slice(0, depth + 1).join(" ") });
        node = node.below.get(token);
        node.mass += Math.exp(item.score);
      });
      node.item = item;
    }
    const draw = (parent) => [...parent.below].sort(([, left], [, right]) => right.mass - left.mass).map(([token, node]) => {
      const tokens = [token];
      while (!node.item && node.below.size === 1) {  // where the path does not fork, one line holds it
        const [[next, only]] = node.below;
        tokens.push(next);
        node = only;
      }
      const label = make("span", { class: "node" }, make("code", {}, tokens.join("")), make("small", {}, percent(node.mass)));
      if (node.item) label.append(make("span", { class: "title" }, make("b", {}, `${node.item.rank}. `), titled(node.item)));
      return make("li", { "data-path": node.path }, label, ...(node.below.size ? [make("ul", {}, ...draw(node))] : []));
    });
    return [make("h3", {}, "Their paths through the trie"), make("ul", { class: "trie" }, ...draw(root))];
  }

  go.addEventListener("click", recommend);
  k.addEventListener("keydown", (event) => { if (event.key === "Enter") recommend(); });
  for (const answer of answers) show(answer, "idle", make("div", { class: "idle" }, "No list yet: build a history, then press Recommend."));
  changed();
  ask("health").then((health) => {
    one("#total").textContent = `the ${health.items.toLocaleString("en")}`;
    k.max = String(health.longest_list);
    k.value = String(Math.min(Number(k.value), health.longest_list));
  }).catch((error) => { note.textContent = error.message; });
  search.focus();
})();
