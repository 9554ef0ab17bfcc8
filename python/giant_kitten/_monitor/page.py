"""The HTML of the monitor's pages."""

from __future__ import annotations

from html import escape

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<meta name="color-scheme" content="light dark"><link rel="icon" href="data:,"><title>{tab}</title>
<style>
  body {{ margin: 0 auto; padding: 12px; max-width: 760px; font: 14px/1.45 system-ui, sans-serif }}
  body {{ background: #f6f7f9; color: #1b1f24 }}
  h1 {{ font-size: 15px; margin: 6px 0 8px; overflow-wrap: anywhere }}
  @media (prefers-color-scheme: dark) {{ body {{ background: #0f1114; color: #e8eaed }} }}
</style></head><body>
<main>{maps}</main>
<script src="map.js"></script>
<script src="history.js"></script>
</body></html>
"""

_NOTHING = (
    "<h1>No program to show</h1><p>Start one with the environment variables GIANT_KITTEN_MONITOR=1 and "
    "GIANT_KITTEN=1, or as <code>python -m giant_kitten monitor PROGRAM</code>, and load this page again.</p>"
)


def maps(sources: dict[str, str]) -> str:
    """A page with the memory of each source.

    `sources` has what the addresses of its state and history begin with, and its title.
    """
    parts = (
        f'<h1>{escape(title)}</h1><giant-kitten-map src="{escape(source)}state"></giant-kitten-map>'
        f'<giant-kitten-history src="{escape(source)}history"></giant-kitten-history>'
        for source, title in sources.items()
    )
    # The tab of one program has its name, so that the tabs of several can be told apart.
    tab = ", ".join(sources.values()) if len(sources) == 1 else "giant-kitten"
    return _PAGE.format(tab=escape(tab), maps="".join(parts) or _NOTHING)


def message(sentence: str) -> str:
    """A page that only says a sentence."""
    return _PAGE.format(tab="giant-kitten", maps=f"<h1>{escape(sentence)}</h1>")
