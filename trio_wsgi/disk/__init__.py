"""Files from the disk: opened safely, and answered with.

Runs in a thread: it may block, and never touches a socket or trio.
"""
