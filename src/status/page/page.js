'use strict';
// Everything that is shown is set as text, never as markup.
const INTERVAL = 4000, TIMEOUT = 6000, OLD = 15, SHOWN = 50;
const $ = id => document.getElementById(id);
let last = null, seen = 0, failed = null, all = false;

const make = (name, cls, ...parts) => {
  const made = document.createElement(name);
  if (cls) made.className = cls;
  made.append(...parts.filter(part => part !== null && part !== undefined).map(node));
  return made;
};
const node = part => part instanceof Node ? part : String(part);
const draw = (name, attributes, text) => {
  const made = document.createElementNS('http://www.w3.org/2000/svg', name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  return made;
};
const show = (id, is) => { $(id).hidden = !is; };
const fill = (id, parts) => $(id).replaceChildren(...parts);
const say = (id, text) => { if ($(id).textContent !== text) $(id).textContent = text; };

const span = seconds => {
  const s = Math.max(0, Math.floor(seconds)), d = Math.floor(s / 86400), h = Math.floor(s / 3600) % 24, m = Math.floor(s / 60) % 60;
  return d ? `${d}d ${h}h` : h ? `${h}h ${m}m` : m ? `${m}m ${s % 60}s` : `${s}s`;
};
const now = () => last.now + (performance.now() - seen) / 1000;
const ago = at => `${span(now() - at)} ago`;
const clock = at => new Date(at * 1000).toLocaleString([], { month: 'short', day: 'numeric', hour: '2-digit', minute: '2-digit' });
const count = n => n ? String(n) : '–';
const plural = (n, word) => `${n} ${word}${n === 1 ? '' : 's'}`;
// Breaks long paths at their slashes, and never the name at its hyphen.
const words = text => text.split(/(bots-ctl)|(?<=\/)/).filter(part => part).flatMap(part =>
  part === 'bots-ctl' ? [make('span', 'whole', part)] : part.endsWith('/') ? [part, make('wbr')] : [part]);
const flag = (n, cls, sign) => n ? make('td', `n ${cls}`, `${sign} ${n}`) : make('td', 'n soft', '–');
const wrong = run => (run.errors || 0) + (run.process_errors || 0);
// Bots calls a run a failure when any file of it had errors.
const failed_whole = run => run.failed && !run.done, partial = run => run.failed && run.done > 0;

const STATES = {
  running: ['good', '●'], waiting: ['good', '○'], standby: ['soft', '○'], starting: ['stuck', '◌'],
  stopping: ['stuck', '▽'], restarting: ['bad', '↻'], ended: ['bad', '✕'],
};

function services() {
  fill('services', last.services.map(s => {
    const [cls, sign] = s.ready === false && s.state === 'running' ? ['bad', '▲'] : STATES[s.state] || ['soft', '?'];
    const silent = s.ready === false && s.state === 'running' ? ', not ready' : '';
    const head = make('th', '', s.name);
    head.scope = 'row';
    return make('tr', '', head, make('td', cls, `${sign} ${s.state}${silent}`), make('td', 'n aside', s.pid ?? '–'),
      make('td', 'n', s.uptime === null ? '–' : span(s.uptime + now() - last.now)),
      make('td', s.restarts ? 'n bad' : 'n soft', s.restarts), make('td', '', s.last_exit ?? '–'));
  }));
  const lines = last.services.filter(s => s.jobs)
    .map(s => make('li', '', `Queue: ${s.jobs.waiting} waiting, ${s.jobs.running} running`));
  const engine = last.engine;
  if (engine) lines.push(make('li', '', `Engine: a run has worked for ${span(engine.seconds + now() - last.now)}, started by ${engine.holder}`));
  else if (last.services.length) lines.push(make('li', 'soft', 'Engine: no run at the moment'));
  last.services.filter(s => s.next !== undefined).forEach(s => lines.push(make('li', '', `Engine: next run in ${span(s.next - now() + last.now)}`)));
  fill('work', lines);
}

function checks() {
  fill('checks', last.checks.map(c => c.good
    ? make('li', '', make('span', 'good', '✓ '), c.name)
    : c.good === null ? make('li', 'soft', `◌ ${c.name}: not checked yet`)
    : make('li', 'bad', `✕ ${c.name}: ${c.why}`)));
}

function outcome(runs) {
  const [bad, some] = [failed_whole, partial].map(is => runs.filter(is).length);
  return `${bad || 'none'} failed${some ? `, ${some} had errors in some files` : ''}`;
}

function chart(runs) {
  const W = Math.max($('drawing').clientWidth, 200), H = 112, TOP = 20, BASE = 90, n = Math.max(runs.length, 24), step = W / n, wide = Math.min(step * .7, 22);
  const most = Math.max(1, ...runs.map(r => r.received || 0));
  const svg = draw('svg', { viewBox: `0 0 ${W} ${H}`, role: 'img' });
  svg.append(draw('title', {}, `The last ${plural(runs.length, 'engine run')}: ${outcome(runs)}`));
  svg.append(draw('line', { x1: 0, x2: W, y1: BASE + .5, y2: BASE + .5 }));
  runs.slice().reverse().forEach((r, i) => {
    const x = W - (runs.length - i) * step + (step - wide) / 2, mid = x + wide / 2, g = draw('g', {});
    let y = BASE;
    // The root lets a run of one file be seen beside one of a thousand.
    const scale = Math.sqrt((r.received || 0) / most) * (BASE - TOP) / (r.received || 1);
    for (const [cls, files] of [['done', r.done], ['stuck', r.stuck], ['bad', r.errors]]) {
      if (!files) continue;
      const h = Math.max(files * scale, 3);
      y -= h;
      g.append(draw('rect', { class: cls, x, y, width: wide, height: h }));
    }
    if (y === BASE) g.append(draw('rect', { class: 'soft', x: mid - 1.5, y: BASE - 4, width: 3, height: 3 }));
    const at = Math.max(y - 9, 9);
    if (failed_whole(r)) g.append(draw('path', { class: 'mark', d: `M${mid - 4} ${at - 4}l8 8m0-8l-8 8` }));
    if (r.kind === 'crashrecovery') g.append(draw('path', { class: 'recovery', d: `M${mid} ${BASE + 3}l5 5l-5 5l-5-5z` }));
    g.append(draw('title', {}, `Run ${r.id} (${r.kind}), ${clock(r.started)}: ${r.received || 0} in, ${r.sent || 0} sent, ${plural(wrong(r), 'error')}, ${r.stuck || 0} stuck`));
    svg.append(g);
  });
  return svg;
}

function runs() {
  const r = last.results, list = r ? r.runs : [];
  show('stale', r && r.error);
  if (r && r.error) {
    const why = last.errors.includes(r.error) ? 'the database could not be read since.' : r.error;
    say('stale', `As of ${span(r.age + now() - last.now)} ago: ${why}`);
  }
  show('chart', list.length);
  show('runs-list', list.length);
  if (!list.length) return say('runs-note', r ? 'No engine has run yet.' : 'Not read from the database yet.');
  const newest = list[0], end = failed_whole(newest) ? ', failed' : partial(newest) ? `, with errors in ${newest.errors || 0} of ${plural(newest.received || 0, 'file')}` : '';
  const lost = r.lost_runs ? ` ${plural(r.lost_runs, 'run')} interrupted and not recovered.` : '';
  say('runs-note', `Last run ${ago(newest.started)}${end}. Of the last ${plural(list.length, 'run')} ${outcome(list)}.${lost}`);
  $('runs-note').className = failed_whole(newest) || lost ? 'bad' : partial(newest) ? 'stuck' : '';
  fill('drawing', [chart(list)]);
  fill('runs', list.map(run => make('tr', '', make('td', 'n', run.id), make('td', '', clock(run.started)),
    make('td', '', run.kind), make('td', 'n', run.seconds === undefined ? '–' : span(run.seconds)),
    make('td', 'n', count(run.received)), make('td', 'n', count(run.sent)),
    flag(wrong(run), 'bad', '✕'), flag(run.stuck, 'stuck', '▲'))));
}

const troubled = route => (route.errors || 0) + (route.stuck || 0) > 0 || (route.state && route.state !== 'done');
const order = (a, b) => troubled(b) - troubled(a) || (b.last || 0) - (a.last || 0) || (a.name < b.name ? -1 : 1);

function routes() {
  const r = last.results, list = r ? r.routes : [], wanted = $('wanted').value.trim().toLowerCase();
  show('routes-table', list.length);
  show('filter', list.length > 10);
  if (!list.length) {
    show('more', false);
    return say('routes-note', r ? 'No route is active.' : 'Not read from the database yet.');
  }
  const found = list.filter(route => route.name.toLowerCase().includes(wanted)).sort(order);
  const bad = list.filter(troubled).length, more = r.more_routes ? ` ${r.more_routes} more are not listed.` : '';
  say('routes-note', `${plural(list.length, 'route')}, ${bad || 'none'} with errors; files since ${clock(r.since)}.${more}${wanted ? ` ${found.length} shown.` : ''}`);
  fill('routes', found.slice(0, all ? found.length : SHOWN).map(route => {
    const head = make('th', '', route.name, route.inactive ? make('span', 'soft', ' (not active)') : null);
    head.scope = 'row';
    const [cls, sign] = { error: ['bad', '✕ error, '], stuck: ['stuck', '▲ stuck, '] }[route.state] || ['', ''];
    return make('tr', '', head, make('td', route.last ? cls : 'soft',
      ...route.last ? [sign + span(now() - route.last), make('span', 'aside', ' ago')] : ['none']),
      make('td', 'n', count(route.received)), make('td', 'n', count(route.sent)),
      flag(route.errors, 'bad', '✕'), flag(route.stuck, 'stuck', '▲'));
  }));
  show('more', found.length > SHOWN);
  say('more', all ? `Show the first ${SHOWN}` : `Show all ${found.length}`);
}

function directories() {
  const m = last.monitor, list = m ? m.directories : [], bad = list.filter(d => d.error);
  show('watched', m);
  if (!m) return;
  const pending = m.pending_routes ? ` ${plural(m.pending_routes, 'route')} wait for the job queue.` : '';
  say('watched-note', `${plural(list.length - bad.length, 'directory').replace('directorys', 'directories')} watched, ${bad.length || 'none'} with errors.${pending}`);
  fill('directories', bad.slice(0, SHOWN).map(d => make('li', 'bad', `✕ ${d.files} for route ${d.route}: ${d.error}`)));
}

function problems() {
  const list = last.problems;
  say('trouble-count', list.length ? plural(list.length, 'problem') : 'No problems');
  $('trouble').className = list.length ? 'bad' : '';
  show('count', list.length);
  say('count', list.length ? plural(list.length, 'problem') : '');
  fill('problems', list.map(p => make('li', '', make('b', 'bad', ...words(p.problem)), p.at ? make('span', 'soft', ` ${clock(p.at)}`) : null,
    make('ul', '', ...(p.files || []).map(f => make('li', '', make('span', 'soft', `${clock(f.received)} `), ...words([f.name, f.reason].filter(part => part).join(': '))))),
    make('div', '', ...words(p.action)))));
}

function system() {
  const s = last.system;
  if (!s) return;
  const facts = [`Environment ${s.environment}`, `on ${s.host}`, `Bots ${s.bots}`, s.python && `Python ${s.python}`, `Django ${s.django}`, s.database].filter(fact => fact).map(fact => make('li', '', ...words(fact)));
  if (s.web) {
    const to = new URL(s.web), link = make('a', '', 'Web UI');
    if (to.hostname === 'localhost') to.hostname = location.hostname;
    link.href = to.href;
    facts.unshift(make('li', '', link));
  }
  fill('system', facts);
}

function render() {
  say('version', last.version);
  const [cls, text] = last.ready ? ['good', '● Ready'] : last.stopping ? ['stuck', '▽ Stopping'] : ['bad', '▲ Not ready'];
  $('state').className = cls;
  say('state', text);
  document.title = `${last.ready ? '' : '▲ '}bots-ctl${last.system ? ` ${last.system.environment}` : ''}: ${text.slice(2).toLowerCase()}`;
  show('main', true);
  system();
  problems();
  services();
  checks();
  runs();
  routes();
  directories();
}

function tick() {
  const old = last ? (performance.now() - seen) / 1000 : 0, lost = failed !== null || old > OLD;
  say('age', last && !lost ? `updated ${span(old)} ago` : '');
  show('lost', last && lost);
  if (last && lost) {
    say('lost', `✕ Connection lost. What is shown is ${span(old)} old.`);
    say('state', '✕ Connection lost');
    $('state').className = 'bad';
  }
  $('main').classList.toggle('old', lost);
  if (!last) say('state', failed ? '✕ bots-ctl does not answer' : '◌ Loading');
  if (lost) document.title = '✕ bots-ctl: connection lost';
}

async function look() {
  if (!document.hidden) {
    try {
      const answer = await fetch('status', { cache: 'no-store', signal: AbortSignal.timeout(TIMEOUT) });
      if (!answer.ok) throw new Error(answer.status);
      last = await answer.json();
      [seen, failed] = [performance.now(), null];
      render();
    } catch (error) {
      failed = error;
    }
    tick();
  }
  setTimeout(look, INTERVAL);
}

$('wanted').addEventListener('input', () => last && routes());
$('more').addEventListener('click', () => { all = !all; routes(); });
setInterval(tick, 1000);
look();
