"""What runs in the process around the server. It serves no requests.

* Who runs: `start` has `standalone` serve in this process, or `supervisor` have workers do so. Its `fleets`, a
  `fleet` for each plan, are made of `child`ren: processes of their own that `spawn` starts, and in which `worker` runs.
  `serving` is what standalone and worker have in common.
* What supervisor and workers tell each other: `messages`, the `plan` in one of them, through a `channel`; which files
  were `imported`; `stacks`.
* How each of them begins: `prepare`, `patches`, `privileges`, `affinity`, `sockets`, `pidfile`, `systemd`, `terminal`,
  `tuning`.
* How they end: `signals`, `early`, `exits`, `failure`, `leaving`, `recycling`.
* How they become others: `watch` sees files change, `trial` and `upgrade` make a supervisor a new program.
* What they log: `logs` to `sinks`; `currentlogs` are the supervisor's.
"""
