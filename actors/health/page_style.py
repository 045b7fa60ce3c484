"""How the page looks, and the shell that its script fills."""

STYLE = """
:root{--fg:#1b1f24;--bg:#f6f8fa;--card:#fff;--line:#d8dee4;--dim:#57606a;--good:#1a7f37;--warn:#9a6700;--bad:#cf222e;
--accent:#0969da;--up:#1a7f37;--down:#cf222e}
@media(prefers-color-scheme:dark){:root{--fg:#e6edf3;--bg:#0d1117;--card:#161b22;--line:#30363d;--dim:#8d96a0;
--good:#3fb950;--warn:#d29922;--bad:#f85149;--accent:#58a6ff;--up:#3fb950;--down:#f85149}}
*{box-sizing:border-box}
body{font:15px/1.45 system-ui,sans-serif;margin:0 auto;max-width:76rem;padding:.8rem;color:var(--fg);
background:var(--bg)}
h1{font-size:1.25rem;margin:0;display:inline}h2{font-size:.85rem;margin:0 0 .5rem;color:var(--dim);font-weight:600}
section{background:var(--card);border:1px solid var(--line);border-radius:8px;padding:.8rem;margin:0 0 .8rem;
min-width:0}
header{display:flex;flex-wrap:wrap;gap:.4rem .8rem;align-items:center;margin:.2rem 0 .8rem}
small,.dim{color:var(--dim)}a{color:var(--accent)}
.s{display:inline-block;padding:.05rem .6rem;border-radius:1rem;color:#fff;font-weight:600}
.healthy{background:#1a7f37}.degraded{background:#9a6700}.unhealthy,.lost{background:#cf222e}
.pulse{display:inline-block;width:.8rem;height:.8rem;border-radius:50%;background:var(--line);vertical-align:-.05rem}
.pulse.moving{background:var(--good);animation:beat 1s ease-out infinite}.pulse.idle{background:var(--warn)}
.pulse.lost{background:var(--bad)}
@keyframes beat{0%{box-shadow:0 0 0 0 var(--good)}80%,100%{box-shadow:0 0 0 .6rem transparent}}
@media(prefers-reduced-motion:reduce){.pulse.moving{animation:none}}
.big{font-size:1.9rem;font-weight:700;font-variant-numeric:tabular-nums;line-height:1.1}
.grid{display:grid;grid-template-columns:1fr 1fr;gap:.8rem}
.grid{margin-bottom:.8rem}.grid>section{margin:0}.grid>div>section:last-child{margin:0}
.moving-row{display:flex;gap:1.2rem;align-items:center;flex-wrap:wrap}.moving-row>svg{flex:1 1 14rem;min-width:0}
.flow{display:flex;align-items:stretch;gap:.3rem}
.flow>div{flex:1 1 0;min-width:0;display:flex;flex-direction:column;gap:.4rem;justify-content:center}
.flow>.arrow{flex:0 0 1.6rem;text-align:center;color:var(--dim);font-size:1.2rem}
.flow>.arrow.on{color:var(--good);animation:flow 1s linear infinite}
@keyframes flow{0%{opacity:.35}50%{opacity:1}100%{opacity:.35}}
.box{border:1px solid var(--line);border-left:4px solid var(--dim);border-radius:6px;padding:.35rem .6rem;
overflow-wrap:anywhere}
.box.good{border-left-color:var(--good)}.box.warn{border-left-color:var(--warn)}.box.bad{border-left-color:var(--bad)}
.box b{display:block}.num{font-variant-numeric:tabular-nums}
.controls{display:flex;flex-wrap:wrap;gap:.4rem;align-items:center;margin-bottom:.4rem}
select,button{font:inherit;color:var(--fg);background:var(--bg);border:1px solid var(--line);border-radius:6px;
padding:.15rem .6rem;min-height:2.1rem}
button[aria-pressed=true]{background:var(--accent);color:#fff;border-color:var(--accent)}
button:focus-visible,select:focus-visible{outline:2px solid var(--accent);outline-offset:1px}
svg{display:block;width:100%}svg text{fill:var(--dim);font:11px system-ui,sans-serif}
.candle.up{stroke:var(--up);fill:var(--up)}.candle.down{stroke:var(--down);fill:var(--down)}
.candle.open{fill-opacity:.25}.gridline{stroke:var(--line)}.last{stroke:var(--accent);stroke-dasharray:3 3}
.lasttag{fill:var(--accent)}svg text.lasttext{fill:#fff;font-weight:600}
.hole{stroke:var(--dim);stroke-dasharray:2 4}
#timeframes,#bases{display:inline-flex;gap:.25rem;flex-wrap:wrap}
.spark{stroke:var(--good);fill:var(--good);fill-opacity:.15}
table{border-collapse:collapse;width:100%}td,th{padding:.2rem .6rem .2rem 0;text-align:left;vertical-align:top;
border-bottom:1px solid var(--line)}tr:last-child td{border-bottom:0}th{font-weight:600;color:var(--dim)}
td{overflow-wrap:anywhere}td:first-child{overflow-wrap:normal}td.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
.state{white-space:nowrap}.state.good{color:var(--good)}.state.warn{color:var(--warn)}.state.bad{color:var(--bad)}
.bar{background:var(--line);border-radius:4px;height:.5rem;min-width:5rem;overflow:hidden}
.bar i{display:block;height:100%;background:var(--good)}
progress{width:100%;min-width:5rem;height:.8rem;accent-color:var(--good)}
pre{white-space:pre-wrap;overflow-wrap:anywhere;margin:0;max-height:16rem;overflow:auto;font-size:.8rem}
.note{margin:0 0 .8rem;padding:.4rem .8rem;border-left:4px solid var(--warn);background:var(--card)}
#reasons{margin:0 0 .8rem;padding:.6rem .8rem .6rem 1.8rem;border:1px solid var(--warn);border-radius:8px;
background:var(--card)}#reasons:empty{display:none}
@media(max-width:46rem){body{padding:.5rem}.grid{grid-template-columns:1fr}.flow{flex-direction:column}
.flow>.arrow{transform:rotate(90deg);flex-basis:1.4rem;align-self:center;width:1.6rem}.wide{display:none}}
"""

SHELL = """
<div id="live" hidden>
<header><h1 id="service"></h1><span id="word" class="s"></span><span class="dim" id="since"></span></header>
<p id="market" class="note" hidden></p>
<ul id="reasons"></ul>
<p id="deadletters" class="note" hidden></p>
<section aria-label="Is data moving"><div class="moving-row"><div>
<div><span id="pulse" class="pulse"></span> <span id="moving" role="status"></span></div>
<div class="big"><span id="rate"></span> <small>rows/s</small></div>
<div class="dim">accepted in all: <span id="accepted" class="num"></span></div></div>
<svg id="spark" height="64" viewBox="0 0 300 64" preserveAspectRatio="none" role="img"
aria-label="Rows accepted per second, last two minutes"></svg></div></section>
<section><h2>Flow</h2><div id="flow" class="flow"></div></section>
<section><div class="controls"><select id="symbol" aria-label="Symbol"></select><span id="timeframes"></span>
<span id="bases"></span><span id="candlenote" class="dim"></span></div>
<svg id="chart" height="320" role="img" aria-label="Candles"></svg></section>
<div class="grid"><section><h2>Supervision tree</h2><table id="tree"></table></section>
<div><section><h2>Dependencies</h2><table id="dependencies"></table></section>
<section><h2>History</h2><table id="jobs"></table></section>
<section><h2>Durable log</h2><table id="log"></table></section></div></div>
<section><h2>Recent events</h2><pre id="events"></pre></section>
<section class="wide"><h2>Endpoints</h2><table id="endpoints"></table></section>
<p><small><a href="/healthz">healthz</a> · <a href="/api/status">status as JSON</a> ·
<a href="/metrics">metrics</a> · <span id="version"></span></small></p></div>
"""
