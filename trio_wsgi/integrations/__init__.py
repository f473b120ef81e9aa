"""Where others start the server: leaves of the tree, each beside the framework that it knows.

Laws:

* A framework is imported in its own module here and nowhere else; nothing of ours imports these modules. The command
  and its workers know them by name alone (`module:attribute`).
* They add nothing to the server: each finds out which application is meant and hands words to the command.
"""
