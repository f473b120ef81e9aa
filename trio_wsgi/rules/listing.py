"""The page that shows what is in a directory.

Laws:

* A name is bytes. Its link gives these bytes back (`paths.split_mount`); what is shown of it is text that cannot be
  taken for markup, nor run over into what stands beside it.
* Links are relative, and none leads above the mount: the page is right under any prefix that a proxy takes away.
* Of the links in the markup only `../` leads up. Programs that walk through listings know that one, and take others
  (`../../`) for directories below; so it is the script that makes links of the names in the heading.
* Nothing is loaded from elsewhere: style and script are in the page, and `CONTENT_SECURITY_POLICY` allows these by
  their hashes and nothing more. Without the script it is the same page, sorted by name and with the one way up.
"""

from __future__ import annotations

import base64
import hashlib
import html
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from urllib.parse import unquote_to_bytes

from trio_wsgi.rules.paths import encode_name

_UNITS = ("KiB", "MiB", "GiB", "TiB", "PiB", "EiB")
_DIGITS = re.compile(r"(\d+)", re.ASCII)
# Controls would be invisible, or break lines; the two overrides (Unicode, UAX #9) would show a name backwards.
_SHOWN_CONTROLS = {
    **{code: chr(0x2400 + code) for code in range(0x20)},
    0x7F: "\u2421",
    **dict.fromkeys([*range(0x80, 0xA0), 0x202D, 0x202E], "\ufffd"),
}


@dataclass(frozen=True, slots=True)
class Entry:
    """One thing in a directory.

    Args:
        name: as the file system has it.
        directory: whether it is one; `size` counts for nothing then.
        size: bytes.
        modified: whole seconds since 1970.
    """

    name: bytes
    directory: bool
    size: int
    modified: int


def build_page(path: bytes, entries: Sequence[Entry], depth: int) -> bytes:
    """Return the HTML page of a directory, UTF-8.

    Args:
        path: of the request target, percent-encoded, ending in a slash; no two slashes follow each other.
        entries: in any order.
        depth: how many names the directory is below its mount.
    """
    ordered = sorted(entries, key=_order)
    crumbs = _crumbs(path, depth)
    title = "".join(crumbs)
    trail = "<wbr>".join([*(f"<a>{name}</a>" for name in crumbs[:-1]), f"<b>{crumbs[-1]}</b>"])
    rows = ['<tr class=up><td><a href="../">../</a><td><td>'] if depth else []
    rows.extend(map(_row, ordered))
    page = _PAGE.format(
        title=title, style=_STYLE, script=_SCRIPT, trail=trail, rows="\n".join(rows), summary=_summary(ordered)
    )
    return page.encode()


def format_size(count: int) -> str:
    """Return a number of bytes for people, such as ``9.8 KiB``: two digits at least, in powers of 1024."""
    if count < 1024:
        return f"{count} B"
    size = float(count)
    for unit in _UNITS:
        size /= 1024
        if size < 1023.5 or unit == _UNITS[-1]:
            break
    return f"{size:.1f} {unit}" if size < 9.95 else f"{size:.0f} {unit}"


def show_name(name: bytes) -> str:
    """Return a name as text: U+FFFD for bytes that are no UTF-8, pictures for controls. Not escaped for HTML."""
    return name.decode("utf-8", "replace").translate(_SHOWN_CONTROLS)


def _order(entry: Entry) -> tuple[object, ...]:
    """Directories first, then by name as people count: ``part 9`` before ``part 10``, case aside."""
    parts: list[str | int] = [*_DIGITS.split(show_name(entry.name).casefold())]
    parts[1::2] = map(int, parts[1::2])  # text and numbers alternate
    return (not entry.directory, parts, entry.name)


def _crumbs(path: bytes, depth: int) -> list[str]:
    """The names on the way from the mount to the directory itself, escaped for HTML."""
    names = [html.escape(show_name(unquote_to_bytes(segment))) + "/" for segment in path.split(b"/")[1:-1]]
    above = len(names) - depth
    return ["/" + "".join(names[:above]), *names[above:]]


def _row(entry: Entry) -> str:
    slash = "/" if entry.directory else ""
    link = f'<a href="{encode_name(entry.name).decode()}{slash}">{html.escape(show_name(entry.name))}{slash}</a>'
    size = "<td>" if entry.directory else f'<td title="{entry.size:,} bytes">{format_size(entry.size)}'
    return f"<tr{' class=dir' if entry.directory else ''}><td>{link}{size}<td>{_date(entry.modified)}"


def _date(modified: int) -> str:
    try:
        text = datetime.fromtimestamp(modified, UTC).isoformat(" ")[:19]
    except (OverflowError, ValueError, OSError):  # file systems know years that calendars do not
        return ""
    return f'<time title="{text} UTC">{text[:-3]}</time>'


def _summary(entries: Sequence[Entry]) -> str:
    files = [entry.size for entry in entries if not entry.directory]
    folders = len(entries) - len(files)
    parts = []
    if folders:
        parts.append(f"{folders:,} director{'y' if folders == 1 else 'ies'}")
    if files:
        parts.append(f"{len(files):,} file{'' if len(files) == 1 else 's'}, {format_size(sum(files))}")
    return ", ".join(parts) or "Nothing here"


def _csp_hash(text: str) -> str:
    """The source expression that allows an inline element with this text (CSP Level 3, section 8.3)."""
    return "'sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() + "'"


_STYLE = """
:root{color-scheme:light dark;--text:#1f2328;--quiet:#656d76;--link:#0a58ca;--line:#e4e7eb;--back:#fff;--hover:#f3f6fa;\
--folder:#d29922}
@media(prefers-color-scheme:dark){:root{--text:#dfe3e8;--quiet:#8d96a0;--link:#74b0ff;--line:#2b3036;--back:#15181c;\
--hover:#1e2329;--folder:#e3b341}}
*{box-sizing:border-box}
body{margin:0 auto;padding:1.5rem 1rem 3rem;max-width:64rem;color:var(--text);background:var(--back);\
font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif}
a{text-decoration:none}
a[href]{color:var(--link)}
a[href]:hover{text-decoration:underline}
:focus-visible{outline:2px solid var(--link);outline-offset:2px;border-radius:3px}
h1{margin:0 0 1rem;padding:0 .75rem;font-size:1.35rem;font-weight:400;overflow-wrap:anywhere}
h1 a,h1 b,td a{unicode-bidi:isolate}
table{width:100%;border-collapse:collapse}
th,td{padding:.4rem .75rem;text-align:left;border-bottom:1px solid var(--line);white-space:nowrap;vertical-align:top}
th{position:sticky;top:0;z-index:1;background:var(--back);color:var(--quiet);font-size:.85rem;font-weight:600;\
border-bottom-width:2px}
th:nth-child(2),td:nth-child(2){text-align:right}
td:nth-child(n+2){color:var(--quiet);font-variant-numeric:tabular-nums}
td:first-child{width:100%;white-space:pre-wrap;overflow-wrap:anywhere;padding-left:2.5rem;position:relative}
td:first-child:before{content:"";position:absolute;left:.75rem;top:.58rem;width:1.15rem;height:1.15rem;\
background:var(--quiet);opacity:.75;mask:var(--icon) center/contain no-repeat;-webkit-mask:var(--icon) center/contain \
no-repeat;--icon:url("data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 16 16'%3E%3Cpath \
fill='none' stroke='%23000' stroke-linejoin='round' d='M3.5 1.5h6l3 3v10h-9zm6 0v3h3'/%3E%3C/svg%3E")}
.dir td:first-child:before{background:var(--folder);opacity:1;--icon:url("data:image/svg+xml,%3Csvg \
xmlns='http://www.w3.org/2000/svg' viewBox='0 0 16 16'%3E%3Cpath d='M1 3.5a1 1 0 0 1 1-1h4l1.5 2H14a1 1 0 0 1 1 1v7a1 \
1 0 0 1-1 1H2a1 1 0 0 1-1-1z'/%3E%3C/svg%3E")}
.up td:first-child:before{--icon:url("data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 16 \
16'%3E%3Cpath fill='none' stroke='%23000' stroke-width='1.5' stroke-linecap='round' stroke-linejoin='round' d='M8 \
13V3M4 7l4-4 4 4'/%3E%3C/svg%3E")}
tbody tr:hover{background:var(--hover)}
button{all:unset;cursor:pointer}
button:focus-visible{outline:2px solid var(--link);outline-offset:2px}
button:hover{color:var(--text)}
[aria-sort] button:after{content:"\\2191";position:absolute;margin-left:.15em}
[aria-sort=descending] button:after{content:"\\2193"}
footer{padding:.75rem;color:var(--quiet);font-size:.85rem}
@media(max-width:40rem){
body{padding:1rem 0 2rem}
thead tr,tbody tr{display:flex;flex-wrap:wrap;column-gap:1.25rem;padding:.45rem .75rem;\
border-bottom:1px solid var(--line)}
thead tr{position:sticky;top:0;z-index:1;background:var(--back)}
th,td{padding:0;border:0}
td:first-child{padding-left:1.75rem}
td:first-child:before{left:0;top:.18rem}
td:nth-child(2){margin-left:1.75rem}
td:nth-child(2):empty{margin-left:.5rem}
td:nth-child(n+2){font-size:.85rem}
.up td:nth-child(n+2){display:none}
}
"""

_SCRIPT = """
"use strict";
{
const crumbs = document.querySelectorAll("h1 a");
crumbs.forEach((crumb, step) => { crumb.href = "../".repeat(crumbs.length - step); });
const body = document.querySelector("tbody");
const heads = [...document.querySelectorAll("th")];
const words = new Intl.Collator(undefined, {numeric: true});
const keys = [cell => cell.textContent.replace(/[/]$/, ""), cell => +cell.title.replace(/[^0-9]/g, ""),
  cell => cell.firstChild ? cell.firstChild.title : ""];
const compare = [words.compare, (a, b) => a - b, (a, b) => a < b ? -1 : +(a > b)];
const place = row => row.className === "up" ? 0 : row.className === "dir" ? 1 : 2;
const sort = column => {
  const head = heads[column], was = head.getAttribute("aria-sort");
  const down = was ? was === "ascending" : column > 0;
  for (const other of heads) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", down ? "descending" : "ascending");
  const rows = [...body.rows].map(row => [place(row), keys[column](row.cells[column]), row]);
  rows.sort((a, b) => a[0] - b[0] || (down ? compare[column](b[1], a[1]) : compare[column](a[1], b[1])));
  body.append(...rows.map(row => row[2]));
};
heads.forEach((head, column) => {
  const button = document.createElement("button");
  button.append(...head.childNodes);
  button.addEventListener("click", () => sort(column));
  head.append(button);
});
heads[0].setAttribute("aria-sort", "ascending");
}
"""

_PAGE = """\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>Index of {title}</title>
<link rel="icon" href="data:,">
<style>{style}</style>
</head>
<body>
<h1>{trail}</h1>
<table>
<thead><tr><th>Name<th>Size<th>Modified (UTC)</thead>
<tbody>
{rows}
</tbody>
</table>
<footer>{summary}</footer>
<script>{script}</script>
</body>
</html>
"""

CONTENT_SECURITY_POLICY = (
    f"default-src 'none'; style-src {_csp_hash(_STYLE)}; script-src {_csp_hash(_SCRIPT)}; img-src data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'self'"
).encode()
