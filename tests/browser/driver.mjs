// A real browser for tests: reads one command a line (JSON) and answers each with one line.
//
//   node driver.mjs CHROMIUM MODULES       MODULES is the folder with playwright-core and axe-core
//
// Commands: {"do": "open", "width", "height", "dark", "script"} a new context with a page of its own; {"do": "go", "to"};
// {"do": "wait", "for"} until an expression in the page is true, {"do": "value", "of"} what one is; {"do": "fill", "what",
// "with"} and {"do": "click", "what"} by a CSS selector; {"do": "press", "key"}; {"do": "shot", "file", "whole"};
// {"do": "axe"} what an automated check of accessibility finds, without what is minor; {"do": "times"} the seconds of
// processor that the page's main thread has taken, and of these its script; {"do": "said"} what the page's console said.
import { createRequire } from 'node:module';
import { createInterface } from 'node:readline';
import { join } from 'node:path';

const [chromium, modules] = process.argv.slice(2);
const need = createRequire(join(modules, 'x.js'));
const { chromium: player } = need('playwright-core');
const axe = need.resolve('axe-core');

const browser = await player.launch({
    executablePath: chromium,
    // Of a page of one's own on this machine; what else it would look for is not there.
    args: ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking',
        '--disable-component-update', '--disable-sync'],
});
let page = null;
let session = null;
let said = [];

const commands = {
    async open({ width = 1280, height = 900, dark = false, script = true }) {
        await page?.context().close();
        const context = await browser.newContext({
            viewport: { width, height },
            colorScheme: dark ? 'dark' : 'light',
            javaScriptEnabled: script,
            reducedMotion: 'reduce',
        });
        page = await context.newPage();
        page.setDefaultTimeout(60_000);
        said = [];
        page.on('console', (message) => said.push(`${message.type()}: ${message.text()}`));
        page.on('pageerror', (error) => said.push(`error: ${error.message}`));
        page.on('dialog', (dialog) => { said.push(`dialog: ${dialog.message()}`); dialog.accept(); });
        session = await context.newCDPSession(page);
        await session.send('Performance.enable');
    },
    async go({ to }) {
        const answer = await page.goto(to, { waitUntil: 'domcontentloaded' });
        return answer?.status();
    },
    async wait({ for: expression }) {
        // What waits within the page would need its policy to allow that.
        const end = Date.now() + 60_000;
        while (!(await page.evaluate(expression).catch(() => false))) {
            if (Date.now() > end) throw new Error(`in vain; the page says: ${await page.innerText('body')}`);
            await new Promise((again) => setTimeout(again, 50));
        }
    },
    value: ({ of }) => page.evaluate(of),
    text: ({ of }) => page.locator(of).first().textContent(),
    count: ({ of }) => page.locator(of).count(),
    fill: ({ what, with: text }) => page.fill(what, text),
    click: ({ what }) => page.click(what),
    press: ({ key }) => page.keyboard.press(key),
    shot: async ({ file, whole = false }) => { await page.screenshot({ path: file, fullPage: whole }); },
    async axe() {
        // Beside the page's own scripts, which are all that its policy lets in.
        const { source } = need(axe);
        await session.send('Page.enable');
        const { frameTree } = await session.send('Page.getFrameTree');
        const world = await session.send('Page.createIsolatedWorld', { frameId: frameTree.frame.id, worldName: 'axe' });
        const run = async (expression) => {
            const ran = await session.send('Runtime.evaluate', {
                expression, contextId: world.executionContextId, awaitPromise: true, returnByValue: true,
            });
            if (ran.exceptionDetails) throw new Error(ran.exceptionDetails.exception?.description ?? 'axe failed');
            return ran.result.value;
        };
        await run(source);
        const found = await run('axe.run(document).then(({ violations }) => violations)');
        return found.filter(({ impact }) => impact !== 'minor').map(({ id, impact, nodes }) =>
            `${impact} ${id}: ${nodes.slice(0, 3).map((node) => node.html.slice(0, 200)).join(' | ')}`);
    },
    async times() {
        const { metrics } = await session.send('Performance.getMetrics');
        const of = (name) => metrics.find((metric) => metric.name === name)?.value ?? 0;
        return { task: of('TaskDuration'), script: of('ScriptDuration') };
    },
    said: () => said,
};

for await (const line of createInterface({ input: process.stdin })) {
    let answer;
    try {
        const { do: what, ...rest } = JSON.parse(line);
        answer = { value: (await commands[what](rest)) ?? null };
    } catch (error) {
        answer = { error: String(error?.message ?? error).slice(0, 2000) };
    }
    process.stdout.write(JSON.stringify(answer) + '\n');
}
await browser.close();
