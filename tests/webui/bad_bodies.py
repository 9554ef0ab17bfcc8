"""Invalid bodies of requests, which the tests send to all routes."""

from __future__ import annotations

_OPTIONS = {
    "reserve": (
        b"9" * 400, b"9" * 5000, b"1e999", b"NaN", b"-Infinity", b"Infinity", b"true", b'"%s"' % (b"9" * 400), b"[1]",
        b"{}", b'"1_000"', b'"much"', b'"\\u0661"', b'"nan"', b"-1", b"1e300", b"[" * 300 + b"]" * 300,
        b"-" + b"9" * 400, b'"\\ud800"', b'"0x10"', b'"1e3"',
    ),
    "persist": (b'"0x10"', b"9" * 400, b'{"a": [1]}'),
    "sort_reversed": (b"[[]]", b'"maybe"', b"2", b"1e400", b"9" * 400),
    "ignored_model": (b"{}", b"-1"),
    "no_abort": (b"true",),
    "__class__": (b"1",),
    "\u00fcnbekannt": (b"1",),
    "\\ud800": (b"1",),
    "x" * 1000: (b"1",),
}  # fmt: skip
_ACTIONS = (
    b"9" * 400, b"9" * 5000, b"[]", b"{}", b"null", b"true", b"1e308", b"-1", b"1.5", b'"GK:GK: activate"',
    b'"x\\ud800"', b'"<script>alert(1)</script>"', b'""', b'"%s"' % (b"a" * 1000),
    '"a\u0441tivate"'.encode(), b'"activate\\u0000"',
)  # fmt: skip
_BODIES = (
    b"", b" ", b"{", b"[]", b"null", b'"x"', b"7", b"no JSON", b"{}", b"[" * 60000, b'{"a":' * 10000,
    b"[" * 900 + b"]" * 900, b"\xff\xfe{", b"\xef\xbb\xbf{}", '{"action":"disable"}'.encode("utf-16"),
    b'{"action":"disable","action":"activate"}', b'{"action":"activate","reserve":2,"reserve":3}',
    b'{"action":"disable"} {}', b"{'action':'disable'}", b'{"action":"disable",}', b'{"reserve":1}',
    b'{"action":"automatic","reserve":"="}', b'{"action":"automatic","colour":1}',
    b'{"action":"disable","reserve":NaN}', b'{"action":"\xff"}', b"\x00", b'{"action":"act\nivate"}',
)  # fmt: skip

BAD_BODIES = (
    *_BODIES,
    *(b'{"action":%s}' % action for action in _ACTIONS),
    *(
        b'{"action":"activate","%s":%s}' % (name.encode(), value)
        for name, values in _OPTIONS.items()
        for value in values
    ),
)
