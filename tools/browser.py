"A headless Chromium, driven over a pipe with no extra package: `python tools/browser.py PAGE… --out FOLDER` takes screenshots."
import argparse, base64, fcntl, json, os, select, shutil, subprocess, tempfile, time
from contextlib import contextmanager
from pathlib import Path

names = ('chromium', 'chromium-browser', 'google-chrome', 'google-chrome-stable', 'chrome')
flags = ('--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking --disable-component-update '
         '--disable-sync --hide-scrollbars --allow-file-access-from-files --remote-debugging-pipe').split()

def find():
    "The path of a Chromium, or None; `CHROMIUM` names one"
    return os.environ.get('CHROMIUM') or next((p for n in names if (p := shutil.which(n))), None)

class Page:
    "One tab: where it was, what it asked for, and what went wrong there"
    def __init__(self, to, frm):
        self.to, self.frm, self.n, self.buf, self.events = to, frm, 0, b'', []
        target = self.call('Target.createTarget', url='about:blank')['targetId']
        self.session = self.call('Target.attachToTarget', targetId=target, flatten=True)['sessionId']
        for d in ('Page', 'Runtime', 'Log', 'Network'): self.call(f'{d}.enable')
        self.size()

    def _read(self, timeout):
        while b'\0' not in self.buf:
            if not select.select([self.frm], [], [], timeout)[0]: return None
            more = os.read(self.frm, 1 << 20)
            if not more: raise RuntimeError('the browser is gone')
            self.buf += more
        msg, _, self.buf = self.buf.partition(b'\0')
        return json.loads(msg)

    def call(self, method, timeout=600, **params):
        "Send a command and wait for its answer; events on the way are kept"
        self.n += 1
        msg = dict(id=self.n, method=method, params=params, **({'sessionId': self.session} if getattr(self, 'session', None) else {}))
        os.write(self.to, json.dumps(msg).encode() + b'\0')
        while True:
            m = self._read(timeout)
            if m is None: raise TimeoutError(f'{method}: no answer in {timeout} s')
            if m.get('id') == self.n:
                if 'error' in m: raise RuntimeError(f"{method}: {m['error']['message']}")
                return m['result']
            self.events.append(m)

    def size(self, width=1280, height=900, phone=False):
        "The window's size, in CSS pixels"
        self.call('Emulation.setDeviceMetricsOverride', width=width, height=height, deviceScaleFactor=1, mobile=phone)

    def dark(self, on=True):
        "What the system prefers, dark or light"
        self.call('Emulation.setEmulatedMedia', features=[dict(name='prefers-color-scheme', value='dark' if on else 'light')])

    def goto(self, url, wait='true', timeout=600):
        "Open `url`, then wait until it is loaded and the JavaScript expression `wait` holds"
        self.events.clear()
        self.call('Page.navigate', url=url)
        end = time.time() + timeout
        while time.time() < end:
            if self.js(f'location.href != "about:blank" && document.readyState == "complete" && !!({wait})'): return self
            time.sleep(.05)
        raise TimeoutError(f'{url}: not ready in {timeout} s')

    def js(self, code):
        "The value of a JavaScript expression (promises are awaited)"
        r = self.call('Runtime.evaluate', expression=code, awaitPromise=True, returnByValue=True)
        if 'exceptionDetails' in r: raise RuntimeError(r['exceptionDetails'].get('exception', {}).get('description', str(r['exceptionDetails'])))
        return r['result'].get('value')

    @property
    def requests(self):
        "Addresses asked for since the last `goto`"
        return [e['params']['request']['url'] for e in self.events if e.get('method') == 'Network.requestWillBeSent']

    @property
    def errors(self):
        "Exceptions, console errors and failed loads since the last `goto`"
        res = []
        for e in self.events:
            m, p = e.get('method'), e.get('params', {})
            if m == 'Runtime.exceptionThrown': res.append(p['exceptionDetails'].get('exception', {}).get('description') or p['exceptionDetails']['text'])
            if m == 'Runtime.consoleAPICalled' and p['type'] == 'error': res.append(' '.join(str(a.get('value', a.get('description'))) for a in p['args']))
            if m == 'Log.entryAdded' and p['entry']['level'] == 'error': res.append(f"{p['entry']['text']} {p['entry'].get('url', '')}")
            if m == 'Network.loadingFailed' and not p.get('canceled'): res.append(f"{p['errorText']} ({p['type']})")
        return res

    def png(self, path, full=True):
        "A picture of the page: all of it, or what the window shows"
        args = {}
        if full:
            s = self.call('Page.getLayoutMetrics')['cssContentSize']
            args = dict(captureBeyondViewport=True, clip=dict(x=0, y=0, width=s['width'], height=min(s['height'], 16000), scale=1))
        Path(path).write_bytes(base64.b64decode(self.call('Page.captureScreenshot', **args)['data']))

@contextmanager
def browser():
    "A fresh headless Chromium with one tab"
    to_r, to_w = os.pipe(); from_r, from_w = os.pipe()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as d:
        def pipes(): # Chromium reads commands from 3 and answers on 4
            a, b = (fcntl.fcntl(f, fcntl.F_DUPFD, 10) for f in (to_r, from_w)) # out of the way first
            os.dup2(a, 3); os.dup2(b, 4)
        p = subprocess.Popen([find(), *flags, f'--user-data-dir={d}'], preexec_fn=pipes, close_fds=False, stdout=-3, stderr=-3)
        os.close(to_r); os.close(from_w)
        try: yield Page(to_w, from_r)
        finally:
            os.close(to_w); os.close(from_r)
            p.terminate(); p.wait(20)

drawn = "[...document.querySelectorAll('pre.mermaid')].every(e => e.dataset.processed && e.querySelector('svg'))" # Mermaid is done

if __name__ == '__main__':
    ap = argparse.ArgumentParser(description=__doc__)
    ap.add_argument('pages', nargs='+', help='HTML files or addresses')
    ap.add_argument('--out', type=Path, default=Path('build/shots'))
    ap.add_argument('--dark', action='store_true')
    ap.add_argument('--width', type=int, default=1280, help='380 shows what a phone does')
    ap.add_argument('--height', type=int, default=0, help='only the first so many pixels')
    args = ap.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    with browser() as b:
        b.size(args.width, args.height or 900, phone=args.width < 600)
        b.dark(args.dark)
        for p in args.pages:
            b.goto(p if '://' in p else Path(p).resolve().as_uri(), drawn)
            to = args.out/f"{Path(p.split('#')[0]).stem}{'-dark' if args.dark else ''}{f'-{args.width}' if args.width != 1280 else ''}.png"
            b.png(to, full=not args.height)
            print(to, *b.errors, sep='\n  ')
