"""`python -m trio_wsgi`: the command."""

from .cli import main

raise SystemExit(main())
