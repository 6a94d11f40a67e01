/**
 * How the page of a report looks: light and dark as the reader's system has it,
 * on a wide screen, on a telephone and on paper. It names no font, image or
 * other file, so that the page is whole by itself.
 *
 * @module
 */

/** The style sheet. */
export const PAGE_STYLE = `
:root {
  color-scheme: light dark;
  --page: #fbfaf7; --card: #ffffff; --ink: #1d1c1a; --muted: #5c5851;
  --line: #ddd8cf; --lane: #f1eee8; --bad: #a8211a; --bad-soft: #fbe9e6;
  --good: #17663a; --good-soft: #e4f3e9; --unsure: #7a4e00; --unsure-soft: #fbf0d9;
  --write: #1f5fa8; --write-soft: #a9c8ea; --flush: #4a4740; --over: #b9b3a8;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #141518; --card: #1c1e22; --ink: #e9e7e2; --muted: #a9a59d;
    --line: #363940; --lane: #24272c; --bad: #ff8d80; --bad-soft: #3a1f1c;
    --good: #7fd6a0; --good-soft: #17301f; --unsure: #f0bd62; --unsure-soft: #352a14;
    --write: #78b2f2; --write-soft: #2f5680; --flush: #c9c5bc; --over: #5f5d58;
  }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; text-size-adjust: 100%; }
body {
  margin: 0; background: var(--page); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif;
  overflow-wrap: anywhere;
}
main { max-width: 64rem; margin: 0 auto; padding: 2.5rem 1.25rem 4rem; }
h1, h2, h3 { line-height: 1.2; text-wrap: balance; margin: 0; }
h1 {
  font: 600 clamp(1.75rem, 5vw, 2.75rem)/1.12 ui-serif, "Iowan Old Style", Palatino, Georgia, serif;
  letter-spacing: -.01em;
}
h2 {
  font: 600 1.4rem/1.25 ui-serif, "Iowan Old Style", Palatino, Georgia, serif;
  margin: 3.25rem 0 .9rem; padding-top: 1.1rem; border-top: 1px solid var(--line);
}
h3 { font-size: 1rem; margin: 1.9rem 0 .5rem; }
p { margin: .5rem 0; max-width: 46rem; }
code, pre, .mono {
  font-family: ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace;
  font-size: .86em;
}
.muted, small { color: var(--muted); }
.eyebrow { margin: 0 0 .9rem; color: var(--muted); font-size: .82rem; letter-spacing: .04em; }
.verdict { display: flex; gap: 1rem; align-items: flex-start; }
.verdict svg { flex: none; width: 2.9rem; height: 2.9rem; margin-top: .1rem; }
.verdict circle { fill: var(--tone-soft); stroke: var(--tone); stroke-width: 1.5; }
.verdict path {
  fill: none; stroke: var(--tone); stroke-width: 3; stroke-linecap: round;
  stroke-linejoin: round;
}
.failed { --tone: var(--bad); --tone-soft: var(--bad-soft); }
.safe { --tone: var(--good); --tone-soft: var(--good-soft); }
.unstable, .unjudged, .unfinished { --tone: var(--unsure); --tone-soft: var(--unsure-soft); }
.lede { font-size: 1.1rem; margin: 1rem 0 0; }
.facts {
  display: grid; grid-template-columns: repeat(auto-fit, minmax(6rem, 1fr)); gap: 1rem;
  margin: 1.75rem 0 0; padding: 1.1rem 0 0; border-top: 1px solid var(--line);
}
.facts dt { color: var(--muted); font-size: .8rem; }
.facts dd { margin: 0; font-size: 1.15rem; font-variant-numeric: tabular-nums; }
.rows {
  display: grid; grid-template-columns: max-content minmax(0, 1fr); gap: .35rem 1rem;
  margin: 1.25rem 0 0;
}
.rows dt { color: var(--muted); }
.rows dd { margin: 0; }
.what {
  font-size: 1.15rem; font-weight: 600; border-left: 4px solid var(--tone, var(--bad));
  padding: .1rem 0 .1rem .8rem; margin: 0 0 1rem; max-width: none;
}
pre {
  margin: .5rem 0; padding: .8rem 1rem; background: var(--card); border: 1px solid var(--line);
  border-radius: 6px; white-space: pre-wrap; max-height: 28rem; overflow: auto;
}
.tail {
  display: flex; flex-direction: column-reverse; max-height: 28rem; overflow: auto;
  margin: .5rem 0;
}
.tail pre { max-height: none; margin: 0; flex: none; }
.token { user-select: all; display: block; }
.scroll { overflow-x: auto; direction: rtl; padding-bottom: .3rem; }
.scroll > * { direction: ltr; display: block; margin-right: auto; }
table { border-collapse: collapse; width: 100%; font-size: .93rem; }
th {
  text-align: left; font-weight: 500; color: var(--muted); font-size: .8rem;
  padding: .3rem .8rem .3rem 0; border-bottom: 1px solid var(--line);
}
td {
  padding: .32rem .8rem .32rem 0; vertical-align: top; border-bottom: 1px solid var(--line);
  font-variant-numeric: tabular-nums;
}
.story th:first-child { width: 38%; }
td:first-child, th:first-child { padding-left: .7rem; }
.number { text-align: right; white-space: nowrap; width: 1%; padding-right: 1.4rem; }
tr.damage td:first-child { box-shadow: inset 4px 0 var(--bad); }
tr.damage { background: var(--bad-soft); }
tr.quiet td { color: var(--muted); font-style: italic; }
tr.promise td { background: var(--lane); }
tr.cut td { color: var(--bad); font-weight: 600; border-bottom: 3px double var(--bad); }
.bad { color: var(--bad); font-weight: 700; }
.losses { list-style: none; margin: .5rem 0; padding: 0; }
.losses li {
  border-left: 4px solid var(--bad); padding: .15rem 0 .15rem .8rem; margin: .4rem 0;
}
.losses .bad { margin-right: .4rem; }
.legend {
  display: flex; flex-wrap: wrap; gap: .3rem 1.3rem; list-style: none; margin: .6rem 0 0;
  padding: 0; font-size: .82rem; color: var(--muted);
}
.legend svg { width: 1.5rem; height: 1rem; vertical-align: -.2rem; margin-right: .4rem; }
details { border-bottom: 1px solid var(--line); }
summary { cursor: pointer; padding: .7rem 0; }
summary b { font-weight: 600; }
details[open] { padding-bottom: 1.5rem; }
figure { margin: 1rem 0; }
svg text {
  font: 12px system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif;
  fill: var(--muted);
}
svg .lane-name {
  paint-order: stroke; stroke: var(--page); stroke-width: 4px; stroke-linejoin: round;
}
svg .column-name { font-size: 11px; text-anchor: middle; }
svg .cut-name { fill: var(--bad); font-weight: 600; text-anchor: end; }
.lane { fill: var(--lane); }
.promise { fill: none; stroke: var(--good); stroke-width: 1.8; }
.promise-tick { fill: none; stroke: var(--good); stroke-width: 2; }
.flush-done { fill: var(--flush); }
.flush-open { fill: none; stroke: var(--flush); stroke-width: 1.5; stroke-dasharray: 2 2; }
.flush-failed { fill: none; stroke: var(--bad); stroke-width: 2.4; }
.flush-wall { stroke: var(--flush); stroke-width: 1; opacity: .45; }
.in-flight {
  fill: none; stroke: var(--muted); stroke-width: 1.2; stroke-dasharray: 1 4;
  stroke-linecap: round;
}
.skipped {
  fill: none; stroke: var(--muted); stroke-width: 4; stroke-dasharray: 1 7;
  stroke-linecap: round;
}
.run-durable { fill: var(--write); }
.run-reached { fill: var(--write-soft); stroke: var(--write); stroke-width: 1; }
.run-overwritten, .run-ignored {
  fill: none; stroke: var(--over); stroke-width: 1.2; stroke-dasharray: 3 2;
}
.run-lost { stroke: var(--bad); stroke-width: 1.4; }
.lost-ground { fill: var(--bad-soft); }
.lost-line { fill: var(--bad); }
.cut { fill: none; stroke: var(--bad); stroke-width: 2; stroke-linejoin: round; }
.strip {
  display: grid; grid-template-columns: minmax(0, 15rem) minmax(0, 8rem) minmax(0, 1fr);
  gap: 0 .8rem; align-items: center; margin: 3px 0; font-size: .82rem; line-height: 1.3;
}
.strip svg {
  width: 100%; height: 1.15rem; background: var(--lane); border-radius: 3px; display: block;
}
.strip.tall svg { height: 4rem; }
.strip-total { color: var(--muted); font-variant-numeric: tabular-nums; }
.strip-cut {
  stroke: var(--bad); stroke-width: 2; vector-effect: non-scaling-stroke; stroke-dasharray: 4 2;
}
.cell-write {
  fill: var(--write); } .cell-flush { fill: var(--flush); } .cell-promise { fill: var(--good);
}
.cell-lost { fill: var(--bad); } .cell-judged { fill: var(--over); opacity: .45; }
.s1 { opacity: .3; } .s2 { opacity: .5; } .s3 { opacity: .75; }
.cell-lost.s1, .cell-lost.s4 { opacity: 1; }
.axis {
  display: flex; justify-content: space-between; gap: 1rem; font-size: .78rem;
  color: var(--muted); max-width: none; padding-left: 24.6rem; margin-top: .3rem;
}
.axis span:not(:nth-child(2)) { white-space: nowrap; }
footer {
  margin-top: 4rem; padding-top: 1rem; border-top: 1px solid var(--line); font-size: .85rem;
  color: var(--muted);
}
@media (max-width: 46rem) {
  main { padding: 1.5rem 1rem 3rem; }
  .verdict svg { width: 2.1rem; height: 2.1rem; }
  .rows { grid-template-columns: 1fr; gap: 0; }
  .rows dd { margin-bottom: .6rem; }
  .strip { grid-template-columns: minmax(0, 1fr) auto; margin: .5rem 0; }
  .strip svg { grid-column: 1 / -1; }
  .axis { padding-left: 0; }
  table.story thead { display: none; }
  table.story tr { display: block; padding: .35rem 0; border-bottom: 1px solid var(--line); }
  table.story td { display: block; border: 0; padding: .05rem .7rem; }
  table.story tr.cut td { border-bottom: 3px double var(--bad); }
}
@media print {
  :root { color-scheme: light; }
  body { font-size: 10.5pt; background: none; }
  main { max-width: none; padding: 0; }
  pre, .tail { max-height: none; overflow: visible; }
  h2, h3, .what { break-after: avoid; }
  tr, figure, .strip, li { break-inside: avoid; }
  details::details-content { content-visibility: visible; display: block; height: auto; }
  * { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
}
`;
