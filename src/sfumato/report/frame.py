"""The frame of a page: its style, light and dark, its few lines of script, and its policy.

Without the script nothing is hidden: the grids through training stand in a row.
"""

from html import escape

STYLE = """
:root { color-scheme: light dark; --paper: #fbfaf8; --ink: #23211e; --soft: #6b665f;
  --line: #e2ded8; --card: #ffffff; --accent: #1b7837; --wrong: #b3261e; --risk: #9a5b00; }
@media (prefers-color-scheme: dark) { :root { --paper: #191817; --ink: #e9e6e1; --soft: #a39d94;
  --line: #37342f; --card: #22201e; --accent: #7bc98f; --wrong: #f2a09a; --risk: #e6b566; }
  .plot img { filter: brightness(.9); } }
* { box-sizing: border-box; }
html { scroll-behavior: smooth; }
body { margin: 0 auto; max-width: 70rem; padding: 1.5rem 1rem 4rem; background: var(--paper);
  color: var(--ink); font: 16px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0; overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; margin: 2.5rem 0 .75rem; }
h3 { font-size: 1rem; margin: 0 0 .35rem; overflow-wrap: anywhere; }
p, figcaption { color: var(--soft); margin: .25rem 0 .75rem; overflow-wrap: anywhere; }
a { color: var(--accent); }
nav { display: flex; flex-wrap: wrap; gap: .2rem .9rem; margin: .8rem 0 0; font-size: .9rem; }
img { display: block; max-width: 100%; height: auto; border-radius: 6px; }
figure { margin: 0; }
section > div { margin-bottom: .8rem; }
.facts { display: grid; grid-template-columns: repeat(auto-fill, minmax(10rem, 1fr)); gap: .6rem; }
.facts div, .group { background: var(--card); border: 1px solid var(--line); border-radius: 8px;
  padding: .6rem .8rem; }
.facts b { display: block; font-size: 1.15rem; font-variant-numeric: tabular-nums; }
.facts span { color: var(--soft); font-size: .85rem; }
.groups { columns: 18rem; column-gap: .8rem; }
.group { break-inside: avoid; margin-bottom: .8rem; }
.group p { margin: .2rem 0 0; }
.wrong h3, b.wrong { color: var(--wrong); }
.risk h3, b.risk { color: var(--risk); }
.healthy, .note h3 { color: var(--accent); }
dl { display: grid; grid-template-columns: auto 1fr; gap: .1rem .8rem; margin: 0;
  font-size: .9rem; }
dt { color: var(--soft); }
dd { margin: 0; overflow-wrap: anywhere; text-align: right; }
pre { background: var(--card); border: 1px solid var(--line); border-radius: 8px; margin: .5rem 0;
  padding: .7rem .9rem; overflow-x: auto; font-size: .85rem; }
td pre { margin: 0; padding: 0; border: 0; background: none; }
.wide { overflow-x: auto; }
.wide img { min-width: 46rem; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { text-align: left; vertical-align: top; padding: .3rem .9rem .3rem 0;
  border-bottom: 1px solid var(--line); }
th { color: var(--soft); font-weight: 500; }
td.number, th.number { text-align: right; white-space: nowrap; }
@media (max-width: 40rem) { table { font-size: .8rem; } th, td { padding-right: .6rem; }
  td:first-child { min-width: 8.5rem; } td.number:first-child { min-width: 0; } }
.sides { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(20rem, 100%), 1fr));
  gap: 1rem; }
.shots { display: flex; gap: .8rem; overflow-x: auto; }
.shots figure { flex: none; max-width: 80%; }
.shots.one figure { flex: 1; max-width: 100%; }
.control { display: flex; gap: .8rem; align-items: center; margin: .5rem 0; }
.control[hidden], figure[hidden] { display: none; }
.control input { flex: 1; min-width: 0; accent-color: var(--accent); }
button { font: inherit; padding: .3rem .9rem; border-radius: 6px; border: 1px solid var(--line);
  background: var(--card); color: inherit; cursor: pointer; }
footer { margin-top: 3rem; border-top: 1px solid var(--line); padding-top: .5rem;
  font-size: .85rem; }
"""

SCRIPT = """
const row = document.querySelector('#steps .shots');
const shots = [...document.querySelectorAll('#steps figure')];
if (shots.length > 1) {
  const control = document.querySelector('#steps .control');
  const slider = control.querySelector('input'), play = control.querySelector('button');
  let timer = 0;
  const show = k => {
    slider.value = k;
    shots.forEach((shot, i) => { shot.hidden = i !== k; });
    slider.setAttribute('aria-valuetext', shots[k].innerText.trim());
  };
  const stop = () => { clearInterval(timer); timer = 0; play.textContent = 'Play'; };
  slider.addEventListener('input', () => { stop(); show(+slider.value); });
  play.addEventListener('click', () => {
    if (timer) { stop(); return; }
    let k = +slider.value === shots.length - 1 ? -1 : +slider.value;
    play.textContent = 'Stop';
    timer = setInterval(() => { show(++k); if (k === shots.length - 1) stop(); }, 350);
  });
  row.classList.add('one');
  control.hidden = false;
  show(shots.length - 1);
}
"""

# the policy holds the page to its promise: the browser itself refuses anything from outside
FRAME = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="generator" content="sfumato">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:;
 style-src 'unsafe-inline'; script-src 'unsafe-inline'">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
{body}
<footer>{footer}</footer>
<script>{script}</script>
</body>
</html>
"""


def framed(title: str, body: str, made_by: str) -> str:
    """The whole page. body: HTML; title, made_by: plain text. The footer tells the page's size."""
    pictures, smaller = body.count("<img "), body.count(" data-smaller ")
    size = f"{len(body) / 1e6:.1f} MB" if len(body) > 1e5 else f"{len(body) / 1e3:.0f} kB"
    less = f", {smaller} of them smaller here than in the folder" if smaller else ""
    footer = f"<p>{escape(made_by)}. This page: {size}, {pictures} pictures{less}.</p>"
    return FRAME.format(title=escape(title), style=STYLE, script=SCRIPT, body=body, footer=footer)
