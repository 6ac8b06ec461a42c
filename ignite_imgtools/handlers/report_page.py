"""The page of a report around its content: one HTML file that loads nothing."""

from __future__ import annotations

from ignite_imgtools.handlers.report_charts import escape

__all__ = ["page"]

_STYLE = """
:root{color-scheme:light dark;--paper:#f6f7f9;--card:#fff;--ink:#1c2430;--soft:#5d6878;--line:#e2e6ec;--accent:#2f6fdb;
--track:#eef1f5;--c0:#2f6fdb;--c1:#e2662c;--c2:#1f9d6b;--c3:#b04ad1;--c4:#c99700;--c5:#d63a67;--c6:#12a3b4;--c7:#7b6a58}
@media (prefers-color-scheme:dark){:root{--paper:#11151b;--card:#1a2028;--ink:#e8edf4;--soft:#98a4b5;--line:#2b343f;
--accent:#6ea3ff;--track:#252d38;--c0:#6ea3ff;--c1:#ff9460;--c2:#4fd19b;--c3:#d68bf0;--c4:#f0c544;--c5:#ff7d9f;
--c6:#4fd3e2;--c7:#bba88f}}
*{box-sizing:border-box}
body{margin:0;background:var(--paper);color:var(--ink);font:16px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,
"Helvetica Neue",sans-serif;-webkit-text-size-adjust:100%}
main{max-width:1120px;margin:0 auto;padding:clamp(16px,4vw,40px)}
header{margin-bottom:20px}
h1{font-size:clamp(1.6rem,5vw,2.3rem);line-height:1.15;letter-spacing:-.02em;margin:0 0 6px;overflow-wrap:anywhere}
h2{font-size:1.2rem;letter-spacing:-.01em;margin:40px 0 12px}
h3{font-size:.95rem;font-weight:600;margin:0 0 8px;overflow-wrap:anywhere}
p{margin:0;color:var(--soft);overflow-wrap:anywhere}
nav{display:flex;flex-wrap:wrap;gap:6px 16px;margin-top:12px;font-size:.9rem}
a{color:var(--accent);text-decoration:none}a:hover{text-decoration:underline}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(150px,1fr));gap:12px;margin:20px 0 0;padding:0}
.card,.tile{background:var(--card);border:1px solid var(--line);border-radius:12px;padding:16px;margin:0;min-width:0}
.tile span{display:block;color:var(--soft);font-size:.85rem;overflow-wrap:anywhere}
.tile b{display:block;font-size:1.7rem;line-height:1.25;letter-spacing:-.02em;font-variant-numeric:tabular-nums}
.grid2{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,420px),1fr));gap:16px}
svg{display:block;width:100%;height:auto}
svg text{font-size:10px;fill:var(--soft);font-variant-numeric:tabular-nums}
svg .grid{stroke:var(--line);stroke-width:1}
polyline{fill:none;stroke-width:1.6;stroke-linejoin:round;stroke-linecap:round}
.legend{list-style:none;margin:10px 0 0;padding:0;display:flex;flex-wrap:wrap;gap:3px 16px;font-size:.82rem;
color:var(--soft)}
.legend li{overflow-wrap:anywhere}
.legend i{display:inline-block;width:12px;height:4px;border-radius:2px;margin-right:6px;vertical-align:middle}
.legend b{color:var(--ink);font-weight:600;margin-left:6px;font-variant-numeric:tabular-nums}
.legend b:empty{display:none}
.bars{list-style:none;margin:0;padding:0;font-size:.9rem}
.bars li{display:grid;grid-template-columns:minmax(6.5em,9em) 1fr minmax(6em,auto);gap:10px;align-items:center;
padding:5px 0}
.bars .bar{background:var(--track);border-radius:5px;height:10px}
.bars .bar i{display:block;height:100%;background:var(--accent);border-radius:5px}
.bars b{font-weight:500;text-align:right;font-variant-numeric:tabular-nums}
.scroll{overflow:auto;max-height:34rem}
table{border-collapse:collapse;width:100%;font-size:.88rem;font-variant-numeric:tabular-nums}
th{position:sticky;top:0;background:var(--card);text-align:right;font-weight:600;color:var(--soft);padding:6px 8px;
border-bottom:1px solid var(--line)}
th:first-child,td:first-child{text-align:left;overflow-wrap:anywhere;min-width:5.5em}
td{padding:6px 8px;text-align:right;border-bottom:1px solid var(--line)}
tbody tr:last-child td{border-bottom:0}
td.n{white-space:nowrap}
td.share{background:linear-gradient(var(--accent),var(--accent)) no-repeat left 8px bottom 3px/
calc((100% - 16px)*var(--share)) 2px}
.facts{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,250px),1fr));gap:0 28px;margin:0;
font-size:.88rem}
.facts div{display:flex;justify-content:space-between;gap:14px;padding:5px 0;border-bottom:1px solid var(--line)}
.facts dt{color:var(--soft);flex:none;max-width:55%;overflow-wrap:anywhere}
.facts dd{margin:0;text-align:right;overflow-wrap:anywhere;min-width:0}
img{display:block;max-width:100%;height:auto;border-radius:8px;margin:0 auto}
.pictures{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,340px),1fr));gap:12px;align-items:start}
.pictures img{width:100%}
.plot{background:#fff;color:#333}
.note{margin-top:10px;font-size:.88rem}
footer{margin-top:44px;font-size:.85rem;color:var(--soft)}
@media (max-width:560px){.wide{display:none}.card{padding:13px}.bars li{grid-template-columns:6.2em 1fr auto;gap:8px}
.tiles{grid-template-columns:1fr 1fr}.tile:last-child:nth-child(odd){grid-column:1/-1}}
@media print{body{background:#fff}.card{break-inside:avoid}}
"""
_COLORS = "".join(
    f"polyline.c{i}{{stroke:var(--c{i})}}circle.c{i}{{fill:var(--c{i})}}i.c{i}{{background:var(--c{i})}}"
    for i in range(8)
)
# Nothing is ever fetched, and no script runs, whatever a name in the data may hold.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


def page(title: str, introduction: str, sections: dict[str, str], footer: str) -> str:
    """The whole document.

    Args:
        title: as text.
        introduction: HTML below the title.
        sections: HTML by heading; those that are empty are left out.
        footer: as text.
    """
    shown = {name: content for name, content in sections.items() if content}
    links = "".join(f'<a href="#s{place}">{escape(name)}</a>' for place, name in enumerate(shown))
    parts = "".join(
        f'<section id="s{place}"><h2>{escape(name)}</h2>{content}</section>'
        for place, (name, content) in enumerate(shown.items())
    )
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        f"<style>{_STYLE}{_COLORS}</style></head>\n<body><main><header><h1>{escape(title)}</h1>{introduction}"
        f"<nav>{links}</nav></header>\n{parts}\n<footer>{escape(footer)}</footer></main></body></html>\n"
    )
