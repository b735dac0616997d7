// Charts, drawn when they come near the window, and again when the theme changes.

const CHARTS = REPORT.charts;
const drawn = new Set();
const NARROW = 560; // pixels below which a chart is laid out for a telephone

// The library takes longer to read than all else here: it runs once the page can be seen, or
// when something is to be drawn before that. The page's policy knows its text.
function loadPlotly() {
  if (window.Plotly) return;
  const script = document.createElement("script");
  script.textContent = byId("plotly-source").textContent;
  document.body.append(script);
}

// Plotly reads a little HTML in texts: names of files and classes shall stay what they are.
function literal(text) {
  return String(text).replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");
}

function shortened(text, length = 44) {
  return literal(text.length > length ? `${text.slice(0, length - 1)}…` : text);
}

function colours() {
  const style = getComputedStyle(document.documentElement);
  return new Proxy({}, { get: (_, name) => style.getPropertyValue(`--${name}`).trim() });
}

function axis(c, more = {}) {
  const { title, ...rest } = more;
  return {
    fixedrange: true,
    gridcolor: c.grid,
    linecolor: c.rule,
    zerolinecolor: c["strong-rule"],
    ticks: "",
    automargin: true,
    ...(title ? { title: { text: title, standoff: 10, font: { size: 13, color: c.muted } } } : {}),
    ...rest,
  };
}

function plot(id, traces, layout, widest = 1040) {
  const c = colours();
  const place = byId(`plot-${id}`);
  place.style.maxWidth = `${widest}px`;
  return Plotly.react(
    place,
    traces,
    {
      font: { family: getComputedStyle(document.body).fontFamily, size: 13, color: c.ink },
      paper_bgcolor: "rgba(0,0,0,0)",
      plot_bgcolor: "rgba(0,0,0,0)",
      margin: { l: 8, r: 16, t: 8, b: 8 },
      showlegend: false,
      dragmode: false,
      hoverlabel: { bgcolor: c.surface, bordercolor: c["strong-rule"], font: { color: c.ink } },
      ...layout,
    },
    { displayModeBar: false, responsive: true, showTips: false },
  );
}

function drawGains() {
  const c = colours();
  const fixes = [...CHARTS.fixes].reverse();
  const rows = fixes.map((_, index) => index);
  const ends = fixes.map((f) => 100 * Math.max(f.gain, f.high, f.chance ?? 0));
  const right = Math.max(0.5, ...ends);
  const narrow = byId("plot-gains").clientWidth < NARROW;
  // Room for a number right of the longest bar, whatever the width of the window.
  const room = 1 + 70 / Math.max(70, byId("plot-gains").clientWidth - (narrow ? 30 : 260));
  const name = (f, end) =>
    f.key === CHARTS.dominant ? `<b>${shortened(f.title)}</b>${end}` : `${shortened(f.title)}${end}`;
  const marked = rows.filter((row) => fixes[row].chance);
  const hover = fixes.map(
    (f) =>
      `${literal(f.title)}<br>${points(f.gain, 2)} points, ${points(f.low, 2)} to ${points(f.high, 2)}` +
      (f.chance ? `<br>by chance ${points(f.chance, 2)}` : ""),
  );
  const bars = {
    type: "bar",
    orientation: "h",
    x: fixes.map((f) => 100 * f.gain),
    y: rows,
    width: narrow ? 0.42 : 0.62,
    marker: { color: fixes.map((f) => c[f.addon ?? "none"]) },
    error_x: {
      type: "data",
      symmetric: false,
      array: fixes.map((f) => 100 * (f.high - f.gain)),
      arrayminus: fixes.map((f) => 100 * (f.gain - f.low)),
      color: c.ink,
      thickness: 1.2,
      width: 4,
    },
    hovertext: hover,
    hoverinfo: "text",
  };
  const chance = {
    type: "scatter",
    mode: "markers",
    x: marked.map((row) => 100 * fixes[row].chance),
    y: marked,
    marker: { symbol: "line-ns", size: 17, line: { width: 3, color: c.ink } },
    hoverinfo: "skip",
  };
  const values = {
    type: "scatter",
    mode: "text",
    x: ends,
    y: rows,
    text: fixes.map((f) => `  ${points(f.gain)}`),
    textposition: "middle right",
    textfont: { color: c.ink, size: 13 },
    cliponaxis: false,
    hoverinfo: "skip",
  };
  return plot("gains", [bars, chance, values], {
    height: (narrow ? 44 : 27) * fixes.length + 62,
    // In a narrow window names stand above their bars, which get all of its width.
    annotations: narrow
      ? rows.map((row) => ({
          text: name(fixes[row], ""),
          xref: "paper",
          x: 0,
          xanchor: "left",
          y: row + 0.24,
          yanchor: "bottom",
          showarrow: false,
          font: { size: 13, color: c.ink },
        }))
      : [],
    xaxis: axis(c, {
      range: [Math.min(0, ...fixes.map((f) => 100 * f.low)) * 1.05, right * room],
      title: `points of ${CHARTS.measure}`,
      zeroline: true,
    }),
    yaxis: axis(c, {
      tickvals: rows,
      ticktext: fixes.map((f) => name(f, " ")),
      showticklabels: !narrow,
      showgrid: false,
      zeroline: false,
      range: [-0.6, fixes.length - (narrow ? 0.2 : 0.4)],
    }),
  });
}

// least: the weakest value that gets full colour, so that chance does not look like a finding.
function drawMap(id, grid, scale, unit, least) {
  const c = colours();
  const peak = Math.max(least, ...grid.flat().map((value) => Math.abs(value ?? 0) * scale));
  const values = grid.map((line) => line.map((value) => (value === null ? null : value * scale)));
  const heat = {
    type: "heatmap",
    z: values,
    x0: 1,
    y0: 1,
    zmin: -peak,
    zmax: peak,
    colorscale: [[0, c.low], [0.5, c.middle], [1, c.high]],
    xgap: 1,
    ygap: 1,
    hovertemplate: `row %{y}, column %{x}: %{z:.2f}${unit}<extra></extra>`,
    colorbar: { thickness: 10, outlinewidth: 0, ticksuffix: unit, len: 1, tickfont: { color: c.muted } },
  };
  const blank = { showgrid: false, zeroline: false, showticklabels: false, title: undefined };
  return plot(id, [heat], {
    height: 300,
    xaxis: axis(c, { ...blank, constrain: "domain" }),
    yaxis: axis(c, { ...blank, autorange: "reversed", scaleanchor: "x", constrain: "domain" }),
  });
}

function drawConfusion() {
  const c = colours();
  const size = CHARTS.confusion.length;
  const share = CHARTS.confusion.map((line) => {
    const total = line.reduce((sum, value) => sum + value, 0);
    return line.map((value) => (total ? (100 * value) / total : null));
  });
  // The diagonal is what is right: it stays bare, so that the errors set the scale.
  const wrong = share.map((line, r) => line.map((value, col) => (r === col ? null : value)));
  const peak = Math.max(5, ...wrong.flat().map((value) => value ?? 0));
  const names = CHARTS.classes.map((name) => `${shortened(name, 22)} `);
  const labelled = size <= 16;
  const places = names.map((_, index) => index);
  const heat = {
    type: "heatmap",
    z: wrong,
    zmin: 0,
    zmax: peak,
    colorscale: [[0, c.middle], [1, c.alarm]],
    xgap: 2,
    ygap: 2,
    showscale: !labelled,
    text: CHARTS.confusion.map((line, r) =>
      line.map((value, col) => `true ${names[r]}, called ${names[col]}: ${value.toLocaleString("en")} pixels`),
    ),
    hovertemplate: "%{text}<extra></extra>",
    colorbar: { thickness: 10, outlinewidth: 0, ticksuffix: "%" },
  };
  const notes = share.flatMap((line, r) =>
    line.map((value, col) => ({
      x: col,
      y: r,
      text: value === null ? "–" : value.toFixed(value < 10 ? 1 : 0),
      showarrow: false,
      font: {
        size: size > 10 ? 11 : 13,
        color: r === col ? c.muted : value > 0.6 * peak ? c.page : c.ink,
      },
    })),
  );
  const cell = Math.max(30, Math.min(60, 560 / size)); // its height; it is wider, for the names above
  return plot("confusion", [heat], {
    height: cell * size + 110,
    annotations: labelled ? notes : [],
    xaxis: axis(c, { side: "top", tickvals: places, ticktext: names, title: "called", showgrid: false, zeroline: false, range: [-0.5, size - 0.5], constrain: "domain", constraintoward: "left" }),
    yaxis: axis(c, { tickvals: places, ticktext: names, title: "true", showgrid: false, zeroline: false, range: [size - 0.5, -0.5] }),
  }, 1.7 * cell * size + 220);
}

function drawCalibration() {
  const c = colours();
  const labels = [...new Set(CHARTS.calibration.map((curve) => curve.label))];
  const label = labels[Number(byId("calibration-class")?.value ?? 0)];
  const curves = CHARTS.calibration.filter((curve) => curve.label === label);
  const kinds = [
    [null, "everywhere", c.ink, "circle", "solid"],
    [true, "near outlines", c.context, "diamond", "dash"],
    [false, "away from outlines", c.refine, "square", "dot"],
  ];
  const traces = [
    { type: "scatter", mode: "lines", x: [0, 100], y: [0, 100], line: { color: c["strong-rule"], width: 1 }, hoverinfo: "skip", showlegend: false },
  ];
  for (const curve of curves) {
    const [, name, colour, symbol, dash] = kinds.find(([near]) => near === curve.near_boundary);
    const kept = curve.count.map((_, bin) => bin).filter((bin) => curve.count[bin] > 0);
    const most = Math.max(1, ...curve.count);
    traces.push({
      type: "scatter",
      mode: "lines+markers",
      name,
      x: kept.map((bin) => 100 * curve.confidence[bin]),
      y: kept.map((bin) => 100 * curve.frequency[bin]),
      text: kept.map((bin) => `${curve.count[bin].toLocaleString("en")} pixels`),
      line: { color: colour, width: 2, dash },
      marker: { color: colour, symbol, size: kept.map((bin) => 5 + 9 * Math.sqrt(curve.count[bin] / most)), opacity: 1 },
      hovertemplate: `${name}: said %{x:.0f}%, is %{y:.0f}%, %{text}<extra></extra>`,
    });
  }
  return plot("calibration", traces, {
    height: 480,
    showlegend: true,
    legend: { orientation: "h", y: 1.02, yanchor: "bottom", x: 0, itemclick: false, itemdoubleclick: false, itemsizing: "constant" },
    margin: { l: 8, r: 16, t: 34, b: 8 },
    xaxis: axis(c, { title: "probability that the model gives, %", range: [-2, 102], zeroline: false }),
    yaxis: axis(c, { title: "how often it is right, %", range: [-2, 102], zeroline: false }),
  }, 560);
}

function drawSizes() {
  const c = colours();
  const sizes = CHARTS.sizes;
  const places = sizes.map((_, index) => index);
  const short = new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 });
  // Of an object's limits the second goes to a line of its own where there is little room.
  const dash = byId("plot-sizes").clientWidth < NARROW ? "–<br>" : "–";
  const names = sizes.map(
    (size) => `${short.format(size.smallest)}${dash}${short.format(size.largest)}`,
  );
  const line = (name, key, colour, symbol, stroke) => ({
    type: "scatter",
    mode: "lines+markers",
    name,
    x: places,
    y: sizes.map((size) => (size[key] === null ? null : 100 * size[key])),
    line: { color: colour, width: 2, dash: stroke },
    marker: { color: colour, size: 9, symbol },
    hovertemplate: `${name}: %{y:.1f}%<extra></extra>`,
  });
  return plot("sizes", [
    line("half or more of the object found", "detected", c.refine, "circle", "solid"),
    line("mean share of the object found", "recall", c.context, "diamond", "dash"),
  ], {
    height: 340,
    showlegend: true,
    legend: { orientation: "h", y: 1.02, yanchor: "bottom", x: 0, itemclick: false, itemdoubleclick: false },
    margin: { l: 8, r: 16, t: 34, b: 8 },
    xaxis: axis(c, { tickvals: places, ticktext: names.map((name, i) => `${name}<br>n = ${short.format(sizes[i].objects)}`), tickangle: 0, title: "area of the object in pixels", showgrid: false, zeroline: false, range: [-0.4, sizes.length - 0.6] }),
    yaxis: axis(c, { range: [0, 104], ticksuffix: "%", zeroline: false }),
  }, 800);
}

function drawClusters() {
  const c = colours();
  const rows = [...CHARTS.clusters].reverse();
  const places = rows.map((_, index) => index);
  const bond = {
    type: "scatter",
    mode: "lines",
    x: rows.flatMap((row) => [100 * row.share, 100 * row.share_of_false, null]),
    y: places.flatMap((place) => [place, place, null]),
    line: { color: c["strong-rule"], width: 1.5 },
    hoverinfo: "skip",
    showlegend: false,
  };
  const dots = (name, key, colour, symbol) => ({
    type: "scatter",
    mode: "markers",
    name,
    x: rows.map((row) => 100 * row[key]),
    y: places,
    marker: { size: 13, symbol, color: colour },
    hovertemplate: `${name}: %{x:.1f}%<extra></extra>`,
  });
  return plot("clusters", [
    bond,
    dots("share of the background", "share", c.none, "circle"),
    dots("share of the false positives", "share_of_false", c.alarm, "diamond"),
  ], {
    height: 44 * rows.length + 110,
    showlegend: true,
    legend: { orientation: "h", y: 1.02, yanchor: "bottom", x: 0, itemclick: false, itemdoubleclick: false },
    margin: { l: 8, r: 16, t: 34, b: 8 },
    xaxis: axis(c, { ticksuffix: "%", rangemode: "tozero", zeroline: false }),
    yaxis: axis(c, {
      tickvals: places,
      ticktext: rows.map((row) => {
        const block = row.colour ? `<span style="color:${rgb(row.colour)}">■</span> ` : "";
        return `${block}${shortened(row.name, 30)} `;
      }),
      range: [-0.6, rows.length - 0.4],
      showgrid: false,
      zeroline: false,
    }),
  }, 800);
}

function rgb(colour) {
  return `rgb(${colour.map((part) => Math.round(255 * Math.min(1, Math.max(0, part)))).join(",")})`;
}

function drawScores() {
  const c = colours();
  const counts = CHARTS.scores;
  const step = 100 / counts.length;
  const bars = {
    type: "bar",
    x: counts.map((_, bin) => (bin + 0.5) * step),
    y: counts,
    width: step * 0.92,
    marker: { color: c.refine },
    hovertemplate: "%{y} images<extra></extra>",
  };
  return plot("scores", [bars], {
    height: 180,
    xaxis: axis(c, { title: `${CHARTS.measure} of the image`, range: [0, 100], showgrid: false, zeroline: false }),
    yaxis: axis(c, { title: "images", zeroline: false, rangemode: "tozero", nticks: 4 }),
  }, 800);
}

const DRAW = {
  gains: drawGains,
  "bias-error": () => drawMap("bias-error", CHARTS.bias.error, 100, "%", 300 * (CHARTS.bias.chance_spread ?? 0) + 1e-6),
  "bias-offset": () => drawMap("bias-offset", CHARTS.bias.offset, 1, "", 1),
  confusion: drawConfusion,
  calibration: drawCalibration,
  sizes: drawSizes,
  clusters: drawClusters,
  scores: drawScores,
};

function draw(id) {
  loadPlotly();
  drawn.add(id);
  return DRAW[id]();
}

function drawAll() {
  for (const id of Object.keys(DRAW)) if (byId(`plot-${id}`)) draw(id);
}

function startCharts() {
  const watcher = new IntersectionObserver(
    (entries) => {
      for (const entry of entries) {
        if (!entry.isIntersecting) continue;
        watcher.unobserve(entry.target);
        draw(entry.target.id.slice("plot-".length));
      }
    },
    { rootMargin: "400px 0px" },
  );
  // Two frames: the first has the text laid out, the second comes after it was shown.
  requestAnimationFrame(() =>
    requestAnimationFrame(() => {
      for (const place of document.querySelectorAll(".plot")) watcher.observe(place);
    }),
  );
  themeChanged.push(() => drawn.forEach((id) => draw(id)));
  byId("calibration-class")?.addEventListener("change", drawCalibration);
}
