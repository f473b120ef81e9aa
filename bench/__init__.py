"""A benchmark of WSGI servers: contestants as processes, one at a time, in interleaved rounds on one machine.

Laws:
- Servers are driven from outside, by their commands and over their sockets: nothing of trio_wsgi is imported.
- Contestants are data (`contestants.py`), scenarios are small files (`scenarios/`), load comes from processes of
  its own (`clients/`).
- What was not delivered as promised (status, byte count, hash) is a failure with its reason and never a figure.
"""
