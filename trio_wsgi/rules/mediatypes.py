"""The Content-Type of a file by its name.

Law: the table is this one. The standard library's reads the machine's files and differs from one Python to
the next, and a type that is right here and wrong there is found by users.
"""

from __future__ import annotations

DEFAULT_TYPE = b"application/octet-stream"

# One line a type: the type, then its extensions. Sources: IANA's registry, the WHATWG's MIME Sniffing
# standard, RFC 9239 for JavaScript; nginx's table where an extension has several owners (.ts is a video).
_TABLE = """
text/html html htm shtml
text/css css
text/javascript js mjs cjs
text/plain txt text log conf cfg ini toml in asc diff patch rst
text/markdown md markdown
text/csv csv
text/tab-separated-values tsv
text/calendar ics
text/vcard vcf
text/vtt vtt
text/x-python py pyi
text/x-c c h cc cpp hpp
text/x-rust rs
text/x-go go
text/x-java java
text/x-sh sh bash
text/x-sql sql
text/x-component htc
text/yaml yaml yml
application/json json map
application/ld+json jsonld
application/geo+json geojson
application/manifest+json webmanifest
application/x-ndjson ndjson jsonl
application/xml xml xsl xsd
application/xhtml+xml xhtml
application/rss+xml rss
application/atom+xml atom
application/wasm wasm
application/pdf pdf
application/postscript ps eps ai
application/rtf rtf
application/epub+zip epub
application/msword doc
application/vnd.ms-excel xls
application/vnd.ms-powerpoint ppt
application/vnd.openxmlformats-officedocument.wordprocessingml.document docx
application/vnd.openxmlformats-officedocument.spreadsheetml.sheet xlsx
application/vnd.openxmlformats-officedocument.presentationml.presentation pptx
application/vnd.oasis.opendocument.text odt
application/vnd.oasis.opendocument.spreadsheet ods
application/vnd.oasis.opendocument.presentation odp
application/vnd.android.package-archive apk
application/vnd.apple.mpegurl m3u8
application/dash+xml mpd
application/vnd.apache.parquet parquet
application/vnd.sqlite3 sqlite sqlite3 db
application/x-hdf5 h5 hdf5
application/gzip gz tgz
application/x-bzip2 bz2 tbz2
application/x-xz xz txz
application/zstd zst
application/zip zip whl
application/x-tar tar
application/x-7z-compressed 7z
application/vnd.rar rar
application/java-archive jar war ear
application/vnd.debian.binary-package deb
application/x-rpm rpm
application/x-iso9660-image iso
application/x-apple-diskimage dmg
application/x-bittorrent torrent
application/x-x509-ca-cert crt pem der
font/woff woff
font/woff2 woff2
font/ttf ttf
font/otf otf
font/collection ttc
application/vnd.ms-fontobject eot
image/png png
image/apng apng
image/jpeg jpg jpeg jpe jfif
image/gif gif
image/webp webp
image/avif avif
image/jxl jxl
image/heic heic
image/heif heif
image/svg+xml svg
image/bmp bmp
image/tiff tif tiff
image/x-icon ico cur
audio/mpeg mp3
audio/mp4 m4a
audio/aac aac
audio/ogg oga ogg opus
audio/flac flac
audio/wav wav
audio/webm weba
audio/midi mid midi
video/mp4 mp4 m4v
video/webm webm
video/ogg ogv
video/quicktime mov
video/mpeg mpeg mpg
video/mp2t ts m2ts
video/x-matroska mkv
video/x-msvideo avi
video/x-ms-wmv wmv
video/x-flv flv
video/3gpp 3gp
model/gltf+json gltf
model/gltf-binary glb
model/stl stl
"""
# Text whose bytes do not tell their encoding, as nginx's `charset` has it. XML does tell, and a parameter
# would overrule it, so the XML types (SVG, feeds) go without.
_UTF8 = ("text/", "application/json", "application/ld+json", "application/geo+json", "application/manifest+json")


def _content_types() -> dict[bytes, bytes]:
    types: dict[bytes, bytes] = {}
    for line in _TABLE.split("\n"):
        media_type, *extensions = line.split() or [""]
        charset = "; charset=utf-8" if media_type.startswith(_UTF8) else ""
        types |= {extension.encode(): (media_type + charset).encode() for extension in extensions}
    return types


_TYPES = _content_types()


def guess_type(name: bytes) -> bytes:
    """Return the Content-Type for a file of this name, with a charset where text needs one.

    Args:
        name: the last segment of the path. What counts is what follows its last dot, in any case; a
            compressed file (``.gz``) is what it is, not what it contains.
    """
    stem, _, extension = name.rpartition(b".")
    return _TYPES.get(extension.lower(), DEFAULT_TYPE) if stem else DEFAULT_TYPE
