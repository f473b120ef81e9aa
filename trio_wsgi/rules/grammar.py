"""The words that HTTP's grammar is made of, for every rule that reads or checks some of it."""

from __future__ import annotations

import re

TOKEN = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]++"  # RFC 9110 §5.6.2
HEADER_NAME = re.compile(TOKEN)  # §5.1
