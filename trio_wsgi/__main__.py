"""`python -m trio_wsgi`: the command."""

from trio_wsgi.cli import main

raise SystemExit(main())
