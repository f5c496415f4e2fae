// Called by page-pictures.sh.
const fs = require('fs');
const http = require('http');
const { chromium } = require('playwright-core');
const axe = fs.readFileSync(require.resolve('axe-core/axe.min.js'), 'utf8');

const csp = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'";
const [folder, ...named] = process.argv.slice(2);
const pages = Object.fromEntries(named.map(pair => pair.split('=', 2)));
const views = {
  light: { viewport: { width: 1100, height: 900 }, colorScheme: 'light' },
  dark: { viewport: { width: 1100, height: 900 }, colorScheme: 'dark' },
  phone: { viewport: { width: 360, height: 740 }, deviceScaleFactor: 2, colorScheme: 'light' },
  'phone-dark': { viewport: { width: 360, height: 740 }, deviceScaleFactor: 2, colorScheme: 'dark' },
};

(async () => {
  // Serves the pages with the exporter's policy, so that the browser refuses what it forbids.
  const server = http.createServer((request, response) => {
    const file = pages[request.url.slice(1)];
    response.writeHead(file ? 200 : 404, { 'content-type': 'text/html; charset=utf-8', 'content-security-policy': csp });
    response.end(file ? fs.readFileSync(file) : '');
  });
  await new Promise(ready => server.listen(0, '127.0.0.1', ready));
  const origin = `http://127.0.0.1:${server.address().port}`;
  const browser = await chromium.launch({ executablePath: process.env.BROWSER, args: ['--no-sandbox'] });
  let wrong = 0;
  const complain = text => { wrong += 1; console.error(text); };
  for (const name of Object.keys(pages)) {
    for (const [view, options] of Object.entries(views)) {
      const context = await browser.newContext({ ...options, bypassCSP: false });
      const page = await context.newPage();
      page.on('console', message => message.type() === 'error' && complain(`${name} ${view}: ${message.text()}`));
      const own = url => url.startsWith(`${origin}/`);
      page.on('request', request => own(request.url()) || complain(`${name} ${view}: asks ${request.url()}`));
      await page.goto(`${origin}/${name}`);
      const wide = await page.evaluate(() => document.documentElement.scrollWidth - window.innerWidth);
      if (wide > 0) complain(`${name} ${view}: ${wide} pixels wider than the screen`);
      await page.screenshot({ path: `${folder}/${name}-${view}.png` });
      if (process.env.WHOLE) await page.screenshot({ path: `${process.env.WHOLE}/${name}-${view}.png`, fullPage: true });
      // Opens every fold, because axe does not check hidden content.
      await page.evaluate(() => document.querySelectorAll('details').forEach(fold => { fold.open = true; }));
      const open = await page.evaluate(() => document.documentElement.scrollWidth - window.innerWidth);
      if (open > 0) complain(`${name} ${view}: ${open} pixels wider than the screen with its folds open`);
      await page.evaluate(axe);
      const found = await page.evaluate(() => window.axe.run());
      for (const violation of found.violations) {
        const nodes = violation.nodes.slice(0, 3).map(node => node.html.slice(0, 120)).join('\n    ');
        const text = `${name} ${view}: ${violation.impact}: ${violation.id}: ${violation.help}\n    ${nodes}`;
        if (['serious', 'critical'].includes(violation.impact)) complain(text); else console.log(text);
      }
      console.log(`${name} ${view}: axe: ${found.passes.length} rules passed, ${found.violations.length} violated`);
      await context.close();
    }
  }
  await browser.close();
  server.close();
  process.exitCode = wrong > 0 ? 1 : 0;
})();
