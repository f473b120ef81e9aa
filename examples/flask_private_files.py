"""Private files from Flask: who logs in gets links that hold for an hour; downloads resume, and hold no thread.

    mkdir private && cp SOMETHING private/
    export PRIVATE_SECRET=$(openssl rand -hex 32)                 # one for all workers, nodes and restarts
    trio-wsgi examples.flask_private_files:app --accel /protected/=private

    curl -d password=open-sesame http://127.0.0.1:8000/login      # the links, one a line
    curl -C - -O 'http://127.0.0.1:8000/files/NAME?token=...'     # resumes what was broken off
    curl -C - -O 'http://127.0.0.1:8000/accel/NAME?token=...'     # the same by X-Accel-Redirect

Two ways to the same answer. `/files/` is plain Flask: `send_file` opens the file, the server sends it from the kernel.
`/accel/` only names the file, as one does behind nginx: the server opens it below the directory given by --accel, where
no name leads out of. `/accel/` works here, and nowhere without such an option.
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from urllib.parse import quote

from flask import Flask, Response, abort, request, send_from_directory, url_for
from itsdangerous import BadSignature, URLSafeTimedSerializer

DIRECTORY = Path(os.environ.get("PRIVATE_FILES", "private")).resolve()
PASSWORD = os.environ.get("PRIVATE_PASSWORD", "open-sesame")
SECRET = os.environ.get("PRIVATE_SECRET", "")  # one made up here would be another in each worker
LIFETIME = 3600  # seconds

if not SECRET:
    raise RuntimeError("set PRIVATE_SECRET, by which links are signed: PRIVATE_SECRET=$(openssl rand -hex 32)")

app = Flask(__name__)
tokens = URLSafeTimedSerializer(SECRET, salt="files")


@app.post("/login")
def login() -> Response:
    """The links to all files, for whoever knows the password."""
    if not secrets.compare_digest(request.form.get("password", "").encode(), PASSWORD.encode()):
        abort(403)
    names = sorted(path.name for path in DIRECTORY.iterdir() if path.is_file())
    links = [url_for("by_flask", name=name, token=tokens.dumps(name), _external=True) for name in names]
    return Response("".join(link + "\n" for link in links), mimetype="text/plain")


@app.get("/files/<name>")
def by_flask(name: str) -> Response:
    """The file as Flask sends it; it checks the name."""
    check_token(name)
    return send_from_directory(DIRECTORY, name, as_attachment=True)


@app.get("/accel/<name>")
def by_accel(name: str) -> Response:
    """The file as the server sends it; it checks the name."""
    check_token(name)
    headers = {"X-Accel-Redirect": f"/protected/{quote(name)}", "Content-Disposition": "attachment"}
    return Response(headers=headers, mimetype="application/octet-stream")


def check_token(name: str) -> None:
    """Refuse a token that is forged, too old, or for another file."""
    try:
        allowed = tokens.loads(request.args.get("token", ""), max_age=LIFETIME)
    except BadSignature:
        abort(403)
    if allowed != name:
        abort(403)
