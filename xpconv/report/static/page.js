"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const root = document.documentElement;
  const readout = document.getElementById("readout");

  // ---- colours ----

  const button = document.getElementById("theme");
  const system = matchMedia("(prefers-color-scheme: dark)");
  const stored = () => { try { return localStorage.getItem("xpconv-theme"); } catch { return null; } };
  const isDark = () => (root.dataset.theme ? root.dataset.theme === "dark" : system.matches);
  const showTheme = () => { button.setAttribute("aria-pressed", String(isDark())); drawAll(); };
  const colour = (name) => {  // canvases need the colour itself
    const probe = document.createElement("i");
    probe.style.color = `var(--${name})`;
    document.body.append(probe);
    const value = getComputedStyle(probe).color;
    probe.remove();
    return value;
  };
  const faint = (value) => value.replace("rgb(", "rgba(").replace(")", ", 0.35)");

  // ---- charts ----

  const charts = new Map();  // name -> {chart, plot, box, hidden labels}

  const short = (value) => {
    if (value == null) return "–";
    const size = Math.abs(value);
    return size === 0 || (size >= 1e-3 && size < 1e5) ? value.toFixed(4) : value.toPrecision(3);
  };
  const shown = { loss: short, share: short, rate: (value) => (value == null ? "–" : String(+value.toPrecision(3))) };
  const tick = (value) => (value == null ? "" : Math.abs(value) >= 1e5 || (value !== 0 && Math.abs(value) < 1e-3)
    ? value.toExponential(1).replace(".0e", "e") : String(+value.toPrecision(6)));

  // the value of a curve at a place, or where it has none there, the last one before
  const valueAt = (values, index) => {
    for (let k = index; k >= 0; k--) if (values[k] != null) return values[k];
    return null;
  };

  function showValues(entry, index) {
    const { chart, outputs } = entry;
    outputs.forEach((output, k) => {
      output.textContent = index == null ? "" : shown[chart.kind](valueAt(chart.series[k].y, index));
    });
  }

  function legend(entry) {
    const { chart, figure, hidden } = entry;
    const box = figure.querySelector(".legend");
    const labels = chart.series.map((series) => series.label).join("\n");
    if (box.dataset.labels === labels) return;
    box.dataset.labels = labels;
    box.replaceChildren();
    entry.outputs = chart.series.map((series) => {
      const toggle = document.createElement("button");
      const line = document.createElement("i");
      const output = document.createElement("output");
      line.className = series.style;
      line.style.setProperty("--c", `var(--${series.colour})`);
      output.setAttribute("aria-live", "off");
      toggle.type = "button";
      toggle.setAttribute("aria-pressed", String(!hidden.has(series.label)));
      toggle.append(line, series.label, output);
      toggle.addEventListener("click", () => {
        const show = hidden.has(series.label);
        if (show) hidden.delete(series.label); else hidden.add(series.label);
        toggle.setAttribute("aria-pressed", String(show));
        draw(entry);
      });
      box.append(toggle);
      return output;
    });
  }

  function draw(entry) {
    const { chart, box, figure, hidden } = entry;
    const empty = !chart.x.length;
    figure.hidden = empty;
    if (entry.plot) entry.plot.destroy();
    entry.plot = null;
    if (empty || typeof uPlot === "undefined") return;
    legend(entry);
    const text = colour("dim"), grid = { stroke: colour("line"), width: 1 };
    const font = "12px system-ui, sans-serif";
    const few = chart.x.length <= 40;
    const last = chart.x[chart.x.length - 1];
    entry.plot = new uPlot({
      width: Math.max(box.clientWidth, 200),
      height: 260,
      legend: { show: false },
      cursor: { y: false, points: { size: 7 } },
      scales: {
        // the whole run from epoch 0 on, or the part that was chosen with the mouse
        x: { time: false, range: (_, low, high) => (low <= chart.x[0] && high >= last ? [0, last * 1.02 || 1] : [low, high]) },
        y: { range: (_, low, high) => {
          if (low == null) return [0, 1];
          const margin = (high - low || Math.abs(high) || 1) * 0.06;
          const top = chart.kind === "share" ? Math.min(1, high + margin) : high + margin;
          return [low >= 0 ? Math.max(0, low - margin) : low - margin, top];
        } },
      },
      axes: [
        { stroke: text, grid, ticks: grid, font, label: "epoch", labelFont: font, labelSize: 18, size: 34,
          values: (_, values) => values.map(tick), incrs: last >= 2 ? [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000] : undefined },
        { stroke: text, grid, ticks: grid, font, size: 62, values: (_, values) => values.map(tick) },
      ],
      series: [{}, ...chart.series.map((series) => {
        const stroke = colour(series.colour);
        return {
          show: !hidden.has(series.label), spanGaps: true,
          stroke: series.style === "faint" ? faint(stroke) : stroke,
          width: series.style === "faint" ? 1 : 2,
          dash: { dashed: [7, 4], dotted: [2, 3] }[series.style],
          points: { show: series.style !== "faint" && (few || series.y.filter((y) => y != null).length <= 40), size: 5, fill: stroke, stroke },
        };
      })],
      hooks: { setCursor: [(plot) => showValues(entry, plot.cursor.idx)] },
    }, [chart.x, ...chart.series.map((series) => series.y)], box);
  }

  const drawAll = () => charts.forEach(draw);

  function move(entry, step) {
    const { plot, chart } = entry;
    if (!plot) return;
    const end = chart.x.length - 1;
    const from = entry.index == null ? (step > 0 ? -1 : end + 1) : entry.index;
    entry.index = Math.max(0, Math.min(end, step === Infinity ? end : step === -Infinity ? 0 : from + step));
    plot.setCursor({ left: plot.valToPos(chart.x[entry.index], "x"), top: 0 });
    showValues(entry, entry.index);
    const values = chart.series.filter((series) => !hiddenIn(entry, series))
      .map((series) => `${series.label} ${shown[chart.kind](valueAt(series.y, entry.index))}`);
    readout.textContent = `epoch ${tick(chart.x[entry.index])}: ${values.join(", ")}`;
  }
  const hiddenIn = (entry, series) => entry.hidden.has(series.label);
  const keys = { ArrowLeft: -1, ArrowRight: 1, Home: -Infinity, End: Infinity };

  for (const chart of data.charts) {
    const figure = document.getElementById(`c-${chart.name}`);
    const box = figure.querySelector(".plot");
    const entry = { chart, figure, box, plot: null, outputs: [], hidden: new Set(), index: null };
    charts.set(chart.name, entry);
    box.addEventListener("keydown", (event) => {
      if (!(event.key in keys)) return;
      event.preventDefault();
      move(entry, keys[event.key]);
    });
    new ResizeObserver(() => {
      if (entry.plot && box.clientWidth && box.clientWidth !== entry.plot.width) {
        entry.plot.setSize({ width: Math.max(box.clientWidth, 200), height: 260 });
      }
    }).observe(box);
  }

  // ---- tables that scroll can be reached by keyboard; others need not be ----

  function markScrolling() {
    for (const box of document.querySelectorAll(".scroll")) {
      if (box.scrollWidth > box.clientWidth || box.scrollHeight > box.clientHeight) box.tabIndex = 0;
      else box.removeAttribute("tabindex");
    }
  }
  addEventListener("resize", markScrolling);
  document.addEventListener("toggle", markScrolling, true);

  // ---- a run that goes on ----

  function replace(name, html) {
    const part = document.querySelector(`[data-part="${name}"]`);
    if (!part || part.dataset.html === html || part.contains(document.activeElement)) return;
    const open = new Set([...part.querySelectorAll("details[open]")].map((details) => details.dataset.name));
    part.dataset.html = html;
    part.innerHTML = html;
    for (const details of part.querySelectorAll("details")) details.open = open.has(details.dataset.name);
  }

  function take(news) {
    for (const [name, html] of Object.entries(news.parts)) replace(name, html);
    for (const chart of news.charts) {
      const entry = charts.get(chart.name);
      if (!entry || JSON.stringify(entry.chart) === JSON.stringify(chart)) continue;
      entry.chart = chart;
      entry.figure.querySelector(".summary").textContent = chart.summary;
      entry.box.setAttribute("aria-label", chart.label);
      draw(entry);
    }
    markScrolling();
  }

  async function follow() {
    const say = document.getElementById("connection");
    let tag = "", failures = 0;
    for (;;) {
      await new Promise((done) => setTimeout(done, 1000));
      if (document.hidden) continue;
      try {
        const answer = await fetch(`/run.json?after=${tag}`, { cache: "no-store" });
        if (answer.status === 200) {
          const news = await answer.json();
          tag = news.tag;
          take(news);
        }
        failures = 0;
        say.textContent = "";
      } catch {
        failures += 1;
        if (failures < 3) continue;
        say.textContent = "The run has ended, or its server is gone. What is shown is the last that came; report.html in the run folder has it too.";
        if (failures > 60) return;
      }
    }
  }

  // ---- start ----

  if (["light", "dark"].includes(stored())) root.dataset.theme = stored();
  button.addEventListener("click", () => {
    root.dataset.theme = isDark() ? "light" : "dark";
    try { localStorage.setItem("xpconv-theme", root.dataset.theme); } catch { /* a page without storage */ }
    showTheme();
  });
  system.addEventListener("change", showTheme);
  showTheme();
  markScrolling();
  if (data.live) follow();
})();
