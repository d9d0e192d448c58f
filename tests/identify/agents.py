"""User agents of people and programs, and a reader of them."""

from __future__ import annotations

from crawleruseragents import CRAWLER_USER_AGENTS_DATA
from fake_useragent import FakeUserAgent

from asgi_analytics.replay.pipeline import agents

READER = agents()
# User agents of people, as seen in the wild by the makers of that package.
REAL_BROWSERS = sorted({entry["useragent"] for entry in FakeUserAgent().data_browsers})
SAMPLES = [(entry, text) for entry in CRAWLER_USER_AGENTS_DATA for text in entry["instances"]]
WEBKIT = "AppleWebKit/537.36 (KHTML, like Gecko)"
ANDROID = "Mozilla/5.0 (Linux; Android 15;"
MOBILE = f"{WEBKIT} Chrome/131.0.6778.39 Mobile Safari/537.36"
WINDOWS = f"Mozilla/5.0 (Windows NT 10.0; Win64; x64) {WEBKIT}"
MAC = f"Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) {WEBKIT}"
IPHONE = "Mozilla/5.0 (iPhone; CPU iPhone OS 17_5 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko)"
IPAD = "Mozilla/5.0 (iPad; CPU OS 17_5 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko)"
PIXEL = f"Mozilla/5.0 (Linux; Android 14; Pixel 8 Build/UD1A.230803.041) {WEBKIT}"
