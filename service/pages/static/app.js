// What the pages do beyond htmx: the chart, sorting, and waiting for a file that is being built.
"use strict";

const GAP = "\u202f";
const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();

function element(name, text, properties = {}) {
  return Object.assign(document.createElement(name), { textContent: text, ...properties });
}

// The chart: accuracy against one cost, which the buttons above it choose.

function startChart(place) {
  const data = JSON.parse(document.getElementById(place.dataset.chart).textContent);
  let axis = data.axis;
  const [chart, draw] = plot(place, () => options(data, axis));

  const choice = element("div", "", { className: "axes" });
  choice.setAttribute("role", "group");
  choice.setAttribute("aria-label", "Cost on the horizontal axis");
  data.axes.forEach((one, i) => {
    const button = element("button", one.name, { type: "button" });
    button.addEventListener("click", () => {
      axis = i;
      press();
      draw();
    });
    choice.append(button);
  });
  const press = () => [...choice.children].forEach((one, i) => one.setAttribute("aria-pressed", i === axis));
  press();
  place.before(choice);

  chart.on("click", ({ data: point }) => reveal(point?.id));
}

// How large the hypervolume was after each generation.

function startLine(place) {
  const { sizes } = JSON.parse(document.getElementById(place.dataset.line).textContent);
  plot(place, () => {
    const short = (value) => (value < 1e6 ? value : value.toExponential(3));
    const quiet = { axisLabel: { color: colour("quiet"), hideOverlap: true }, nameTextStyle: { color: colour("quiet") } };
    return {
      animation: false,
      grid: { left: 8, right: 48, top: 12, bottom: 28, containLabel: true },
      tooltip: { trigger: "axis", backgroundColor: colour("card"), textStyle: { color: colour("ink") }, confine: true },
      xAxis: {
        type: "category", data: sizes.map((_, i) => i + 1), name: "generation", nameLocation: "middle", nameGap: 28, ...quiet,
      },
      yAxis: { type: "value", scale: true, splitLine: { lineStyle: { color: colour("rule") } }, ...quiet,
        axisLabel: { ...quiet.axisLabel, formatter: short } },
      series: [{ type: "line", symbol: "none", data: sizes, lineStyle: { color: colour("shade2"), width: 1.5 } }],
    };
  });
}

// A chart that is as wide as its place, in the colours of the hour.

function plot(place, make) {
  const chart = echarts.init(place);
  const draw = () => chart.setOption(make(), true);
  const size = new ResizeObserver(() => chart.resize());
  size.observe(place);
  const dark = matchMedia("(prefers-color-scheme: dark)");
  dark.addEventListener("change", draw);
  place.addEventListener("htmx:beforeCleanupElement", () => {
    size.disconnect();
    dark.removeEventListener("change", draw);
    chart.dispose();
  });
  draw();
  return [chart, draw];
}

function options(data, chosen) {
  const axis = data.axes[chosen];
  const shown = data.points.filter((point) => point.costs[chosen] !== null);
  const dots = (value, points) =>
    points.filter((point) => point[value] !== null)
      .map((point) => ({ value: [point.costs[chosen], point[value]], id: point.id, point }));
  const others = shown.filter((point) => !point.best);
  const quiet = colour("quiet");
  const lines = [];
  const ranked = data.ranked;  // which value of a point the front is of
  const least = Math.min(...shown.map((point) => point[ranked]));
  const written = (value) => data.is_fraction ? `${Number((100 * value).toFixed(2))}${GAP}%` : `${Number(value.toFixed(4))}`;
  const most = Math.max(...shown.map((point) => point.costs[chosen]));
  if (axis.limit !== null && axis.limit <= 2 * most) {
    lines.push({ xAxis: axis.limit, label: { formatter: axis.limit_text } });
  }
  if (data.min_accuracy !== null) {
    lines.push({ yAxis: data.min_accuracy, label: { formatter: data.min_accuracy_text, position: "insideStartTop" } });
  }
  const ends = { axisLine: { lineStyle: { color: colour("rule") } }, splitLine: { lineStyle: { color: colour("rule") } } };
  const series = (name, symbol, size, shade, points, more = {}) =>
    ({ name, type: "scatter", symbol, symbolSize: size, itemStyle: { color: shade }, data: points, ...more });
  return {
    animation: false,
    textStyle: { fontFamily: getComputedStyle(document.body).fontFamily },
    grid: { left: 8, right: 48, top: 48, bottom: 28, containLabel: true },
    legend: { top: 0, left: 0, textStyle: { color: quiet }, itemWidth: 12, itemHeight: 10 },
    tooltip: {
      formatter: ({ data: dot }) => tip(dot.point),
      backgroundColor: colour("card"),
      borderColor: colour("rule"),
      confine: true,
    },
    xAxis: {
      type: "value", scale: true, name: [axis.name, axis.unit].filter(Boolean).join(", "),
      nameLocation: "middle", nameGap: 28, nameTextStyle: { color: quiet }, axisLabel: { color: quiet, hideOverlap: true },
      max: lines.some((line) => line.xAxis > most) ? axis.limit : undefined, ...ends,
    },
    yAxis: {
      type: "value", scale: true, min: data.min_accuracy < least ? data.min_accuracy : undefined,
      name: data.quality, nameTextStyle: { color: quiet, align: "left" },
      axisLabel: { color: quiet, formatter: written }, ...ends,
    },
    series: [
      {
        type: "line", step: "end", symbol: "none", silent: true, z: 1,
        lineStyle: { color: colour("shade1"), width: 1.5 }, data: skyline(shown, chosen, ranked),
        markLine: {
          symbol: "none", silent: true, data: lines, label: { color: quiet },
          precision: 15, // by default limits are drawn at two decimals: 0.045 ms at 0.04
          lineStyle: { color: colour("warn"), type: "dashed", width: 1.5 },
        },
      },
      series(ranked, "circle", 8, colour("shade2"), dots(ranked, others)),
      ...(ranked === "predicted" ? [series("verified", "diamond", 11, colour("ink"), dots("verified", shown))] : []),
      series(`chosen, ${ranked}`, "circle", 14, colour("mark"), dots(ranked, shown.filter((point) => point.best)), { z: 5 }),
    ].filter((one) => one.data.length),
  };
}

// The best accuracy, or other quality, at each cost or less.
function skyline(points, chosen, ranked) {
  let best = -Infinity;
  const rising = points.map((point) => [point.costs[chosen], point[ranked]]).sort((a, b) => a[0] - b[0] || b[1] - a[1])
    .filter(([, accuracy]) => accuracy > best && ((best = accuracy), true));
  const last = Math.max(...points.map((point) => point.costs[chosen]));
  return [...rising, [last, best]];
}

function tip(point) {
  const box = element("div", "", { className: "tip" });
  box.append(element("div", point.architecture));
  for (const [name, value] of point.rows) {
    const row = element("div", `${name} `);
    row.append(element("b", value));
    box.append(row);
  }
  return box;
}

function reveal(id) {
  const details = id && document.querySelector(`#c-${CSS.escape(id)} details`);
  if (details) {
    details.open = true;
    details.querySelector("summary").focus();
  }
}

// Sorting a table by a column, and again the other way.

document.addEventListener("click", ({ target }) => {
  const head = target.closest("[data-sortable] th");
  if (!head || !target.closest("button")) return;
  const order = head.getAttribute("aria-sort") === "ascending" ? "descending" : "ascending";
  head.parentElement.querySelectorAll("th").forEach((one) => one.removeAttribute("aria-sort"));
  head.setAttribute("aria-sort", order);
  const sign = order === "ascending" ? 1 : -1;
  const body = head.closest("table").tBodies[0];
  const number = (row) => {
    const { dataset, textContent } = row.cells[head.cellIndex];
    const value = parseFloat(dataset.value ?? textContent.replaceAll(",", ""));
    return Number.isNaN(value) ? Infinity * sign : value; // what is not known comes last
  };
  body.append(...[...body.rows].sort((a, b) => sign * (number(a) - number(b)) || 0));
});

// A file is built when it is first asked for: ask until it is there, then let the browser fetch it.

document.addEventListener("click", async (event) => {
  const link = event.target.closest("a.onnx");
  if (!link || event.ctrlKey || event.metaKey || event.shiftKey) return;
  event.preventDefault();
  if (link.getAttribute("aria-busy")) return;
  const state = link.nextElementSibling;
  const say = (text, error = false) => {
    state.textContent = text;
    state.classList.toggle("error", error);
  };
  link.setAttribute("aria-busy", "true");
  try {
    for (const started = Date.now(); ;) {
      const response = await fetch(link.href, { headers: { Range: "bytes=0-0" } });
      if (response.status !== 202) {
        if (!response.ok) throw new Error((await response.json()).detail);
        say("");
        window.location.assign(link.href);
        return;
      }
      say(Date.now() - started < 20_000 ? "being built…" : "still waiting: is a worker running? `supple worker` starts one");
      await new Promise((resolve) => setTimeout(resolve, 1000));
      if (!link.isConnected) return;
    }
  } catch (error) {
    say(error.message, true);
  } finally {
    link.removeAttribute("aria-busy");
  }
});

// htmx: draw what came, go to the first mistake, and say when the service does not answer.

const notice = () => document.getElementById("notice");

document.addEventListener("htmx:load", ({ detail }) => {
  detail.elt.querySelectorAll("[data-chart]").forEach(startChart);
  detail.elt.querySelectorAll("[data-line]").forEach(startLine);
  detail.elt.querySelectorAll("tr.best").forEach((row) => {
    const box = row.closest(".scroll");
    box.scrollTop = row.offsetTop - box.clientHeight / 2;
  });
  detail.elt.querySelector("[aria-invalid]")?.focus();
});
document.addEventListener("htmx:afterOnLoad", ({ detail }) => {
  if (detail.successful) notice().hidden = true; // it also comes after an error, which the notice tells
});
document.addEventListener("htmx:sendError", () => complain("The service does not answer. Is it running?"));
document.addEventListener("htmx:responseError", ({ detail }) => {
  const { status, responseText } = detail.xhr;
  const isJson = detail.xhr.getResponseHeader("Content-Type")?.includes("json");
  const page = new DOMParser().parseFromString(responseText, "text/html");
  const said = isJson ? JSON.parse(responseText).detail : page.querySelector(".problem")?.textContent;
  complain(`The service answered ${status}${said ? `: ${said}` : "."}`);
});

function complain(text) {
  notice().textContent = text;
  notice().hidden = false;
}
