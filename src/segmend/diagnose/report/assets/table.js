// The table of all images: sorted, filtered, and one page of it in the document at a time.

const PAGE = 50;
const STEP = 10000;
const asked = { sort: "score", descending: false, start: 0, name: "", kind: "", below: null, fix: "" };

// Rows that stand in the page.
function rowsHere(data) {
  const gain = (key, row) => data.gains[key]?.[row] ?? null;
  const mainGain = (row) => (data.main[row] === null ? null : gain(data.fixes[data.main[row]].key, row));
  const keys = {
    name: (row) => data.names[row],
    score: (row) => data.score[row],
    main: (row) => (data.main[row] === null ? null : data.fixes[data.main[row]].title),
    "main-gain": mainGain,
    "fix-gain": (row) => gain(asked.fix, row),
  };
  const order = new Intl.Collator("en", { numeric: true });
  const places = data.names.map((_, row) => row);
  const kept = (row) =>
    (!asked.name || data.names[row].toLowerCase().includes(asked.name.toLowerCase())) &&
    (!asked.kind || (data.main[row] !== null && data.fixes[data.main[row]].family === asked.kind)) &&
    (asked.below === null || (data.score[row] !== null && data.score[row] < asked.below * STEP));
  return async () => {
    const key = keys[asked.sort];
    const sign = asked.descending ? -1 : 1;
    const rows = places.filter(kept).map((row) => [key(row), row]);
    rows.sort(([a, i], [b, j]) => {
      if (a === null || b === null) return (a === null) - (b === null) || i - j; // without a value: last
      return sign * (typeof a === "string" ? order.compare(a, b) : a - b) || i - j;
    });
    const shown = rows.slice(asked.start, asked.start + PAGE).map(([, row]) => ({
      name: data.names[row],
      score: scaled(data.score[row]),
      main: data.main[row],
      mainGain: scaled(mainGain(row)),
      fixGain: scaled(gain(asked.fix, row)),
    }));
    return { total: rows.length, rows: shown };
  };
}

// Rows that the report's server holds.
function rowsThere(address) {
  return async () => {
    const query = new URLSearchParams();
    for (const [key, value] of Object.entries({ ...asked, count: PAGE })) {
      if (value !== null && value !== "") query.set(key, String(value));
    }
    const answer = await fetch(`${address}?${query}`);
    if (!answer.ok) throw new Error(`the server answered ${answer.status}`);
    return answer.json();
  };
}

function scaled(value) {
  return value === null ? null : value / STEP;
}

function startTable() {
  const data = REPORT.table;
  const rows = data.from ? rowsThere(data.from) : rowsHere(data);
  const body = document.querySelector("#image-table tbody");
  let turn = 0;

  async function show() {
    const mine = ++turn;
    let found;
    try {
      found = await rows();
    } catch (error) {
      byId("page-state").textContent = `The rows cannot be read: ${error.message}`;
      return;
    }
    if (mine !== turn) return; // something newer was asked for meanwhile
    body.replaceChildren(...found.rows.map((row) => line(row)));
    const last = Math.min(found.total, asked.start + PAGE);
    const state = found.total
      ? `${(asked.start + 1).toLocaleString("en")} to ${last.toLocaleString("en")} of ${found.total.toLocaleString("en")} images`
      : "No image matches";
    byId("page-state").textContent = state;
    announce(state);
    byId("page-previous").disabled = asked.start === 0;
    byId("page-next").disabled = last >= found.total;
  }

  function line(row) {
    const made = document.createElement("tr");
    const fix = row.main === null ? null : data.fixes[row.main];
    const name = element("td");
    if (row.page) {
      const link = element("a", row.name);
      link.href = row.page;
      name.append(link);
    } else {
      name.textContent = row.name;
    }
    made.append(
      name,
      element("td", percent(row.score), "number"),
      element("td", fix ? fix.title : "none"),
      element("td", points(row.mainGain), "number"),
      element("td", points(row.fixGain), "number"),
    );
    return made;
  }

  function again(change) {
    Object.assign(asked, { start: 0 }, change);
    return show();
  }

  function nameColumn() {
    const fix = data.fixes.find((one) => one.key === asked.fix);
    byId("column-fix-title").textContent = fix ? fix.title : "Gain";
  }

  for (const button of document.querySelectorAll("#image-table th button")) {
    button.addEventListener("click", () => {
      const sort = button.dataset.sort;
      const gains = sort.endsWith("gain");
      const descending = asked.sort === sort ? !asked.descending : gains;
      for (const head of document.querySelectorAll("#image-table th")) head.setAttribute("aria-sort", "none");
      button.parentElement.setAttribute("aria-sort", descending ? "descending" : "ascending");
      again({ sort, descending });
    });
  }
  byId("filters").addEventListener("submit", (event) => event.preventDefault());
  byId("filter-name").addEventListener("input", (event) => again({ name: event.target.value }));
  byId("filter-kind").addEventListener("change", (event) => again({ kind: event.target.value }));
  byId("filter-below").addEventListener("input", (event) => {
    const limit = event.target.valueAsNumber;
    again({ below: Number.isFinite(limit) ? limit / 100 : null });
  });
  byId("column-fix").addEventListener("change", (event) => {
    asked.fix = event.target.value;
    nameColumn();
    again({});
  });
  byId("page-previous").addEventListener("click", () => again({ start: Math.max(0, asked.start - PAGE) }));
  byId("page-next").addEventListener("click", () => again({ start: asked.start + PAGE }));
  asked.fix = byId("column-fix").value;
  nameColumn();
  return show();
}
