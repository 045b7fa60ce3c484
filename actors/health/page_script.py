"""The script of the page. Text from outside only ever becomes a text node: there is no way from data to markup."""

SCRIPT = r"""
'use strict';
const $ = id => document.getElementById(id);
const SVG = 'http://www.w3.org/2000/svg';
const number = value => Math.round(value).toLocaleString('en-US');
const short = value => value >= 1e6 ? (value / 1e6).toFixed(1) + ' M' : value >= 1e4 ? (value / 1e3).toFixed(0) + ' k'
  : value >= 10 || value === 0 ? number(value) : value.toFixed(1);

function element(name, text, kind) {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  if (kind) made.className = kind;
  return made;
}
function shape(name, attributes, text) {
  const made = document.createElementNS(SVG, name);
  for (const key in attributes) made.setAttribute(key, attributes[key]);
  if (text !== undefined) made.textContent = text;
  return made;
}
function rows(table, lines) {
  table.replaceChildren(...lines.map(cells => {
    const row = element('tr');
    row.append(...cells.map(cell => {
      if (cell instanceof Node && cell.nodeName === 'TD') return cell;
      const made = element('td');
      made.append(cell instanceof Node ? cell : String(cell));
      return made;
    }));
    return row;
  }));
}
const right = text => element('td', text, 'n');
const until = seconds => seconds < 90 ? number(seconds) + ' s' : seconds < 5400 ? number(seconds / 60) + ' min'
  : seconds < 172800 ? number(seconds / 3600) + ' h' : number(seconds / 86400) + ' days';
const bytes = value => value < 1e6 ? number(value / 1e3) + ' kB' : value < 1e9 ? (value / 1e6).toFixed(1) + ' MB'
  : (value / 1e9).toFixed(2) + ' GB';

// --- what moves

const KEPT = 120;
let before = null, heard = 0, movedAt = 0, rates = [], perReader = {};

function measure(status) {
  const at = Date.parse(status.now) / 1000;
  const now = {at, accepted: status.records_accepted, readers: {}};
  for (const name in status.consumers) now.readers[name] = status.consumers[name];
  if (before && at > before.at && now.accepted >= before.accepted) {
    const seconds = at - before.at;
    const rate = (now.accepted - before.accepted) / seconds;
    rates.push(rate);
    if (rates.length > KEPT) rates.shift();
    if (rate > 0) movedAt = at;
    for (const name in now.readers) {
      const old = before.readers[name];
      if (old) perReader[name] = smooth(perReader[name], {
        stored: Math.max(0, now.readers[name].records_stored - old.records_stored) / seconds,
        bytes: Math.max(0, now.readers[name].committed_position - old.committed_position) / seconds});
    }
  } else if (before && now.accepted < before.accepted) rates = [];  // another process
  before = now;
}
function smooth(old, now) {
  return old ? {stored: old.stored * .6 + now.stored * .4, bytes: old.bytes * .6 + now.bytes * .4} : now;
}
function currentRate() {
  const last = rates.slice(-3);
  return last.length ? last.reduce((a, b) => a + b, 0) / last.length : 0;
}

function showMoving(status) {
  const rate = currentRate();
  const idle = movedAt ? before.at - movedAt : Infinity;
  const pulse = idle < 5 ? 'moving' : 'idle';
  const text = idle < 5 ? 'data is moving' : movedAt ? 'no new row for ' + until(idle)
    : rates.length ? 'no new row since this page was opened' : 'measuring';
  $('pulse').className = 'pulse ' + pulse;
  $('moving').textContent = text;
  $('rate').textContent = short(rate);
  $('accepted').textContent = number(status.records_accepted);
  document.title = (idle < 5 ? '\u25b6 ' + short(rate) + '/s ' : '\u23f8 ') + status.status + ': ' + status.service;
  const most = Math.max(1, ...rates), step = 300 / (KEPT - 1), first = KEPT - rates.length;
  const points = rates.map((value, i) => ((first + i) * step).toFixed(1) + ',' + (62 - 58 * value / most).toFixed(1));
  $('spark').replaceChildren();
  if (points.length > 1) {
    const line = 'M' + points.join('L');
    $('spark').append(shape('path', {class: 'spark', 'stroke-width': 1.5, 'vector-effect': 'non-scaling-stroke',
      d: line + `L300,64L${(first * step).toFixed(1)},64Z`}));
  }
}

// --- the flow

function box(name, kind, lines) {
  const made = element('div', undefined, 'box ' + kind);
  made.append(element('b', name), ...lines.filter(Boolean).map(text => element('div', text, 'dim num')));
  return made;
}
const arrow = on => element('div', '\u279c', 'arrow' + (on ? ' on' : ''));
const column = boxes => { const made = element('div'); made.append(...boxes); return made; };

function showFlow(status) {
  const rate = currentRate(), known = status.dependency_details;
  const moods = {UP: 'good', DOWN: 'bad'};
  const mood = name => known[name] ? moods[known[name].state] || 'warn' : '';
  const log = status.log;
  const vendor = status.facts.vendor || 'vendor', clock = status.market_clock;
  const feeds = Object.keys(known).filter(name => name === vendor || name.startsWith(vendor + '.')).sort();
  const speed = clock && Math.abs(clock.rate - 1) > .01 ? 'market time runs at ' + clock.rate.toFixed(0) + 'x' : '';
  const sources = (feeds.length ? feeds : [vendor]).map(name => box(
    name === vendor ? vendor + (feeds.length > 1 ? ' history' : '') : name.slice(vendor.length + 1) + ' live',
    mood(name), [known[name] ? (known[name].state === 'DOWN' ? 'down: ' : '') + known[name].reason : '',
      name === vendor ? speed : '']));
  const middle = [box('durable log', log ? (log.error ? 'bad' : 'good') : 'warn',
    [log ? short(rate) + ' rows/s in' : 'not open yet', log ? log.error || bytes(log.bytes) : ''])];
  const readers = Object.keys(status.consumers).sort().map(name => {
    const reader = status.consumers[name], sink = name.replace(/^bridge\./, '');
    const down = known[sink] && known[sink].state === 'DOWN';
    const speed = perReader[name] || {stored: 0, bytes: 0};
    const verb = sink === name ? ' bars/s made' : ' rows/s stored';
    const doing = reader.records_stored ? short(speed.stored) + verb : bytes(speed.bytes) + '/s read';
    const kind = down ? 'bad' : !reader.caught_up && reader.lag_records > 20000 ? 'warn' : 'good';
    return box(sink, kind, [doing, reader.lag_records ? number(reader.lag_records) + ' rows behind' : 'up to date',
      down ? 'down: ' + known[sink].reason : '']);
  });
  const moving = Object.values(perReader).some(speed => speed.bytes > 0);
  $('flow').replaceChildren(column(sources), arrow(rate > 0), column(middle), arrow(moving),
    column(readers.length ? readers : [box('readers', 'warn', ['none yet'])]));
}

// --- everything else

const UNWELL = {RUNNING: 'good', STARTING: 'warn', DRAINING: 'warn', STOPPED: 'dim', BACKING_OFF: 'bad', FAILED: 'bad'};

function show(status) {
  $('live').hidden = false;
  measure(status);
  $('service').textContent = status.service;
  $('word').textContent = status.status;
  $('word').className = 's ' + status.status;
  $('since').textContent = 'now ' + status.now.slice(0, 19).replace('T', ' ') + ' UTC, running since '
    + status.started.replace('T', ' ').replace('Z', '');
  $('version').textContent = 'version ' + status.version;
  $('market').hidden = !status.facts.market;
  $('market').textContent = status.facts.market || '';
  const dead = status.dead_letters || [];
  $('deadletters').hidden = !dead.length;
  $('deadletters').textContent = number(dead.reduce((sum, one) => sum + one.rows, 0)) + ' dead letters since the start'
    + ' (' + dead.map(one => one.sink + ' ' + one.reason + ' ' + number(one.rows)).join(', ')
    + '): see pipeline dead-letters list';
  $('reasons').replaceChildren(...status.reasons.map(reason => element('li', reason)));
  showMoving(status);
  showFlow(status);
  rows($('tree'), status.tree.map(child => {
    const depth = child.path.split('/').length - 1, name = element('td');
    name.append('\u2003'.repeat(depth) + child.path.split('/').pop());
    const state = element('span', child.state.toLowerCase().replace('_', ' '), 'state ' + (UNWELL[child.state] || ''));
    return [name, state, child.restarts ? child.restarts + (child.restarts > 1 ? ' restarts' : ' restart')
      + (child.last_exit ? ': ' + child.last_exit : '') : ''];
  }));
  rows($('dependencies'), Object.keys(status.dependency_details).sort().map(name => {
    const it = status.dependency_details[name];
    const kind = it.state === 'UP' ? 'good' : it.state === 'DOWN' ? 'bad' : 'warn';
    return [name, element('span', it.state, 'state ' + kind), it.reason];
  }));
  rows($('jobs'), Object.values(status.jobs).sort((a, b) => a.finished - b.finished).slice(0, 12).map(job => {
    const bar = element('progress');
    bar.max = 1;
    bar.value = job.done;
    return [job.symbol + ' ' + job.kind, bar, right((100 * job.done).toFixed(0) + ' %'), right(number(job.rows)),
      job.error || ''];
  }));
  const log = status.log;
  rows($('log'), log ? [['rows accepted', right(number(log.records_accepted))],
    ['size', right(bytes(log.bytes) + ' in ' + log.segments + (log.segments === 1 ? ' file' : ' files'))],
    ['room, if no database takes anything',
      right(log.seconds_until_loss === null ? 'not in sight' : until(log.seconds_until_loss))],
    ['id', right(log.log_id.slice(0, 12))]] : [['not open yet']]);
  rows($('endpoints'), Object.keys(status.endpoints).sort().map(name => [name, status.endpoints[name]]));
  $('events').textContent = status.events.slice().reverse().join('\n');
}

// --- candles

let chosen = {symbol: '', timeframe: '1m', basis: ''}, answer = null;

function buttons(holder, names, current, choose) {
  const key = names.join(' ') + '|' + current;
  if (holder.dataset.key === key) return;
  holder.dataset.key = key;
  holder.replaceChildren(...names.map(name => {
    const made = element('button', name);
    made.type = 'button';
    made.setAttribute('aria-pressed', name === current);
    made.addEventListener('click', () => { choose(name); candles(); });
    return made;
  }));
}
function controls() {
  const symbols = Object.keys(answer.series).sort(), select = $('symbol');
  if (select.dataset.key !== symbols.join(' ')) {
    select.dataset.key = symbols.join(' ');
    select.replaceChildren(...symbols.map(name => new Option(name, name)));
  }
  select.value = answer.symbol;
  const frames = answer.series[answer.symbol] || {};
  const order = ['1m', '5m', '15m', '1h', '4h', '1d'];
  buttons($('timeframes'), order.filter(name => frames[name]), answer.timeframe, name => { chosen.timeframe = name; });
  buttons($('bases'), frames[answer.timeframe] || [], answer.basis, name => { chosen.basis = name; });
}
async function candles() {
  const asked = new URLSearchParams(Object.entries(chosen).filter(pair => pair[1]));
  asked.set('limit', innerWidth < 740 ? 60 : 120);
  let response = await fetch('/api/candles?' + asked);
  if (response.status === 400) {  // what was chosen is not there: any that is
    chosen = {symbol: chosen.symbol, timeframe: '', basis: ''};
    response = await fetch('/api/candles?' + new URLSearchParams(chosen.symbol ? {symbol: chosen.symbol} : {}));
    if (response.status === 400) { chosen.symbol = ''; return; }
  }
  if (!response.ok) return;
  answer = await response.json();
  controls();
  draw();
}
$('symbol').addEventListener('change', event => { chosen.symbol = event.target.value; chosen.basis = ''; candles(); });

function draw() {
  const chart = $('chart'), bars = answer.bars, width = Math.max(280, chart.clientWidth), height = 320;
  chart.setAttribute('viewBox', `0 0 ${width} ${height}`);
  chart.replaceChildren();
  if (!bars.length) {
    chart.append(shape('text', {x: 10, y: 30}, 'No candles yet: they appear when a minute is over.'));
    $('candlenote').textContent = '';
    return;
  }
  const low = Math.min(...bars.map(bar => bar.low)), high = Math.max(...bars.map(bar => bar.high));
  const room = (high - low) * .06 || high * 1e-4 || 1, bottom = low - room, top = high + room;
  const digits = Math.min(8, Math.max(0, Math.ceil(-Math.log10(top - bottom)) + 2));
  const price = value => value.toFixed(digits);
  const side = 14 + 6.6 * price(top).length, area = width - side, base = height - 22;
  const y = value => base - (base - 8) * (value - bottom) / (top - bottom);
  const step = area / bars.length, x = i => (i + .5) * step;
  for (let i = 0; i <= 4; i++) {
    const value = bottom + (top - bottom) * i / 4;
    chart.append(shape('line', {class: 'gridline', x1: 0, x2: area, y1: y(value), y2: y(value)}),
      shape('text', {x: area + 6, y: Math.min(base, Math.max(12, y(value) + 4))}, price(value)));
  }
  const every = Math.max(1, Math.ceil(bars.length * 64 / area));
  const usual = Math.min(...bars.slice(1).map((bar, i) => bar.ts - bars[i].ts));
  const daily = answer.timeframe === '1d' || answer.timeframe === '4h';
  bars.forEach((bar, i) => {
    const kind = 'candle ' + (bar.close >= bar.open ? 'up' : 'down') + (bar.is_open ? ' open' : '');
    const thick = Math.max(1, step * .66);
    const a = y(Math.max(bar.open, bar.close)), b = y(Math.min(bar.open, bar.close));
    const one = shape('g', {class: kind}), iso = new Date(bar.ts).toISOString();
    one.append(shape('title', {}, `${iso.slice(0, 16).replace('T', ' ')}  O ${price(bar.open)}  `
      + `H ${price(bar.high)}  L ${price(bar.low)}  C ${price(bar.close)}  ${bar.ticks} ticks`
      + (bar.is_open ? ', open' : bar.final ? ', final' : ', not confirmed yet')),
      shape('line', {x1: x(i), x2: x(i), y1: y(bar.high), y2: y(bar.low)}),
      shape('rect', {x: x(i) - thick / 2, y: a, width: thick, height: Math.max(1, b - a)}));
    chart.append(one);
    if (i && bar.ts - bars[i - 1].ts > 1.5 * usual)
      chart.append(shape('line', {class: 'hole', x1: i * step, x2: i * step, y1: 8, y2: base}));
    if (i % every === 0 && x(i) > 16 && x(i) < area - 16)
      chart.append(shape('text', {x: x(i), y: height - 6, 'text-anchor': 'middle'},
        daily ? iso.slice(5, 10) : iso.slice(11, 16)));
  });
  const last = bars[bars.length - 1], at = y(last.close);
  chart.append(shape('line', {class: 'last', x1: 0, x2: area, y1: at, y2: at}),
    shape('rect', {class: 'lasttag', x: area, y: at - 8, width: side, height: 16, rx: 3}),
    shape('text', {class: 'lasttext', x: area + 6, y: at + 4}, price(last.close)));
  const when = new Date(last.ts).toISOString();
  $('candlenote').textContent = `${answer.basis} ${price(last.close)}, ` + (last.is_open ? 'open bar ' : 'last bar ')
    + when.slice(0, 10) + ' ' + when.slice(11, 16) + ` UTC, ${number(last.ticks)} ticks`;
}
addEventListener('resize', () => { if (answer) draw(); });

// --- hearing

let stream = null;
function heardOne(status) { heard = performance.now(); show(status); }
function listen() {
  stream = new EventSource('/api/events');
  stream.addEventListener('status', event => heardOne(JSON.parse(event.data)));
}
async function ask() {
  try {
    const response = await fetch('/api/status');
    if (response.ok) heardOne(await response.json());
  } catch (error) { /* told by `watch` */ }
}
async function watch() {
  const silent = performance.now() - heard;
  if (silent > 3500) {
    $('live').hidden = false;
    $('word').textContent = 'no answer';
    $('word').className = 's lost';
    $('pulse').className = 'pulse lost';
    $('moving').textContent = 'no answer for ' + until(silent / 1000) + ': what stands below is old';
    document.title = '\u2716 no answer';
    if (stream.readyState === EventSource.CLOSED) listen();
    await ask();
  }
}
listen();
ask();
setInterval(watch, 1000);
const again = () => { candles().catch(() => {}).finally(() => setTimeout(again, document.hidden ? 5000 : 1000)); };
again();
"""
