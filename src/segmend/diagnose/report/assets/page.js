"use strict";
// The page itself: data, theme, copy and print. Texts go in through textContent only.

const REPORT = JSON.parse(document.getElementById("report-data").textContent);
const byId = (id) => document.getElementById(id);

function announce(text) {
  byId("announcer").textContent = text;
}

function element(tag, text, className) {
  const made = document.createElement(tag);
  if (text !== undefined) made.textContent = text;
  if (className) made.className = className;
  return made;
}

function percent(value, digits = 1) {
  return value === null || value === undefined ? "–" : (100 * value).toFixed(digits).replace("-", "−");
}

function points(value, digits = 1) {
  if (value === null || value === undefined) return "–";
  const text = (100 * value).toFixed(digits);
  if (Number(text) === 0) return (0).toFixed(digits);
  return value > 0 ? `+${text}` : text.replace("-", "−");
}

const systemDark = window.matchMedia("(prefers-color-scheme: dark)");
const themeChanged = [];

function storedTheme() {
  try {
    return localStorage.getItem("segmend-theme");
  } catch {
    return null; // a page opened from a file may have no storage
  }
}

function setTheme(theme) {
  document.documentElement.dataset.theme = theme;
  byId("theme").setAttribute("aria-pressed", String(theme === "dark"));
  for (const react of themeChanged) react();
}

function startTheme() {
  setTheme(storedTheme() ?? (systemDark.matches ? "dark" : "light"));
  systemDark.addEventListener("change", () => {
    if (!storedTheme()) setTheme(systemDark.matches ? "dark" : "light");
  });
  byId("theme").hidden = false;
  byId("theme").addEventListener("click", () => {
    const theme = document.documentElement.dataset.theme === "dark" ? "light" : "dark";
    try {
      localStorage.setItem("segmend-theme", theme);
    } catch {
      // not kept, then
    }
    setTheme(theme);
  });
}

async function copyText(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    // Without permission, or from a file in some browsers: the old way.
    const area = element("textarea", text);
    area.setAttribute("aria-hidden", "true");
    document.body.append(area);
    area.select();
    const done = document.execCommand("copy");
    area.remove();
    return done;
  }
}

function startCopy() {
  for (const button of document.querySelectorAll(".copy")) {
    const label = button.firstChild;
    button.hidden = false;
    button.addEventListener("click", async () => {
      const done = await copyText(button.parentElement.querySelector("code").textContent);
      button.focus();
      label.textContent = done ? "Copied" : "Press Ctrl+C";
      announce(done ? "Command copied" : "Copying was refused; select the command and copy it");
      setTimeout(() => (label.textContent = "Copy"), 2000);
    });
  }
}

function startPrint() {
  byId("print").hidden = false;
  byId("print").addEventListener("click", () => window.print());
  let before = null;
  window.addEventListener("beforeprint", () => {
    before = document.documentElement.dataset.theme;
    setTheme("light");
    drawAll();
    for (const image of document.querySelectorAll("img[loading=lazy]")) image.loading = "eager";
  });
  window.addEventListener("afterprint", () => setTheme(before ?? "light"));
}

function startContents() {
  const links = new Map();
  for (const link of document.querySelectorAll(".contents a")) links.set(link.hash.slice(1), link);
  const watcher = new IntersectionObserver(
    (entries) => {
      for (const entry of entries) {
        if (!entry.isIntersecting) continue;
        for (const link of links.values()) link.removeAttribute("aria-current");
        links.get(entry.target.id)?.setAttribute("aria-current", "true");
      }
    },
    { rootMargin: "-10% 0px -80% 0px" },
  );
  for (const section of document.querySelectorAll("main > section")) watcher.observe(section);
}
