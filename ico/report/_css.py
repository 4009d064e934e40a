"""The look of a report: light and dark, phone and paper, nothing fetched."""

CSS = """
:root { color-scheme: light dark;
  --page: #f7f7f5; --card: #ffffff; --text: #1c1e21; --muted: #5d646d; --line: #dfe1e4;
  --link: #0b5cad; --band: #cfe3f6; --edge: #5b93c7; --bar: #1c1e21;
  --good: #00694c; --good-soft: #dcf2ea; --bad: #a83c00; --bad-soft: #fde6d9;
  --open: #765300; --open-soft: #fbefcd; --none: #5d646d; --none-soft: #eceef0; }
@media screen and (prefers-color-scheme: dark) { :root {
  --page: #15171a; --card: #1e2125; --text: #e7e9ec; --muted: #a2a9b3; --line: #363b42;
  --link: #7cb8f2; --band: #24435f; --edge: #6ea8dc; --bar: #f2f3f5;
  --good: #5fd3ae; --good-soft: #14372c; --bad: #ff9d6b; --bad-soft: #44230f;
  --open: #f0c75e; --open-soft: #3b2f0d; --none: #a2a9b3; --none-soft: #2b2f35; } }
* { box-sizing: border-box; }
html { scroll-behavior: smooth; -webkit-text-size-adjust: 100%; }
body { margin: 0; background: var(--page); color: var(--text);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif; }
main { max-width: 60rem; margin: 0 auto; padding: 2.5rem 1.25rem 4rem; }
h1 { font-size: clamp(1.6rem, 4.5vw, 2.3rem); line-height: 1.2; margin: .2rem 0 .5rem; }
h2 { font-size: 1.35rem; line-height: 1.3; margin: 0 0 .3rem; }
h3 { font-size: 1rem; margin: 1.6rem 0 .5rem; }
p { margin: .4rem 0; }
a { color: var(--link); text-decoration-thickness: .06em; text-underline-offset: .15em; }
.muted, figcaption, .source { color: var(--muted); }
.source { font-size: .85rem; }
.eyebrow { color: var(--muted); font-size: .9rem; margin: 0; overflow-wrap: anywhere; }
.lead { font-size: 1.12rem; margin-top: 1.1rem; }
.question { font-size: 1.05rem; color: var(--muted); }
section { margin-top: 2.2rem; padding-top: 1.6rem; border-top: 1px solid var(--line); }
.chips { display: flex; flex-wrap: wrap; gap: .5rem; padding: 0; margin: .9rem 0 0;
  list-style: none; }
.verdict { display: inline-block; white-space: nowrap; font-weight: 600; font-size: .86rem;
  padding: .1rem .55rem; border-radius: 1rem; color: var(--none); background: var(--none-soft); }
.reproduced { color: var(--good); background: var(--good-soft); }
.not-reproduced { color: var(--bad); background: var(--bad-soft); }
.inconclusive { color: var(--open); background: var(--open-soft); }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
caption { text-align: left; font-weight: 600; padding: 0 0 .4rem; }
th { text-align: left; font-size: .85rem; color: var(--muted); font-weight: 600; }
th, td { padding: .45rem .7rem .45rem 0; border-bottom: 1px solid var(--line);
  vertical-align: top; }
.claims td { padding-bottom: .65rem; }
.claims .number { white-space: nowrap; }
.claims td a { color: inherit; text-decoration-color: var(--edge); }
.claims .source { display: block; }
.interval, .unit { display: block; font-size: .85rem; color: var(--muted); }
.scroll { overflow-x: auto; margin: 1.2rem 0; }
.data { width: auto; min-width: min(100%, 22rem); font-size: .92rem; }
.data th, .data td { padding: .3rem 1.4rem .3rem 0; }
.data .right { text-align: right; white-space: nowrap; }
figure { margin: 1.2rem 0; }
figure img { display: block; max-width: 100%; height: auto;
  padding: .8rem; background: #ffffff; border: 1px solid var(--line); border-radius: .5rem; }
figcaption { font-size: .92rem; margin-top: .5rem; text-wrap: pretty; }
.claim { display: grid; grid-template-columns: 1fr 19rem; gap: .3rem 1.5rem; padding: .9rem 1rem;
  margin: .8rem 0; background: var(--card); border: 1px solid var(--line); border-radius: .5rem; }
.claim p { margin: .35rem 0 0; }
.claim .value { font-size: 1.2rem; font-weight: 600; font-variant-numeric: tabular-nums; }
.claim .unit { display: inline; }
.claim svg { display: block; width: 100%; max-width: 19rem; height: auto; }
.plot-band { fill: var(--band); } .plot-edge { stroke: var(--edge); stroke-width: 1.5; }
.plot-axis { stroke: var(--line); } .plot-bar { stroke: var(--bar); stroke-width: 2.5; }
.plot-dot { fill: var(--bar); stroke: var(--card); stroke-width: 1.5; }
.plot-label { fill: var(--muted); font-size: 11px; }
.notes { margin: 1rem 0; padding-left: 1.2rem; }
code { font: .88em/1.4 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace;
  overflow-wrap: anywhere; }
td, figcaption, .notes li, .claim p { overflow-wrap: break-word; }
details > summary { cursor: pointer; color: var(--link); }
@media (max-width: 640px) {
  main { padding: 1.4rem 1rem 3rem; }
  .claim { grid-template-columns: 1fr; }
  .claims thead { display: none; }
  .claims tr { display: block; padding: .7rem 0; border-bottom: 1px solid var(--line); }
  .claims td { display: block; padding: .1rem 0; border: 0; }
  .claims td[data-label]::before { content: attr(data-label) ": "; color: var(--muted); }
  .claims .number { white-space: normal; } .unit { display: inline; }
  figure img { padding: .3rem; } }
@media print {
  body { background: #ffffff; font-size: 11pt; } main { max-width: none; padding: 0; }
  .claim, figure, tr { break-inside: avoid; } h2, h3 { break-after: avoid; }
  * { print-color-adjust: exact; -webkit-print-color-adjust: exact; } }
"""
