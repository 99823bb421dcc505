"""A headless Chromium for the tests, through playwright; as a program it takes screenshots:
`python tools/browser.py PAGE… --out FOLDER`. The browser is the system's, none is downloaded."""
import argparse, os, shutil
from contextlib import contextmanager
from pathlib import Path
from playwright.sync_api import sync_playwright

names = ('chromium', 'chromium-browser', 'google-chrome', 'google-chrome-stable', 'chrome')
flags = ['--allow-file-access-from-files', '--disable-gpu', '--disable-quic', '--hide-scrollbars']
patience = 600_000 # milliseconds after which a page counts as hanging

def find():
    "The path of a Chromium, or None; the environment variable `CHROMIUM` names one"
    on_path = filter(None, map(shutil.which, names))
    return os.environ.get('CHROMIUM') or next(on_path, None)

class Page:
    "One tab: what it asked for, and what went wrong there"
    def __init__(self, chromium):
        self.chromium, self.context = chromium, None
        self.requests = [] # addresses asked for since the last `goto`
        self.errors = [] # exceptions, console errors and failed loads since then
        self.view()

    def view(self, width=1280, height=900, phone=False, dark=False):
        "A fresh tab: its size in CSS pixels, whether it is a phone's, and the colours it prefers"
        if self.context: self.context.close()
        self.context = self.chromium.new_context(
            viewport=dict(width=width, height=height), is_mobile=phone, has_touch=phone,
            color_scheme='dark' if dark else 'light')
        self.context.set_default_timeout(patience)
        self.tab = self.context.new_page()
        self.tab.on('request', lambda r: self.requests.append(r.url))
        self.tab.on('pageerror', lambda e: self.errors.append(e.stack or e.message))
        self.tab.on('console', self.on_console)
        self.tab.on('requestfailed', self.on_failure)

    def on_console(self, message):
        if message.type == 'error':
            self.errors.append(f"{message.text} {message.location.get('url', '')}")

    def on_failure(self, request):
        if request.failure != 'net::ERR_ABORTED': # such as a load that the next page ended
            self.errors.append(f'{request.failure} ({request.resource_type})')

    def goto(self, url, wait='true'):
        "Open `url`, then wait until it is loaded and the JavaScript expression `wait` holds"
        self.requests.clear()
        self.errors.clear()
        self.tab.goto(url)
        self.tab.wait_for_function(wait)

    def js(self, code):
        "The value of a JavaScript expression (promises are awaited)"
        return self.tab.evaluate(code)

    def png(self, path, full=True):
        "A picture of the page: all of it, or what the window shows"
        self.tab.screenshot(path=path, full_page=full)

@contextmanager
def browser():
    "A fresh headless Chromium with one tab"
    with sync_playwright() as p:
        chromium = p.chromium.launch(executable_path=find(), args=flags)
        try: yield Page(chromium)
        finally: chromium.close()

def main():
    ap = argparse.ArgumentParser(description=__doc__)
    ap.add_argument('pages', nargs='+', help='HTML files or addresses')
    ap.add_argument('--out', type=Path, default=Path('build/shots'))
    ap.add_argument('--dark', action='store_true')
    ap.add_argument('--width', type=int, default=1280, help='380 shows what a phone does')
    ap.add_argument('--height', type=int, default=0, help='only the first so many pixels')
    args = ap.parse_args()
    suffix = '-dark' if args.dark else ''
    if args.width != 1280: suffix += f'-{args.width}'
    with browser() as page:
        page.view(args.width, args.height or 900, args.width < 600, args.dark)
        for p in args.pages:
            page.goto(p if '://' in p else Path(p).resolve().as_uri())
            to = args.out/f"{Path(p.split('#')[0]).stem}{suffix}.png"
            page.png(to, full=not args.height)
            print(to, *page.errors, sep='\n  ')

if __name__ == '__main__': main()
