// What makes pages live. Every page is whole without it.
//
// <main data-live="QUERY">     the page goes by the events of that query, of the kinds that data-kinds names: when one comes, its
//                              inside is asked for again; and now and then, for what is no event, such as the load of agents
// <main data-pause="SECONDS">  what is behind it takes its time: so many seconds are between two times that it is asked for
// <main data-poll="SECONDS">   there are no events for who looks at it: it is asked for again every so many seconds
// data-key="…"                 an element that stays the same one wherever in its list it moves; as long as what the
//                              coordinator sends of it is the same, nothing in it is looked at
// data-keep                    what is inside is not the coordinator's: it stays as it is
// data-log="ADDRESS"           pieces of HTML from there, each of whole lines, are added as they come
// <form data-api>              is sent as a program sends it, with the header that other sites cannot send, and data-body="…" as
//                              its body; data-confirm="…" is asked before; data-to="…" with the build that was made behind it
//                              is where it goes on
// <time data-form="for|at">    how long since, or the point of time itself; else how long ago
'use strict';

(() => {
    const main = document.getElementById('main');
    const said = document.getElementById('live');
    const asOf = document.getElementById('as-of');
    document.documentElement.classList.add('js');
    if (!main) return;

    // --- Times ---

    // How far this clock is ahead of the coordinator's.
    let ahead = asOf ? Date.now() - Date.parse(asOf.dateTime) : 0;

    function age(milliseconds) {
        const s = Math.max(0, Math.floor(milliseconds / 1000));
        if (s < 1) return 'now';
        if (s < 60) return s + ' s';
        if (s < 3600) return Math.floor(s / 60) + ' min';
        if (s < 86400) return Math.floor(s / 3600) + ' h';
        return Math.floor(s / 86400) + ' d';
    }

    function tick(time, now) {
        if (time.dataset.form === 'at') return;
        const spoken = age(now - Date.parse(time.dateTime));
        const text = time.dataset.form === 'for' || spoken === 'now' ? spoken : spoken + ' ago';
        if (!time.firstChild) time.append(text);
        else if (time.firstChild.data !== text) time.firstChild.data = text;
    }

    function tickAll(root) {
        const now = Date.now() - ahead;
        for (const time of root.getElementsByTagName('time')) tick(time, now);
    }

    setInterval(() => { if (!document.hidden) tickAll(main); }, 30000);

    // --- Putting in place what differs ---

    // Without what times say in words, which is different each time and is ours to keep right.
    const plain = (html) => html.replace(/(<time(?![^>]*data-form="at")[^>]*>)[^<]*/g, '$1');
    // What the coordinator sent of each element with a key.
    const sent = new WeakMap();
    const move = Element.prototype.moveBefore ? 'moveBefore' : 'insertBefore';

    function remember(root) {
        for (const element of root.querySelectorAll('[data-key]')) sent.set(element, plain(element.outerHTML));
    }

    const keyOf = (node) => (node.nodeType === 1 ? node.getAttribute('data-key') : null);

    function same(was, will) {
        if (was.nodeType === 3) {
            if (was.data !== will.data) was.data = will.data;
            return;
        }
        if (was.nodeType !== 1) return;
        if (keyOf(was) !== null) {
            const html = will.outerHTML;
            if (sent.get(was) === html) return;
            sent.set(was, html);
        }
        for (const { name, value } of will.attributes) {
            // Whether something is folded is up to who reads it.
            if (was.getAttribute(name) !== value && !(name === 'open' && was.tagName === 'DETAILS')) {
                was.setAttribute(name, value);
            }
        }
        for (const { name } of [...was.attributes]) {
            if (!will.hasAttribute(name) && name !== 'open') was.removeAttribute(name);
        }
        if (was.hasAttribute('data-keep') || was.hasAttribute('data-log')) return;
        if (was.tagName === 'TIME' && was.dataset.form !== 'at') return tick(was, Date.now() - ahead);
        inside(was, will);
    }

    function inside(was, will) {
        const known = new Map();
        const wanted = new Set();
        for (const child of will.children) if (keyOf(child) !== null) wanted.add(keyOf(child));
        for (const child of [...was.children]) {
            const key = keyOf(child);
            if (key === null) continue;
            if (wanted.has(key) && !known.has(key)) known.set(key, child);
            else child.remove();
        }
        let next = was.firstChild;
        for (const child of [...will.childNodes]) {
            const key = keyOf(child);
            let match = null;
            if (key !== null) match = known.get(key) ?? null;
            else if (next && next.nodeName === child.nodeName && keyOf(next) === null) match = next;
            if (!match || match.nodeName !== child.nodeName) {
                was.insertBefore(child, next);
                arrived(child);
                continue;
            }
            if (match === next) next = next.nextSibling;
            else was[move](match, next);
            same(match, child);
        }
        while (next) {
            const gone = next;
            next = next.nextSibling;
            gone.remove();
        }
    }

    function arrived(node) {
        if (node.nodeType !== 1) return;
        if (keyOf(node) !== null) sent.set(node, node.outerHTML);
        remember(node);
        tickAll(node);
        follow(node);
    }

    // --- What is said about it ---

    let late = null;

    function say(state, text) {
        if (!said || said.dataset.text === text) return;
        said.dataset.text = text;
        said.dataset.state = state;
        said.textContent = text;
    }

    function isLive() {
        late = null;
        say('live', 'Live');
    }

    function isLate(why) {
        late ??= new Date();
        say('late', 'Not live since ' + late.toLocaleTimeString() + ': ' + why);
    }

    // --- Asking again ---

    let before = null;
    let timer = null;
    let asking = false;
    let again = false;
    let last = 0;
    let took = 0;
    let out = false;
    const least = (Number(main.dataset.pause) || 1) * 1000;

    // Soon: a moment after the first of several events, once a second (or so many) at most, and never for most of the time.
    function soon() {
        if (document.hidden || asking) {
            again = true;
            return;
        }
        if (timer !== null || out) return;
        const pause = Math.max(least, took * 10) - (performance.now() - last);
        timer = setTimeout(ask, Math.max(150, pause));
    }

    async function ask() {
        timer = null;
        if (document.hidden) {
            again = true;
            return;
        }
        asking = true;
        again = false;
        last = performance.now();
        try {
            const answer = await fetch(location.href, { headers: { 'X-Drover-Part': 'main' }, cache: 'no-store' });
            if (answer.status === 401) {
                out = true;
                isLate('you are logged out; load the page again to log in');
            } else if (!answer.ok) {
                isLate('the coordinator answers with ' + answer.status);
            } else {
                put(await answer.text(), Date.parse(answer.headers.get('date')));
                if (poll || stream?.readyState === EventSource.OPEN) isLive();
                else say('live', 'Looked at every few seconds');
            }
        } catch {
            isLate('the coordinator cannot be reached; trying again');
        }
        took = performance.now() - last;
        asking = false;
        if (again) soon();
    }

    function put(text, at) {
        if (at) {
            ahead = Date.now() - at;
            if (asOf) {
                asOf.dateTime = new Date(at).toISOString();
                asOf.textContent = asOf.dateTime.slice(11, 19);
            }
        }
        const html = plain(text);
        if (html === before) return;
        before = html;
        const template = document.createElement('template');
        template.innerHTML = html;
        inside(main, template.content);
    }

    // --- Hearing of what happens ---

    const poll = Number(main.dataset.poll) || 0;
    let stream = null;

    function listen() {
        const query = main.dataset.live;
        stream = new EventSource('/events' + (query ? '?' + query : ''));
        // What happened since the page was made has to be seen, too.
        stream.onopen = () => { isLive(); soon(); };
        stream.onerror = () => {
            if (stream.readyState !== EventSource.CLOSED) return isLate('trying again');
            // It does not try again by itself any more: the page is asked for now and then until it can be heard again.
            soon();
            setTimeout(() => { if (!out) listen(); }, 5000);
        };
        for (const kind of main.dataset.kinds.split(' ')) stream.addEventListener(kind, soon);
    }

    document.addEventListener('visibilitychange', () => {
        if (document.hidden) return;
        tickAll(main);
        if (again) soon();
    });

    // Gone back to, a page may be as it was when it was left.
    window.addEventListener('pageshow', (event) => { if (event.persisted) soon(); });

    // --- Logs ---

    function follow(root) {
        const logs = [...root.querySelectorAll('[data-log]')];
        if (root.matches?.('[data-log]')) logs.push(root);
        for (const log of logs) if (log.dataset.log) read(log);
    }

    // So many lines of it are kept in the page; all of them are in the log.
    const LINES = 10000;

    async function read(log) {
        const address = new URL(log.dataset.log, location.href);
        let pause = 1000;
        while (log.isConnected && log.dataset.log) {
            try {
                const answer = await fetch(address, { cache: 'no-store' });
                // What is wrong with the coordinator, or with what is in front of it, passes.
                if (answer.status >= 500) throw new Error(answer.statusText);
                if (!answer.ok) return;
                const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
                let rest = '';
                for (;;) {
                    const { done, value } = await reader.read();
                    if (done) break;
                    // The page has all of it already, and has gone on without this.
                    if (!log.isConnected || !log.dataset.log) return void reader.cancel();
                    const pieces = (rest + value).split('\n');
                    rest = pieces.pop();
                    if (pieces.length > 0 && add(log, pieces.join(''), address)) return;
                    pause = 1000;
                }
            } catch {
                // It is asked for again where it was.
            }
            await new Promise((again) => setTimeout(again, pause));
            pause = Math.min(pause * 2, 15000);
        }
    }

    // Adds pieces of a log, and says whether they were the last. Each piece says where the log goes on behind it, and has in it:
    // lines of the section that is the last one here (data-more), new sections, and how that section ended (data-end).
    function add(log, html, address) {
        const box = document.scrollingElement;
        const atEnd = log.matches('.whole') && box.scrollHeight - box.scrollTop - box.clientHeight < 40;
        const template = document.createElement('template');
        template.innerHTML = html;
        let over = false;
        for (const piece of template.content.children) {
            over ||= 'over' in piece.dataset;
            if (!piece.dataset.at) continue;
            address.searchParams.set('from', piece.dataset.at);
            if (piece.dataset.line) address.searchParams.set('line', piece.dataset.line);
            else address.searchParams.delete('line');
            for (const part of [...piece.children]) {
                const section = log.lastElementChild;
                const folded = section?.tagName === 'DETAILS';
                if ('end' in part.dataset) {
                    if (!folded) continue;
                    section.dataset.state = part.dataset.end;
                    section.querySelector('.end').textContent = part.textContent;
                } else if ('more' in part.dataset && section) {
                    (folded ? section.querySelector('.lines') : section).append(...part.childNodes);
                } else {
                    if (folded && section.dataset.state === 'succeeded') section.open = false;
                    log.append(part);
                }
            }
        }
        const lines = log.querySelectorAll('.lines > div');
        for (let n = 0; n < lines.length - LINES; n += 1) {
            const section = lines[n].closest('details') ?? lines[n].parentElement;
            lines[n].remove();
            if (section !== log.lastElementChild && !section.querySelector('.lines > div, :scope > div')) section.remove();
        }
        if (atEnd) box.scrollTop = box.scrollHeight;
        return over;
    }

    // --- What changes something ---

    document.addEventListener('submit', async (event) => {
        const form = event.target;
        if (!form.matches('form[data-api]')) return;
        event.preventDefault();
        if (form.dataset.confirm && !confirm(form.dataset.confirm)) return;
        const button = event.submitter;
        if (button) button.disabled = true;
        try {
            const headers = { 'X-Drover': '1', Accept: 'application/json' };
            const answer = await fetch(form.action, { method: 'POST', headers, body: form.dataset.body });
            if (!answer.ok) {
                const problem = await answer.json().catch(() => null);
                alert(problem?.message ?? 'The coordinator answers with ' + answer.status);
            } else if (form.dataset.to) {
                // What was submitted has a page of its own.
                const { builds } = await answer.json();
                location.href = form.dataset.to + builds[0].build;
            }
        } catch {
            alert('The coordinator cannot be reached.');
        }
        if (button) button.disabled = false;
        last = 0;
        soon();
    });

    remember(main);
    follow(main);
    if (poll) {
        setInterval(soon, poll * 1000);
    } else if (main.hasAttribute('data-live')) {
        listen();
        setInterval(soon, 30000);
    }
})();
