"""The style and the script of the HTML report; both stand in the page, nothing is fetched."""

STYLE = """
:root { color-scheme: light dark; --ink: #1c2226; --soft: #66737c; --line: #d5dce0; --page: #fff; --card: #f6f8f9; --mark: #00798c; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4eaed; --soft: #9aa7af; --line: #3a444b; --page: #14181b; --card: #1d2327; --mark: #3fb8cb; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1280px; padding: 1.5rem; font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--page); }
h1 { font-size: 1.5rem; margin: 0; } h2 { font-size: 1.15rem; margin: 2rem 0 .5rem; } h3 { font-size: 1rem; margin: 1rem 0 .3rem; }
.soft { color: var(--soft); } code, pre, .mono { font-family: ui-monospace, monospace; font-size: 13px; }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: 1rem; margin: .8rem 0; }
.good { color: #2a7f4f; font-weight: 600; } .kept { color: #b3541e; font-weight: 600; }
@media (prefers-color-scheme: dark) { .good { color: #6cc995; } .kept { color: #f0a26b; } }
table { border-collapse: collapse; font-size: 14px; } th, td { text-align: left; padding: .25rem .8rem .25rem 0; border-bottom: 1px solid var(--line); vertical-align: top; }
td.formula { font-size: 12px; max-width: 26rem; overflow-wrap: anywhere; }
.wide { overflow-x: auto; }
.listing td { border: 0; padding: 0 .8rem 0 0; white-space: pre; } .listing .number { color: var(--soft); text-align: right; }
.listing tr.marked { background: color-mix(in srgb, var(--mark) 25%, transparent); }
math { font-size: 1.15rem; margin: .4rem 0; }
.tabs button, .tools button { font: inherit; color: inherit; background: var(--card); border: 1px solid var(--line); border-radius: 6px; padding: .2rem .7rem; cursor: pointer; }
.tabs button[aria-pressed=true] { border-color: var(--mark); color: var(--mark); }
.viewer { position: relative; border: 1px solid var(--line); border-radius: 8px; margin-top: .5rem; height: 560px; overflow: hidden; background: var(--card); }
.viewer svg.graph { width: 100%; height: 100%; cursor: grab; touch-action: none; } .viewer svg[hidden] { display: none; }
.tools { position: absolute; right: .6rem; top: .6rem; display: flex; gap: .3rem; z-index: 1; }
.node rect { fill: var(--page); stroke: var(--soft); } .node text { font: 12px ui-monospace, monospace; text-anchor: middle; fill: var(--ink); pointer-events: none; }
.node.coloured text { fill: #fff; } .node.input rect { rx: 17; stroke-dasharray: 3 3; } .node.root rect { stroke-width: 3; }
.node { cursor: pointer; outline: none; } .node.chosen rect, .node:focus-visible rect { stroke: var(--mark); stroke-width: 3; }
.faded .node:not(.near), .faded .edge:not(.near) { opacity: .22; }
.edge { fill: none; stroke: var(--soft); } .edge.delayed { stroke-dasharray: 6 4; stroke: #d1495b; } .edge.initial { stroke-dasharray: 2 3; }
.delay { font: italic 13px serif; fill: #d1495b; }
#detail { min-height: 3.2rem; } .plots { display: flex; flex-wrap: wrap; gap: 1rem; }
.plot { background: var(--page); border: 1px solid var(--line); border-radius: 6px; height: 260px; }
.plot .axis { stroke: var(--line); } .plot text { font-size: 12px; fill: var(--soft); } .plot .end { text-anchor: end; }
.unit { fill: none; stroke: var(--soft); stroke-dasharray: 4 3; } .pole { fill: #00798c; fill-opacity: .75; } .pole.outside { fill: #d1495b; }
.lines polyline { fill: none; stroke-width: 1.6; } .bar { fill: #00798c; } .bar.beyond { fill: #d1495b; } .limit { stroke: #d1495b; stroke-dasharray: 5 4; }
"""

SCRIPT = """
'use strict';
const detail = document.getElementById('detail');
for (const svg of document.querySelectorAll('svg.graph')) {
  const all = svg.querySelector('.all');
  if (!all) continue;
  const view = { x: 0, y: 0, k: 1 };
  const place = () => all.setAttribute('transform', `translate(${view.x} ${view.y}) scale(${view.k})`);
  const point = event => new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse());
  const zoom = (factor, at) => {
    const k = Math.min(12, Math.max(0.2, view.k * factor));
    view.x = at.x - (at.x - view.x) * k / view.k; view.y = at.y - (at.y - view.y) * k / view.k; view.k = k; place();
  };
  svg.zoom = factor => zoom(factor, { x: svg.viewBox.baseVal.width / 2, y: svg.viewBox.baseVal.height / 2 });
  svg.fit = () => { Object.assign(view, { x: 0, y: 0, k: 1 }); place(); };
  svg.addEventListener('wheel', event => { event.preventDefault(); zoom(event.deltaY < 0 ? 1.15 : 1 / 1.15, point(event)); }, { passive: false });
  let held = null;
  svg.addEventListener('pointerdown', event => { held = point(event); });
  svg.addEventListener('pointermove', event => {
    if (!held || !event.buttons) return;
    const now = point(event); view.x += now.x - held.x; view.y += now.y - held.y; held = now; place();
  });
  window.addEventListener('pointerup', () => { held = null; });
  const choose = node => {
    svg.querySelectorAll('.chosen, .near').forEach(e => e.classList.remove('chosen', 'near'));
    document.querySelectorAll('.marked').forEach(e => e.classList.remove('marked'));
    svg.classList.toggle('faded', Boolean(node));
    if (!node) { detail.textContent = 'Click a value to see it, what it reads, and your line.'; return; }
    const name = node.dataset.name, near = new Set([name]);
    for (const edge of svg.querySelectorAll('.edge'))
      if (edge.dataset.from === name || edge.dataset.to === name) { edge.classList.add('near'); near.add(edge.dataset.from).add(edge.dataset.to); }
    for (const other of svg.querySelectorAll('.node')) if (near.has(other.dataset.name)) other.classList.add('near');
    node.classList.add('chosen');
    const text = document.createElement('code'); text.textContent = node.dataset.text;
    const more = document.createElement('div'); more.className = 'soft';
    more.textContent = [node.dataset.line, node.dataset.recurrence && 'in ' + node.dataset.recurrence].filter(Boolean).join('   ');
    detail.replaceChildren(text, more);
    if (node.dataset.line)
      document.querySelectorAll(`[data-place="${CSS.escape(node.dataset.line)}"]`).forEach(row => row.classList.add('marked'));
  };
  svg.addEventListener('click', event => choose(event.target.closest('.node')));
  svg.addEventListener('keydown', event => { if (event.key === 'Enter') choose(event.target.closest('.node')); });
}
for (const button of document.querySelectorAll('.tabs button'))
  button.addEventListener('click', () => {
    for (const other of document.querySelectorAll('.tabs button')) {
      const shown = other === button;
      other.setAttribute('aria-pressed', shown);
      document.getElementById(other.dataset.shows).toggleAttribute('hidden', !shown);
    }
  });
for (const button of document.querySelectorAll('.tools button'))
  button.addEventListener('click', () => {
    const svg = document.querySelector('svg.graph:not([hidden])');
    button.dataset.zoom ? svg.zoom(Number(button.dataset.zoom)) : svg.fit();
  });
"""
